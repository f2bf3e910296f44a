//! Reproducible sums on the CPU path: against sums by single bits, for any order, where everything cancels, at the ends of the
//! range, over any axes.

use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::reduction::{self, reproducible};
use macheps::{Context, ExactSum, ReductionInput, ReductionKind, ReductionOptions, SumMode};
use proptest::prelude::*;

/// A sum by single bits: how often each bit from 2^-298 on is there, less how often it is taken away.
pub struct BitSum {
    bits: Vec<i64>,
    nan: bool,
    infinities: [bool; 2],
}

impl BitSum {
    pub fn new() -> BitSum {
        BitSum {
            bits: vec![0; 680],
            nan: false,
            infinities: [false; 2],
        }
    }

    /// Adds x times y.
    pub fn add(&mut self, x: f32, y: f32) {
        let product = f64::from(x) * f64::from(y);
        if product.is_nan() {
            self.nan = true;
        } else if x.is_infinite() || y.is_infinite() {
            self.infinities[usize::from(product < 0.0)] = true;
        } else {
            let integer = |v: f32| {
                let v = v.abs();
                let exponent = (v.to_bits() >> 23).max(1) as i32 - 150;
                ((f64::from(v) / 2f64.powi(exponent)) as u64, exponent)
            };
            let ((m, e), (n, f)) = (integer(x), integer(y));
            let sign = if x.is_sign_negative() == y.is_sign_negative() {
                1
            } else {
                -1
            };
            for bit in 0..48 {
                if m * n >> bit & 1 == 1 {
                    self.bits[(e + f + 298) as usize + bit] += sign;
                }
            }
        }
    }

    /// The sum over `divisor`, rounded to nearest, ties to even, as bits of the storage type.
    pub fn rounded<T: Element>(&self, divisor: u64) -> u32 {
        let special = |v: f32| bits(T::from_f32(v));
        if self.nan || self.infinities == [true; 2] || divisor == 0 {
            return special(f32::NAN);
        }
        if self.infinities[0] || self.infinities[1] {
            return special(if self.infinities[0] {
                f32::INFINITY
            } else {
                f32::NEG_INFINITY
            });
        }
        // Digits 0 and 1, lowest first.
        let digits = |sign: i64| -> (Vec<u8>, i64) {
            let mut carry = 0;
            let digits = self.bits.iter().map(|b| {
                let v = sign * b + carry;
                carry = v >> 1;
                (v & 1) as u8
            });
            (digits.collect(), carry)
        };
        let (mut number, carry) = digits(1);
        let negative = carry < 0;
        if negative {
            number = digits(-1).0;
        }
        // Divided from the top, 80 digits beyond the last.
        let mut rest = 0u128;
        let mut quotient: Vec<u8> = number.iter().rev().copied().chain([0; 80]).collect();
        for digit in &mut quotient {
            rest = rest * 2 + u128::from(*digit);
            *digit = u8::from(rest >= u128::from(divisor));
            rest -= u128::from(*digit) * u128::from(divisor);
        }
        let Some(first) = quotient.iter().position(|&d| d == 1) else {
            return 0;
        };
        // Digit i stands for 2^(679 - 298 - i).
        let (precision, smallest) = match T::DTYPE {
            DType::F32 => (24, -149),
            DType::F16 => (11, -24),
            DType::Bf16 => (8, -133),
        };
        let last = (381 - smallest).min(first as i32 + precision - 1).max(0) as usize;
        let mut value = quotient[..=last].iter().fold(0u64, |v, &d| v * 2 + u64::from(d));
        let above = quotient[last + 1..].contains(&1) || rest != 0;
        let half = quotient[last + 1] == 1;
        let tie = half && quotient[last + 2..].iter().all(|&d| d == 0) && rest == 0;
        if above && half && (!tie || value % 2 == 1) {
            value += 1;
        }
        let size = value as f64 * 2f64.powi(381 - last as i32);
        bits(T::from_f64(if negative { -size } else { size }))
    }
}

/// Bits of an element; every NaN is one.
pub fn bits<T: Element>(v: T) -> u32 {
    let v = v.to_f32();
    match T::DTYPE {
        _ if v.is_nan() => f32::NAN.to_bits(),
        DType::F32 => v.to_bits(),
        DType::F16 => f16::from_f32(v).to_bits().into(),
        DType::Bf16 => bf16::from_f32(v).to_bits().into(),
    }
}

