//! Pruning as a workload.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::ops::prune::cases::Case;
use crate::ops::prune::{Prune, PruneViews, cpu};
use crate::verify::shape_text;

impl Workload for Case {
    fn op(&self) -> &'static str {
        "prune"
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn bytes(&self) -> u64 {
        // A word of mask on a device, a byte on the CPU path; the smaller one counts.
        self.shape.iter().product::<usize>() as u64 * (self.dtype.size() as u64 + 1)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            match self.dtype {
                DType::F32 => prepare::<f32>(self, context).await,
                DType::F16 => prepare::<f16>(self, context).await,
                DType::Bf16 => prepare::<bf16>(self, context).await,
            }
        })
    }
}

async fn prepare<T: Element>(case: &Case, context: &Context) -> Result<Prepared> {
    let (_, verdict) = case.run_async(context).await?;
    verdict.map_err(|(index, gpu, cpu)| Error::Mismatch {
        kernel: "prune",
        index,
        gpu,
        cpu,
        bound: 0.0,
    })?;
    let values = case.data::<T>();
    let sparsity = case.sparsity;
    let Some(gpu) = context.gpu() else {
        return Ok(Prepared::Cpu(Box::new(move || {
            std::hint::black_box(cpu::prune(&values, sparsity));
        })));
    };
    let buffer = gpu.upload("macheps prune values", bytemuck::cast_slice(&values))?;
    let mask = gpu.create_buffer(
        "macheps prune mask",
        values.len() as u64 * 4,
        wgpu::BufferUsages::STORAGE,
    )?;
    let prune = Prune::new(gpu, T::DTYPE, sparsity)?;
    let bound = prune.bind(&PruneViews {
        x: BufferView::new(&buffer, T::DTYPE, &case.shape),
        mask: Some(BufferView::new(&mask, DType::F32, &case.shape)),
        state: (prune.create_state()?, 0),
    })?;
    Ok(Prepared::Gpu(gpu.clone(), bound.into_recording()))
}
