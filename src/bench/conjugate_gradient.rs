//! Iterations of conjugate gradients as workloads, and what they cost beyond the work that cannot be left out.

use super::{Prepared, Preparing, Workload, copy, percentile, sample};
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::BufferView;
use crate::solve::OperatorCall;
use crate::solve::conjugate_gradient::cases::Case;
use std::time::Duration;

impl Workload for Case {
    fn op(&self) -> &'static str {
        "conjugate_gradient"
    }

    fn shape(&self) -> String {
        self.shape_name()
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn bytes(&self) -> u64 {
        Case::bytes(self)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            self.check(context).await?;
            let made = self.make()?;
            let Some(gpu) = context.gpu() else {
                return Ok(Prepared::Cpu(Box::new(self.call_on_cpu(made))));
            };
            let bound = self.on_device(gpu, &made)?;
            let iterations = self.iterations;
            Ok(Prepared::Passes(
                gpu.clone(),
                Box::new(move |pass| bound.solve.record_pass(pass, iterations)),
            ))
        })
    }
}

/// What an iteration takes, and what its parts take by themselves, measured in turns.
#[derive(Clone, Debug, PartialEq)]
pub struct IterationCost {
    /// Seconds of an iteration, replacement of the residual, beginning and end of a solve included.
    pub iteration: f64,
    /// Seconds of the product alone.
    pub product: f64,
    /// Seconds of copying as many bytes as the iteration's vectors have.
    pub vectors: f64,
}

impl IterationCost {
    /// Iteration over product and copy.
    pub fn ratio(&self) -> f64 {
        self.iteration / (self.product + self.vectors)
    }
}

/// Measures a case on a device for about `budget`.
///
/// # Errors
/// [`Error::Unsupported`] on the CPU path; [`Error::Mismatch`] where a solve does not converge.
#[cfg(not(target_arch = "wasm32"))]
pub fn iteration_cost(context: &Context, case: &Case, budget: Duration) -> Result<IterationCost> {
    pollster::block_on(iteration_cost_async(context, case, budget))
}

/// As `iteration_cost`, for browsers. Elsewhere it blocks.
///
/// # Errors
/// Those of `iteration_cost`.
pub async fn iteration_cost_async(context: &Context, case: &Case, budget: Duration) -> Result<IterationCost> {
    let Some(gpu) = context.gpu() else {
        return Err(Error::Unsupported {
            what: "the cost of an iteration on the CPU path".into(),
            reason: "it is about dispatches of a device".into(),
        });
    };
    let mut solve = case.prepare_async(context).await?;
    let made = case.make()?;
    let n = case.unknowns();
    let (x, y) = (gpu.upload("x", &vec![0; 4 * n])?, gpu.upload("y", &vec![0; 4 * n])?);
    let view = |buffer| BufferView::new(buffer, DType::F32, &[n]);
    let product = made.operator.bind(gpu, &OperatorCall::new(&view(&x), &view(&y)))?;
    let mut product = Prepared::Passes(gpu.clone(), Box::new(move |pass| product.record(pass)));
    let mut vectors = copy::prepare(context, case.vectors_moved() * 4 * n as u64)?;
    let [solves, products, copies] = sample([&mut solve, &mut product, &mut vectors], budget).await?;
    Ok(IterationCost {
        iteration: percentile(&solves, 0.5) / case.iterations as f64,
        product: percentile(&products, 0.5),
        vectors: percentile(&copies, 0.5),
    })
}
