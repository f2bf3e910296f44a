//! How far a result of layer_norm or rms_norm may be from the truth: the one place of its tolerances.
//!
//! With u = 2^-24, x^ the normalised element, w its weight, b its bias and g the upstream gradient, in f32:
//!
//! | result | error allowed |
//! |---|---|
//! | layer_norm | `5u abs(x^ w) + u abs(y)`, and for the mean `(u h)^2 mean(abs(x)) abs(w) / sqrt(variance + eps)` |
//! | rms_norm | `4u abs(y)` |
//! | gradient of x | `8u` times the sum of the magnitudes of its terms, `(abs(g w) + mean(abs(g w)) + abs(x^) mean(abs(g w x^))) / sqrt(variance + eps)` |
//! | gradient of the weight | `6u sum(abs(g x^))` over the rows |
//! | gradient of the bias | `2u abs(sum g) + (u h)^2 sum(abs(g))`, h the depth of the summation |
//!
//! The first-order part is a count of roundings: of a difference from the mean (a pair) one, of the reciprocal root one, and one a
//! multiplication or addition; sums, means, variances and their reciprocals are pairs, which leaves terms in u^2. The one of
//! these that can matter is the mean of a row that is far from zero and nearly constant: `(u h)^2 mean(abs(x))`, times what a
//! shift of the mean does to the result. It is added to the bounds of layer_norm.
//!
//! f16 and bf16 add half a unit in the last place of the type. A value below the smallest normal f32 may be flushed to zero,
//! also on the way to the result, where a row is scaled so that its largest magnitude is near 1: the bounds have
//! `2^-125 sqrt(n)` in a normalised element, and what follows from it, on top.

use super::options::NormKind;
pub use crate::accuracy::{MaxError, Mismatch, check};
use crate::accuracy::{U, allowed};
use crate::element::DType;

/// Which result of an operation is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// The function itself.
    Forward(NormKind),
    /// The gradients.
    Backward(NormKind),
}

impl Quantity {
    /// Name in reports: `layer_norm`, `layer_norm_backward`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::Forward(kind) => kind.name(),
            Quantity::Backward(NormKind::LayerNorm) => "layer_norm_backward",
            Quantity::Backward(NormKind::RmsNorm) => "rms_norm_backward",
        }
    }

    /// Which normalisation.
    pub const fn kind(self) -> NormKind {
        match self {
            Quantity::Forward(kind) | Quantity::Backward(kind) => kind,
        }
    }
}

/// True values of a tensor, each with the error in f32 that is allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// The values, in f64, not rounded to the storage type.
    pub values: Vec<f64>,
    /// Absolute error of the arithmetic in f32.
    pub errors: Vec<f64>,
}

impl Expected {
    /// Absolute error allowed for each element of storage type `dtype`.
    pub fn bounds(&self, dtype: DType) -> Vec<f64> {
        let pairs = self.values.iter().zip(&self.errors);
        pairs.map(|(&value, &error)| allowed(dtype, value, error)).collect()
    }
}

/// `(u h)^2` for a row of `n` elements, h the longest way of an element through the summation in any strategy.
fn depth_term(n: usize) -> f64 {
    let depth = (n / 64).min(4096) + 24;
    (U * depth as f64).powi(2)
}

/// What a mean that is off by its bound does to a normalised element of a row of `n`.
pub(super) fn shift(kind: NormKind, n: usize, mean_abs: f64, rstd: f64) -> f64 {
    match kind {
        NormKind::LayerNorm => depth_term(n) * mean_abs * rstd,
        NormKind::RmsNorm => 0.0,
    }
}

/// What of a normalised element of a row of `n` may be flushed.
fn flushed(n: usize) -> f64 {
    2.0 * (n as f64).sqrt() * DType::F32.min_normal()
}

/// Error of a result `y = scaled + bias` with weight `w`; `shift` is what the error of the mean does to a normalised element.
pub(super) fn forward(kind: NormKind, n: usize, scaled: f64, y: f64, w: f64, shift: f64) -> f64 {
    let rounding = match kind {
        NormKind::LayerNorm => 5.0 * U * scaled.abs() + U * y.abs(),
        NormKind::RmsNorm => 4.0 * U * y.abs(),
    };
    rounding + (shift + flushed(n)) * w.abs() + DType::F32.min_normal()
}

/// Error of an element of the gradient of x, from the sum of the magnitudes of its terms; `dot` is the mean magnitude of
/// upstream gradient times normalised element.
pub(super) fn gradient(n: usize, terms: f64, shifted: f64, dot: f64, rstd: f64) -> f64 {
    8.0 * U * terms + shifted + (DType::F32.min_normal() + flushed(n) * dot) * rstd.max(1.0)
}

/// Error of an element of the gradient of the weight, from `sum |g x^|` and `sum |g|`.
pub(super) fn weight_gradient(n: usize, rows: usize, terms: f64, shifted: f64, upstream: f64) -> f64 {
    let lost = rows as f64 * DType::F32.min_normal() + flushed(n) * upstream;
    (6.0 * U + column_depth_term(rows)) * terms + shifted + lost
}

/// Error of an element of the gradient of the bias, from the sum and `sum |g|`.
pub(super) fn bias_gradient(rows: usize, value: f64, terms: f64) -> f64 {
    2.0 * U * value.abs() + column_depth_term(rows) * terms + DType::F32.min_normal()
}

/// `(u h)^2` for sums over rows: blocks of at least 16 rows, at most 1,024 of them.
fn column_depth_term(rows: usize) -> f64 {
    (U * (rows / 256 + 96) as f64).powi(2)
}

/// The bound in the unit that reports give.
pub(super) fn nominal(quantity: Quantity, dtype: DType) -> (f64, &'static str) {
    if dtype != DType::F32 {
        return (1.0, "of the bound (half an ulp + that of f32)");
    }
    match quantity {
        Quantity::Forward(NormKind::LayerNorm) => (5.0, "u * (|x^ w| + |y| / 5)"),
        Quantity::Forward(NormKind::RmsNorm) => (4.0, "u * |y|"),
        Quantity::Backward(_) => (8.0, "u * sum |terms|"),
    }
}
