//! How far a result of the sigmoid family may be from the truth: the one place of its tolerances.
//!
//! | result | error allowed in f32 |
//! |---|---|
//! | sigmoid, log_sigmoid, softplus | [`FORWARD_ULPS`] units in the last place of the true value |
//! | gradients | [`BACKWARD_U`] `u` times the true value, u = 2^-24 |
//!
//! f16 and bf16 add half a unit in the last place of the type. A value below the smallest normal f32 may be flushed to zero.

use crate::accuracy::{U, allowed};
use crate::element::DType;

/// Units in the last place of f32 by which a function may be off.
pub const FORWARD_ULPS: f64 = 1.0;

/// Multiples of `u = 2^-24` by which a gradient may be off, relative to itself.
pub const BACKWARD_U: f64 = 4.0;

/// Absolute error allowed in a result of storage type `dtype` whose true value is `value`.
pub fn bound(dtype: DType, backward: bool, value: f64) -> f64 {
    let in_f32 = if backward {
        BACKWARD_U * U * value.abs() + 0.5 * DType::F32.ulp(0.0)
    } else {
        FORWARD_ULPS * DType::F32.ulp(value)
    };
    allowed(dtype, value, in_f32)
}
