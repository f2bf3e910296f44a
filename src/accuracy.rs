//! Holding results to true values: the one judge of tests, cross-check and `verify`. How much error an operation may make is
//! the operation's own affair (its `bounds` module); what that means for a storage type, for subnormals and for
//! values that are not finite stands here.

use crate::element::{DType, Element};

/// Unit roundoff of f32.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// Absolute error allowed in a result of storage type `dtype` whose true value is `value`, where the arithmetic in f32 may
/// be off by `in_f32`: 16-bit results are rounded once more, and a value below the smallest normal f32 may be flushed to zero.
///
/// Of a value that is not finite 0: its class has to be met, which [`check`] tests.
pub fn allowed(dtype: DType, value: f64, in_f32: f64) -> f64 {
    if !value.is_finite() {
        return 0.0;
    }
    let rounding = match dtype {
        DType::F32 => 0.0,
        // The f32 result may lie in the next binade, where the type's units are larger.
        DType::F16 | DType::Bf16 => 0.5 * dtype.ulp(value.abs() + in_f32),
    };
    // The oracle itself is right to about 1e-14: an exact tie must not fail by that.
    let total = (in_f32 + rounding) * (1.0 + 1e-9);
    // Drivers may flush a subnormal f32 to zero, also one that should have rounded up to the smallest normal number.
    let smallest = DType::F32.min_normal();
    if value.abs() < smallest * (1.0 + 4.0 * U) {
        total.max(value.abs())
    } else {
        total
    }
}

/// The largest error that [`check`] met, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MaxError {
    /// In units in the last place of the storage type, in the binade of the true value.
    pub ulp: f64,
    /// As a fraction of the bound: above 1 is a mismatch.
    pub of_bound: f64,
    /// Element with the largest fraction of its bound.
    pub index: usize,
}

impl MaxError {
    /// The larger of each figure of two checks.
    pub fn merge(self, other: MaxError) -> MaxError {
        MaxError {
            ulp: self.ulp.max(other.ulp),
            of_bound: self.of_bound.max(other.of_bound),
            index: if other.of_bound > self.of_bound {
                other.index
            } else {
                self.index
            },
        }
    }
}

/// The first element that misses its bound or has the wrong class (NaN, an infinity, finite).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Flat index of the element.
    pub index: usize,
    /// What came.
    pub got: f64,
    /// The true value.
    pub want: f64,
    /// Absolute error allowed.
    pub bound: f64,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "element {} is {:e}, should be {:e} +- {:e}",
            self.index, self.got, self.want, self.bound
        )
    }
}

impl std::error::Error for Mismatch {}

/// Compares results with true values within absolute bounds.
///
/// NaN must meet NaN and an infinity the same infinity. A true value beyond the largest finite number of the type rounds to an
/// infinity; near that border either answer passes if the bound reaches it. The sign of zero is not compared.
/// Slices of unequal lengths are a mismatch at the end of the shortest one.
pub fn check<T: Element>(got: &[T], want: &[f64], bounds: &[f64]) -> Result<MaxError, Mismatch> {
    let dtype = T::DTYPE;
    // From here on a value rounds to infinity.
    let overflow = dtype.max_finite() + 0.5 * dtype.ulp(dtype.max_finite());
    if got.len() != want.len() || got.len() != bounds.len() {
        let index = got.len().min(want.len()).min(bounds.len());
        let at = |values: &[f64]| values.get(index).copied().unwrap_or(f64::NAN);
        let shown = got.get(index).map_or(f64::NAN, |v| f64::from(v.to_f32()));
        return Err(Mismatch {
            index,
            got: shown,
            want: at(want),
            bound: at(bounds),
        });
    }
    let mut worst = MaxError::default();
    for (index, ((&got, &want), &bound)) in got.iter().zip(want).zip(bounds).enumerate() {
        let got = f64::from(got.to_f32());
        let passes = if want.is_nan() || got.is_nan() {
            want.is_nan() && got.is_nan()
        } else if want.is_infinite() {
            got == want
        } else if got.is_infinite() {
            got.signum() == want.signum() && want.abs() + bound >= overflow
        } else {
            let error = (got - want).abs();
            if error > 0.0 {
                worst = worst.merge(MaxError {
                    ulp: error / dtype.ulp(want),
                    of_bound: error / bound,
                    index,
                });
            }
            // A bound that is not a number lets only equality pass.
            error == 0.0 || error <= bound
        };
        if !passes {
            return Err(Mismatch {
                index,
                got,
                want,
                bound,
            });
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::f16;

    #[test]
    fn classes_are_exact() {
        let nan = f64::NAN;
        let inf = f64::INFINITY;
        assert!(check(&[f32::NAN, f32::INFINITY, -0.0], &[nan, inf, 0.0], &[0.0; 3]).is_ok());
        for (got, want) in [
            (1.0, nan),
            (f32::NAN, 1.0),
            (f32::INFINITY, -inf),
            (f32::MAX, inf),
            (f32::INFINITY, 1.0),
        ] {
            assert!(check(&[got], &[want], &[1.0]).is_err(), "{got} against {want}");
        }
        assert_eq!(check(&[1.0f32], &[1.0, 2.0], &[1.0, 1.0]).unwrap_err().index, 1);
        assert!(check(&[1.0f32], &[1.5], &[f64::NAN]).is_err());
    }

    #[test]
    fn overflow_rounds_to_infinity() {
        // f16 overflows from 65520 on.
        assert!(check(&[f16::INFINITY], &[65520.0], &[0.0]).is_ok());
        assert!(check(&[f16::INFINITY], &[65519.0], &[0.0]).is_err());
        assert!(check(&[f16::INFINITY], &[65519.0], &[1.0]).is_ok());
    }
}
