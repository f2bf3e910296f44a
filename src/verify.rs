//! Conformance: every operation's own cases, run on a context and held to the oracle within the stated bounds.
//!
//! ```
//! let ctx = macheps::Context::cpu();
//! let case = &macheps::verify::cases(Some("softmax"))[0];
//! let report = macheps::verify::run(&ctx, case.as_ref());
//! assert!(report.ok, "{report:?}");
//! ```

use crate::context::Context;
use crate::element::DType;
use crate::error::Result;
use crate::ops;
use crate::ops::is_meant;
use crate::ops::softmax::cases::{Case as SoftmaxCase, nominal_bound};
use futures::future::LocalBoxFuture;

/// A case of some operation.
pub trait Case: Send + Sync {
    /// Name of the operation: `softmax`, `softmax_backward`, ...
    fn op(&self) -> &'static str;
    /// Shape in words: `4096x1024`.
    fn shape(&self) -> String;
    /// Storage type.
    fn dtype(&self) -> DType;
    /// Values and options in words.
    fn detail(&self) -> String;
    /// Computes and compares, under any executor.
    fn run_async<'a>(&'a self, context: &'a Context) -> Judging<'a>;
    /// Computes and compares.
    #[cfg(not(target_arch = "wasm32"))]
    fn run(&self, context: &Context) -> Result<Verdict> {
        pollster::block_on(self.run_async(context))
    }
}

/// A case under way.
pub type Judging<'a> = LocalBoxFuture<'a, Result<Verdict>>;

/// What comparing a case with the oracle showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Largest error, in `unit`.
    pub max_error: f64,
    /// Bound on it, in `unit`.
    pub bound: f64,
    /// What errors are counted in.
    pub unit: &'static str,
    /// Where and how the bound is missed.
    pub mismatch: Option<String>,
}

/// A case and how it went.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CaseReport {
    /// Name of the operation.
    pub op: String,
    /// Shape.
    pub shape: String,
    /// Storage type.
    pub dtype: DType,
    /// Values and options.
    pub detail: String,
    /// Largest error, in `unit`; NaN where the case could not be run.
    pub max_error: f64,
    /// Bound on it.
    pub bound: f64,
    /// What errors are counted in.
    pub unit: &'static str,
    /// Whether every element has the right class and is within its bound.
    pub ok: bool,
    /// What went wrong.
    pub message: Option<String>,
}

/// The cases of all operations, or of the one named (with its gradient).
pub fn cases(op: Option<&str>) -> Vec<Box<dyn Case>> {
    fn boxed<C: Case + 'static>(cases: Vec<C>) -> impl Iterator<Item = Box<dyn Case>> {
        cases.into_iter().map(|c| Box::new(c) as Box<dyn Case>)
    }
    let mut all: Vec<Box<dyn Case>> = Vec::new();
    all.extend(boxed(ops::softmax::cases::verify_cases()));
    all.extend(boxed(ops::cross_entropy::cases::verify_cases()));
    all.extend(boxed(ops::bce_with_logits::cases::verify_cases()));
    all.extend(boxed(ops::activation::cases::verify_cases()));
    all.extend(boxed(ops::reduction::cases::verify_cases()));
    all.extend(boxed(ops::layer_norm::cases::verify_cases()));
    all.extend(boxed(ops::unscale::cases::verify_cases()));
    all.extend(boxed(ops::optimizer::cases::verify_cases()));
    all.extend(boxed(ops::audit::cases::verify_cases()));
    all.extend(boxed(ops::prune::cases::verify_cases()));
    all.extend(boxed(crate::solve::stencil::cases::verify_cases()));
    all.extend(boxed(ops::spmv::cases::verify_cases()));
    all.retain(|c| is_meant(c.op(), op));
    all
}

/// Runs a case. A case that cannot be run is not ok.
#[cfg(not(target_arch = "wasm32"))]
pub fn run(context: &Context, case: &dyn Case) -> CaseReport {
    pollster::block_on(run_async(context, case))
}

/// As `run`, under any executor.
pub async fn run_async(context: &Context, case: &dyn Case) -> CaseReport {
    let (max_error, bound, unit, message) = match case.run_async(context).await {
        Ok(v) => (v.max_error, v.bound, v.unit, v.mismatch),
        Err(e) => (f64::NAN, f64::NAN, "", Some(e.to_string())),
    };
    CaseReport {
        op: case.op().into(),
        shape: case.shape(),
        dtype: case.dtype(),
        detail: case.detail(),
        max_error,
        bound,
        unit,
        ok: message.is_none(),
        message,
    }
}

/// A shape as `4096x1024`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

impl Case for SoftmaxCase {
    fn op(&self) -> &'static str {
        self.quantity.name()
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        SoftmaxCase::detail(self)
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> Judging<'a> {
        Box::pin(async move {
            let (bound, unit) = nominal_bound(self.quantity, self.dtype, self.accuracy(context)?);
            Ok(match SoftmaxCase::run_async(self, context).await? {
                Ok(outcome) => Verdict {
                    max_error: outcome.error.of_bound * bound,
                    bound,
                    unit,
                    mismatch: None,
                },
                Err(m) => {
                    let of_bound = (m.got - m.want).abs() / m.bound;
                    Verdict {
                        max_error: of_bound * bound,
                        bound,
                        unit,
                        mismatch: Some(m.to_string()),
                    }
                }
            })
        })
    }
}
