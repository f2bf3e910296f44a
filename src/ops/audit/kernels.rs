//! The audit on a device: one dispatch that clears the counters, then blocks of the tensor, a workgroup each.

use super::report::SLOTS;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, compose, unsigned};
use crate::gpu::{Bind, Budget, BufferView, Dispatches, Gpu, Planned, Recording, grid, plan_windows};
use crate::rows::{RowDim, RowMap};

const AUDIT: &str = include_str!("../../../shaders/audit.wgsl");

/// Elements that a workgroup counts.
const BLOCK: usize = 16_384;

/// Parameters as shaders/audit.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    sizes: [u32; 4],
    strides: [u32; 4],
    base: u32,
    step: u32,
    rows: u32,
    len: u32,
    grid_x: u32,
    first_row: u32,
    blocks: u32,
    line: u32,
    block: u32,
    lead: u32,
    spare: [u32; 2],
}

fn source(dtype: DType, workgroup: u32) -> String {
    let storage = match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Bf16 => 2,
    };
    compose(&Composition {
        constants: &[("WG", unsigned(workgroup)), ("STORAGE", unsigned(storage))],
        tensors: &[],
        alias: None,
        shader_f16: false,
        all_read_write: false,
        fragments: &[],
        kernel: AUDIT,
    })
}

/// Bytes of the counters.
pub(crate) const COUNTS_BYTES: u64 = SLOTS as u64 * 4;

/// The tensor as lines along one axis: as a whole where it lies in one piece.
fn lines(x: &BufferView) -> RowMap {
    let rank = x.shape().len();
    if rank == 0 {
        return RowMap::strided(&[1], &[1], x.offset, 0);
    }
    let map = x.rows(rank - 1);
    if map.is_contiguous() {
        return RowMap::strided(&[map.rows() * map.len], &[1], x.offset, 0);
    }
    map
}

/// Plans, builds and binds the dispatches that count `x` into the counters at `offset` of a buffer.
pub(crate) fn bind(gpu: &Gpu, x: &BufferView, counts: &wgpu::Buffer, offset: u64) -> Result<Recording> {
    let lines = lines(x);
    let elements = (lines.rows() as u64).saturating_mul(lines.len as u64);
    // Counters and indices are u32, and the index 0xffffffff stands for none.
    if elements >= u64::from(u32::MAX) {
        return Err(Error::Limit {
            what: "elements of one audit on a device",
            need: elements,
            have: u64::from(u32::MAX) - 1,
        });
    }
    let capabilities = gpu.capabilities();
    let workgroup = if capabilities.software { 64 } else { 256 }.min(capabilities.max_invocations);
    let source = source(x.dtype(), workgroup);
    let counters = || Bind {
        name: "counts",
        buffer: counts.clone(),
        offset,
        size: COUNTS_BYTES,
    };
    let mut dispatches = Dispatches::new(gpu, "audit");
    let clear = gpu.kernel("audit", &source, "clear")?;
    dispatches.add(&clear, Params::default(), [1, 1], vec![counters()]);
    let kernel = gpu.kernel("audit", &source, "main")?;
    let budget = Budget {
        binding: capabilities.max_binding,
        alignment: capabilities.storage_alignment,
        elements: if capabilities.software { 1 << 24 } else { 1 << 30 },
        rows: u64::from(capabilities.max_workgroups).pow(2).min(1 << 30),
    };
    // Whole blocks of every line, then what is left of each.
    let blocks = lines.len / BLOCK;
    for (count, len, lead) in [(blocks, BLOCK, 0), (1, lines.len % BLOCK, blocks * BLOCK)] {
        if count == 0 || len == 0 {
            continue;
        }
        let mut dims = lines.dims.clone();
        dims.push(RowDim {
            size: count,
            stride: BLOCK * lines.len_stride,
        });
        let map = RowMap {
            offset: lines.offset + lead * lines.len_stride,
            dims,
            len,
            len_stride: lines.len_stride,
        };
        let planned = Planned {
            rows: &map,
            element: x.dtype().size() as u64,
            buffer: x.buffer.size(),
        };
        for window in plan_windows(&[planned], &budget, false)? {
            let part = &window.parts[0];
            let grid = grid(window.rows as u64, capabilities.max_workgroups)?;
            let params = Params {
                sizes: window.sizes,
                strides: part.strides,
                base: part.base,
                step: lines.len_stride as u32,
                rows: window.rows as u32,
                len: len as u32,
                grid_x: grid[0],
                first_row: window.first_row as u32,
                blocks: count as u32,
                line: lines.len as u32,
                block: BLOCK as u32,
                lead: lead as u32,
                spare: [0; 2],
            };
            let values = Bind {
                name: "x_data",
                buffer: x.buffer.clone(),
                offset: part.offset,
                size: part.size,
            };
            dispatches.add(&kernel, params, grid, vec![values, counters()]);
        }
    }
    dispatches.finish()
}

/// Every variant of the shader, as a name and its WGSL.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    DType::ALL
        .into_iter()
        .flat_map(|dtype| [64, 256].map(|wg| (format!("audit_{dtype}_{wg}"), source(dtype, wg))))
        .collect()
}
