//! Geometry and dispatches of operations that treat every element on its own.
//!
//! Tensors of one shape with any strides are brought to as few dimensions as all of them allow; the innermost one is cut into
//! chunks, and [`plan_windows`] cuts the chunks into dispatches. The CPU paths walk the same dimensions.

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{Bind, Budget, BufferView, Gpu, Planned, grid, plan_windows};
use crate::rows::{RowDim, RowMap};

/// What kernels of this form share: see the file.
pub(crate) const ELEMENTWISE: &str = include_str!("../../shaders/lib/elementwise.wgsl");

/// Invocations of a workgroup.
pub(crate) const WORKGROUP: u32 = 128;

/// Elements of a chunk of the innermost dimension at most.
const CHUNK: usize = 1 << 16;

/// Tensors that a kernel may have.
const SLOTS: usize = 8;

/// Parameters as lib/elementwise.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    pub sizes: [u32; 4],
    pub strides: [[u32; 4]; SLOTS],
    pub bases: [u32; SLOTS],
    pub steps: [u32; SLOTS],
    pub zero: u32,
    pub rows: u32,
    pub len: u32,
    pub grid_x: u32,
    pub chunk: u32,
    pub quads: u32,
    pub first_chunk: u32,
    pub rounds: u32,
    pub first_partial: u32,
    pub partials: u32,
    pub fill: u32,
    pub scale: f32,
}

/// Where one tensor's elements lie in the dimensions of a [`Layout`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lane {
    offset: usize,
    /// Along the outer dimensions, outermost first.
    strides: Vec<usize>,
    /// Along the innermost dimension.
    step: usize,
}

/// Tensors of one shape, in as few dimensions as all of them allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Sizes of the outer dimensions, outermost first.
    outer: Vec<usize>,
    /// Size of the innermost dimension.
    pub len: usize,
    lanes: Vec<Lane>,
}

impl Layout {
    /// `tensors` are offsets and strides, one stride for each dimension of `shape`. Dimensions are ordered by the strides of the
    /// first tensor: elements have no order of their own here.
    pub(crate) fn new(shape: &[usize], tensors: &[(usize, &[usize])]) -> Layout {
        let mut order: Vec<usize> = (0..shape.len()).filter(|&d| shape[d] != 1).collect();
        if let Some((_, first)) = tensors.first() {
            order.sort_by_key(|&d| std::cmp::Reverse(first[d]));
        }
        // Sizes with the strides of all tensors.
        let mut dims: Vec<(usize, Vec<usize>)> = Vec::new();
        for d in order {
            let strides: Vec<usize> = tensors.iter().map(|(_, strides)| strides[d]).collect();
            match dims.last_mut() {
                Some((size, outer))
                    if outer
                        .iter()
                        .zip(&strides)
                        .all(|(&o, &s)| o == s.saturating_mul(shape[d])) =>
                {
                    *size *= shape[d];
                    *outer = strides;
                }
                _ => dims.push((shape[d], strides)),
            }
        }
        let (len, steps) = dims.pop().unwrap_or((1, vec![1; tensors.len()]));
        let lanes = tensors
            .iter()
            .enumerate()
            .map(|(t, (offset, _))| Lane {
                offset: *offset,
                strides: dims.iter().map(|(_, strides)| strides[t]).collect(),
                step: steps[t],
            })
            .collect();
        Layout {
            outer: dims.iter().map(|(size, _)| *size).collect(),
            len,
            lanes,
        }
    }

    /// Rows of tensor `t` along the innermost dimension.
    pub(crate) fn rows(&self, t: usize) -> RowMap {
        let lane = &self.lanes[t];
        let dims = self.outer.iter().zip(&lane.strides);
        RowMap {
            offset: lane.offset,
            dims: dims.map(|(&size, &stride)| RowDim { size, stride }).collect(),
            len: self.len,
            len_stride: lane.step,
        }
    }

    /// Whether tensor `t` can be taken four aligned elements at a time.
    fn quads(&self, t: usize) -> bool {
        let lane = &self.lanes[t];
        let fits = |n: usize| n.is_multiple_of(4);
        lane.step == 1 && fits(self.len) && fits(lane.offset) && lane.strides.iter().all(|&s| fits(s))
    }
}

/// A tensor of a kernel.
pub(crate) struct Operand<'a> {
    /// Its slot in the parameters.
    pub slot: usize,
    /// The variable that it is bound to.
    pub binding: &'static str,
    /// Of the common shape; strides of 0 broadcast.
    pub view: &'a BufferView,
}

/// One dispatch.
pub(crate) struct Dispatch {
    pub params: Params,
    pub grid: [u32; 2],
    /// Workgroups that have something to do, which come first.
    pub groups: u32,
    pub bindings: Vec<Bind>,
}

