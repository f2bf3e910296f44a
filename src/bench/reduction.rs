//! Reductions as workloads.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::DType;
use crate::ops::reduction::SumMode;
use crate::ops::reduction::cases::Case;
use crate::verify::shape_text;

impl Workload for Case {
    fn op(&self) -> &'static str {
        if self.backward {
            self.kind.backward_name()
        } else {
            self.kind.name()
        }
    }

    fn shape(&self) -> String {
        let axes = match &self.options.axes {
            Some(axes) if axes[..] == [0] => " axis 0",
            _ => "",
        };
        let mode = match self.options.mode {
            SumMode::Reproducible => " reproducible",
            _ => "",
        };
        format!("{}{axes}{mode}", shape_text(&self.shape))
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
                None => Ok(Prepared::Cpu(self.call_on_cpu()?)),
            }
        })
    }
}
