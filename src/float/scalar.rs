//! Functions of one, two or three numbers of which the textbook formula fails somewhere.

use super::{Float, Neumaier, frexp, ldexp, two_sum};
use std::f64::consts::LN_2;

/// `log(1 - exp(-a))` for `a >= 0`.
///
/// By `log(-expm1(-a))` up to `log 2`, by `log1p(-exp(-a))` beyond it: each loses nothing on its side. After Mächler,
/// *Accurately computing log(1 - exp(-|a|))*, 2012. Other libraries take the argument as `x = -a`.
///
/// # Numerics
/// 3 ulp (measured: 1.5). -inf at 0, 0 at infinity, NaN below 0 and for NaN.
///
/// ```
/// use macheps::float::log1mexp;
/// // The probability of not surviving when the log-probability of surviving is -1e-20.
/// assert_eq!(log1mexp(1e-20f64), -46.051701859880914);
/// assert_eq!((1.0 - (-1e-20f64).exp()).ln(), f64::NEG_INFINITY);
/// ```
pub fn log1mexp<T: Float>(a: T) -> T {
    T::rounded(log1mexp_f64(a.widen()))
}

fn log1mexp_f64(a: f64) -> f64 {
    if a <= LN_2 {
        (-(-a).exp_m1()).ln()
    } else {
        (-(-a).exp()).ln_1p()
    }
}

/// `log(1 + exp(x))`, the smooth maximum of x and 0.
///
/// As `max(x, 0) + log1p(exp(-|x|))`, which neither overflows nor loses the tail.
///
/// # Numerics
/// 2 ulp (measured: 1.5). 0 at -inf, infinity at infinity, NaN for NaN.
///
/// ```
/// use macheps::float::softplus;
/// assert_eq!(softplus(1000.0f32), 1000.0);
/// assert_eq!(softplus(-50.0f64), 1.9287498479639178e-22);
/// assert_eq!((1.0 + (-50.0f64).exp()).ln(), 0.0);
/// ```
pub fn softplus<T: Float>(x: T) -> T {
    T::rounded(softplus_f64(x.widen()))
}

fn softplus_f64(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + exp(-x))`.
///
/// From `exp(-|x|)`, so that no power overflows and the tail towards -inf keeps its digits.
///
/// # Numerics
/// 3 ulp (measured: 2.1). 0 at -inf, 1 at infinity, NaN for NaN.
///
/// ```
/// use macheps::float::sigmoid;
/// assert_eq!(sigmoid(0.0f32), 0.5);
/// assert_eq!(sigmoid(-745.0f64), f64::from_bits(1));
/// ```
pub fn sigmoid<T: Float>(x: T) -> T {
    let x = x.widen();
    let e = (-x.abs()).exp();
    T::rounded(if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) })
}

/// `log(sigmoid(x)) = -softplus(-x)`: the log-probability of a logit.
///
/// # Numerics
/// 2 ulp, as [`softplus`]. -inf at -inf, -0 at infinity, NaN for NaN.
///
/// ```
/// use macheps::float::log_sigmoid;
/// assert_eq!(log_sigmoid(-800.0f64), -800.0);
/// assert_eq!(log_sigmoid(800.0f32), 0.0);
/// ```
pub fn log_sigmoid<T: Float>(x: T) -> T {
    T::rounded(-softplus_f64(-x.widen()))
}

/// `log(exp(a) + exp(b))`: adds two numbers given by their logarithms.
///
/// As `max(a, b) + log1p(exp(-|a - b|))`.
///
/// # Numerics
/// 3 ulp of the larger of `|max(a, b)|` and `log1p(exp(-|a - b|))` (measured: 2.1). Where the result is near 0 the
/// two cancel, and that is an absolute error. -inf for two of them; infinity if either is, unless the other is NaN; NaN
/// for NaN.
///
/// ```
/// use macheps::float::logaddexp;
/// assert_eq!(logaddexp(-1000.0f64, -1000.0), -1000.0 + std::f64::consts::LN_2);
/// assert_eq!(logaddexp(f64::NEG_INFINITY, 3.0), 3.0);
/// ```
pub fn logaddexp<T: Float>(a: T, b: T) -> T {
    let (a, b) = (a.widen(), b.widen());
    T::rounded(if a == b {
        // Also two equal infinities, whose difference is NaN.
        a + LN_2
    } else {
        let (high, low) = if a < b { (b, a) } else { (a, b) };
        let (difference, lost) = exact_difference(high, low);
        let e = (-difference).exp();
        high + (e - e * lost).ln_1p()
    })
}

