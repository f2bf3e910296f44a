//! Floating-point formats taken apart, and the scalar functions and sums that are easy to get wrong.
//!
//! Plain CPU code: no device, no allocation, the same on every target.
//!
//! - [`Format`], [`Float`], [`Layout`]: what a format can hold (machine epsilon, unit roundoff, largest and smallest
//!   numbers), where a number lies in it (ulp, spacing, neighbours, distance in steps), and its bits in print.
//! - [`log1mexp`], [`softplus`], [`sigmoid`], [`log_sigmoid`], [`logaddexp`], [`logsubexp`], [`quadratic_roots`],
//!   [`sqrt1p_minus_sqrt`], [`norm`]: functions of which the textbook formula cancels or overflows.
//! - [`Summation`] on iterators, [`Neumaier`], [`Pairwise`], [`dot`]: sums with stated bounds.
//!
//! ```
//! use macheps::float::{Float, Summation};
//!
//! println!("{}", macheps::f16::from_f32(3.14).layout());
//! // f16 0x4248: 0 10000 1001001000  +0x1.922p+1 = 3.140625, normal
//! assert_eq!(1.0f32.ulp_distance(1.0 + f32::EPSILON), Some(1));
//! assert_eq!([1.0, 1e100, 1.0, -1e100].iter().sum_neumaier::<f64>(), 2.0);
//! ```
//!
//! # Numerics
//! Every function takes and gives f16, bf16, f32 or f64, computes in f64 and rounds once. With a narrower type the
//! error is therefore half a unit in the last place of that type, plus less than a thousandth of it; the bounds that
//! functions state are those of f64. They hold where the platform's `exp`, `expm1`, `log` and `log1p` are right to 1
//! ulp, as those of glibc, musl and the usual libm are. `u` stands for [`Format::unit_roundoff`].

mod format;
mod scalar;
mod sums;

pub use format::{Float, Format, Layout, frexp, ldexp};
pub use scalar::{
    QuadraticRoots, log_sigmoid, log1mexp, logaddexp, logsubexp, norm, quadratic_roots, sigmoid, softplus,
    sqrt1p_minus_sqrt,
};
pub use sums::{Neumaier, Pairwise, Summation, dot, two_product, two_sum};