/// Sum, mean and dot product by single bits.
pub fn expected<T: Element>(x: &[T], w: &[T]) -> [u32; 3] {
    let (mut sum, mut dot) = (BitSum::new(), BitSum::new());
    x.iter().for_each(|v| sum.add(v.to_f32(), 1.0));
    x.iter().zip(w).for_each(|(x, w)| dot.add(x.to_f32(), w.to_f32()));
    [
        sum.rounded::<T>(1),
        sum.rounded::<T>(x.len() as u64),
        dot.rounded::<T>(1),
    ]
}

/// The same three on a context.
pub fn computed<T: Element>(context: &Context, x: &[T], w: &[T]) -> [u32; 3] {
    [
        bits(reproducible::sum(context, x).unwrap()),
        bits(reproducible::mean(context, x).unwrap()),
        bits(reproducible::dot(context, x, w).unwrap()),
    ]
}

/// Numbers with any bits, from a seed.
pub struct AnyBits(pub u64);

impl AnyBits {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ self.0 >> 29) >> 16
    }

    /// Any finite number, exponents alike.
    pub fn finite(&mut self) -> f32 {
        let v = f32::from_bits(self.next() as u32);
        if v.is_finite() { v } else { 1.0 }
    }

    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.next() as usize % (i + 1));
        }
    }
}

/// Rows that are hard, each with its sum.
pub fn hard() -> Vec<(&'static str, Vec<f32>, f32)> {
    let tiny = f32::from_bits(1);
    let half_ulp = 2f32.powi(-24);
    vec![
        ("nothing", vec![], 0.0),
        ("cancels", vec![1.0e38, 1.0, -1.0e38], 1.0),
        ("ends of the range", vec![f32::MAX, tiny, -f32::MAX], tiny),
        ("subnormals", vec![tiny; 1000], f32::from_bits(1000)),
        (
            "subnormal to normal",
            vec![f32::from_bits(0x7f_ffff), tiny],
            f32::MIN_POSITIVE,
        ),
        (
            "overflow on the way",
            vec![f32::MAX, f32::MAX, f32::MAX, -f32::MAX, -f32::MAX],
            f32::MAX,
        ),
        ("overflow", vec![f32::MAX, f32::MAX], f32::INFINITY),
        ("negative overflow", vec![-f32::MAX; 700], f32::NEG_INFINITY),
        (
            "half a unit below overflow",
            vec![f32::MAX, 2f32.powi(103), -tiny],
            f32::MAX,
        ),
        ("half a unit above", vec![f32::MAX, 2f32.powi(103)], f32::INFINITY),
        ("tie to even", vec![1.0, half_ulp], 1.0),
        (
            "tie to even, up",
            vec![1.0 + 2.0 * half_ulp, half_ulp],
            1.0 + 4.0 * half_ulp,
        ),
        (
            "tie broken from far below",
            vec![1.0, half_ulp, tiny],
            1.0 + 2.0 * half_ulp,
        ),
        ("tie broken from below", vec![1.0, half_ulp, -tiny], 1.0),
        ("negative zeros", vec![-0.0; 5], 0.0),
        ("exactly zero", vec![-1.5, 0.5, 1.0], 0.0),
        ("borrow through all limbs", vec![f32::MAX, -tiny], f32::MAX),
        ("negative through all limbs", vec![-f32::MAX, tiny], -f32::MAX),
        ("infinity", vec![1.0, f32::INFINITY, -f32::MAX], f32::INFINITY),
        ("negative infinity", vec![f32::NEG_INFINITY; 3], f32::NEG_INFINITY),
        ("both infinities", vec![f32::INFINITY, f32::NEG_INFINITY], f32::NAN),
        ("NaN", vec![f32::NAN, f32::INFINITY], f32::NAN),
    ]
}