/// `log(exp(a) - exp(b))` for `a >= b`: subtracts two numbers given by their logarithms.
///
/// As `a + log1mexp(a - b)`, see [`log1mexp`].
///
/// # Numerics
/// 3 ulp of the larger of `|a|` and `|log1mexp(a - b)|` (measured: 2.3). -inf where a and b are equal, two -inf among
/// them; NaN for `a < b`, for two positive infinities and for NaN.
///
/// ```
/// use macheps::float::logsubexp;
/// assert_eq!(logsubexp(1000.0f64, 999.0), 999.5413248546129);
/// assert_eq!(logsubexp(2.0f32, 2.0), f32::NEG_INFINITY);
/// ```
pub fn logsubexp<T: Float>(a: T, b: T) -> T {
    let (a, b) = (a.widen(), b.widen());
    T::rounded(if a == b && a < f64::INFINITY {
        f64::NEG_INFINITY
    } else {
        let (difference, lost) = exact_difference(a, b);
        // The derivative of log1mexp; where digits were lost the difference is far from 0.
        let correction = if lost == 0.0 { 0.0 } else { lost / difference.exp_m1() };
        a + (log1mexp_f64(difference) + correction)
    })
}

/// `a - b` with its rounding error: one in the last place of a large difference is many in that of its exponential.
fn exact_difference(a: f64, b: f64) -> (f64, f64) {
    let (difference, lost) = two_sum(a, -b);
    // Beside an infinity or a NaN there is nothing to correct.
    (difference, if lost.is_finite() { lost } else { 0.0 })
}

/// `sqrt(x + 1) - sqrt(x)`.
///
/// As `1 / (sqrt(x + 1) + sqrt(x))`: the difference of two roots that agree in most digits becomes a sum.
///
/// # Numerics
/// 3.5 ulp (measured: 2.8). 1 at 0, 0 at infinity, NaN below 0 and for NaN.
///
/// ```
/// use macheps::float::sqrt1p_minus_sqrt;
/// assert_eq!(sqrt1p_minus_sqrt(1e16f64), 5e-9);
/// assert_eq!((1e16f64 + 1.0).sqrt() - 1e16f64.sqrt(), 0.0);
/// ```
pub fn sqrt1p_minus_sqrt<T: Float>(x: T) -> T {
    let x = x.widen();
    T::rounded(1.0 / ((x + 1.0).sqrt() + x.sqrt()))
}

/// Euclidean norm `sqrt(sum x_i^2)` of any number of components: `hypot` in n dimensions.
///
/// Squares are split exactly and summed with compensation; where they would overflow or vanish, the components are
/// scaled by a power of two first, which rounds nothing. The result overflows only where the norm itself does.
///
/// # Numerics
/// 1 ulp for up to 10^7 components (measured: 0.9). 0 for none. NaN if any component is, else infinity if any is
/// infinite; `f64::hypot` prefers the infinity.
///
/// ```
/// use macheps::float::norm;
/// assert_eq!(norm(&[3e300f64, 4e300]), 5e300);
/// assert_eq!(norm(&[2e-320f64, 3e-320, 6e-320]), 7e-320);
/// ```
pub fn norm<T: Float>(values: &[T]) -> T {
    let mut largest = 0.0;
    for value in values {
        let magnitude = value.widen().abs();
        if magnitude.is_nan() {
            return T::rounded(f64::NAN);
        }
        largest = magnitude.max(largest);
    }
    if largest == 0.0 || largest == f64::INFINITY {
        return T::rounded(largest);
    }
    let (_, exponent) = frexp(largest);
    // Within this range squares neither overflow nor lose digits that count.
    let shift = if exponent.abs() < 400 { 0 } else { exponent };
    let mut sum = Neumaier::default();
    for value in values {
        let value = value.widen();
        let scaled = if shift == 0 { value } else { ldexp(value, -shift) };
        sum.add_product(scaled, scaled);
    }
    T::rounded(ldexp(sum.value().sqrt(), shift))
}

/// The roots of `a x^2 + b x + c = 0`; see [`quadratic_roots`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum QuadraticRoots<T> {
    /// All coefficients are 0: every number is a root.
    Every,
    /// `a = b = 0` and c is not: there is none.
    None,
    /// `a = 0`: the one root of `b x + c`.
    Linear(T),
    /// Two real roots, the smaller first; equal ones are a double root.
    Real(T, T),
    /// `re + i im` and `re - i im`, `im >= 0`.
    Complex {
        /// Real part of both.
        re: T,
        /// Imaginary part of the first.
        im: T,
    },
    /// A coefficient is infinite or NaN.
    NotFinite,
}

impl<T> QuadraticRoots<T> {
    fn map<U>(self, f: impl Fn(T) -> U) -> QuadraticRoots<U> {
        match self {
            QuadraticRoots::Every => QuadraticRoots::Every,
            QuadraticRoots::None => QuadraticRoots::None,
            QuadraticRoots::Linear(x) => QuadraticRoots::Linear(f(x)),
            QuadraticRoots::Real(x, y) => QuadraticRoots::Real(f(x), f(y)),
            QuadraticRoots::Complex { re, im } => QuadraticRoots::Complex { re: f(re), im: f(im) },
            QuadraticRoots::NotFinite => QuadraticRoots::NotFinite,
        }
    }
}

