//! How far a result of the softmax family may be from the truth: the one place of its tolerances.
//!
//! Tests, cross-check and `verify` all take a result, the oracle's [`Expected`] and the bounds of this module,
//! and let [`check`] decide. With `u = 2^-24` and `ulp` the unit in the last place of f32 in the binade of the true value:
//!
//! | result | error allowed in f32 |
//! |---|---|
//! | softmax, log_softmax | 2 ulp; 4 ulp where a row is read once or split ([`Accuracy::Relaxed`]) |
//! | logsumexp | 3 ulp of `max(abs(max), log S)` |
//! | gradients | `8u` times the sum of the magnitudes of the terms |
//!
//! f16 and bf16 add half a unit in the last place of the type. A value below the smallest normal f32 may be flushed to zero.

use super::options::SoftmaxKind;
pub use crate::accuracy::{MaxError, Mismatch, check};
use crate::accuracy::{U, allowed};
use crate::element::{DType, Element};

/// Which result of an operation is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// The function itself.
    Forward(SoftmaxKind),
    /// The gradient with respect to the input.
    Backward(SoftmaxKind),
}

impl Quantity {
    /// Name in reports: `softmax`, `softmax_backward`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Quantity::Forward(kind) => kind.name(),
            Quantity::Backward(SoftmaxKind::Softmax) => "softmax_backward",
            Quantity::Backward(SoftmaxKind::LogSoftmax) => "log_softmax_backward",
            Quantity::Backward(SoftmaxKind::LogSumExp) => "logsumexp_backward",
        }
    }
}

/// Which of the two promises the implementation under test makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Accuracy {
    /// The CPU path and every strategy that knows the maximum of a row before it sums.
    #[default]
    Standard,
    /// Online and split-row strategies, which rescale partial sums.
    Relaxed,
}

/// True values of the elements of a tensor, each with the magnitude that its error is measured against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// The values, in f64, not rounded to the storage type.
    pub values: Vec<f64>,
    /// For softmax and log_softmax `abs(value)`; for logsumexp `max(abs(max), log S)`; for a gradient the sum of the
    /// magnitudes of its terms. Without meaning where the value is not finite.
    pub magnitudes: Vec<f64>,
}

impl Expected {
    /// Absolute error allowed for each element.
    pub fn bounds(&self, quantity: Quantity, dtype: DType, accuracy: Accuracy) -> Vec<f64> {
        self.values
            .iter()
            .zip(&self.magnitudes)
            .map(|(&value, &magnitude)| bound(quantity, dtype, accuracy, value, magnitude))
            .collect()
    }

    /// Compares a whole tensor with these values; see [`check`].
    pub fn check<T: Element>(&self, got: &[T], quantity: Quantity, accuracy: Accuracy) -> Result<MaxError, Mismatch> {
        check(got, &self.values, &self.bounds(quantity, T::DTYPE, accuracy))
    }
}

/// Absolute error allowed for one element of storage type `dtype` whose true value is `value`.
///
/// `magnitude` is what the error is measured against, see [`Expected::magnitudes`]. Non-finite values allow no error:
/// their class has to be met, which [`check`] tests.
pub fn bound(quantity: Quantity, dtype: DType, accuracy: Accuracy, value: f64, magnitude: f64) -> f64 {
    if !value.is_finite() {
        return 0.0;
    }
    let in_f32 = match quantity {
        Quantity::Forward(SoftmaxKind::LogSumExp) => 3.0 * DType::F32.ulp(magnitude),
        Quantity::Forward(_) => match accuracy {
            Accuracy::Standard => 2.0 * DType::F32.ulp(value),
            Accuracy::Relaxed => 4.0 * DType::F32.ulp(value),
        },
        Quantity::Backward(_) => 8.0 * U * magnitude + 0.5 * DType::F32.ulp(0.0),
    };
    allowed(dtype, value, in_f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_documented_ones() {
        let forward = Quantity::Forward(SoftmaxKind::Softmax);
        let ulps = |accuracy, value| bound(forward, DType::F32, accuracy, value, value) / DType::F32.ulp(value);
        assert!((ulps(Accuracy::Standard, 0.75) - 2.0).abs() < 1e-6);
        assert!((ulps(Accuracy::Relaxed, 0.75) - 4.0).abs() < 1e-6);
        let half = bound(forward, DType::F16, Accuracy::Standard, 0.75, 0.75) / DType::F16.ulp(0.75);
        assert!((half - 0.5).abs() < 1e-3, "{half}");
        // A subnormal may be flushed.
        assert!(bound(forward, DType::F32, Accuracy::Standard, 1e-39, 1e-39) >= 1e-39);
    }
}
