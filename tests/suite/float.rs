//! The float toolkit: formats against exhaustive enumeration, scalar functions against double-double arithmetic, sums
//! against exact integers.

use macheps::element::DType;
use macheps::float::{
    Float, Format, Neumaier, Pairwise, QuadraticRoots, Summation, dot, frexp, ldexp, log_sigmoid, log1mexp, logaddexp,
    logsubexp, norm, quadratic_roots, sigmoid, softplus, sqrt1p_minus_sqrt, two_product, two_sum,
};
use macheps::{bf16, f16};
use proptest::prelude::*;
use std::num::FpCategory;

/// Double-double arithmetic, about 31 digits: the oracle of this file. It is itself held to 50-digit values below.
mod double_double {
    use macheps::float::{ldexp, two_product, two_sum};
    use std::ops::{Add, Div, Mul, Neg, Sub};

    #[derive(Clone, Copy, Debug)]
    pub struct Dd(pub f64, pub f64);

    pub const LN_2: Dd = Dd(std::f64::consts::LN_2, 2.3190468138462996e-17);

    impl From<f64> for Dd {
        fn from(v: f64) -> Dd {
            Dd(v, 0.0)
        }
    }

    impl Neg for Dd {
        type Output = Dd;
        fn neg(self) -> Dd {
            Dd(-self.0, -self.1)
        }
    }

    impl Add for Dd {
        type Output = Dd;
        fn add(self, o: Dd) -> Dd {
            let (s, e) = two_sum(self.0, o.0);
            let (t, f) = two_sum(self.1, o.1);
            let (s, e) = two_sum(s, e + t);
            let (s, e) = two_sum(s, e + f);
            Dd(s, e)
        }
    }

    impl Sub for Dd {
        type Output = Dd;
        fn sub(self, o: Dd) -> Dd {
            self + -o
        }
    }

    impl Mul for Dd {
        type Output = Dd;
        fn mul(self, o: Dd) -> Dd {
            let (p, e) = two_product(self.0, o.0);
            let (s, e) = two_sum(p, e + (self.0 * o.1 + self.1 * o.0));
            Dd(s, e)
        }
    }

    impl Div for Dd {
        type Output = Dd;
        fn div(self, o: Dd) -> Dd {
            let first = self.0 / o.0;
            let rest = self - o * first.into();
            let second = rest.0 / o.0;
            let rest = rest - o * second.into();
            Dd(first, 0.0) + Dd(second, 0.0) + Dd(rest.0 / o.0, 0.0)
        }
    }

    impl Dd {
        pub fn abs(self) -> Dd {
            if self.0 < 0.0 { -self } else { self }
        }

        pub fn sqrt(self) -> Dd {
            if self.0 == 0.0 {
                return self;
            }
            let root = self.0.sqrt();
            let rest = self - Dd(root, 0.0) * root.into();
            Dd(root, 0.0) + Dd(rest.0 / (2.0 * root), 0.0)
        }

        /// Relative accuracy for arguments of magnitude up to 1: a short series, then doublings `e(2r) = 2 e(r) +
        /// e(r)^2`.
        fn small_exp_m1(self) -> Dd {
            let r = Dd(self.0 / 256.0, self.1 / 256.0);
            let mut term = r;
            let mut sum = r;
            for k in 2..16 {
                term = term * r / f64::from(k).into();
                sum = sum + term;
            }
            for _ in 0..8 {
                sum = sum + sum + sum * sum;
            }
            sum
        }

        pub fn exp(self) -> Dd {
            let k = (self.0 / LN_2.0).round();
            let r = (self - LN_2 * k.into()).small_exp_m1() + 1.0.into();
            Dd(ldexp(r.0, k as i32), ldexp(r.1, k as i32))
        }

        pub fn exp_m1(self) -> Dd {
            if self.0.abs() < 1.0 {
                self.small_exp_m1()
            } else {
                self.exp() - 1.0.into()
            }
        }

        /// One step of Newton's method doubles the digits of f64.
        pub fn ln_1p(self) -> Dd {
            let y: Dd = self.0.ln_1p().into();
            let e = y.exp_m1();
            y - (e - self) / (e + 1.0.into())
        }

        pub fn ln(self) -> Dd {
            if (0.5..2.0).contains(&self.0) {
                return (self - 1.0.into()).ln_1p();
            }
            let y: Dd = self.0.ln().into();
            y + (self * (-y).exp() - 1.0.into())
        }

        /// Error of an f64 in units in the last place of the true value.
        pub fn ulps(self, got: f64) -> f64 {
            (((self.0 - got) + self.1) / macheps::float::Format::F64.ulp(self.0)).abs()
        }
    }
}
use double_double::Dd;

/// A small generator of reproducible values.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 ^ (self.0 >> 29)
    }

    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Magnitude spread evenly over the binades from `2^low` to `2^high`, all bits random.
    fn magnitude(&mut self, low: i32, high: i32) -> f64 {
        let exponent = f64::from(low) + self.unit() * f64::from(high - low);
        ldexp(1.0 + self.unit(), exponent.floor() as i32)
    }

    fn signed(&mut self, low: i32, high: i32) -> f64 {
        let magnitude = self.magnitude(low, high);
        if self.unit() < 0.5 { -magnitude } else { magnitude }
    }
}

