//! How far unscaled gradients and their norm may be from the truth, against f64 on the values as stored.
//!
//! | result | error allowed |
//! |---|---|
//! | unscaled gradient, scale a power of two, not clipped | none in f32, half a unit of the type in f16 and bf16 |
//! | unscaled gradient, any scale, not clipped | 1 ulp of f32, and half a unit of the type in f16 and bf16 |
//! | clipped gradient, clip factor | 4 ulp of f32, and that half a unit |
//! | norm | 3 ulp of f32, at any number of elements |
//! | verdict, scale, counters | none |

use crate::accuracy::allowed;
pub use crate::accuracy::{MaxError, Mismatch, check};
use crate::element::DType;

/// Absolute error allowed in a norm.
pub fn norm(value: f64) -> f64 {
    allowed(DType::F32, value, 3.0 * DType::F32.ulp(value))
}

/// Absolute error allowed in a clip factor.
pub fn clip(value: f64) -> f64 {
    if value == 1.0 {
        return 0.0;
    }
    allowed(DType::F32, value, 4.0 * DType::F32.ulp(value))
}

/// Absolute error allowed in a gradient whose unscaled, clipped value is `value`.
pub fn gradient(dtype: DType, value: f64, scale: f32, clipped: bool) -> f64 {
    let power_of_two = scale.to_bits() & 0x7f_ffff == 0;
    let ulps = match (clipped, power_of_two) {
        (true, _) => 4.0,
        (false, true) => 0.0,
        (false, false) => 1.0,
    };
    let subnormal = if dtype == DType::F32 && value.abs() < DType::F32.min_normal() {
        // A shift to the right rounds once more.
        0.5 * DType::F32.ulp(0.0)
    } else {
        0.0
    };
    if value.is_finite() {
        let in_f32 = ulps * DType::F32.ulp(value) + subnormal;
        if dtype == DType::F32 {
            // Nothing is flushed: the product is assembled from bits.
            return in_f32 * (1.0 + 1e-9);
        }
        return allowed(dtype, value, in_f32);
    }
    0.0
}
