//! Conjugate gradients for symmetric positive definite systems A x = b.
//!
//! # Definition
//! The method of Hestenes and Stiefel (1952), preconditioned, in two forms: the standard one, and that of Chronopoulos and Gear (1989),
//! which needs one point of reduction an iteration in place of two. Convergence is a matter of the residual itself,
//! `||b - A x|| <= rtol ||b||` in the 2-norm, not of the preconditioned one.
//!
//! # Numerics
//! On a device all vectors are f32. Dot products are sums of f32 products carried as pairs with their rounding errors; vectors are scaled
//! by a power of two, so squares stay in range. Every [`CgOptions::check_every`] iterations the recurrence's residual is replaced by
//! b - A x computed anew (van der Vorst and Ye 2000), x having absorbed the corrections since the last time; only such a residual
//! is believed. What f32 can attain is a residual of about 2^-24 ||A|| ||x||: beyond that the outcome is stagnation. On the CPU path
//! everything is f64.
//!
//! With [`CgOptions::refine`] x is summed up in f64 on the host: from time to time (each time the residual has fallen by about 20, at most
//! `check_every` iterations apart) what the device has found moves there, zeros take its place, and the residual in f64 that of b, while the
//! directions go on (reliable updates: Sleijpen and van der Vorst 1996, Clark et al. 2010). That reaches 2^-53 ||A|| ||x|| in about as many iterations as
//! f64 takes where 2^-24 kappa is below 1. Beyond, where A rounded to f32 may be indefinite, corrections are solved for by
//! a matrix with a little more on its diagonal ([`super::refinement`]).
//!
//! The same bits on every run, on one device and driver.
//!
//! # Cost
//! An iteration of the standard form is three dispatches (product with its dot product, update, direction) and moves about ten
//! vectors; of the single reduction two dispatches and thirteen vectors. Preconditioners that are not diagonal and operators that
//! leave no dot product take dispatches of their own. Memory: five vectors, six and one for an inverse diagonal in the other form.
//!
//! # Errors
//! Shapes, options, and a device that is lost. A system that cannot be solved is no error: the [`super::Report`] says so.

pub mod cases;
mod device;
mod kernels;
pub mod reference;
mod run;

pub use device::{BoundConjugateGradient, CgState, CgStatus};
pub(crate) use kernels::shader_variants;
#[cfg(not(target_arch = "wasm32"))]
pub use run::{conjugate_gradient, conjugate_gradient_many};
pub use run::{conjugate_gradient_async, conjugate_gradient_many_async};

use super::{LinearOperator, Preconditioner, PreconditionerForm, ReportOptions};
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu};
use std::sync::Arc;

/// Which recurrences are used on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// The single reduction for small systems on hardware, where dispatches count, and for operators that leave no dot product, which
    /// it brings to three dispatches an iteration; the standard form elsewhere.
    #[default]
    Auto,
    /// Hestenes and Stiefel: three dispatches an iteration.
    Standard,
    /// Chronopoulos and Gear: two dispatches an iteration, more vectors; for preconditioners that are none or diagonal.
    SingleReduction,
}

/// Unknowns below which a dispatch costs more on hardware than moving three more vectors.
const SMALL: usize = 1 << 18;

/// The interval between replacements of the residual, if nothing else is asked for.
const INTERVAL: usize = 50;

/// What is told while a solve runs: iterations done, and ||r|| / ||b|| of the system that is farthest from its goal.
pub type Progress = Arc<dyn Fn(usize, f64) + Send + Sync>;

/// Options of conjugate gradients.
#[derive(Clone)]
#[non_exhaustive]
pub struct CgOptions {
    /// Goal: `||b - A x|| <= rtol ||b||`.
    pub rtol: f64,
    /// The most iterations; by default ten times the number of unknowns, up to 100,000.
    pub max_iterations: Option<usize>,
    /// The recurrences.
    pub form: Form,
    /// Iterations between two looks at the true residual, on the device and by the host; rounded up to an even number. With `refine` the
    /// most.
    pub check_every: usize,
    /// Whether f64 residuals on the host correct what f32 cannot reach, down to `rtol`.
    pub refine: bool,
    /// What the report estimates.
    pub report: ReportOptions,
    /// Called now and then.
    pub progress: Option<Progress>,
}

impl Default for CgOptions {
    fn default() -> Self {
        CgOptions {
            rtol: 1e-6,
            max_iterations: None,
            form: Form::Auto,
            check_every: INTERVAL,
            refine: false,
            report: ReportOptions::default(),
            progress: None,
        }
    }
}

impl std::fmt::Debug for CgOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CgOptions")
            .field("rtol", &self.rtol)
            .field("max_iterations", &self.max_iterations)
            .field("form", &self.form)
            .field("check_every", &self.check_every)
            .field("refine", &self.refine)
            .field("report", &self.report)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

fn check_rtol(rtol: f64) -> Result<()> {
    if rtol.is_finite() && rtol >= 0.0 {
        return Ok(());
    }
    Err(Error::Option {
        name: "rtol",
        expected: "a finite number that is not negative",
        got: rtol.to_string(),
    })
}

