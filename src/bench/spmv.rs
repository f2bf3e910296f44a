//! Sparse products as workloads.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::DType;
use crate::ops::spmv::cases::Case;

impl Workload for Case {
    fn op(&self) -> &'static str {
        self.op_name()
    }

    fn shape(&self) -> String {
        self.shape_name()
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
            match (context.gpu(), self.record_on(context)?) {
                (Some(gpu), Some(recording)) => Ok(Prepared::Gpu(gpu.clone(), recording)),
                _ => Ok(Prepared::Cpu(self.call_on_cpu()?)),
            }
        })
    }
}
