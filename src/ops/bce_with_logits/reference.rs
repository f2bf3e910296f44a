//! The oracle: binary cross-entropy with logits and its gradient, element by element, as plain mathematics in f64. Nothing is
//! rounded to a storage type.
//!
//! | | loss | gradient |
//! |---|---|---|
//! | x = -inf | NaN | `-pos_weight target weight upstream` |
//! | x = +inf | +inf; NaN for target 1; -inf above | `(1 - target) weight upstream` |
//! | NaN anywhere | NaN | NaN |
//! | upstream times weight not finite in f32 | - | NaN |
//!
//! The losses of infinite logits are PyTorch's: what `(1 - target) x + (1 + (pos_weight - 1) target) softplus(-x)` comes to.

use crate::element::DType;
use crate::ops::activation::reference::{sigmoid, softplus};

/// What the loss of one element is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inputs {
    /// The logit.
    pub x: f64,
    /// 0, 1, or a probability between.
    pub target: f64,
    /// Factor on the loss.
    pub weight: f64,
    /// Factor on the part of the target.
    pub pos_weight: f64,
}

/// A true value, the sum of the magnitudes of its terms, and what may be lost to a device that flushes subnormal factors and terms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expected {
    /// The value.
    pub value: f64,
    /// What its error is measured against.
    pub magnitude: f64,
    /// What flushing may take.
    pub lost: f64,
}

impl Inputs {
    fn coefficients(&self) -> (f64, f64) {
        (1.0 - self.target, self.pos_weight * self.target)
    }

    fn is_nan(&self) -> bool {
        self.x.is_nan() || self.target.is_nan() || self.weight.is_nan() || self.pos_weight.is_nan()
    }

    /// `weight * (a softplus(x) + b softplus(-x))` with `a = 1 - target`, `b = pos_weight * target`.
    pub fn loss(&self) -> Expected {
        let (a, b) = self.coefficients();
        let value = if self.is_nan() || self.x == f64::NEG_INFINITY {
            f64::NAN
        } else if self.x == f64::INFINITY {
            self.weight * (a * self.x)
        } else {
            self.weight * (a * softplus(self.x) + b * softplus(-self.x))
        };
        Expected {
            value,
            magnitude: self.weight.abs() * (a.abs() * softplus(self.x) + b.abs() * softplus(-self.x)),
            lost: self.weight.abs() * (1.0 + a.abs() + b.abs()) * DType::F32.min_normal(),
        }
    }

    /// `upstream * weight * (a sigmoid(x) - b sigmoid(-x))`; `upstream` is that of the loss of this element.
    pub fn gradient(&self, upstream: f64) -> Expected {
        let (a, b) = self.coefficients();
        let c = upstream * self.weight;
        if self.is_nan() || !(c as f32).is_finite() {
            return Expected {
                value: f64::NAN,
                ..Expected::default()
            };
        }
        Expected {
            value: c * (a * sigmoid(self.x) - b * sigmoid(-self.x)),
            magnitude: c.abs() * (a.abs() * sigmoid(self.x) + b.abs() * sigmoid(-self.x)),
            lost: (1.0 + a.abs() + b.abs()) * (1.0 + self.weight.abs()) * DType::F32.min_normal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    fn inputs(x: f64, target: f64) -> Inputs {
        Inputs {
            x,
            target,
            weight: 1.0,
            pos_weight: 1.0,
        }
    }

    #[test]
    fn hand_written_values() {
        assert_eq!(inputs(0.0, 0.3).loss().value, LN_2 * 0.7 + 0.3 * LN_2);
        assert_eq!(inputs(0.0, 1.0).gradient(2.0).value, -1.0);
        // A loss that 1 - sigmoid(x) would have lost.
        assert_eq!(inputs(100.0, 1.0).loss().value, (-100f64).exp());
        assert_eq!(inputs(1000.0, 0.0).loss().value, 1000.0);
        let weighted = Inputs {
            weight: 3.0,
            pos_weight: 5.0,
            ..inputs(0.0, 1.0)
        };
        assert_eq!(weighted.loss().value, 15.0 * LN_2);
        assert_eq!(weighted.gradient(1.0).value, -7.5);
    }

    #[test]
    fn every_class() {
        const INF: f64 = f64::INFINITY;
        for target in [0.0, 0.5, 1.0] {
            assert!(inputs(-INF, target).loss().value.is_nan());
            assert_eq!(inputs(-INF, target).gradient(1.0).value, -target);
            assert_eq!(inputs(INF, target).gradient(1.0).value, 1.0 - target);
            assert!(inputs(f64::NAN, target).loss().value.is_nan());
            assert!(inputs(0.0, target).gradient(INF).value.is_nan());
        }
        assert_eq!(inputs(INF, 0.5).loss().value, INF);
        assert_eq!(inputs(INF, 1.5).loss().value, -INF);
        assert!(inputs(INF, 1.0).loss().value.is_nan());
    }
}
