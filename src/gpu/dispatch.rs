//! From dispatches to a [`Recording`]: their parameters go into one uniform buffer, their buffers into bind groups.

use super::{Gpu, Kernel, Recording, Step};
use crate::error::Result;
use std::sync::Arc;

/// A parameter with more digits than an f32 has: the f32 nearest to it, and what that leaves.
pub(crate) fn pair(value: f64) -> [f32; 2] {
    let high = value as f32;
    [high, (value - f64::from(high)) as f32]
}

/// A range of a buffer for the binding of a name. Names that the kernel does not use are left out.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    /// The variable's name in the shader.
    pub name: &'static str,
    pub buffer: wgpu::Buffer,
    /// In bytes, a multiple of the device's alignment.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

impl Bind {
    /// A buffer as a whole.
    pub(crate) fn whole(name: &'static str, buffer: &wgpu::Buffer) -> Bind {
        Bind {
            name,
            buffer: buffer.clone(),
            offset: 0,
            size: buffer.size(),
        }
    }
}

/// Dispatches in the order of their execution, each with a parameter block `P` that the shader knows as `params`.
pub(crate) struct Dispatches<'a, P> {
    gpu: &'a Gpu,
    label: &'static str,
    pending: Vec<Pending<P>>,
}

struct Pending<P> {
    kernel: Arc<Kernel>,
    params: P,
    grid: [u32; 2],
    bindings: Vec<Bind>,
}

impl<'a, P: bytemuck::Pod> Dispatches<'a, P> {
    pub(crate) fn new(gpu: &'a Gpu, label: &'static str) -> Self {
        Dispatches {
            gpu,
            label,
            pending: Vec::new(),
        }
    }

    /// What the dispatches are called.
    pub(crate) fn label(&self) -> &'static str {
        self.label
    }

    pub(crate) fn add(&mut self, kernel: &Arc<Kernel>, params: P, grid: [u32; 2], bindings: Vec<Bind>) {
        self.pending.push(Pending {
            kernel: kernel.clone(),
            params,
            grid,
            bindings,
        });
    }

    pub(crate) fn finish(self) -> Result<Recording> {
        let gpu = self.gpu;
        let size = std::mem::size_of::<P>() as u64;
        let pitch = size.next_multiple_of(gpu.capabilities().uniform_alignment);
        let mut bytes = vec![0u8; (pitch as usize * self.pending.len()).max(16)];
        for (i, dispatch) in self.pending.iter().enumerate() {
            let at = i * pitch as usize;
            bytes[at..at + size as usize].copy_from_slice(bytemuck::bytes_of(&dispatch.params));
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniforms = gpu.create_buffer("macheps parameters", bytes.len() as u64, usage)?;
        gpu.write(&uniforms, 0, &bytes)?;
        let slice = |buffer, offset, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset,
                size: std::num::NonZeroU64::new(size),
            })
        };
        let steps = self
            .pending
            .iter()
            .enumerate()
            .map(|(i, dispatch)| {
                let mut resources = vec![("params", slice(&uniforms, i as u64 * pitch, size))];
                resources.extend(
                    dispatch
                        .bindings
                        .iter()
                        .map(|b| (b.name, slice(&b.buffer, b.offset, b.size))),
                );
                Ok(Step {
                    kernel: dispatch.kernel.clone(),
                    bind_group: dispatch.kernel.bind(gpu, &resources)?,
                    grid: dispatch.grid,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Recording {
            label: self.label,
            steps,
        })
    }
}
