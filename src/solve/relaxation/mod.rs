//! Stationary iterations for A x = b: Jacobi's method, Gauss-Seidel, successive over-relaxation (SOR), and a forecast of their convergence.
//!
//! # Definition
//! With A = L + D + U, by the lower triangle, diagonal and upper triangle, and a factor of relaxation w:
//!
//! | method | x becomes | converges for symmetric positive definite A |
//! |---|---|---|
//! | Jacobi | x + w D^-1 (b - A x) | if the largest eigenvalue of w D^-1 A is below 2 |
//! | SOR | (D + w L)^-1 (w b + ((1 - w) D - w U) x), row after row from the newest x | for 0 < w < 2 |
//! | Gauss-Seidel | SOR with w = 1 | always |
//!
//! All of them converge from any start exactly where the spectral radius of their iteration is below 1; [`forecast`] estimates it. Strict
//! diagonal dominance suffices for Jacobi and Gauss-Seidel (Saad, Iterative Methods for Sparse Linear Systems, 2003, chapter 4; Young,
//! Iterative Solution of Large Linear Systems, 1971).
//!
//! Devices take the rows of SOR by colours ([`super::Colouring`]), all of one colour at once; the CPU path takes them as they stand.
//! Both are SOR, with another order of the rows.
//!
//! # Shapes
//! One-shots solve one system of n unknowns. Bound methods take b and x as f32 `[n]` or `[k, n]`.
//!
//! # Numerics
//! On a device all is f32, with each row's sum within (log2 n_i + 6) u of the sum of its magnitudes; residual norms are sums of pairs.
//! b is scaled by a power of two first. The residual that decides about [`super::Outcome::Converged`] is computed in f64 by
//! [`LinearOperator::apply`]. f32 attains residuals of about u ||A|| ||x||; beyond that the outcome is stagnation, unless
//! [`RelaxationOptions::refine`] goes on. On the CPU path all is f64. Same device and driver: same bits.
//!
//! # Cost
//! A sweep of Jacobi is the product and one dispatch more; one of SOR a dispatch a colour. Every [`RelaxationOptions::check_every`]
//! sweeps the residual's norm is read back, at the cost of one more product.
//!
//! # Errors
//! Shapes, options, operators that lack what a method needs (a diagonal, entries), what a device cannot hold. A system that cannot be solved
//! is none: the report says so.

mod device;
mod forecast;
mod kernels;
pub mod reference;
mod run;

pub use device::{BoundRelaxation, Jacobi, Sor};
pub use forecast::{Forecast, RelaxationMethod, forecast};
#[cfg(not(target_arch = "wasm32"))]
pub use run::{gauss_seidel, jacobi, sor};
pub use run::{gauss_seidel_async, jacobi_async, sor_async};

#[cfg(doc)]
use super::LinearOperator;
use super::ReportOptions;
use crate::error::{Error, Result};
use std::sync::Arc;

/// What is told while a solve runs: sweeps done, and ||r|| / ||b||.
pub type SweepProgress = Arc<dyn Fn(usize, f64) + Send + Sync>;

/// Options of the stationary iterations.
#[derive(Clone)]
pub struct RelaxationOptions {
    /// w, between 0 and 2, both excluded. [`gauss_seidel`] takes it as 1.
    pub omega: f64,
    /// Goal: `||b - A x|| <= rtol ||b||`.
    pub rtol: f64,
    /// The most sweeps; by default ten times the number of unknowns, but at least 1000 and at most 100,000.
    pub max_iterations: Option<usize>,
    /// Sweeps between two looks at the residual's norm, 1 to 1000.
    pub check_every: usize,
    /// Where to begin; zeros if not given.
    pub x0: Option<Vec<f64>>,
    /// Whether f64 residuals on the host correct what f32 cannot reach, down to `rtol`.
    pub refine: bool,
    /// What the report estimates; the iteration itself tells nothing about the condition.
    pub report: ReportOptions,
    /// Called after every look at the residual's norm.
    pub progress: Option<SweepProgress>,
}

impl Default for RelaxationOptions {
    fn default() -> Self {
        RelaxationOptions {
            omega: 1.0,
            rtol: 1e-6,
            max_iterations: None,
            check_every: 25,
            x0: None,
            refine: false,
            report: ReportOptions::default(),
            progress: None,
        }
    }
}

impl std::fmt::Debug for RelaxationOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelaxationOptions")
            .field("omega", &self.omega)
            .field("rtol", &self.rtol)
            .field("max_iterations", &self.max_iterations)
            .field("check_every", &self.check_every)
            .field("x0", &self.x0.as_ref().map(Vec::len))
            .field("refine", &self.refine)
            .field("report", &self.report)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

impl RelaxationOptions {
    /// The most sweeps for n unknowns.
    pub fn iteration_limit(&self, n: usize) -> usize {
        self.max_iterations
            .unwrap_or_else(|| n.saturating_mul(10).clamp(1000, 100_000))
    }

    fn check(&self, n: usize) -> Result<()> {
        super::preconditioners::check_omega(self.omega)?;
        let option = |name, expected, got: String| Err(Error::Option { name, expected, got });
        if !(self.rtol >= 0.0 && self.rtol.is_finite()) {
            return option("rtol", "a finite number that is not negative", self.rtol.to_string());
        }
        if !(1..=1000).contains(&self.check_every) {
            return option("check_every", "1 to 1000 sweeps", self.check_every.to_string());
        }
        match &self.x0 {
            Some(x0) if x0.len() != n => Err(Error::shape("x0", format!("{n} elements"), x0.len().to_string())),
            _ => Ok(()),
        }
    }
}

/// Every variant of the shaders of relaxation and preconditioners, as a name and its WGSL.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    [super::sweep::shader_variants(), kernels::shader_variants()].concat()
}
