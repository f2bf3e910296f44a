//! The dispatch planner: cuts row-wise work into windows that fit bindings, u32 indices and the time budget.

use crate::error::{Error, Result};
use crate::rows::{RowDim, RowMap};

/// Row dimensions that a kernel can tell apart after merging.
pub(crate) const MAX_DIMS: usize = 4;

/// What a dispatch may touch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Bytes a binding may span.
    pub binding: u64,
    /// Alignment of binding offsets in bytes.
    pub alignment: u64,
    /// Elements (rows times length) a dispatch may work on, so that it stays far below any watchdog.
    pub elements: u64,
    /// Rows a dispatch may have: workgroups of the grid times rows a workgroup.
    pub rows: u64,
}

/// A tensor taking part.
pub(crate) struct Planned<'a> {
    pub rows: &'a RowMap,
    /// Bytes an element takes.
    pub element: u64,
    /// Bytes of the buffer.
    pub buffer: u64,
}

/// Where a window lies in one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Byte offset of the binding, aligned.
    pub offset: u64,
    /// Bytes of the binding.
    pub size: u64,
    /// Element of the binding at which the window's first row begins.
    pub base: u32,
    /// Stride of each dimension, innermost first.
    pub strides: [u32; MAX_DIMS],
}

/// One dispatch's share of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Number of its first row among all rows.
    pub first_row: usize,
    /// Rows in it.
    pub rows: usize,
    /// Sizes of the row dimensions, innermost first, 1 where there are fewer.
    pub sizes: [u32; MAX_DIMS],
    /// One entry a tensor, in the order given.
    pub parts: Vec<Part>,
}

