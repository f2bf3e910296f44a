//! How far losses over classes and their gradients may be from the truth: the one place of their tolerances.
//!
//! With u = 2^-24 and ulp that of f32 in the binade of the true value, a row's coefficients `a_c` and its terms
//! `t_c = a_c (lse - x_c)` (see the [module](super)):
//!
//! | result | error allowed |
//! |---|---|
//! | loss of a row with a class label and no smoothing | 3 ulp |
//! | loss of a row with smoothing or probabilities | `8u sum abs(t_c)` |
//! | its z-loss | `z (2 abs(lse) d + d^2) + 4u z lse^2` with `d` the 3 ulp of log-sum-exp |
//! | sum of n losses | the sum of their bounds, and `(log2 n + 4) u sum abs(loss)` |
//! | mean of n losses | the same divided by the sum of weights `D`, and that of `D` and of the quotient |
//! | log-probabilities | 2 ulp |
//! | gradients | `8u` times the sum of the magnitudes of the terms |
//!
//! Why 3 ulp: the loss of a row is minus a log-softmax, of which no term cancels and which is right to 2 ulp; the product with the
//! weight rounds once more, which is at most another ulp. With many terms each is a product of two rounded factors and a log-softmax
//! part, and they are summed with compensation: 8 roundings cover that.
//!
//! Probabilities below 2^-190 count as 0, which a weight above 2^60 shows.
//!
//! Losses are f32. f16 and bf16 gradients add half a unit in the last place of the type. A value below the smallest normal f32 may be
//! flushed to zero.

use super::input::Checked;
use super::options::LossReduction;
use super::reference::{self, RowLoss};
pub use crate::accuracy::{MaxError, Mismatch};
use crate::accuracy::{U, allowed, check};
use crate::element::{DType, Element};

/// Added to a magnitude this is worth the smallest normal number in the bound `8u * magnitude`: what a driver may flush.
pub(super) const FLUSHED: f64 = 1.0 / (1u128 << 105) as f64;

/// True values and the errors allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed {
    /// True values in f64.
    pub values: Vec<f64>,
    /// Absolute errors allowed.
    pub bounds: Vec<f64>,
}

impl Allowed {
    /// Holds results to the values.
    pub fn check<T: Element>(&self, got: &[T]) -> Result<MaxError, Mismatch> {
        check(got, &self.values, &self.bounds)
    }

    pub(super) fn push(&mut self, value: f64, bound: f64) {
        self.values.push(value);
        self.bounds.push(bound);
    }
}

/// Probabilities below 2^-190 count as 0; beside a weight of 1 that is nothing. 2^24 classes of them.
const DROPPED: f64 = 1.0 / (1u128 << 83) as f64 / (1u128 << 83) as f64;

/// Error of the part of a row's loss that the targets make, in f32.
fn of_targets(row: &RowLoss) -> f64 {
    let dropped = row.mass * DROPPED;
    if row.dense {
        // What may be flushed is small beside the coefficients, however small those are.
        8.0 * U * (row.magnitude + row.mass.min(1.0) * FLUSHED) + dropped
    } else {
        3.0 * DType::F32.ulp(row.targets) + dropped
    }
}

/// Error of a row's z-loss, in f32.
fn of_square(row: &RowLoss, z: f64) -> f64 {
    if z == 0.0 {
        return 0.0;
    }
    let d = 3.0 * DType::F32.ulp(row.lse_magnitude);
    z * (2.0 * row.lse.abs() * d + d * d) + 4.0 * U * z * row.lse * row.lse + DType::F32.min_normal()
}

/// The losses that a call should give, from those of its rows.
pub(super) fn losses<T: Element>(p: &Checked<T>, rows: &[RowLoss]) -> Allowed {
    let z = f64::from(p.options.z_loss);
    let mut result = Allowed::default();
    if p.options.reduction == LossReduction::None {
        for row in rows {
            let value = row.value(z);
            let mut error = of_targets(row) + of_square(row, z);
            if z != 0.0 {
                error += U * value.abs();
            }
            let bound = if row.counts {
                allowed(DType::F32, value, error)
            } else {
                0.0
            };
            result.push(value, bound);
        }
        return result;
    }
    let counted = || rows.iter().filter(|row| row.counts);
    let depth = (rows.len().max(1) as f64).log2() + 4.0;
    let targets = reference::sum(counted().map(|row| row.targets));
    let squares = reference::sum(counted().map(|row| z * row.lse * row.lse));
    let mut error =
        counted().map(of_targets).sum::<f64>() + depth * U * counted().map(|r| r.targets.abs()).sum::<f64>();
    let mut square_error = counted().map(|row| of_square(row, z)).sum::<f64>() + depth * U * squares;
    let (mut value, mut square) = (targets, squares);
    if p.options.reduction == LossReduction::Mean {
        let totals = reference::Totals::new(p);
        value /= totals.weight;
        square /= totals.counted;
        let of_divisor = depth * U * totals.weight_magnitude / totals.weight.abs() + 3.0 * U;
        error = error / totals.weight.abs() + value.abs() * of_divisor;
        square_error = square_error / totals.counted + 4.0 * U * square;
    }
    let total = if z == 0.0 { value } else { value + square };
    let error = if z == 0.0 {
        error
    } else {
        error + square_error + U * total.abs()
    };
    result.push(total, allowed(DType::F32, total, error));
    result
}

/// Error allowed in an element of a gradient whose terms have magnitudes that add up to `magnitude`.
pub(super) fn gradient(dtype: DType, value: f64, magnitude: f64) -> f64 {
    allowed(dtype, value, 8.0 * U * magnitude + 0.5 * DType::F32.ulp(0.0))
}
