//! The workloads of layer_norm and rms_norm.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::DType;
use crate::ops::layer_norm::cases::Case;
use crate::verify::shape_text;

impl Workload for Case {
    fn op(&self) -> &'static str {
        self.quantity.name()
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn bytes(&self) -> u64 {
        Case::bytes(self)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            self.compute_checked(context).await?;
            match context.gpu() {
                Some(gpu) => Ok(Prepared::Gpu(gpu.clone(), self.record_on(context)?)),
                None => Ok(Prepared::Cpu(self.call_on_cpu())),
            }
        })
    }
}
