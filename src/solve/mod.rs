//! Solvers for linear systems A x = b: conjugate gradients, stationary iterations, iterative refinement, extreme eigenvalues, and
//! reports that say how far to trust the answer.
//!
//! Operators ([`LinearOperator`]) and preconditioners ([`Preconditioner`]) have two faces: what a device runs, recorded into a
//! compute pass, in f32; and the same on the host in f64, which is what residuals are judged by and what solves where there is no
//! GPU.

mod operator;
mod preconditioner;
mod report;
pub mod stencil;

pub use operator::{LinearOperator, OperatorCall, Record};
pub use preconditioner::{Preconditioner, PreconditionerCall, PreconditionerForm};
pub use report::{Breakdown, Outcome, Report, Solution};
pub use stencil::{Boundary, Coefficient, GridStencil, GridStencilOptions, Reaction, StencilBuffers};
