//! Mixed precision under the clock: finding norm and verdict of gradients, and steps of optimizers.

use super::{Prepared, Preparing, Workload};
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::ops::optimizer::cases::Case as OptimizerCase;
use crate::ops::unscale::cases::Case as UnscaleCase;
use crate::verify::{Case, Verdict};

/// Ready to be timed if the result was right.
fn prepared(
    op: &'static str,
    verdict: Verdict,
    context: &Context,
    recording: Option<Recording>,
    on_cpu: impl FnOnce() -> Result<Box<dyn FnMut() + Send>>,
) -> Result<Prepared> {
    if verdict.mismatch.is_some() {
        return Err(Error::Mismatch {
            kernel: op,
            index: 0,
            gpu: verdict.max_error,
            cpu: 0.0,
            bound: verdict.bound,
        });
    }
    match (context.gpu(), recording) {
        (Some(gpu), Some(recording)) => Ok(Prepared::Gpu(gpu.clone(), recording)),
        _ => Ok(Prepared::Cpu(on_cpu()?)),
    }
}

impl Workload for UnscaleCase {
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
        UnscaleCase::bytes(self)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            let verdict = Case::run_async(self, context).await?;
            let recording = self.record_on(context)?;
            prepared(Case::op(self), verdict, context, recording, || Ok(self.call_on_cpu()))
        })
    }
}

impl Workload for OptimizerCase {
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
        OptimizerCase::bytes(self)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            let verdict = Case::run_async(self, context).await?;
            let recording = self.record_on(context)?;
            prepared(Case::op(self), verdict, context, recording, || self.call_on_cpu())
        })
    }
}