/// A call planned.
pub(crate) struct Plan {
    pub dispatches: Vec<Dispatch>,
    /// For each operand whether it can be taken four aligned elements at a time.
    pub quads: Vec<bool>,
}

/// Plans the dispatches of an operation on tensors of one shape that is not empty. An invocation treats `rounds` quads.
pub(crate) fn plan(gpu: &Gpu, operands: &[Operand<'_>], rounds: u32) -> Result<Plan> {
    let capabilities = gpu.capabilities();
    let Some(first) = operands.first() else {
        return Ok(Plan {
            dispatches: Vec::new(),
            quads: Vec::new(),
        });
    };
    let tensors: Vec<(usize, &[usize])> = operands
        .iter()
        .map(|o| (o.view.offset, o.view.strides.as_slice()))
        .collect();
    let layout = Layout::new(&first.view.shape, &tensors);
    if layout.len > u32::MAX as usize / 2 {
        return Err(Error::Limit {
            what: "elements along one dimension",
            need: layout.len as u64,
            have: u64::from(u32::MAX / 2),
        });
    }
    let widest = operands
        .iter()
        .zip(&layout.lanes)
        .map(|(o, lane)| lane.step.max(1) as u64 * o.view.dtype.size() as u64)
        .max()
        .unwrap_or(4);
    let fitting = (capabilities.max_binding / 2 / widest) as usize / 4 * 4;
    if fitting < 4 && layout.len > 1 {
        return Err(Error::Limit {
            what: "bytes between four elements in one storage binding",
            need: widest * 8,
            have: capabilities.max_binding,
        });
    }
    let most = fitting.clamp(4, CHUNK);
    // Chunks of about one length, so that the last one is not nearly empty.
    let (chunks, chunk) = if layout.len <= most {
        (1, layout.len)
    } else {
        let chunk = layout.len.div_ceil(layout.len.div_ceil(most)).next_multiple_of(4);
        (layout.len.div_ceil(chunk), chunk)
    };
    let maps: Vec<RowMap> = (0..operands.len())
        .map(|t| {
            let mut map = layout.rows(t);
            if chunks > 1 {
                map.dims.push(RowDim {
                    size: chunks,
                    stride: chunk * map.len_stride,
                });
                map.len = chunk;
            }
            map
        })
        .collect();
    let planned: Vec<Planned<'_>> = operands
        .iter()
        .zip(&maps)
        .map(|(o, map)| Planned {
            rows: map,
            element: o.view.dtype.size() as u64,
            buffer: o.view.buffer.size(),
        })
        .collect();
    let quads = chunk.div_ceil(4) as u64;
    let in_group = u64::from(WORKGROUP * rounds);
    let budget = Budget {
        binding: capabilities.max_binding,
        alignment: capabilities.storage_alignment,
        elements: if capabilities.software { 1 << 23 } else { 1 << 28 },
        rows: (u64::from(capabilities.max_workgroups).pow(2) * in_group / quads).clamp(1, 1 << 30),
    };
    let mut dispatches = Vec::new();
    for window in plan_windows(&planned, &budget, chunks > 1)? {
        let groups = (window.rows as u64 * quads).div_ceil(in_group);
        let grid = grid(groups, capabilities.max_workgroups)?;
        let mut params = Params {
            sizes: window.sizes,
            rows: window.rows as u32,
            len: layout.len as u32,
            grid_x: grid[0],
            chunk: chunk as u32,
            quads: quads as u32,
            first_chunk: (window.first_row % chunks) as u32,
            rounds,
            scale: 1.0,
            ..Params::default()
        };
        let mut bindings = Vec::new();
        for ((operand, map), part) in operands.iter().zip(&maps).zip(&window.parts) {
            params.strides[operand.slot] = part.strides;
            params.bases[operand.slot] = part.base;
            params.steps[operand.slot] = map.len_stride as u32;
            bindings.push(Bind {
                name: operand.binding,
                buffer: operand.view.buffer.clone(),
                offset: part.offset,
                size: part.size,
            });
        }
        dispatches.push(Dispatch {
            params,
            grid,
            groups: groups as u32,
            bindings,
        });
    }
    Ok(Plan {
        dispatches,
        quads: (0..operands.len()).map(|t| layout.quads(t)).collect(),
    })
}

/// Parameters and binding of a dispatch that writes one element of a view, in `slot`.
pub(crate) fn single(gpu: &Gpu, operand: &Operand<'_>) -> (Params, Bind) {
    let alignment = gpu.capabilities().storage_alignment;
    let size = operand.view.dtype.size() as u64;
    let at = operand.view.offset as u64 * size;
    let begin = at / alignment * alignment;
    let mut params = Params {
        scale: 1.0,
        ..Params::default()
    };
    params.bases[operand.slot] = ((at - begin) / size) as u32;
    let bind = Bind {
        name: operand.binding,
        buffer: operand.view.buffer.clone(),
        offset: begin,
        size: (at + size - begin).next_multiple_of(4),
    };
    (params, bind)
}

/// A view stretched to `shape` by NumPy's rules: strides of 0 along what it lacks.
pub(crate) fn broadcast(what: &str, view: &BufferView, shape: &[usize]) -> Result<BufferView> {
    let strides = broadcast_strides(what, &view.shape, &view.strides, shape)?;
    Ok(BufferView {
        shape: shape.to_vec(),
        strides,
        ..view.clone()
    })
}

/// Strides of a tensor of shape `own` within `shape`, by NumPy's rules.
pub(crate) fn broadcast_strides(what: &str, own: &[usize], strides: &[usize], shape: &[usize]) -> Result<Vec<usize>> {
    let fits = own.len() <= shape.len()
        && own
            .iter()
            .rev()
            .zip(shape.iter().rev())
            .all(|(&s, &full)| s == full || s == 1);
    if !fits {
        return Err(Error::shape(
            format!("shape of {what}"),
            format!("one that broadcasts to {shape:?}"),
            format!("{own:?}"),
        ));
    }
    let missing = shape.len() - own.len();
    Ok((0..shape.len())
        .map(|d| match d.checked_sub(missing) {
            Some(own_d) if own[own_d] == shape[d] => strides[own_d],
            _ => 0,
        })
        .collect())
}

/// Fails unless a view has this storage type and can be read.
pub(crate) fn check_read(what: &'static str, view: &BufferView, dtype: DType) -> Result<()> {
    check_dtype(what, view, dtype)?;
    view.check(what)
}

/// Fails unless a view has this storage type and can be written.
pub(crate) fn check_written(what: &'static str, view: &BufferView, dtype: DType) -> Result<()> {
    check_dtype(what, view, dtype)?;
    view.check_writable(what)
}

fn check_dtype(what: &'static str, view: &BufferView, expected: DType) -> Result<()> {
    if view.dtype == expected {
        Ok(())
    } else {
        Err(Error::DTypeMismatch {
            what,
            expected,
            got: view.dtype,
        })
    }
}

/// Fails unless a view has this very shape.
pub(crate) fn check_shape(what: &str, view: &BufferView, shape: &[usize]) -> Result<()> {
    if view.shape == shape {
        Ok(())
    } else {
        Err(Error::shape(
            format!("shape of {what}"),
            format!("{shape:?}"),
            format!("{:?}", view.shape),
        ))
    }
}

/// Fails where a written view shares bytes with another, unless both are the very same.
pub(crate) fn check_aliases(
    written: (&'static str, &BufferView),
    others: &[(&'static str, &BufferView)],
    may_be: &str,
) -> Result<()> {
    for (name, view) in others {
        if view.overlaps(written.1) && !(*name == may_be && view.same_as(written.1)) {
            return Err(Error::Aliased {
                first: name,
                second: written.0,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_what_all_tensors_step_through_evenly() {
        let flat = Layout::new(&[2, 3, 4], &[(5, &[12, 4, 1]), (0, &[12, 4, 1])]);
        assert_eq!((flat.outer.as_slice(), flat.len), (&[][..], 24));
        assert_eq!(flat.rows(0).offset, 5);
        // A row's weight keeps the rows apart.
        let rows = Layout::new(&[2, 3, 4], &[(0, &[12, 4, 1]), (0, &[3, 1, 0])]);
        assert_eq!((rows.outer.as_slice(), rows.len), (&[6][..], 4));
        assert_eq!(rows.rows(1).len_stride, 0);
        // Transposed views are walked in the order of memory.
        let transposed = Layout::new(&[4, 3], &[(0, &[1, 4]), (0, &[1, 4])]);
        assert_eq!((transposed.outer.as_slice(), transposed.len), (&[][..], 12));
        assert_eq!(Layout::new(&[], &[(3, &[])]).len, 1);
        assert_eq!(Layout::new(&[1, 1], &[(3, &[9, 9])]).len, 1);
    }

    #[test]
    fn broadcasts_as_numpy() {
        let strides = |own: &[usize], shape: &[usize]| {
            broadcast_strides("weight", own, &crate::rows::contiguous_strides(own), shape)
        };
        assert_eq!(strides(&[3], &[2, 3]).unwrap(), [0, 1]);
        assert_eq!(strides(&[2, 1], &[2, 3]).unwrap(), [1, 0]);
        assert_eq!(strides(&[], &[2, 3]).unwrap(), [0, 0]);
        assert!(strides(&[2], &[2, 3]).is_err() && strides(&[1, 2, 3], &[2, 3]).is_err());
    }
}