#[test]
fn the_oracle_has_thirty_digits() {
    let e = Dd::from;
    for (what, got, want) in [
        ("exp 1", e(1.0).exp(), Dd(std::f64::consts::E, 1.4456468917292502e-16)),
        ("exp -0.3", e(-0.3).exp(), Dd(0.7408182206817179, -1.805530505953e-18)),
        ("exp 40.5", e(40.5).exp(), Dd(3.8808469624362035e17, -27.9768278124273)),
        (
            "exp -300.25",
            e(-300.25).exp(),
            Dd(4.009422364622857e-131, -9.421845746665655e-148),
        ),
        (
            "expm1 1e-10",
            e(1e-10).exp_m1(),
            Dd(1.00000000005e-10, 3.3900133221217734e-27),
        ),
        (
            "expm1 0.5",
            e(0.5).exp_m1(),
            Dd(0.6487212707001282, -4.731568479435833e-17),
        ),
        (
            "expm1 -20",
            e(-20.0).exp_m1(),
            Dd(-0.9999999979388464, 4.1293110494709923e-17),
        ),
        ("ln 3", e(3.0).ln(), Dd(1.0986122886681098, -9.07129723500153e-17)),
        ("ln 0.9", e(0.9).ln(), Dd(-0.10536051565782628, 4.81014917638444e-18)),
        (
            "ln 1e-200",
            e(1e-200).ln(),
            Dd(-460.51701859880916, 2.2080942657241066e-14),
        ),
        (
            "log1p 1e-15",
            e(1e-15).ln_1p(),
            Dd(9.999999999999995e-16, 9.164567891575911e-32),
        ),
        (
            "log1p -0.4",
            e(-0.4).ln_1p(),
            Dd(-0.5108256237659907, 1.5233815099851014e-18),
        ),
        (
            "log1p 1e20",
            e(1e20).ln_1p(),
            Dd(46.051701859880914, -7.88788767963998e-16),
        ),
    ] {
        let error = ((got.0 - want.0) + (got.1 - want.1)).abs() / want.0.abs();
        assert!(error < 1e-29, "{what}: {got:?} is off by {error:e}");
    }
}

// Formats

#[test]
fn figures_of_the_formats() {
    let rows = [
        (
            Format::F16,
            11,
            -14,
            15,
            f16::EPSILON.to_f64(),
            f16::MAX.to_f64(),
            f16::MIN_POSITIVE.to_f64(),
        ),
        (
            Format::BF16,
            8,
            -126,
            127,
            bf16::EPSILON.to_f64(),
            bf16::MAX.to_f64(),
            bf16::MIN_POSITIVE.to_f64(),
        ),
        (
            Format::F32,
            24,
            -126,
            127,
            f32::EPSILON.into(),
            f32::MAX.into(),
            f32::MIN_POSITIVE.into(),
        ),
        (Format::F64, 53, -1022, 1023, f64::EPSILON, f64::MAX, f64::MIN_POSITIVE),
    ];
    for (format, precision, low, high, epsilon, largest, smallest) in rows {
        assert_eq!(
            (format.precision(), format.min_exponent(), format.max_exponent()),
            (precision, low, high)
        );
        assert_eq!(format.machine_epsilon(), epsilon, "{format}");
        assert_eq!(format.unit_roundoff(), epsilon / 2.0, "{format}");
        assert_eq!(format.max_finite(), largest, "{format}");
        assert_eq!(format.min_normal(), smallest, "{format}");
        assert_eq!(format.layout(1).value(), format.min_subnormal(), "{format}");
        assert_eq!(1 + format.exponent_bits() + format.fraction_bits(), format.bits());
    }
    for dtype in DType::ALL {
        assert_eq!(dtype.format().name(), dtype.name());
        assert_eq!(dtype.format().bits() as usize, 8 * dtype.size());
    }
}

#[test]
fn ulps_of_values_that_are_not_of_the_format() {
    assert_eq!(Format::F16.ulp(1.0 + 1e-9), f16::EPSILON.to_f64());
    assert_eq!(Format::F16.ulp(0.0), f16::from_bits(1).to_f64());
    assert_eq!(Format::F16.ulp(1e5), 64.0);
    assert_eq!(Format::F32.ulp(1e-300), f64::from(f32::from_bits(1)));
    assert_eq!(Format::F64.ulp(f64::from_bits(77)), f64::from_bits(1));
    assert_eq!(Format::F64.ulp(-f64::INFINITY), f64::INFINITY);
    assert!(Format::F64.ulp(f64::NAN).is_nan());
}