/// Cuts the rows of `tensors` (all with the same dimension sizes) into windows. With `pin_last` the innermost row
/// dimension, the chunks of a row, is kept apart, so that a kernel finds it as size 0; windows need not follow in its order then.
pub(crate) fn plan_windows(tensors: &[Planned<'_>], budget: &Budget, pin_last: bool) -> Result<Vec<Window>> {
    let Some(first) = tensors.first() else {
        return Ok(Vec::new());
    };
    let len = tensors.iter().map(|t| t.rows.len).max().unwrap_or(0);
    let sizes: Vec<usize> = first.rows.dims.iter().map(|d| d.size).collect();
    if sizes.contains(&0) {
        return Ok(Vec::new());
    }
    // dims[d][t]: dimension d of tensor t, after dropping sizes of 1 and merging neighbours that all tensors step
    // through evenly.
    let mut dims: Vec<Vec<RowDim>> = Vec::new();
    let last = sizes.len().wrapping_sub(1);
    for (d, &size) in sizes.iter().enumerate() {
        let here: Vec<RowDim> = tensors.iter().map(|t| t.rows.dims[d]).collect();
        let pinned = pin_last && d == last;
        if size == 1 && !pinned {
            continue;
        }
        match dims.last_mut() {
            Some(outer) if !pinned && outer.iter().zip(&here).all(|(o, h)| o.stride == h.stride * h.size) => {
                for (o, h) in outer.iter_mut().zip(&here) {
                    *o = RowDim {
                        size: o.size * h.size,
                        stride: h.stride,
                    };
                }
            }
            _ => dims.push(here),
        }
    }
    if dims.len() > MAX_DIMS {
        return Err(Error::Unsupported {
            what: format!("a view with {} separate row dimensions", dims.len()),
            reason: format!(
                "at most {MAX_DIMS} are left after merging evenly strided neighbours; copy it to a contiguous tensor"
            ),
        });
    }
    let starts: Vec<usize> = tensors.iter().map(|t| t.rows.offset).collect();
    let mut windows = Vec::new();
    let together = if pin_last {
        chunks_together(tensors, budget, &dims)
    } else {
        usize::MAX
    };
    let chunks = dims.last().map_or(1, |pinned| pinned[0].size);
    if together >= chunks {
        cut(tensors, budget, &dims, len, &starts, 0, &mut windows)?;
        return Ok(windows);
    }
    for begin in (0..chunks).step_by(together) {
        let count = together.min(chunks - begin);
        let mut starts = starts.clone();
        for (pinned, start) in dims.last_mut().into_iter().flatten().zip(&mut starts) {
            pinned.size = count;
            *start += begin * pinned.stride;
        }
        let done = windows.len();
        cut(tensors, budget, &dims, len, &starts, 0, &mut windows)?;
        // Numbered among these chunks so far.
        for window in &mut windows[done..] {
            let (row, chunk) = (window.first_row / count, window.first_row % count);
            window.first_row = row * chunks + begin + chunk;
        }
    }
    Ok(windows)
}

/// Chunks of a row that should share a window. Rows that lie interleaved, each longer than a binding, would otherwise get a window a row
/// and chunk; but a few chunks of very many such rows lie close together.
fn chunks_together(tensors: &[Planned<'_>], budget: &Budget, dims: &[Vec<RowDim>]) -> usize {
    let Some((pinned, others)) = dims.split_last() else {
        return usize::MAX;
    };
    let mut together = usize::MAX;
    for (t, tensor) in tensors.iter().enumerate() {
        let interleaved = others.iter().any(|d| (1..pinned[t].stride).contains(&d[t].stride));
        let step = (pinned[t].stride as u64).saturating_mul(tensor.element);
        if interleaved && step.saturating_mul(pinned[t].size as u64) > budget.binding / 2 {
            together = together.min((budget.binding / 2 / step).max(1) as usize);
        }
    }
    together
}

/// Bytes from the start of the first element to the end of the last.
fn span(tensor: &Planned<'_>, t: usize, dims: &[Vec<RowDim>]) -> u64 {
    let rows: u64 = dims.iter().map(|d| (d[t].size as u64 - 1) * d[t].stride as u64).sum();
    let row = (tensor.rows.len as u64).saturating_sub(1) * tensor.rows.len_stride as u64 + 1;
    (rows + row) * tensor.element
}

fn cut(
    tensors: &[Planned<'_>],
    budget: &Budget,
    dims: &[Vec<RowDim>],
    len: usize,
    starts: &[usize],
    first_row: usize,
    windows: &mut Vec<Window>,
) -> Result<()> {
    // Whole words at both ends and the distance to an aligned offset come on top of the span.
    let slack = budget.alignment + 16;
    // Kernels index elements, of two bytes at least, by u32.
    let room = budget.binding.min(2 * u64::from(u32::MAX)).saturating_sub(slack);
    let rows: usize = dims.iter().map(|d| d[0].size).product();
    let fits = |dims: &[Vec<RowDim>]| tensors.iter().enumerate().all(|(t, x)| span(x, t, dims) <= room);
    let whole = fits(dims);
    let small = rows as u64 <= budget.rows && (rows as u64).saturating_mul(len as u64) <= budget.elements;
    if whole && (small || rows == 1) {
        windows.push(window(tensors, budget, dims, starts, first_row, rows));
        return Ok(());
    }
    let Some((outer, inner)) = dims.split_first() else {
        let need = tensors
            .iter()
            .enumerate()
            .map(|(t, x)| span(x, t, dims))
            .max()
            .unwrap_or(0);
        return Err(Error::Limit {
            what: "bytes of one row in one storage binding",
            need: need + slack,
            have: budget.binding,
        });
    };
    let inner_rows: usize = inner.iter().map(|d| d[0].size).product();
    let mut count = outer[0].size as u64;
    for (t, tensor) in tensors.iter().enumerate() {
        let one = span(tensor, t, inner);
        let step = outer[t].stride as u64 * tensor.element;
        if one > room {
            count = 0;
        } else if let Some(more) = (room - one).checked_div(step) {
            count = count.min(more + 1);
        }
    }
    count = count
        .min(budget.rows / inner_rows as u64)
        .min(budget.elements / (inner_rows as u64 * len.max(1) as u64));
    // An index that alone is too much for one dispatch is cut further inside.
    let deeper = count == 0 && !(inner.is_empty() && fits(inner));
    let count = count.max(1) as usize;
    for begin in (0..outer[0].size).step_by(count) {
        let taken = count.min(outer[0].size - begin);
        let starts: Vec<usize> = starts.iter().zip(outer).map(|(s, d)| s + begin * d.stride).collect();
        let row = first_row + begin * inner_rows;
        if deeper {
            cut(tensors, budget, inner, len, &starts, row, windows)?;
        } else {
            let mut part = vec![
                outer
                    .iter()
                    .map(|d| RowDim {
                        size: taken,
                        stride: d.stride,
                    })
                    .collect::<Vec<_>>(),
            ];
            part.extend_from_slice(inner);
            windows.push(window(tensors, budget, &part, &starts, row, taken * inner_rows));
        }
    }
    Ok(())
}

fn window(
    tensors: &[Planned<'_>],
    budget: &Budget,
    dims: &[Vec<RowDim>],
    starts: &[usize],
    first_row: usize,
    rows: usize,
) -> Window {
    let mut sizes = [1u32; MAX_DIMS];
    for (slot, d) in sizes.iter_mut().zip(dims.iter().rev()) {
        *slot = d[0].size as u32;
    }
    let parts = tensors
        .iter()
        .enumerate()
        .map(|(t, tensor)| {
            let begin = starts[t] as u64 * tensor.element;
            let offset = begin / budget.alignment * budget.alignment;
            let end = (begin + span(tensor, t, dims))
                .next_multiple_of(16)
                .min(tensor.buffer / 4 * 4);
            let mut strides = [0u32; MAX_DIMS];
            for (slot, d) in strides.iter_mut().zip(dims.iter().rev()) {
                *slot = d[t].stride as u32;
            }
            Part {
                offset,
                size: (end - offset).max(4),
                base: ((begin - offset) / tensor.element) as u32,
                strides,
            }
        })
        .collect();
    Window {
        first_row,
        rows,
        sizes,
        parts,
    }
}

/// A grid of at least `groups` workgroups with no dimension above `limit`.
pub(crate) fn grid(groups: u64, limit: u32) -> Result<[u32; 2]> {
    let limit = u64::from(limit);
    let y = groups.div_ceil(limit).max(1);
    if y > limit {
        return Err(Error::Limit {
            what: "workgroups of a dispatch",
            need: groups,
            have: limit * limit,
        });
    }
    Ok([groups.div_ceil(y) as u32, y as u32])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget {
            binding: 1 << 20,
            alignment: 256,
            elements: 1 << 24,
            rows: 1 << 20,
        }
    }

    fn plan(map: &RowMap, budget: &Budget) -> Vec<Window> {
        plan_windows(
            &[Planned {
                rows: map,
                element: 4,
                buffer: map.end() as u64 * 4,
            }],
            budget,
            false,
        )
        .unwrap()
    }

    /// Every row appears once, at the place that the map gives it, and no window passes its binding.
    fn check(map: &RowMap, windows: &[Window], budget: &Budget) {
        let mut seen = 0;
        for w in windows {
            assert_eq!(w.first_row, seen);
            let part = &w.parts[0];
            assert!(part.size <= budget.binding && part.offset % budget.alignment == 0);
            for r in 0..w.rows {
                let (mut rest, mut at) = (r, part.base as usize);
                for (size, stride) in w.sizes.iter().zip(part.strides) {
                    at += rest % *size as usize * stride as usize;
                    rest /= *size as usize;
                }
                assert_eq!(at * 4 + part.offset as usize, map.start(w.first_row + r) * 4, "row {r}");
                assert!(((at + (map.len.max(1) - 1) * map.len_stride) * 4) < part.size as usize);
            }
            seen += w.rows;
        }
        assert_eq!(seen, map.rows());
    }

    #[test]
    fn windows_cover_all_rows_once() {
        for shape in [
            vec![1000, 1000],
            vec![7, 300, 500],
            vec![3, 5],
            vec![1, 1],
            vec![200, 40, 33],
        ] {
            for axis in 0..shape.len() {
                let map = RowMap::contiguous(&shape, axis);
                match plan_windows(
                    &[Planned {
                        rows: &map,
                        element: 4,
                        buffer: map.end() as u64 * 4,
                    }],
                    &budget(),
                    false,
                ) {
                    Ok(windows) => check(&map, &windows, &budget()),
                    // A strided axis cannot be cut by rows once its span passes the binding.
                    Err(Error::Limit { .. }) => assert!(map.len_stride > 1),
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }

    #[test]
    fn respects_rows_and_elements() {
        let map = RowMap::contiguous(&[1000, 10], 1);
        let tight = Budget {
            elements: 95,
            ..budget()
        };
        let windows = plan(&map, &tight);
        check(&map, &windows, &tight);
        assert!(windows.iter().all(|w| w.rows <= 9));
        let windows = plan(&map, &Budget { rows: 64, ..budget() });
        assert!(windows.iter().all(|w| w.rows <= 64));
    }

    #[test]
    fn strided_views_stay_apart() {
        let map = RowMap::strided(&[3, 4, 5], &[100, 10, 1], 3, 2);
        check(&map, &plan(&map, &budget()), &budget());
        let transposed = RowMap::strided(&[4, 3, 5], &[5, 20, 1], 0, 2);
        check(&transposed, &plan(&transposed, &budget()), &budget());
    }

    /// Rows beside each other that all pass a binding: windows of many rows, not one for each.
    #[test]
    fn interleaved_rows_share_windows() {
        // 9 elements a row, 50,000 apart: 3 chunks of 4.
        let columns = 50_000;
        let map = RowMap {
            offset: 3,
            dims: [(1, 0), (columns, 1), (3, 4 * columns)]
                .map(|(size, stride)| RowDim { size, stride })
                .to_vec(),
            len: 4,
            len_stride: columns,
        };
        let planned = Planned {
            rows: &map,
            element: 4,
            buffer: map.end() as u64 * 4,
        };
        let windows = plan_windows(&[planned], &budget(), true).unwrap();
        assert!(windows.len() <= 6, "{} windows", windows.len());
        let mut seen = vec![0; map.rows()];
        for w in &windows {
            let part = &w.parts[0];
            assert!(part.size <= budget().binding);
            for r in 0..w.rows {
                let (chunk, column) = (r % w.sizes[0] as usize, r / w.sizes[0] as usize);
                let number = w.first_row / 3 * 3 + column * 3 + w.first_row % 3 + chunk;
                let at = part.base as usize + chunk * part.strides[0] as usize + column * part.strides[1] as usize;
                assert_eq!(at + part.offset as usize / 4, map.start(number));
                seen[number] += 1;
            }
        }
        assert!(seen.iter().all(|&n| n == 1));
    }

    #[test]
    fn grids_wrap() {
        assert_eq!(grid(1, 65535).unwrap(), [1, 1]);
        let [x, y] = grid(70_000, 65535).unwrap();
        assert!(u64::from(x) * u64::from(y) >= 70_000 && x <= 65535);
        assert!(grid(u64::from(u32::MAX) * 4, 65535).is_err());
        assert!(grid(5000, 64).is_err());
    }
}
