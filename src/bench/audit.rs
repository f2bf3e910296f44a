//! The audit as a workload.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::gpu::BufferView;
use crate::ops::audit::cases::Case;
use crate::ops::audit::{Audit, cpu};

impl Workload for Case {
    fn op(&self) -> &'static str {
        "audit"
    }

    fn shape(&self) -> String {
        self.len.to_string()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn bytes(&self) -> u64 {
        self.len as u64 * self.dtype.size() as u64
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
    let (got, want) = case.run_async(context).await?;
    if got != want {
        return Err(crate::error::Error::Mismatch {
            kernel: "audit",
            index: 0,
            gpu: got.nonzero() as f64,
            cpu: want.nonzero() as f64,
            bound: 0.0,
        });
    }
    let values = case.data::<T>();
    let Some(gpu) = context.gpu() else {
        return Ok(Prepared::Cpu(Box::new(move || {
            std::hint::black_box(cpu::audit(&values));
        })));
    };
    let buffer = gpu.upload("macheps audit values", bytemuck::cast_slice(&values))?;
    let audit = Audit::new(gpu);
    let counts = audit.create_counts()?;
    let bound = audit.bind(&BufferView::new(&buffer, T::DTYPE, &[values.len()]), &counts, 0)?;
    Ok(Prepared::Gpu(gpu.clone(), Audit::into_recording(bound)))
}
