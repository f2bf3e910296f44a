//! Preconditioners: none, the diagonal, symmetric successive over-relaxation, incomplete Cholesky.

mod factored;
mod incomplete_cholesky;
mod simple;
mod ssor;

pub use incomplete_cholesky::{IncompleteCholesky, IncompleteCholeskyOptions, RowOrder};
pub use simple::{Identity, JacobiPreconditioner};
pub use ssor::Ssor;
pub(super) use ssor::check_omega;

use crate::error::{Error, Result};
use crate::sparse::Csr;

/// What symmetric files are off by: a few roundings of f64 printed and read again.
const ASYMMETRY: f64 = 1e-12;

/// A preconditioner made of halves of a matrix is symmetric only where the matrix is.
fn check_symmetric(a: &Csr<f64>, what: &str) -> Result<()> {
    a.check_square()?;
    let difference = a.symmetry().largest_difference;
    if difference <= ASYMMETRY {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("{what} of a matrix that is not symmetric"),
        reason: format!(
            "entries differ from their partners by up to {difference:e} of the largest magnitude; it would not be symmetric either"
        ),
    })
}

/// The reciprocals of a diagonal that has to be positive.
fn inverse_of_positive(diagonal: &[f64]) -> Result<Vec<f64>> {
    diagonal
        .iter()
        .enumerate()
        .map(|(row, &value)| {
            let inverse = 1.0 / value;
            if value > 0.0 && value.is_finite() && inverse.is_finite() {
                return Ok(inverse);
            }
            Err(Error::Diagonal {
                row,
                value,
                expected: if value > 0.0 {
                    "a positive number whose reciprocal is finite"
                } else {
                    "a positive number"
                },
            })
        })
        .collect()
}
