//! Workloads of the sigmoid family and of binary cross-entropy.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::DType;
use crate::ops::activation::cases as activation;
use crate::ops::bce_with_logits::cases as bce;
use crate::verify::Case;

macro_rules! workload {
    ($case:ty) => {
        impl Workload for $case {
            fn op(&self) -> &'static str {
                Case::op(self)
            }

            fn shape(&self) -> String {
                Case::shape(self)
            }

            fn dtype(&self) -> DType {
                self.dtype
            }

            fn bytes(&self) -> u64 {
                <$case>::bytes(self)
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
    };
}
workload!(activation::Case);
workload!(bce::Case);
