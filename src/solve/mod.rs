//! Solvers for linear systems A x = b: conjugate gradients, stationary iterations, iterative refinement, extreme eigenvalues, and
//! reports that say how far to trust the answer.
//!
//! Operators ([`LinearOperator`]) and preconditioners ([`Preconditioner`]) have two faces: what a device runs, recorded into a
//! compute pass, in f32; and the same on the host in f64, which is what residuals are judged by and what solves where there is no
//! GPU.

pub mod conjugate_gradient;
mod csr;
mod eigenvalues;
mod lanczos;
mod operator;
mod preconditioner;
pub mod refinement;
mod report;
pub mod tridiagonal;
mod vector;

pub use csr::CsrOperator;
pub use eigenvalues::{
    ConditionNumber, EigenMethod, EigenOptions, Eigenvalue, condition_number, largest_eigenvalue, smallest_eigenvalue,
};
pub use operator::{LinearOperator, OperatorCall, Record};
pub use preconditioner::{Preconditioner, PreconditionerCall, PreconditionerForm};
pub use report::{Breakdown, Outcome, Report, Solution};
pub use report::{ConditionEstimate, ReportOptions, RunFacts, SAFETY_FACTOR, SAFETY_FACTOR_OWN_RUN};
