//! How far a binary cross-entropy may be from the truth: the one place of its tolerances.
//!
//! With `a = 1 - target`, `b = pos_weight * target` and u = 2^-24:
//!
//! | result | error allowed in f32 |
//! |---|---|
//! | loss of an element | `8u abs(weight) (abs(a) softplus(x) + abs(b) softplus(-x))` |
//! | mean and sum | `12u` times the mean or sum of these magnitudes |
//! | gradient | `8u abs(upstream weight) (abs(a) sigmoid(x) + abs(b) sigmoid(-x))` |
//!
//! and what may be lost to flushing where a factor or a term is below the smallest normal f32. For targets within [0, 1] and weights
//! that are not negative the magnitude of a loss is the loss itself, so that this is a relative error.

use crate::accuracy::{U, allowed};
use crate::element::DType;

/// Multiples of u for a loss and a gradient.
pub const ELEMENT_U: f64 = 8.0;

/// Multiples of u for a mean or a sum.
pub const REDUCED_U: f64 = 12.0;

/// Absolute error allowed in a loss (f32) of this value. `magnitude` is what the error is measured against, `lost` what flushing may
/// take.
pub fn loss(reduced: bool, value: f64, magnitude: f64, lost: f64) -> f64 {
    let factor = if reduced { REDUCED_U } else { ELEMENT_U };
    allowed(DType::F32, value, factor * U * magnitude + lost)
}

/// Absolute error allowed in an element of the gradient of storage type `dtype`.
pub fn gradient(dtype: DType, value: f64, magnitude: f64, lost: f64) -> f64 {
    allowed(dtype, value, ELEMENT_U * U * magnitude + lost)
}
