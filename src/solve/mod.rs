//! Solvers for linear systems A x = b: conjugate gradients, stationary iterations, iterative refinement, extreme eigenvalues, and
//! reports that say how far to trust the answer.
//!
//! Operators ([`LinearOperator`]) and preconditioners ([`Preconditioner`]) have two faces: what a device runs, recorded into a
//! compute pass, in f32; and the same on the host in f64, which is what residuals are judged by and what solves where there is no
//! GPU.

mod colouring;
pub mod conjugate_gradient;
mod csr;
#[cfg(not(target_arch = "wasm32"))]
mod eigenvalues;
mod lanczos;
mod operator;
mod preconditioner;
mod preconditioners;
mod range;
pub mod refinement;
pub mod relaxation;
mod report;
pub mod stencil;
mod sweep;
pub mod tridiagonal;
mod vector;
mod views;

pub use colouring::Colouring;
pub use csr::CsrOperator;
#[cfg(not(target_arch = "wasm32"))]
pub use eigenvalues::{
    ConditionNumber, EigenMethod, EigenOptions, Eigenvalue, condition_number, largest_eigenvalue, smallest_eigenvalue,
};
pub use operator::{LinearOperator, OperatorCall, Record, Threaded};
pub use preconditioner::{Preconditioner, PreconditionerCall, PreconditionerForm};
pub use preconditioners::{
    Identity, IncompleteCholesky, IncompleteCholeskyOptions, JacobiPreconditioner, RowOrder, Ssor,
};
pub use range::device_exponent;
pub use report::{Breakdown, Outcome, Report, Solution};
pub use report::{ConditionEstimate, ReportOptions, RunFacts, SAFETY_FACTOR, SAFETY_FACTOR_OWN_RUN};
pub use stencil::{Boundary, Coefficient, GridStencil, GridStencilOptions, Reaction, StencilBuffers};

/// Every variant of the solvers' shaders, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = conjugate_gradient::shader_variants();
    all.extend(relaxation::shader_variants());
    all.extend(stencil::shader_variants());
    all
}
