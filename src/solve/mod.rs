//! Solvers for linear systems A x = b: conjugate gradients, stationary iterations, iterative refinement, extreme eigenvalues, and
//! reports that say how far to trust the answer.
//!
//! Operators ([`LinearOperator`]) and preconditioners ([`Preconditioner`]) have two faces: what a device runs, recorded into a
//! compute pass, in f32; and the same on the host in f64, which is what residuals are judged by and what solves where there is no
//! GPU.

mod colouring;
mod operator;
mod preconditioner;
mod preconditioners;
pub mod relaxation;
mod report;
mod sweep;

pub use colouring::Colouring;
pub use operator::{LinearOperator, OperatorCall, Record};
pub use preconditioner::{Preconditioner, PreconditionerCall, PreconditionerForm};
pub use preconditioners::{
    Identity, IncompleteCholesky, IncompleteCholeskyOptions, JacobiPreconditioner, RowOrder, Ssor,
};
pub use report::{Breakdown, Outcome, Report, Solution};
