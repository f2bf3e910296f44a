//! Copying: the yardstick of every benchmark, on the same device in the same run.

use super::Prepared;
use crate::context::Context;
use crate::error::Result;
use crate::gpu::{Recording, Step};

const COPY: &str = include_str!("../../shaders/copy.wgsl");

/// A copy that reads `bytes / 2` and writes as many.
pub(super) fn prepare(context: &Context, bytes: u64) -> Result<Prepared> {
    let size = (bytes / 2).next_multiple_of(16).max(16);
    let Some(gpu) = context.gpu() else {
        let source = vec![1u8; size as usize];
        let mut target = vec![0u8; size as usize];
        return Ok(Prepared::Cpu(Box::new(move || copy_on_cpu(&source, &mut target))));
    };
    let kernel = gpu.kernel("copy", COPY, "main")?;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let source = gpu.create_buffer("copy source", size, usage)?;
    let target = gpu.create_buffer("copy target", size, usage)?;
    // The same windows that an operation would need.
    let window = gpu.capabilities().max_binding / 256 * 256;
    let mut steps = Vec::new();
    for offset in (0..size).step_by(window as usize) {
        let taken = window.min(size - offset);
        let words = taken / 16;
        let grid = crate::gpu::grid(words.div_ceil(1024), gpu.capabilities().max_workgroups)?;
        let params = gpu.create_buffer(
            "copy parameters",
            16,
            wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        )?;
        gpu.write(&params, 0, bytemuck::cast_slice(&[words as u32, grid[0], 0, 0]))?;
        let slice = |buffer| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: std::num::NonZeroU64::new(taken),
            })
        };
        let resources = [
            ("params", params.as_entire_binding()),
            ("source_data", slice(&source)),
            ("target_data", slice(&target)),
        ];
        steps.push(Step {
            bind_group: kernel.bind(gpu, &resources)?,
            kernel: kernel.clone(),
            grid,
        });
    }
    Ok(Prepared::Gpu(gpu.clone(), Recording { label: "copy", steps }))
}

/// memcpy on all threads.
fn copy_on_cpu(source: &[u8], target: &mut [u8]) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        let part = source.len().div_ceil(rayon::current_num_threads()).max(1);
        target
            .par_chunks_mut(part)
            .zip(source.par_chunks(part))
            .for_each(|(t, s)| t.copy_from_slice(s));
    }
    #[cfg(target_arch = "wasm32")]
    target.copy_from_slice(source);
    std::hint::black_box(target);
}
