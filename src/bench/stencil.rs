//! The grid stencil as a workload.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::DType;
use crate::error::Error;
use crate::solve::LinearOperator;
use crate::solve::stencil::cases::Case;
use crate::verify::shape_text;

impl Workload for Case {
    fn op(&self) -> &'static str {
        "grid_stencil"
    }

    fn shape(&self) -> String {
        format!("{} {:?}", shape_text(&self.cells), self.kind).to_lowercase()
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn bytes(&self) -> u64 {
        Case::bytes(self)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            self.run_async(context).await?.map_err(|m| Error::Mismatch {
                kernel: "grid_stencil",
                index: m.index,
                gpu: m.got,
                cpu: m.want,
                bound: m.bound,
            })?;
            if let (Some((recording, _)), Some(gpu)) = (self.record_on(context)?, context.gpu()) {
                return Ok(Prepared::Gpu(gpu.clone(), recording));
            }
            let stencil = self.stencil()?;
            let x: Vec<f64> = self.x().into_iter().map(f64::from).collect();
            let mut y = vec![0.0; x.len()];
            Ok(Prepared::Cpu(Box::new(move || {
                stencil.apply(&x, &mut y);
                std::hint::black_box(&y);
            })))
        })
    }
}