impl CgOptions {
    /// The defaults with another goal.
    pub fn with_rtol(rtol: f64) -> CgOptions {
        CgOptions {
            rtol,
            ..CgOptions::default()
        }
    }

    /// The most iterations for n unknowns.
    pub fn iteration_limit(&self, n: usize) -> usize {
        self.max_iterations.unwrap_or_else(|| n.saturating_mul(10).min(100_000))
    }

    fn checked_interval(&self) -> Result<usize> {
        if self.check_every == 0 || self.check_every > 10_000 {
            return Err(Error::Option {
                name: "check_every",
                expected: "1 to 10,000 iterations",
                got: self.check_every.to_string(),
            });
        }
        Ok(self.check_every.next_multiple_of(2))
    }

    fn form_for(&self, gpu: &Gpu, operator: &dyn LinearOperator, preconditioner: &PreconditionerForm) -> Result<Form> {
        let general = *preconditioner == PreconditionerForm::General;
        match self.form {
            Form::SingleReduction if general => Err(Error::Unsupported {
                what: "the single reduction with this preconditioner".into(),
                reason: "it is for preconditioners that are none or diagonal; use the standard form".into(),
            }),
            Form::Auto if !general && operator.dot_partials(gpu).is_none() => Ok(Form::SingleReduction),
            // It loses more to rounding, which would have to be made good for.
            Form::Auto if !general && !self.refine && !gpu.capabilities().software && operator.size() < SMALL => {
                Ok(Form::SingleReduction)
            }
            Form::Auto => Ok(Form::Standard),
            form => Ok(form),
        }
    }
}

/// Right-hand side and solution in buffers of the caller's: f32, `[n]`, or `[k, n]` for k systems with one operator, each
/// vector contiguous.
#[derive(Clone, Copy, Debug)]
pub struct CgViews<'a> {
    /// Right-hand side.
    pub b: &'a BufferView,
    /// On entry where to begin (a warm start; zeros for none), afterwards the solution.
    pub x: &'a BufferView,
}

/// Conjugate gradients inside somebody else's command encoder: bound once, recorded each frame, with a fixed budget of iterations and no
/// readback.
///
/// ```no_run
/// # fn frame(gpu: &macheps::Gpu, pressure: &dyn macheps::solve::LinearOperator, m: &dyn macheps::solve::Preconditioner,
/// #     b: &macheps::BufferView, x: &macheps::BufferView, encoder: &mut macheps::wgpu::CommandEncoder) -> macheps::Result<()> {
/// use macheps::solve::conjugate_gradient::{CgOptions, CgViews, ConjugateGradient};
/// let cg = ConjugateGradient::new(gpu, CgOptions::with_rtol(1e-4))?;
/// let solve = cg.bind(pressure, m, CgViews { b, x })?;
/// // Each frame, from the x of the last one:
/// solve.record(encoder, 40);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConjugateGradient {
    gpu: Gpu,
    options: CgOptions,
}

impl ConjugateGradient {
    /// For a device.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn new(gpu: &Gpu, options: CgOptions) -> Result<ConjugateGradient> {
        check_rtol(options.rtol)?;
        options.checked_interval()?;
        Ok(ConjugateGradient {
            gpu: gpu.clone(),
            options,
        })
    }

    /// Binds a solve to buffers: makes pipelines, bind groups and the vectors that it needs besides.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::BufferUsage`] or [`Error::Aliased`] for views that do not fit;
    /// [`Error::Limit`] for vectors beyond a binding; [`Error::Unsupported`] for the single reduction with a preconditioner that
    /// is not diagonal; what operator and preconditioner have against it.
    pub fn bind(
        &self,
        operator: &dyn LinearOperator,
        preconditioner: &dyn Preconditioner,
        views: CgViews<'_>,
    ) -> Result<BoundConjugateGradient> {
        let bound = BoundConjugateGradient::bind(&self.gpu, operator, preconditioner, &views, &self.options)?;
        bound.set_goal(self.options.rtol, self.options.iteration_limit(operator.size()))?;
        Ok(bound)
    }
}

/// A system, or several with one operator.
#[derive(Clone, Copy)]
pub struct LinearSystem<'a> {
    /// A.
    pub operator: &'a dyn LinearOperator,
    /// M; none is M = I.
    pub preconditioner: Option<&'a dyn Preconditioner>,
    /// b: n numbers, or k n for k systems, one after the other.
    pub b: &'a [f64],
    /// Where to begin, as long as b; zeros if not given.
    pub x0: Option<&'a [f64]>,
}

impl<'a> LinearSystem<'a> {
    /// A x = b from x = 0 without preconditioner.
    pub fn new(operator: &'a dyn LinearOperator, b: &'a [f64]) -> Self {
        LinearSystem {
            operator,
            preconditioner: None,
            b,
            x0: None,
        }
    }

    /// With a preconditioner.
    pub fn with_preconditioner(mut self, preconditioner: &'a dyn Preconditioner) -> Self {
        self.preconditioner = Some(preconditioner);
        self
    }

    /// From another start.
    pub fn with_x0(mut self, x0: &'a [f64]) -> Self {
        self.x0 = Some(x0);
        self
    }
}