/// The roots of `a x^2 + b x + c = 0`.
///
/// The larger root comes from `-(b + sign(b) sqrt(b^2 - 4ac)) / 2a`, the smaller one from the product of both, `c / a`:
/// no cancellation between b and the square root. The discriminant is formed as a difference of two products with their
/// rounding errors (Kahan, *On the cost of floating-point computation without extra-precise arithmetic*, 2004), with
/// the coefficients scaled by powers of two, so that nothing overflows or vanishes on the way, whatever they are.
///
/// # Numerics
/// 4 ulp for each root, for each part of complex ones (measured: 2.5), at any coefficients, nearly double roots too.
/// Whether roots are real, double or complex is decided exactly. A root beyond the range of the type is an infinity,
/// one below it a subnormal or 0.
///
/// ```
/// use macheps::float::{QuadraticRoots, quadratic_roots};
///
/// // The textbook formula gives 0 and 1e9.
/// assert_eq!(quadratic_roots(1.0, -1e9, 1.0), QuadraticRoots::Real(1e-9, 1e9));
/// assert_eq!(quadratic_roots(1e300, -3e300, 2e300), QuadraticRoots::Real(1.0, 2.0));
/// assert_eq!(quadratic_roots(1.0f32, 2.0, 5.0), QuadraticRoots::Complex { re: -1.0, im: 2.0 });
/// assert_eq!(quadratic_roots(0.0f32, 2.0, 5.0), QuadraticRoots::Linear(-2.5));
/// assert_eq!(quadratic_roots(0.0f32, 0.0, 5.0), QuadraticRoots::None);
/// ```
pub fn quadratic_roots<T: Float>(a: T, b: T, c: T) -> QuadraticRoots<T> {
    quadratic_roots_f64(a.widen(), b.widen(), c.widen()).map(T::rounded)
}

/// `n / d * 2^shift`, rounded once unless it is subnormal.
fn scaled_quotient(n: f64, d: f64, shift: i32) -> f64 {
    let ((n, n_exponent), (d, d_exponent)) = (frexp(n), frexp(d));
    ldexp(n / d, n_exponent - d_exponent + shift)
}

fn ordered(x: f64, y: f64) -> QuadraticRoots<f64> {
    QuadraticRoots::Real(x.min(y), x.max(y))
}

fn quadratic_roots_f64(a: f64, b: f64, c: f64) -> QuadraticRoots<f64> {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return QuadraticRoots::NotFinite;
    }
    // `0 - q` instead of `-q`: roots that are zero have no sign.
    match (a == 0.0, b == 0.0, c == 0.0) {
        (true, true, true) => return QuadraticRoots::Every,
        (true, true, false) => return QuadraticRoots::None,
        (true, false, _) => return QuadraticRoots::Linear(0.0 - scaled_quotient(c, b, 0)),
        (false, _, true) => return ordered(0.0, 0.0 - scaled_quotient(b, a, 0)),
        (false, _, false) => {}
    }
    // With x = 2^k y, and all divided by a power of two, a and c come to lie in [1/2, 2) and b anywhere.
    let ((a1, a_exponent), (c1, c_exponent)) = (frexp(a), frexp(c));
    let difference = c_exponent - a_exponent;
    let k = difference.div_euclid(2);
    let (a1, c1) = (a1, ldexp(c1, difference.rem_euclid(2)));
    let (b_mantissa, b_exponent) = frexp(b);
    let b_exponent = b_exponent - a_exponent - k;
    if b != 0.0 && b_exponent > 400 {
        // The roots are -b/a and -c/b but for a relative 2^-796.
        return ordered(-scaled_quotient(b, a, 0), -scaled_quotient(c, b, 0));
    }
    // Half of b. So small that it would vanish, it has no part in the discriminant.
    let half_b = ldexp(b_mantissa, b_exponent - 1);
    let discriminant = difference_of_products(half_b, half_b, a1, c1);
    if discriminant < 0.0 {
        return QuadraticRoots::Complex {
            re: 0.0 - scaled_quotient(b, a, -1),
            im: ldexp((-discriminant).sqrt() / a1.abs(), k),
        };
    }
    let w = -(half_b + discriminant.sqrt().copysign(half_b));
    ordered(ldexp(w / a1, k), ldexp(c1 / w, k))
}

/// `a b - c d` with an error of at most 2 ulp and the right sign, for products in the middle of the range.
fn difference_of_products(a: f64, b: f64, c: f64, d: f64) -> f64 {
    let (p, q) = (a * b, c * d);
    let (p_error, q_error) = (a.mul_add(b, -p), c.mul_add(d, -q));
    // Where p and q are close, their difference is exact; the exact difference of the errors then gives the sign its due.
    let (s, e) = two_sum(p_error, -q_error);
    ((p - q) + s) + e
}