/// Every number of a 16-bit format.
fn exhaustive<T: Float>(classify: fn(T) -> FpCategory, to_f64: fn(T) -> f64) {
    let infinity = T::rounded(f64::INFINITY);
    // All numbers in ascending order, the zeros once.
    let mut line: Vec<T> = Vec::new();
    for bits in 0..=u64::from(u16::MAX) {
        let x = T::from_bit_pattern(bits);
        assert_eq!(x.bit_pattern(), bits);
        let layout = x.layout();
        assert_eq!(layout.class(), classify(x), "{layout}");
        if x.widen().is_nan() {
            assert!(layout.value().is_nan() && Float::next_up(x).bit_pattern() == bits);
            assert!(Float::next_down(x).bit_pattern() == bits && x.step(3).bit_pattern() == bits);
            assert!(x.spacing().widen().is_nan() && x.ulp().widen().is_nan());
            assert_eq!((x.ulp_distance(x), x.ulp_distance(infinity)), (None, None));
            continue;
        }
        let value = to_f64(x);
        assert_eq!(layout.value().to_bits(), value.to_bits(), "{layout}");
        assert_eq!(x.widen().to_bits(), value.to_bits());
        assert_eq!(T::rounded(value).bit_pattern(), bits);
        let sign = u64::from(layout.sign()) << (T::FORMAT.bits() - 1);
        let exponent = u64::from(layout.biased_exponent()) << T::FORMAT.fraction_bits();
        assert_eq!(sign | exponent | layout.fraction(), bits);
        if value.to_bits() != (-0.0f64).to_bits() {
            line.push(x);
        }
    }
    line.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    let last = line.len() - 1;
    for (i, &x) in line.iter().enumerate() {
        let (below, above) = (line[i.saturating_sub(1)], line[(i + 1).min(last)]);
        assert!(Float::next_up(x) == above, "{} up", x.layout());
        assert!(Float::next_down(x) == below, "{} down", x.layout());
        if 0 < i && i < last {
            assert!(Float::next_down(Float::next_up(x)) == x && Float::next_up(Float::next_down(x)) == x);
            let (outward, negative) = if x.widen() < 0.0 { (below, true) } else { (above, false) };
            let gap = outward.widen() - x.widen();
            assert_eq!(x.spacing().widen(), T::rounded(gap).widen(), "{}", x.layout());
            if gap.is_finite() {
                assert_eq!(x.ulp().widen(), gap.abs(), "{}", x.layout());
                assert_eq!(x.spacing().layout().sign(), negative);
            }
        }
        // The distance is the number of steps between.
        for j in [
            0,
            i / 2,
            i.saturating_sub(1),
            i,
            (i + 1).min(last),
            (i + last) / 2,
            last,
        ] {
            let steps = j as i64 - i as i64;
            assert_eq!(x.ulp_distance(line[j]), Some(steps.unsigned_abs()));
            assert!(x.step(steps) == line[j]);
        }
        assert!(x.step(i64::MAX) == infinity && x.step(i64::MIN) == line[0]);
    }
    let zero = T::rounded(0.0);
    let minus_zero = T::rounded(-0.0);
    assert_eq!(zero.ulp_distance(minus_zero), Some(0));
    assert_eq!(Float::next_up(minus_zero).bit_pattern(), 1);
    assert!(Float::next_up(Float::next_down(zero)).layout().sign());
    assert!(T::rounded(T::FORMAT.max_finite()).ulp().widen() < infinity.widen());
}

#[test]
fn every_f16() {
    exhaustive::<f16>(f16::classify, f16::to_f64);
}

#[test]
fn every_bf16() {
    exhaustive::<bf16>(bf16::classify, bf16::to_f64);
}

fn against_std<T: Float>(x: T, up: T, down: T, class: FpCategory) {
    assert_eq!(Float::next_up(x).bit_pattern(), up.bit_pattern(), "{}", x.layout());
    assert_eq!(Float::next_down(x).bit_pattern(), down.bit_pattern(), "{}", x.layout());
    assert_eq!(x.layout().class(), class, "{}", x.layout());
    let value = x.layout().value();
    assert!(
        value.to_bits() == x.widen().to_bits() || value.is_nan() && x.widen().is_nan(),
        "{}",
        x.layout()
    );
}

/// Bit patterns where something changes.
fn corners(format: Format) -> impl Iterator<Item = u64> {
    let hidden = 1u64 << format.fraction_bits();
    let infinity = format.layout(u64::MAX).biased_exponent() as u64 * hidden;
    let sign = 1u64 << (format.bits() - 1);
    let one = format.bias() as u64 * hidden;
    let places = [
        0,
        hidden,
        2 * hidden,
        one,
        one + hidden,
        infinity - hidden,
        infinity,
        infinity + hidden / 2,
    ];
    places
        .into_iter()
        .flat_map(|p| [p.saturating_sub(1), p, p + 1])
        .flat_map(move |p| [p, p | sign])
}

