//! How far `y = alpha A x + beta y0` may be off.
//!
//! The sum of a row with n entries is within `(log2 max(n, 2) + 6) u S` of the true one, u = 2^-24, S = sum of |a_ij x_j|, as long
//! as S is within the range of f32. Multiplying by alpha, multiplying y0 by beta and adding up cost half a unit each. Drivers may
//! take subnormal numbers for zero wherever they meet them: each product and each step of a sum may lose the smallest normal number
//! by that, and an entry or element of x that is subnormal its whole term.

pub use crate::accuracy::{MaxError, Mismatch};
use crate::accuracy::{U, allowed};
use crate::element::DType;
use crate::float::Float;
use crate::sparse::Csr;

/// What an error bound needs to know about a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowScale {
    /// Entries.
    pub entries: usize,
    /// Sum of |a_ij x_j|.
    pub magnitude: f64,
    /// What flushing of subnormal numbers may cost.
    pub flushed: f64,
}

/// Measures a row.
pub fn row_scale<T: Float>(a: &Csr<T>, i: usize, x: impl Fn(usize) -> f64) -> RowScale {
    let smallest = DType::F32.min_normal();
    let (columns, values) = a.row(i);
    let mut scale = RowScale {
        entries: columns.len(),
        ..RowScale::default()
    };
    for (&j, &v) in columns.iter().zip(values) {
        let (v, x) = (v.widen(), x(j as usize));
        let product = (v * x).abs();
        scale.magnitude += product;
        if product == 0.0 {
            continue;
        }
        if v.abs() < smallest || x.abs() < smallest {
            scale.flushed += product;
        }
        // Sums of numbers that are no multiples of the smallest subnormal number's step, or become subnormal, lose up to it.
        scale.flushed += 2.0 * smallest;
    }
    scale
}

/// Absolute error allowed in the sum of a row.
pub fn sum(scale: &RowScale) -> f64 {
    let steps = (scale.entries.max(2) as f64).log2() + 6.0;
    steps * U * scale.magnitude + scale.flushed
}

/// Absolute error allowed in an element whose true value is `value`: `alpha * sum + beta * y0`.
pub fn element(scale: &RowScale, row_sum: f64, alpha: f64, beta: f64, y0: f64) -> f64 {
    let smallest = DType::F32.min_normal();
    let sum = sum(scale);
    let mut error = alpha.abs() * sum;
    if alpha.abs() != 1.0 {
        error += U * (alpha * row_sum).abs() + U * error + smallest;
    }
    let mut value = alpha * row_sum;
    if beta != 0.0 {
        let old = (beta * y0).abs();
        value += beta * y0;
        error += U * (value.abs() + error + 2.0 * old) + smallest;
        if y0.abs() < smallest {
            error += old;
        }
    }
    allowed(DType::F32, value, error)
}