#[test]
fn meets_literals() {
    let cpu = Context::cpu();
    for (name, mut x, want) in hard() {
        assert_eq!(bits(reproducible::sum(&cpu, &x).unwrap()), bits(want), "{name}");
        let w = vec![1.0; x.len()];
        assert_eq!(computed(&cpu, &x, &w), expected(&x, &w), "{name}");
        assert_eq!(computed(&cpu, &x, &w)[2], bits(want), "{name}: times 1");
        x.reverse();
        assert_eq!(
            bits(reproducible::sum(&cpu, &x).unwrap()),
            bits(want),
            "{name}, reversed"
        );
    }
    assert!(reproducible::mean::<f32>(&cpu, &[]).unwrap().is_nan());
    assert_eq!(
        reproducible::mean(&cpu, &[f32::from_bits(1), f32::from_bits(2)])
            .unwrap()
            .to_bits(),
        2
    );
    assert_eq!(reproducible::mean(&cpu, &[f32::MAX; 77]).unwrap(), f32::MAX);
    assert_eq!(reproducible::mean(&cpu, &[1.0f32, 0.0, 0.0]).unwrap(), 1.0 / 3.0);
    assert_eq!(
        reproducible::dot(&cpu, &[f32::MAX, -f32::MAX, 1e-30], &[f32::MAX, f32::MAX, 1e-10]).unwrap(),
        { (f64::from(1e-30f32) * f64::from(1e-10f32)) as f32 }
    );
    assert!(reproducible::dot(&cpu, &[0.0f32], &[f32::INFINITY]).unwrap().is_nan());
    // The true mean of -tiny and three zeros is not zero: its sign stays.
    let mean = reproducible::mean(&cpu, &[-f32::from_bits(1), 0.0, 0.0, 0.0]).unwrap();
    assert_eq!(mean.to_bits(), 0x8000_0000);
}

#[test]
fn rounds_16_bit_types_once() {
    let cpu = Context::cpu();
    let half = |v: f32| f16::from_f32(v);
    // 2048 + 1 is a tie; a little more must not be lost to a first rounding.
    assert_eq!(
        reproducible::sum(&cpu, &[half(2048.0), half(1.0), half(6.0e-8)])
            .unwrap()
            .to_f32(),
        2050.0
    );
    assert_eq!(
        reproducible::sum(&cpu, &[half(2048.0), half(1.0)]).unwrap().to_f32(),
        2048.0
    );
    assert_eq!(
        reproducible::sum(&cpu, &vec![half(1.0); 4096]).unwrap().to_f32(),
        4096.0
    );
    assert_eq!(
        reproducible::sum(&cpu, &[half(65504.0), half(16.0)]).unwrap(),
        f16::INFINITY
    );
    assert_eq!(
        reproducible::sum(&cpu, &[half(65504.0), half(15.99), half(-65504.0)]).unwrap(),
        half(15.99)
    );
    let brain = |v: f32| bf16::from_f32(v);
    assert_eq!(
        reproducible::sum(&cpu, &[brain(256.0), brain(1.0), brain(1e-30)])
            .unwrap()
            .to_f32(),
        258.0
    );
    assert_eq!(
        reproducible::sum(&cpu, &[brain(256.0), brain(1.0)]).unwrap().to_f32(),
        256.0
    );
}

#[test]
fn many_of_the_largest() {
    let mut x = vec![f32::MAX; 1 << 20];
    let mut y = vec![-f32::MAX; 1 << 20];
    x.append(&mut y);
    x.push(0.25);
    assert_eq!(reproducible::sum(&Context::cpu(), &x).unwrap(), 0.25);
    let mut sum = ExactSum::new();
    for _ in 0..1 << 20 {
        sum.add_product(f32::MAX, f32::MAX);
    }
    assert_eq!(sum.value::<f32>(), f32::INFINITY);
    for _ in 0..1 << 20 {
        sum.add_product(f32::MAX, -f32::MAX);
    }
    sum.add_product(f32::from_bits(1), 1.0);
    let mut other = ExactSum::new();
    other.merge(&sum);
    assert_eq!((other.value::<f32>().to_bits(), other.count()), (1, (1 << 21) + 1));
}