#[test]
fn neighbours_as_in_std() {
    let mut random = Random(5);
    let sampled: Vec<u64> = (0..200_000).map(|_| random.bits()).collect();
    for bits in corners(Format::F32).chain(sampled.iter().map(|b| b >> 32)) {
        let x = f32::from_bits(bits as u32);
        against_std(x, x.next_up(), x.next_down(), x.classify());
    }
    for bits in corners(Format::F64).chain(sampled) {
        let x = f64::from_bits(bits);
        against_std(x, x.next_up(), x.next_down(), x.classify());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_and_distance_agree(bits in any::<u64>(), steps in any::<i64>(), few in -1000i64..1000) {
        let x = f64::from_bits(bits);
        if !x.is_nan() {
            for steps in [steps, few] {
                let y = x.step(steps);
                let distance = x.ulp_distance(y).expect("numbers");
                prop_assert!(distance == steps.unsigned_abs() || y.is_infinite() && distance < steps.unsigned_abs());
                prop_assert!((steps < 0 && y <= x) || (steps >= 0 && y >= x));
                prop_assert_eq!(y.ulp_distance(x), Some(distance));
            }
        }
    }

    #[test]
    fn distances_add_up(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
        let mut line = [a, b, c].map(f32::from_bits);
        if line.iter().all(|v| !v.is_nan()) {
            line.sort_by(f32::total_cmp);
            let between = |i: usize, j: usize| line[i].ulp_distance(line[j]).expect("numbers");
            prop_assert_eq!(between(0, 2), between(0, 1) + between(1, 2));
        }
    }

    #[test]
    fn frexp_and_ldexp_undo_each_other(bits in any::<u64>(), shift in -2200i32..2200) {
        let x = f64::from_bits(bits);
        if x.is_finite() {
            let (m, e) = frexp(x);
            prop_assert!(x == 0.0 || (0.5..1.0).contains(&m.abs()));
            prop_assert_eq!(ldexp(m, e).to_bits(), x.to_bits());
            // Rounded once: by halves of the shift the same, unless both round.
            let y = ldexp(x, shift);
            if y.is_normal() {
                prop_assert_eq!(ldexp(y, -shift), x);
            }
        }
    }
}

#[test]
fn ldexp_rounds_once() {
    let tiny = f64::from_bits(1);
    assert_eq!(ldexp(1.5, -1074).to_bits(), 2);
    assert_eq!(ldexp(2.5, -1074).to_bits(), 2);
    assert_eq!(ldexp(0.5, -1074), 0.0);
    assert_eq!(ldexp(0.5 + f64::EPSILON, -1074), tiny);
    assert_eq!((ldexp(f64::MAX, -2098), ldexp(f64::MAX, -2099)), (tiny, 0.0));
    assert_eq!(ldexp(f64::MAX, -2097), ldexp(2.0 - f64::EPSILON, -1074));
    assert_eq!(ldexp(f64::MAX, 1), f64::INFINITY);
    assert_eq!(ldexp(-f64::MAX, i32::MAX), f64::NEG_INFINITY);
    assert!(ldexp(-1.0, i32::MIN).to_bits() == (-0.0f64).to_bits());
    assert!(ldexp(f64::NAN, 3).is_nan() && ldexp(f64::INFINITY, -5000) == f64::INFINITY);
}

#[test]
fn layouts_in_print() {
    for (layout, shown) in [
        (
            f16::from_f32(-2.5).layout(),
            "f16 0xc100: 1 10000 0100000000  -0x1.4p+1 = -2.5, normal",
        ),
        (
            f16::from_bits(1).layout(),
            "f16 0x0001: 0 00000 0000000001  +0x0.004p-14 = 5.960464477539063e-8, subnormal",
        ),
        (
            bf16::from_f32(1.0).layout(),
            "bf16 0x3f80: 0 01111111 0000000  +0x1p+0 = 1.0, normal",
        ),
        (
            (-0.0f32).layout(),
            "f32 0x80000000: 1 00000000 00000000000000000000000  -0x0p+0 = -0.0, zero",
        ),
        (f16::INFINITY.layout(), "f16 0x7c00: 0 11111 0000000000  +inf, infinity"),
        (f16::NAN.layout(), "f16 0x7e00: 0 11111 1000000000  +nan, quiet NaN"),
        (
            f16::from_bits(0xfc01).layout(),
            "f16 0xfc01: 1 11111 0000000001  -nan, signaling NaN",
        ),
    ] {
        assert_eq!(layout.to_string(), shown);
    }
    assert_eq!(0.1f64.layout().hexadecimal(), "+0x1.999999999999ap-4");
    assert_eq!(f64::MAX.layout().hexadecimal(), "+0x1.fffffffffffffp+1023");
    let long = format!("{:#}", f16::from_bits(0xfc01).layout());
    assert!(
        long.contains("11111  infinity or NaN") && long.contains("payload 0x1"),
        "{long}"
    );
    assert!(format!("{:#}", f16::from_bits(1).layout()).contains("0 + 1 / 2^10"));
}

// Scalar functions

/// The largest error in ulp of f64 over arguments, each with the oracle's value and the value whose ulp counts.
fn worst(arguments: impl Iterator<Item = f64>, got: fn(f64) -> f64, want: fn(Dd) -> Dd) -> (f64, f64) {
    arguments
        .map(|x| (want(x.into()).ulps(got(x)), x))
        .fold((0.0, 0.0), |worst, next| {
            if next.0 > worst.0 || next.0.is_nan() {
                next
            } else {
                worst
            }
        })
}

#[test]
fn scalar_functions_keep_their_bounds() {
    let mut random = Random(11);
    let n = 60_000;
    let positive: Vec<f64> = (0..n).map(|_| random.magnitude(-70, 9)).collect();
    let mixed: Vec<f64> = (0..n)
        .map(|i| match i % 3 {
            0 => random.signed(-70, 9),
            1 => 80.0 * (random.unit() - 0.5),
            _ => 4.0 * (random.unit() - 0.5),
        })
        .filter(|x| x.abs() < 600.0)
        .collect();
    let around_log_2 = (0..2000).map(|i| std::f64::consts::LN_2.step(i - 1000));
    let small: Vec<f64> = positive
        .iter()
        .copied()
        .filter(|x| *x < 600.0)
        .chain(around_log_2)
        .collect();
    let log1mexp_oracle = |a: Dd| {
        if a.0 < 1.0 {
            (-(-a).exp_m1()).ln()
        } else {
            (-(-a).exp()).ln_1p()
        }
    };
    let softplus_oracle = |x: Dd| (-x.abs()).exp().ln_1p() + x.0.max(0.0).into();
    let sigmoid_oracle = |x: Dd| {
        let e = (-x.abs()).exp();
        let numerator = if x.0 < 0.0 { e } else { Dd(1.0, 0.0) };
        numerator / (e + 1.0.into())
    };
    let sqrt_oracle = |x: Dd| Dd(1.0, 0.0) / ((x + 1.0.into()).sqrt() + x.sqrt());
    let wide: Vec<f64> = (0..n).map(|_| random.magnitude(-300, 300)).chain(positive).collect();
    for (name, bound, (error, at)) in [
        ("log1mexp", 3.0, worst(small.into_iter(), log1mexp, log1mexp_oracle)),
        ("softplus", 2.0, worst(mixed.iter().copied(), softplus, softplus_oracle)),
        (
            "log_sigmoid",
            2.0,
            worst(mixed.iter().copied(), |x| -log_sigmoid(-x), softplus_oracle),
        ),
        ("sigmoid", 3.0, worst(mixed.iter().copied(), sigmoid, sigmoid_oracle)),
        (
            "sqrt1p_minus_sqrt",
            3.5,
            worst(wide.into_iter(), sqrt1p_minus_sqrt, sqrt_oracle),
        ),
    ] {
        println!("{name}: {error:.3} ulp at {at:e}");
        assert!(error <= bound, "{name}: {error} ulp at {at:e}");
    }
}

#[test]
fn logarithms_add_and_subtract() {
    let mut random = Random(12);
    let (mut added, mut subtracted) = (0.0f64, 0.0f64);
    for i in 0..60_000 {
        let a = if i % 2 == 0 {
            random.signed(-40, 9)
        } else {
            4.0 * (random.unit() - 0.5)
        };
        let d = random.magnitude(-50, 9);
        if d >= 600.0 {
            continue;
        }
        let (a, b) = (a.max(a - d), a.min(a - d));
        if a == b {
            continue;
        }
        let d = Dd::from(a) - b.into();
        let sum = Dd::from(a) + (-d).exp().ln_1p();
        let error = ((sum.0 - logaddexp(a, b)) + sum.1).abs();
        added = added.max(error / Format::F64.ulp(a.abs().max((sum.0 - a).abs())));
        let term = if d.0 < 1.0 {
            (-(-d).exp_m1()).ln()
        } else {
            (-(-d).exp()).ln_1p()
        };
        let difference = Dd::from(a) + term;
        let error = ((difference.0 - logsubexp(a, b)) + difference.1).abs();
        subtracted = subtracted.max(error / Format::F64.ulp(a.abs().max(term.0.abs())));
        assert_eq!(logaddexp(a, b), logaddexp(b, a));
    }
    println!("logaddexp: {added:.3} ulp, logsubexp: {subtracted:.3} ulp");
    assert!(added <= 3.0 && subtracted <= 3.0, "{added} {subtracted}");
}

#[test]
fn narrow_types_round_once() {
    type Pair = (&'static str, fn(f32) -> f32, fn(f64) -> f64);
    let functions: [Pair; 5] = [
        ("log1mexp", log1mexp, log1mexp),
        ("softplus", softplus, softplus),
        ("log_sigmoid", log_sigmoid, log_sigmoid),
        ("sigmoid", sigmoid, sigmoid),
        ("sqrt1p_minus_sqrt", sqrt1p_minus_sqrt, sqrt1p_minus_sqrt),
    ];
    for (name, narrow, wide) in functions {
        for bits in (0..=u32::MAX).step_by(20_011) {
            let x = f32::from_bits(bits);
            let (got, want) = (narrow(x), wide(x.into()));
            if want.is_nan() || want.is_infinite() {
                assert!(
                    got.is_nan() == want.is_nan() && (got.is_nan() || f64::from(got) == want),
                    "{name} {x:e}"
                );
                continue;
            }
            let ulps = (f64::from(got) - want).abs() / Format::F32.ulp(want);
            assert!(ulps <= 0.5, "{name}({x:e}) = {got:e}, off by {ulps} ulp");
        }
    }
    assert_eq!(sigmoid(f16::from_f32(-20.0)), f16::from_f64(2.061153618190204e-9));
    assert_eq!(softplus(bf16::from_f32(1.0)), bf16::from_f64(1.3132616875182228));
}

#[test]
fn corners_of_the_scalar_functions() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let same = |got: f64, want: f64| got == want || got.is_nan() && want.is_nan();
    for (what, got, want) in [
        ("log1mexp 0", log1mexp(0.0), -inf),
        ("log1mexp -0", log1mexp(-0.0), -inf),
        ("log1mexp inf", log1mexp(inf), 0.0),
        ("log1mexp -1", log1mexp(-1.0), nan),
        ("log1mexp nan", log1mexp(nan), nan),
        ("log1mexp least", log1mexp(f64::from_bits(1)), -744.4400719213812),
        ("softplus -inf", softplus(-inf), 0.0),
        ("softplus inf", softplus(inf), inf),
        ("softplus nan", softplus(nan), nan),
        ("softplus 0", softplus(0.0), std::f64::consts::LN_2),
        ("softplus max", softplus(f64::MAX), f64::MAX),
        ("sigmoid -inf", sigmoid(-inf), 0.0),
        ("sigmoid inf", sigmoid(inf), 1.0),
        ("sigmoid nan", sigmoid(nan), nan),
        ("log_sigmoid -inf", log_sigmoid(-inf), -inf),
        ("log_sigmoid inf", log_sigmoid(inf), 0.0),
        ("log_sigmoid nan", log_sigmoid(nan), nan),
        ("logaddexp inf inf", logaddexp(inf, inf), inf),
        ("logaddexp -inf -inf", logaddexp(-inf, -inf), -inf),
        ("logaddexp inf -inf", logaddexp(inf, -inf), inf),
        ("logaddexp -inf 2", logaddexp(-inf, 2.0), 2.0),
        ("logaddexp nan inf", logaddexp(nan, inf), nan),
        ("logaddexp 1 nan", logaddexp(1.0, nan), nan),
        ("logaddexp max -max", logaddexp(f64::MAX, -f64::MAX), f64::MAX),
        ("logsubexp 1 2", logsubexp(1.0, 2.0), nan),
        ("logsubexp inf inf", logsubexp(inf, inf), nan),
        ("logsubexp -inf -inf", logsubexp(-inf, -inf), -inf),
        ("logsubexp inf 1", logsubexp(inf, 1.0), inf),
        ("logsubexp 3 -inf", logsubexp(3.0, -inf), 3.0),
        ("logsubexp nan 1", logsubexp(nan, 1.0), nan),
        ("sqrt 0", sqrt1p_minus_sqrt(0.0), 1.0),
        ("sqrt inf", sqrt1p_minus_sqrt(inf), 0.0),
        ("sqrt -1", sqrt1p_minus_sqrt(-1.0), nan),
        ("sqrt max", sqrt1p_minus_sqrt(f64::MAX), 0.5 / f64::MAX.sqrt()),
        ("norm of nothing", norm::<f64>(&[]), 0.0),
        ("norm of zeros", norm(&[0.0, -0.0]), 0.0),
        ("norm nan inf", norm(&[nan, inf]), nan),
        ("norm inf nan", norm(&[inf, nan]), nan),
        ("norm -inf", norm(&[1.0, -inf]), inf),
        ("norm max", norm(&[f64::MAX, f64::MAX]), inf),
        ("norm one max", norm(&[f64::MAX, 1.0]), f64::MAX),
        ("norm least", norm(&[f64::from_bits(1)]), f64::from_bits(1)),
    ] {
        assert!(same(got, want), "{what}: {got:e} is not {want:e}");
    }
    assert_eq!(norm(&[3e38f32, 4e37, 1e37]), (9e76f64 + 16e74 + 1e74).sqrt() as f32);
    assert_eq!(norm(&[f16::MAX, f16::MAX]), f16::INFINITY);
}

#[test]
fn norms_at_any_scale() {
    let mut random = Random(13);
    let mut worst = 0.0f64;
    for len in [1, 2, 3, 10, 1000] {
        for _ in 0..300 {
            let x: Vec<f64> = (0..len).map(|_| random.signed(-40, 0)).collect();
            let sum = x.iter().fold(Dd(0.0, 0.0), |s, &v| s + Dd::from(v) * v.into());
            let own = norm(&x);
            worst = worst.max(sum.sqrt().ulps(own));
            for shift in [-960, -500, -399, 399, 500, 1000] {
                let scaled: Vec<f64> = x.iter().map(|&v| ldexp(v, shift)).collect();
                assert_eq!(norm(&scaled), ldexp(own, shift), "{shift}");
            }
        }
    }
    println!("norm: {worst:.3} ulp");
    assert!(worst <= 1.0, "{worst} ulp");
}

// Quadratic equations

/// Roots by the stable formula in double-double arithmetic; a positive discriminant only.
fn roots_in_double_double(a: f64, b: f64, c: f64) -> Option<[Dd; 2]> {
    let (a, b, c) = (Dd::from(a), Dd(b / 2.0, 0.0), Dd::from(c));
    let discriminant = b * b - a * c;
    if discriminant.0 < 0.0 {
        return None;
    }
    let root = discriminant.sqrt();
    let w = -(b + if b.0 < 0.0 { -root } else { root });
    let (x, y) = (w / a, c / w);
    Some(if x.0 < y.0 { [x, y] } else { [y, x] })
}

#[test]
fn quadratic_roots_keep_their_bound() {
    let mut random = Random(14);
    let (mut worst, mut real, mut complex) = (0.0f64, 0, 0);
    for i in 0..60_000 {
        let (mut a, mut b, mut c) = (random.signed(-50, 50), random.signed(-50, 50), random.signed(-50, 50));
        if i % 3 == 1 {
            // Nearly double roots: (s x + t)^2 with every coefficient rounded or moved by some steps.
            let (s, t) = (random.signed(-20, 20), random.signed(-20, 20));
            (a, b, c) = (s * s, 2.0 * s * t, t * t);
            c = c.step((random.bits() % 7) as i64 - 3);
        } else if i % 3 == 2 {
            (a, b, c) = (random.signed(-2, 2), random.signed(-2, 2), random.signed(-2, 2));
        }
        let roots = quadratic_roots(a, b, c);
        match roots_in_double_double(a, b, c) {
            Some([low, high]) => {
                let QuadraticRoots::Real(x, y) = roots else {
                    panic!("{a:e} {b:e} {c:e}: {roots:?}, should be {low:?} and {high:?}");
                };
                worst = worst.max(low.ulps(x)).max(high.ulps(y));
                real += 1;
            }
            None => {
                let QuadraticRoots::Complex { re, im } = roots else {
                    panic!("{a:e} {b:e} {c:e}: {roots:?}, should be complex");
                };
                let half: Dd = (b / 2.0).into();
                let discriminant = Dd::from(a) * c.into() - half * half;
                worst = worst
                    .max((-half / a.into()).ulps(re))
                    .max((discriminant.sqrt() / Dd::from(a).abs()).ulps(im));
                complex += 1;
            }
        }
        // The same equation in other units: x = 2^k y, divided by 2^m. Only powers of two change.
        for (k, m) in [(0, 900), (0, -900), (400, 100), (-400, -100), (430, 0)] {
            let scaled = quadratic_roots(ldexp(a, m - 2 * k), ldexp(b, m - k), ldexp(c, m));
            let expected = match roots {
                QuadraticRoots::Real(x, y) => QuadraticRoots::Real(ldexp(x, k), ldexp(y, k)),
                QuadraticRoots::Complex { re, im } => QuadraticRoots::Complex {
                    re: ldexp(re, k),
                    im: ldexp(im, k),
                },
                other => other,
            };
            assert_eq!(scaled, expected, "{a:e} {b:e} {c:e} times 2^{k}, 2^{m}");
        }
    }
    println!("quadratic_roots: {worst:.3} ulp over {real} real and {complex} complex pairs");
    assert!(
        real > 10_000 && complex > 10_000 && worst <= 4.0,
        "{worst} ulp, {real}, {complex}"
    );
}

#[test]
fn quadratic_roots_in_the_corners() {
    use QuadraticRoots::{Complex, Every, Linear, None, NotFinite, Real};
    let max = f64::MAX;
    let half_range = ldexp(1.0, 1023);
    let tiny = f64::from_bits(1);
    for ((a, b, c), want) in [
        ((0.0, 0.0, 0.0), Every),
        ((0.0, -0.0, 3.0), None),
        ((0.0, 2.0, -3.0), Linear(1.5)),
        ((0.0, 5.0, 0.0), Linear(0.0)),
        ((0.0, tiny, max), Linear(f64::NEG_INFINITY)),
        ((3.0, 0.0, 0.0), Real(0.0, 0.0)),
        ((2.0, -3.0, 0.0), Real(0.0, 1.5)),
        ((2.0, 3.0, 0.0), Real(-1.5, 0.0)),
        ((1.0, 0.0, -4.0), Real(-2.0, 2.0)),
        ((1.0, 0.0, 4.0), Complex { re: 0.0, im: 2.0 }),
        ((1.0, -2.0, 1.0), Real(1.0, 1.0)),
        ((-1.0, 2.0, -1.0), Real(1.0, 1.0)),
        (
            (half_range, half_range, half_range),
            Complex {
                re: -0.5,
                im: 0.75f64.sqrt(),
            },
        ),
        ((max, -max, 0.0), Real(0.0, 1.0)),
        ((tiny, 0.0, -tiny), Real(-1.0, 1.0)),
        ((tiny, -3.0 * tiny, 2.0 * tiny), Real(1.0, 2.0)),
        ((tiny, -max, tiny), Real(0.0, f64::INFINITY)),
        ((1.0, -1e200, 1.0), Real(1e-200, 1e200)),
        ((max, 0.0, -tiny), Real(-(tiny / max).sqrt(), 0.0)),
        ((1.0, tiny, 1.0), Complex { re: 0.0, im: 1.0 }),
        ((1.0, f64::NAN, 1.0), NotFinite),
        ((1.0, 1.0, f64::INFINITY), NotFinite),
    ] {
        let got = quadratic_roots(a, b, c);
        // The quotient under the root underflows in f64 itself: here only the order of magnitude is known otherwise.
        if (a, c) == (max, -tiny) {
            let Real(x, y) = got else { panic!("{got:?}") };
            let want = ldexp(1.0, -1049);
            assert!(x == -y && (y / want - 1.0).abs() < 1e-6, "{got:?}, {want:e}");
            continue;
        }
        assert_eq!(got, want, "{a:e} {b:e} {c:e}");
    }
    // Signs of a discriminant that f64 cannot tell from 0.
    let b = 2.0 * (1.0 + f64::EPSILON);
    assert!(matches!(quadratic_roots(1.0, b, 1.0 + 2.0 * f64::EPSILON), Real(x, y) if x < y));
    assert!(matches!(
        quadratic_roots(1.0, b, 1.0 + 3.0 * f64::EPSILON),
        Complex { .. }
    ));
    assert_eq!(
        quadratic_roots(f16::from_f32(1.0), f16::from_f32(-3.0), f16::from_f32(2.0)),
        Real(f16::from_f32(1.0), f16::from_f32(2.0))
    );
    assert_eq!(quadratic_roots(1e-30f32, -1e30, 1e30), Real(1.0, f32::INFINITY));
}

// Sums

/// Integers as f64 over 60 binades, and their exact sum.
fn integers(random: &mut Random, n: usize, cancel: bool) -> (Vec<f64>, i128) {
    let mut x: Vec<f64> = (0..n).map(|_| random.signed(52, 110).trunc()).collect();
    if cancel {
        let mirrored: Vec<f64> = x.iter().skip(3).map(|v| -v).collect();
        x.extend(mirrored);
        for i in (1..x.len()).rev() {
            x.swap(i, random.bits() as usize % (i + 1));
        }
    }
    let sum = x.iter().map(|&v| v as i128).sum();
    (x, sum)
}

#[test]
fn sums_keep_their_bounds() {
    let u = Format::F64.unit_roundoff();
    let mut random = Random(15);
    let mut serial_misses = 0;
    for n in [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000] {
        for round in 0..200 {
            let (x, exact) = integers(&mut random, n, round % 2 == 1);
            let magnitude: f64 = x.iter().map(|v| v.abs()).sum();
            let count = x.len() as f64;
            let error = |got: f64| (got as i128 - exact).unsigned_abs() as f64;
            let compensated = u * (exact as f64).abs() + 2.0 * count * count * u * u * magnitude;
            let got: f64 = x.iter().sum_neumaier();
            assert!(error(got) <= compensated, "{n}: {got:e} for {exact}");
            let got: f64 = x.iter().copied().sum_pairwise();
            let pairwise = (count.max(1.0).log2() + 4.0) * u * magnitude;
            assert!(error(got) <= pairwise, "{n}: {got:e} for {exact}");
            serial_misses += usize::from(error(x.iter().sum()) > compensated);

            // In parts.
            let (mut left, mut right) = (Neumaier::default(), Neumaier::default());
            left.extend(x[..x.len() / 3].iter().copied());
            right.extend(x[x.len() / 3..].iter().copied());
            left.merge(right);
            assert!(error(left.value()) <= compensated);
        }
    }
    assert!(
        serial_misses > 100,
        "a plain loop should miss the compensated bound: {serial_misses}"
    );
}

#[test]
fn pairwise_is_the_tree() {
    // Powers of two that only a balanced tree keeps: 2^53 + 1 loses the one, 1 + 1 does not.
    let big = 2f64.powi(53);
    let mut x = vec![big, 0.0, 1.0, 1.0];
    assert_eq!(x.iter().sum::<f64>(), big);
    assert_eq!(x.iter().sum_pairwise::<f64>(), big + 2.0);
    x.extend([1.0; 60]);
    assert_eq!(x.iter().sum_pairwise::<f64>(), big + 62.0);
    let mut sum = Pairwise::default();
    for n in 1..=5000u32 {
        sum.add(1.0);
        assert_eq!(sum.value(), f64::from(n));
    }
    // Ten million tenths of which a plain f32 sum makes 1087937.
    let tenths = std::iter::repeat_n(0.1f32, 10_000_000);
    assert_eq!(tenths.clone().sum::<f32>(), 1087937.0);
    assert_eq!(tenths.clone().sum_pairwise::<f32>(), 1e6);
    assert_eq!(tenths.sum_neumaier::<f32>(), 1e6);
    assert_eq!(
        std::iter::repeat_n(f16::from_f32(1.0), 4096).sum_pairwise::<f16>(),
        f16::from_f32(4096.0)
    );
}

#[test]
fn sums_of_infinities() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for (x, want) in [
        (vec![], 0.0),
        (vec![1.0, inf, 1.0], inf),
        (vec![inf, inf], inf),
        (vec![-inf, 1e300], -inf),
        (vec![inf, 1.0, -inf], nan),
        (vec![1.0, nan], nan),
        (vec![f64::MAX, f64::MAX], inf),
    ] {
        let sums = [
            x.iter().sum_neumaier::<f64>(),
            x.iter().sum_pairwise(),
            dot(&x, &vec![1.0; x.len()]).unwrap(),
        ];
        assert!(
            sums.iter().all(|s| *s == want || s.is_nan() && want.is_nan()),
            "{x:?}: {sums:?}"
        );
    }
}

