//! Tensors without gaps cut into chunks, and chunks into dispatches. Optimizers use it too.

use crate::error::{Error, Result};
use crate::gpu::{Bind, Budget, BufferView, Gpu, Planned, grid, plan_windows};
use crate::rows::{RowDim, RowMap, contiguous_strides, element_count};

/// A dispatch's share of the chunks.
pub(crate) struct Share {
    pub first_chunk: u32,
    pub chunks: u32,
    pub elements: u32,
    pub grid: [u32; 2],
    parts: Vec<(wgpu::Buffer, u64, u64, u32)>,
}

impl Share {
    /// Element of the binding at which the share of tensor `t` begins.
    pub(crate) fn base(&self, t: usize) -> u32 {
        self.parts[t].3
    }

    /// The binding of tensor `t`.
    pub(crate) fn bind(&self, t: usize, name: &'static str) -> Bind {
        let (buffer, offset, size, _) = &self.parts[t];
        Bind {
            name,
            buffer: buffer.clone(),
            offset: *offset,
            size: *size,
        }
    }
}

/// Number of elements of a view, which has to be in C order without gaps.
pub(crate) fn count(what: &'static str, view: &BufferView) -> Result<usize> {
    let contiguous = contiguous_strides(&view.shape);
    let dense = view.shape.contains(&0)
        || view
            .shape
            .iter()
            .zip(view.strides.iter().zip(&contiguous))
            .all(|(&size, (own, dense))| size == 1 || own == dense);
    if !dense {
        return Err(Error::Unsupported {
            what: format!("{what} with strides {:?} for shape {:?}", view.strides, view.shape),
            reason: "it has to be in C order without gaps, at any offset".into(),
        });
    }
    element_count(&view.shape).ok_or_else(|| {
        Error::shape(
            what,
            "a number of elements that fits usize",
            format!("{:?}", view.shape),
        )
    })
}

/// Whether all of them can be taken four aligned elements at a time.
pub(crate) fn quads(views: &[&BufferView], count: usize) -> bool {
    count.is_multiple_of(4) && views.iter().all(|v| v.offset.is_multiple_of(4))
}

/// Cuts tensors of `count` elements each, a workgroup a chunk of `chunk`, into dispatches.
pub(crate) fn shares(gpu: &Gpu, views: &[&BufferView], count: usize, chunk: usize) -> Result<Vec<Share>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let capabilities = gpu.capabilities();
    let budget = Budget {
        binding: capabilities.max_binding,
        alignment: capabilities.storage_alignment,
        elements: if capabilities.software { 1 << 23 } else { 1 << 28 },
        rows: u64::from(capabilities.max_workgroups).pow(2).min(1 << 30),
    };
    let maps: Vec<RowMap> = views
        .iter()
        .map(|view| RowMap {
            offset: view.offset,
            dims: vec![RowDim {
                size: count.div_ceil(chunk),
                stride: chunk,
            }],
            len: chunk.min(count),
            len_stride: 1,
        })
        .collect();
    let planned: Vec<Planned<'_>> = views
        .iter()
        .zip(&maps)
        .map(|(view, rows)| Planned {
            rows,
            element: view.dtype.size() as u64,
            buffer: view.buffer.size(),
        })
        .collect();
    plan_windows(&planned, &budget, false)?
        .into_iter()
        .map(|window| {
            let elements = (count - window.first_row * chunk).min(window.rows * chunk);
            let parts = views
                .iter()
                .zip(&window.parts)
                .map(|(view, part)| {
                    // The last chunk may be short; what lies behind it is somebody else's.
                    let end = (part.base as u64 + elements as u64) * view.dtype.size() as u64;
                    let size = end.next_multiple_of(4).min(part.size);
                    (view.buffer.clone(), part.offset, size, part.base)
                })
                .collect();
            Ok(Share {
                first_chunk: window.first_row as u32,
                chunks: window.rows as u32,
                elements: elements as u32,
                grid: grid(window.rows as u64, capabilities.max_workgroups)?,
                parts,
            })
        })
        .collect()
}

/// Fails where a written view shares bytes with another one. `views` come as name, view, whether it is written; two that are
/// the very same view may be one tensor updated in place if `in_place` says so.
pub(crate) fn check_overlaps(
    views: &[(&'static str, &BufferView, bool)],
    in_place: impl Fn(usize, usize) -> bool,
) -> Result<()> {
    for (i, (first, a, a_written)) in views.iter().enumerate() {
        for (j, (second, b, b_written)) in views.iter().enumerate().skip(i + 1) {
            let harmless = !(*a_written || *b_written) || (a.same_as(b) && in_place(i, j));
            if !harmless && a.overlaps(b) {
                return Err(Error::Aliased { first, second });
            }
        }
    }
    Ok(())
}