fn meets_bits<T: Element>(x: &[f32]) {
    let x: Vec<T> = x.iter().map(|&v| T::from_f32(v)).collect();
    let w: Vec<T> = x.iter().rev().map(|v| T::from_f32(v.to_f32() * 0.75)).collect();
    assert_eq!(computed(&Context::cpu(), &x, &w), expected(&x, &w), "{:?}", T::DTYPE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn meets_sums_by_bits(
        words in prop::collection::vec(any::<u32>(), 0..40),
        about in 0u32..255,
        near in any::<bool>(),
    ) {
        // Of any exponents, or of a few neighbouring ones, where more cancels.
        let x: Vec<f32> = words
            .iter()
            .map(|&w| {
                let e = if near { (about + (w >> 23 & 7)).min(254) } else { w >> 23 & 0xff };
                f32::from_bits(w & 0x807f_ffff | e << 23)
            })
            .map(|v| if near || v.is_finite() { v } else { 2.5 })
            .collect();
        meets_bits::<f32>(&x);
        meets_bits::<f16>(&x);
        meets_bits::<bf16>(&x);
    }
}

#[test]
fn any_order_gives_the_same_bits() {
    let mut random = AnyBits(5);
    for len in [3usize, 1000, 100_003] {
        let mut pairs: Vec<(f32, f32)> = (0..len).map(|_| (random.finite(), random.finite())).collect();
        let mut first = None;
        for _ in 0..4 {
            let (x, w): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let got = computed(&Context::cpu(), &x, &w);
            assert_eq!(*first.get_or_insert(got), got, "{len}");
            if len < 2000 {
                assert_eq!(got, expected(&x, &w), "{len}");
            }
            random.shuffle(&mut pairs);
        }
    }
}

/// Shapes and axes: rows, columns, several axes, rows that are cut, one element, none.
pub const SHAPES: &[(&[usize], &[isize])] = &[
    (&[24, 61], &[1]),
    (&[5, 64], &[1]),
    (&[61, 47], &[0]),
    (&[70, 64], &[0]),
    (&[5, 6, 7, 9], &[0, 2]),
    (&[4, 3, 2, 8], &[1, 3]),
    (&[3, 0, 2], &[1]),
    (&[2, 70_003], &[1]),
];

/// Values of every row by single bits.
pub fn expected_rows<T: Element>(kind: ReductionKind, input: &ReductionInput<'_, T>, axes: &[isize]) -> Vec<u32> {
    let shape = input.shape;
    let gone: Vec<bool> = (0..shape.len()).map(|d| axes.contains(&(d as isize))).collect();
    let rows: usize = shape
        .iter()
        .zip(&gone)
        .filter(|(_, gone)| !**gone)
        .map(|(n, _)| n)
        .product();
    let len: usize = shape
        .iter()
        .zip(&gone)
        .filter(|(_, gone)| **gone)
        .map(|(n, _)| n)
        .product();
    let mut sums: Vec<BitSum> = (0..rows).map(|_| BitSum::new()).collect();
    for i in 0..input.x.len() {
        let (mut rest, mut row, mut scale) = (i, 0, 1);
        for d in (0..shape.len()).rev() {
            if !gone[d] {
                row += rest % shape[d] * scale;
                scale *= shape[d];
            }
            rest /= shape[d];
        }
        sums[row].add(input.x[i].to_f32(), input.second.map_or(1.0, |w| w[i].to_f32()));
    }
    let divisor = if kind == ReductionKind::Mean { len as u64 } else { 1 };
    sums.iter().map(|sum| sum.rounded::<T>(divisor)).collect()
}

pub fn rows_meet_bits<T: Element>(name: &str, context: &Context, kinds: &[ReductionKind]) {
    let mut random = AnyBits(11);
    for &(shape, axes) in SHAPES {
        let count: usize = shape.iter().product();
        let mut values = || -> Vec<T> {
            (0..count)
                .map(|_| T::from_f32(f32::from_bits(random.next() as u32 & 0xbfff_ffff)))
                .collect()
        };
        let (x, w) = (values(), values());
        for &kind in kinds {
            let mut input = ReductionInput::new(&x, shape);
            input.second = (kind == ReductionKind::Dot).then_some(&w[..]);
            let options = ReductionOptions {
                mode: SumMode::Reproducible,
                ..ReductionOptions::over(axes)
            };
            let y = reduction::reduce(context, kind, &input, &options).unwrap();
            let got: Vec<u32> = y.iter().map(|&v| bits(v)).collect();
            let want = expected_rows(kind, &input, axes);
            assert!(got == want, "{name}: {kind} of {:?} {shape:?} over {axes:?}", T::DTYPE);
        }
    }
}

#[test]
fn takes_any_axes() {
    let kinds = [ReductionKind::Sum, ReductionKind::Mean, ReductionKind::Dot];
    rows_meet_bits::<f32>("CPU", &Context::cpu(), &kinds);
    rows_meet_bits::<f16>("CPU", &Context::cpu(), &kinds);
    rows_meet_bits::<bf16>("CPU", &Context::cpu(), &kinds);
}