#[test]
fn dot_products_keep_their_bound() {
    let u = Format::F64.unit_roundoff();
    let mut random = Random(16);
    for n in [1usize, 2, 10, 500] {
        for _ in 0..100 {
            let mut x: Vec<f64> = (0..n).map(|_| random.signed(-30, 30)).collect();
            let mut y: Vec<f64> = (0..n).map(|_| random.signed(-30, 30)).collect();
            // The same products again, turned round, all but the last digits.
            x.extend(x.clone().iter().map(|v| -v));
            y.extend(y.clone().iter().map(|v| v * (1.0 + 1e-12)));
            let (mut exact, mut magnitude) = (Dd(0.0, 0.0), 0.0);
            for (a, b) in x.iter().zip(&y) {
                exact = exact + Dd::from(*a) * (*b).into();
                magnitude += (a * b).abs();
            }
            let count = x.len() as f64;
            let error = ((dot(&x, &y).unwrap() - exact.0) - exact.1).abs();
            // The last term is the oracle's own error.
            let bound = u * exact.0.abs() + (2.0 * count * count + 8.0 * count) * u * u * magnitude;
            assert!(error <= bound, "{n}: {error:e} over {bound:e}");
        }
    }
    assert!(dot(&[1.0f32], &[]).unwrap_err().to_string().contains("y of dot"));
    assert_eq!(
        dot(&[f16::MAX, f16::MAX], &[f16::MAX, f16::MIN]).unwrap(),
        f16::from_f32(0.0)
    );
}

#[test]
fn error_free_transforms_are_exact() {
    let mut random = Random(17);
    for _ in 0..20_000 {
        let (a, b) = (random.signed(52, 100).trunc(), random.signed(52, 100).trunc());
        let (s, e) = two_sum(a, b);
        assert_eq!(s as i128 + e as i128, a as i128 + b as i128);
        let (a, b) = ((random.bits() >> 11) as f64, (random.bits() >> 11) as f64);
        let (p, e) = two_product(a, b);
        assert_eq!(p as i128 + e as i128, a as i128 * b as i128);
    }
}
