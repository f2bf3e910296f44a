//! The numerics probe: what a device's arithmetic is really like, by measurement.
//!
//! Drivers differ in how far their `exp` is off, in whether they cancel an error term, in what they take NaN for. The
//! probe asks a device some fifty questions, compares the answers with f64 on the host, and gives a [`ProbeReport`]:
//! a table for people ([`Display`](std::fmt::Display)) and for machines ([`serde::Serialize`]).
//! The kernels of this crate are written so that none of the answers matters to them.

use super::Gpu;
use super::source::lib;
use crate::element::DType;
use crate::error::Result;
use crate::random::Random;
use serde::{Serialize, Serializer};
use std::fmt;
use std::hint::black_box;

/// What a fact means for somebody who writes kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As IEEE 754 or the bound has it.
    Ok,
    /// Plain code that relies on it goes wrong here.
    Beware,
    /// Neither good nor bad.
    Info,
}

/// A floating-point number that survives JSON: NaN and infinities are written as text.
fn number<S: Serializer>(x: &f64, s: S) -> std::result::Result<S::Ok, S::Error> {
    if x.is_finite() {
        s.serialize_f64(*x)
    } else {
        s.collect_str(x)
    }
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A number; infinities and NaN are text in JSON.
    Number(#[serde(serialize_with = "number")] f64),
    /// Largest error of a function over its samples.
    Accuracy {
        /// In units in the last place of the exact value's binade.
        #[serde(serialize_with = "number")]
        max_ulp: f64,
        /// The argument where it was found (the dividend for a division).
        #[serde(serialize_with = "number")]
        at: f64,
        /// The device's value there.
        #[serde(serialize_with = "number")]
        got: f64,
    },
    /// In words.
    Text(String),
    /// The device lacks the feature; says which.
    NotAvailable {
        /// The feature.
        not_available: String,
    },
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(true) => f.write_str("yes"),
            Value::Bool(false) => f.write_str("no"),
            Value::Number(x) => write_number(f, *x),
            Value::Accuracy { max_ulp, at, .. } => {
                if *max_ulp < 1e5 {
                    write!(f, "{max_ulp:.2} ulp at {at:.9e}")
                } else {
                    write!(f, "{max_ulp:.1e} ulp at {at:.9e}")
                }
            }
            Value::Text(text) => f.write_str(text),
            Value::NotAvailable { not_available } => write!(f, "not available ({not_available})"),
        }
    }
}

fn write_number(f: &mut fmt::Formatter<'_>, x: f64) -> fmt::Result {
    let plain = x == 0.0 || !x.is_finite() || (1e-3..1e9).contains(&x.abs());
    // Most are f32 results: their shortest digits, not those of the widened number.
    let narrow = x as f32;
    match (plain, f64::from(narrow) == x) {
        (true, true) => write!(f, "{narrow}"),
        (true, false) => write!(f, "{x:.4}"),
        (false, true) => write!(f, "{narrow:e}"),
        (false, false) => write!(f, "{x:.1e}"),
    }
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// Stable key, for scripts and comparisons.
    pub id: &'static str,
    /// Heading it stands under.
    pub group: &'static str,
    /// The question.
    pub what: &'static str,
    /// The answer.
    pub value: Value,
    /// What it means.
    pub verdict: Verdict,
}

impl Fact {
    fn new(id: &'static str, group: &'static str, what: &'static str, value: Value, verdict: Verdict) -> Fact {
        Fact {
            id,
            group,
            what,
            value,
            verdict,
        }
    }
}

/// What a device's arithmetic is like; see [`Gpu::probe`] and [`cpu`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Name of the device.
    pub device: String,
    /// Its backend, `cpu` for the host.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// All facts, in the order of the table.
    pub facts: Vec<Fact>,
}

impl ProbeReport {
    /// The fact of this key.
    pub fn get(&self, id: &str) -> Option<&Fact> {
        self.facts.iter().find(|fact| fact.id == id)
    }

    /// Largest error in ulp of an accuracy fact.
    pub fn max_ulp(&self, id: &str) -> Option<f64> {
        match self.get(id)?.value {
            Value::Accuracy { max_ulp, .. } => Some(max_ulp),
            _ => None,
        }
    }

    /// Value of a numeric fact.
    pub fn number(&self, id: &str) -> Option<f64> {
        match self.get(id)?.value {
            Value::Number(x) => Some(x),
            _ => None,
        }
    }

    /// Value of a yes-or-no fact.
    pub fn flag(&self, id: &str) -> Option<bool> {
        match self.get(id)?.value {
            Value::Bool(x) => Some(x),
            _ => None,
        }
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}), {}", self.device, self.backend, self.driver)?;
        let width = self
            .facts
            .iter()
            .map(|fact| fact.what.chars().count())
            .max()
            .unwrap_or(0);
        let mut group = "";
        for fact in &self.facts {
            if fact.group != group {
                group = fact.group;
                writeln!(f, "\n{group}")?;
            }
            let mark = match fact.verdict {
                Verdict::Ok => "ok",
                Verdict::Beware => "beware",
                Verdict::Info => "-",
            };
            writeln!(f, "  {mark:<6}  {:<width$}  {}", fact.what, fact.value)?;
        }
        let count = |verdict| self.facts.iter().filter(|fact| fact.verdict == verdict).count();
        writeln!(
            f,
            "\n{} ok, {} beware, {} for information",
            count(Verdict::Ok),
            count(Verdict::Beware),
            count(Verdict::Info)
        )
    }
}

const BUILTINS: &str = "Builtin functions, largest error";
const OURS: &str = "This crate's functions, largest error";
const ARITHMETIC: &str = "Arithmetic";
const NON_FINITE: &str = "NaN and infinity";
const SUBNORMALS: &str = "Subnormals";
const HALVES: &str = "16-bit conversion";
const EXECUTION: &str = "Execution";

/// Samples of one function: enough to find the bad places, few enough for a software driver.
const SAMPLES: usize = 1 << 17;
/// Pairs for the error-free transforms.
const PAIRS: usize = 4096;
/// Terms of the serial sums, well below the number of iterations that some drivers stop at.
const TERMS: usize = 20_001;
/// Iterations of the long loop.
const ITERATIONS: u32 = 100_000;
/// Words behind the stray accesses, and the index they use.
const STRAY_WORDS: u32 = 64;
const STRAY_INDEX: u32 = 1000;

impl Random {
    fn uniform(&mut self, low: f32, high: f32) -> f32 {
        (f64::from(low) + self.unit() * (f64::from(high) - f64::from(low))) as f32
    }

    /// Positive, every binade from 2^low to 2^high as likely.
    fn binades(&mut self, low: i32, high: i32) -> f32 {
        let exponent = low + (self.bits() >> 33) as i32 % (high - low + 1);
        f32::from_bits((((exponent + 127) as u32) << 23) | (self.bits() >> 41) as u32)
    }

    /// The same with either sign.
    fn signed_binades(&mut self, low: i32, high: i32) -> f32 {
        let x = self.binades(low, high);
        if self.bits() & 1 == 0 { x } else { -x }
    }
}

type Sampler = fn(&mut Random) -> (f32, f32);

/// One function over one range.
struct Sweep {
    id: &'static str,
    group: &'static str,
    what: &'static str,
    /// Its number in the shader.
    op: u32,
    samples: Sampler,
    exact: fn(f64, f64) -> f64,
    /// The host's own, if there is one.
    host: Option<fn(f32, f32) -> f32>,
    /// Error in ulp up to which it is good.
    good: f64,
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 {
        x.exp() / (1.0 + x.exp())
    } else {
        1.0 / (1.0 + (-x).exp())
    }
}

const LOW_EXP: Sampler = |r| (r.uniform(-87.0, 0.0), 1.0);
const ALL_EXP: Sampler = |r| (r.uniform(-87.0, 88.0), 1.0);
const NEAR_ONE: Sampler = |r| (1.0 + r.signed_binades(-23, -2), 1.0);
const POSITIVE: Sampler = |r| (r.binades(-126, 127), 1.0);
const NEAR_ZERO: Sampler = |r| (r.signed_binades(-40, -2), 1.0);
const TANH_ALL: Sampler = |r| (r.uniform(-10.0, 10.0), 1.0);
const QUOTIENTS: Sampler = |r| (r.signed_binades(-60, 60), r.signed_binades(-60, 60));
const ANY_QUOTIENTS: Sampler = |r| (r.signed_binades(-126, 127), r.signed_binades(-126, 127));

// A table: one row a line.
#[rustfmt::skip]
const SWEEPS: [Sweep; 19] = [
    builtin("exp_low", "exp(x) on [-87, 0]", 0, LOW_EXP, |x, _| x.exp(), |x, _| x.exp(), 2.0),
    builtin("exp_all", "exp(x) on [-87, 88]", 0, ALL_EXP, |x, _| x.exp(), |x, _| x.exp(), 2.0),
    builtin("log_near_1", "log(x) on [0.5, 1.5]", 1, NEAR_ONE, |x, _| x.ln(), |x, _| x.ln(), 2.0),
    builtin("log_all", "log(x) over all positive numbers", 1, POSITIVE, |x, _| x.ln(), |x, _| x.ln(), 2.0),
    builtin("tanh_near_0", "tanh(x) on [-0.5, 0.5]", 2, NEAR_ZERO, |x, _| x.tanh(), |x, _| x.tanh(), 2.0),
    builtin("tanh_all", "tanh(x) on [-10, 10]", 2, TANH_ALL, |x, _| x.tanh(), |x, _| x.tanh(), 2.0),
    builtin("sqrt", "sqrt(x) over all positive numbers", 3, POSITIVE, |x, _| x.sqrt(), |x, _| x.sqrt(), 0.501),
    builtin("div", "x / y, both of 2^-60 to 2^60", 4, QUOTIENTS, |x, y| x / y, |x, y| x / y, 0.501),
    builtin("div_all", "x / y over all normal numbers", 4, ANY_QUOTIENTS, |x, y| x / y, |x, y| x / y, 0.501),
    builtin("div_constant", "x / 3.0, more than half an ulp if a reciprocal", 5, QUOTIENTS, |x, _| x / 3.0, |x, _| x / 3.0, 0.501),
    ours("m_exp", "m_exp on [-87, 88]", 6, ALL_EXP, |x, _| x.exp(), 2.0),
    ours("m_expm1", "m_expm1 on [-0.5, 0.5]", 11, NEAR_ZERO, |x, _| x.exp_m1(), 2.0),
    ours("m_log_near_1", "m_log on [0.5, 1.5]", 7, NEAR_ONE, |x, _| x.ln(), 1.0),
    ours("m_log_all", "m_log over all positive numbers", 7, POSITIVE, |x, _| x.ln(), 1.0),
    ours("m_log1p", "m_log1p on [-0.5, 0.5]", 12, NEAR_ZERO, |x, _| x.ln_1p(), 2.0),
    ours("m_tanh_near_0", "m_tanh on [-0.5, 0.5]", 8, NEAR_ZERO, |x, _| x.tanh(), 2.0),
    ours("m_tanh_all", "m_tanh on [-10, 10]", 8, TANH_ALL, |x, _| x.tanh(), 2.0),
    ours("m_sigmoid", "m_sigmoid on [-87, 88]", 9, ALL_EXP, |x, _| sigmoid(x), 2.0),
    ours("m_div", "m_div over all normal numbers", 10, ANY_QUOTIENTS, |x, y| x / y, 1.0),
];

const fn builtin(
    id: &'static str,
    what: &'static str,
    op: u32,
    samples: Sampler,
    exact: fn(f64, f64) -> f64,
    host: fn(f32, f32) -> f32,
    good: f64,
) -> Sweep {
    Sweep {
        id,
        group: BUILTINS,
        what,
        op,
        samples,
        exact,
        host: Some(host),
        good,
    }
}

const fn ours(
    id: &'static str,
    what: &'static str,
    op: u32,
    samples: Sampler,
    exact: fn(f64, f64) -> f64,
    good: f64,
) -> Sweep {
    Sweep {
        id,
        group: OURS,
        what,
        op,
        samples,
        exact,
        host: None,
        good,
    }
}

impl Sweep {
    fn operands(&self) -> (Vec<f32>, Vec<f32>) {
        let mut random = Random::new(u64::from(self.op) + 1);
        (0..SAMPLES).map(|_| (self.samples)(&mut random)).unzip()
    }

    fn fact(&self, results: Option<&[f32]>) -> Fact {
        let Some(results) = results else {
            return self.with(not_available("shaders only"), Verdict::Info);
        };
        let (xs, ys) = self.operands();
        let (mut max_ulp, mut at, mut got) = (0.0, 0.0, 0.0);
        for ((&x, &y), &result) in xs.iter().zip(&ys).zip(results) {
            let exact = (self.exact)(f64::from(x), f64::from(y));
            // Results outside the normal range are a matter of flushing and of overflow, not of accuracy.
            if exact.abs() < f64::from(f32::MIN_POSITIVE) || exact.abs() > f64::from(f32::MAX) {
                continue;
            }
            let error = (f64::from(result) - exact).abs() / DType::F32.ulp(exact);
            let error = if error.is_nan() { f64::INFINITY } else { error };
            if error > max_ulp {
                (max_ulp, at, got) = (error, f64::from(x), f64::from(result));
            }
        }
        let verdict = if max_ulp <= self.good {
            Verdict::Ok
        } else {
            Verdict::Beware
        };
        self.with(Value::Accuracy { max_ulp, at, got }, verdict)
    }

    fn with(&self, value: Value, verdict: Verdict) -> Fact {
        Fact {
            id: self.id,
            group: self.group,
            what: self.what,
            value,
            verdict,
        }
    }
}

fn not_available(what: &str) -> Value {
    Value::NotAvailable {
        not_available: what.into(),
    }
}

/// Operands of the entry point `facts`, in the shader's order.
fn fact_operands() -> [f32; 12] {
    let step = 2f32.powi(-12);
    let c = -(1.0 + 2.0 * step);
    [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1.0,
        0.0,
        1e-40,
        f32::MIN_POSITIVE,
        0.5,
        1.0 + step,
        c,
        2.0,
        -1.0,
    ]
}

/// What is expected of one slot of `facts`.
enum Expected {
    /// 1 or 0.
    Flag(bool),
    /// This number, or any NaN for NaN.
    Value(f32),
    /// Only told.
    Told,
}

/// Key, heading, question and expected answer of each slot of `facts`.
#[rustfmt::skip]
const FACTS: [(&str, &str, &str, Expected); 29] = {
    use Expected::{Flag, Told, Value};
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    [
        ("nan_ne_itself", NON_FINITE, "NaN != NaN is true", Flag(true)),
        ("nan_eq_itself", NON_FINITE, "NaN == NaN is true", Flag(false)),
        ("max_nan_1", NON_FINITE, "max(NaN, 1)", Told),
        ("max_1_nan", NON_FINITE, "max(1, NaN)", Told),
        ("min_nan_1", NON_FINITE, "min(NaN, 1)", Told),
        ("min_1_nan", NON_FINITE, "min(1, NaN)", Told),
        ("nan_times_0", NON_FINITE, "NaN * 0.0", Value(NAN)),
        ("inf_times_0", NON_FINITE, "inf * 0.0", Value(NAN)),
        ("inf_minus_itself", NON_FINITE, "inf - inf, of one variable", Value(NAN)),
        ("nan_minus_itself", NON_FINITE, "NaN - NaN, of one variable", Value(NAN)),
        ("exp_nan", NON_FINITE, "exp(NaN)", Value(NAN)),
        ("exp_neg_inf", NON_FINITE, "exp(-inf)", Value(0.0)),
        ("exp_inf", NON_FINITE, "exp(inf)", Value(INF)),
        ("log_0", NON_FINITE, "log(0)", Value(-INF)),
        ("log_negative", NON_FINITE, "log(-1)", Value(NAN)),
        ("log_inf", NON_FINITE, "log(inf)", Value(INF)),
        ("tanh_inf", NON_FINITE, "tanh(inf)", Value(1.0)),
        ("tanh_neg_inf", NON_FINITE, "tanh(-inf)", Value(-1.0)),
        ("sqrt_negative", NON_FINITE, "sqrt(-1)", Value(NAN)),
        ("one_over_0", NON_FINITE, "1 / 0", Value(INF)),
        ("fma_fused", ARITHMETIC, "fma() rounds once", Told),
        ("contraction", ARITHMETIC, "a * b + c is contracted", Told),
        ("subnormal_sum", SUBNORMALS, "1e-40 + 1e-40", Value(1e-40 + 1e-40)),
        ("subnormal_product", SUBNORMALS, "1e-40 * 2", Value(1e-40 * 2.0)),
        ("subnormal_result", SUBNORMALS, "2^-126 * 0.5", Value(f32::MIN_POSITIVE / 2.0)),
        ("subnormal_compare", SUBNORMALS, "1e-40 > 0 is true", Flag(true)),
        ("bit_tests", NON_FINITE, "this crate's bit tests tell the classes", Flag(true)),
        ("tanh_nan", NON_FINITE, "tanh(NaN)", Value(NAN)),
        ("log_nan", NON_FINITE, "log(NaN)", Value(NAN)),
    ]
};

/// Answers to `facts` by the host.
fn host_facts() -> Vec<u32> {
    let [
        nan,
        inf,
        neg_inf,
        one,
        nought,
        tiny,
        smallest,
        half,
        a,
        c,
        two,
        minus_one,
    ] = fact_operands().map(black_box);
    let flag = |b: bool| f32::from_bits(u32::from(b));
    #[allow(clippy::eq_op)]
    let (differs, equals, inf_difference, nan_difference) = (nan != nan, nan == nan, inf - inf, nan - nan);
    [
        flag(differs),
        flag(equals),
        nan.max(one),
        one.max(nan),
        nan.min(one),
        one.min(nan),
        nan * 0.0,
        inf * 0.0,
        inf_difference,
        nan_difference,
        nan.exp(),
        neg_inf.exp(),
        inf.exp(),
        nought.ln(),
        minus_one.ln(),
        inf.ln(),
        inf.tanh(),
        neg_inf.tanh(),
        minus_one.sqrt(),
        one / nought,
        a.mul_add(a, c),
        a * a + c,
        tiny + tiny,
        tiny * two,
        smallest * half,
        flag(tiny > 0.0),
        flag(nan.is_nan() && inf.is_infinite() && neg_inf.is_infinite() && tiny.is_finite() && !nan.is_finite()),
        nan.tanh(),
        nan.ln(),
    ]
    .map(f32::to_bits)
    .to_vec()
}

fn special_fact(slot: usize, bits: u32) -> Fact {
    let (id, group, what, ref expected) = FACTS[slot];
    let x = f32::from_bits(bits);
    let (value, verdict) = match *expected {
        Expected::Flag(expected) => (Value::Bool(bits == 1), judged((bits == 1) == expected)),
        Expected::Value(expected) => {
            let same = if expected.is_nan() {
                x.is_nan()
            } else {
                bits == expected.to_bits()
            };
            (Value::Number(f64::from(x)), judged(same))
        }
        // Fused arithmetic leaves 2^-24 of (1 + 2^-12)^2 - (1 + 2^-11), separate rounding leaves 0.
        Expected::Told if group == ARITHMETIC => {
            let fused = x != 0.0;
            let verdict = if id == "fma_fused" {
                judged(fused)
            } else {
                Verdict::Info
            };
            (Value::Bool(fused), verdict)
        }
        Expected::Told => (Value::Number(f64::from(x)), Verdict::Info),
    };
    Fact {
        id,
        group,
        what,
        value,
        verdict,
    }
}

/// Operands of the transforms: exponents close enough that f64 holds sums and products exactly.
fn pairs() -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(77);
    (0..PAIRS)
        .map(|_| (random.signed_binades(-12, 12), random.signed_binades(-12, 12)))
        .unzip()
}

/// A large number and many ones, too small to move it one by one.
fn terms() -> Vec<f32> {
    let mut terms = vec![1.0; TERMS];
    terms[0] = 2.5e7;
    terms
}

fn two_sum_error(a: f32, b: f32) -> f32 {
    let s = black_box(a + b);
    let bv = black_box(s - a);
    let av = black_box(s - bv);
    black_box(a - av) + black_box(b - bv)
}

/// A kind of input of the narrowing conversions, with key and question for the packing builtin and for native stores.
struct Narrowing {
    packed: (&'static str, &'static str),
    native: (&'static str, &'static str),
    inputs: Vec<f32>,
}

fn narrowing() -> [Narrowing; 5] {
    let ulp = 2f32.powi(-10);
    let unit = 2f32.powi(-24);
    [
        Narrowing {
            packed: ("pack_ties", "pack2x16float: ties round to even"),
            native: ("native_ties", "native store: ties round to even"),
            inputs: (0..64).map(|i| 1.0 + (i as f32 + 0.5) * ulp).collect(),
        },
        Narrowing {
            packed: ("pack_nearest", "pack2x16float: others round to nearest"),
            native: ("native_nearest", "native store: others round to nearest"),
            inputs: (0..1024).map(|i| 0.37 + i as f32 * 0.611_73).collect(),
        },
        Narrowing {
            packed: ("pack_overflow", "pack2x16float: overflow becomes infinity"),
            native: ("native_overflow", "native store: overflow becomes infinity"),
            inputs: vec![65504.0, 65519.0, 65520.0, 65536.0, 1e9, f32::MAX, -65520.0, -1e9],
        },
        Narrowing {
            packed: ("pack_subnormals", "pack2x16float: subnormal results are kept"),
            native: ("native_subnormals", "native store: subnormal results are kept"),
            inputs: (0..64)
                .map(|i| (i as f32 * 16.5 + 0.75) * unit)
                .chain([0.5 * unit, 0.51 * unit, 1.5 * unit, -unit])
                .collect(),
        },
        Narrowing {
            packed: ("pack_non_finite", "pack2x16float: NaN and infinities are kept"),
            native: ("native_non_finite", "native store: NaN and infinities are kept"),
            inputs: vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0],
        },
    ]
}

/// All narrowing inputs in a row, padded to whole words.
fn narrowing_inputs() -> Vec<f32> {
    let mut all: Vec<f32> = narrowing().into_iter().flat_map(|kind| kind.inputs).collect();
    all.resize(all.len().next_multiple_of(2), 0.0);
    all
}

/// Facts about narrowing from f16 results for [`narrowing_inputs`].
fn narrowing_facts(native: bool, results: Option<&[u16]>, facts: &mut Vec<Fact>) {
    let mut next = 0;
    for kind in narrowing() {
        let (id, what) = if native { kind.native } else { kind.packed };
        let xs = &kind.inputs;
        let (value, verdict) = match results {
            None => (not_available("no native f16"), Verdict::Info),
            Some(results) => {
                let wrong = xs.iter().zip(&results[next..]).find(|&(&x, &bits)| {
                    let right = half::f16::from_f32(x);
                    if x.is_nan() {
                        !half::f16::from_bits(bits).is_nan()
                    } else {
                        bits != right.to_bits()
                    }
                });
                match wrong {
                    None => (Value::Bool(true), Verdict::Ok),
                    Some((x, &bits)) => (
                        Value::Text(format!("no: {x:e} becomes {:e}", half::f16::from_bits(bits).to_f32())),
                        Verdict::Beware,
                    ),
                }
            }
        };
        facts.push(Fact {
            id,
            group: HALVES,
            what,
            value,
            verdict,
        });
        next += xs.len();
    }
}

/// Widening of all 65,536 f16: how many come out wrong (NaN of any payload counts as NaN).
fn widening_fact(id: &'static str, what: &'static str, results: Option<&[f32]>) -> Fact {
    let (value, verdict) = match results {
        None => (not_available("no native f16"), Verdict::Info),
        Some(results) => {
            let wrong = results
                .iter()
                .enumerate()
                .filter(|&(bits, &got)| {
                    let want = half::f16::from_bits(bits as u16).to_f32();
                    !(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()))
                })
                .count();
            (
                Value::Number(wrong as f64),
                if wrong == 0 { Verdict::Ok } else { Verdict::Beware },
            )
        }
    };
    Fact {
        id,
        group: HALVES,
        what,
        value,
        verdict,
    }
}

/// Everything a device answered, before it is judged.
struct Answers {
    /// Results of each of [`SWEEPS`].
    sweeps: Vec<Option<Vec<f32>>>,
    facts: Vec<u32>,
    /// A subnormal after load and store.
    stored: f32,
    /// Error terms of (plain TwoSum, TwoSum, TwoProduct); the last two in shaders only.
    transforms: Vec<[f32; 3]>,
    has_barrier: bool,
    /// Naive, plain Kahan, Kahan behind the barrier.
    sums: [Option<f32>; 3],
    /// Of one loop, of nested ones, of consecutive ones.
    iterations: [u32; 3],
    packed: Vec<u16>,
    unpacked: Vec<f32>,
    native_narrow: Option<Vec<u16>>,
    native_wide: Option<Vec<f32>>,
    /// Width, lane and first member for 64 invocations.
    lanes: Option<Vec<[u32; 3]>>,
    /// What a read past the end gave, and the words of the results after a write past the end.
    stray: Option<(u32, Vec<u32>)>,
}

fn judged(good: bool) -> Verdict {
    if good { Verdict::Ok } else { Verdict::Beware }
}

impl Answers {
    fn report(&self, device: String, backend: String, driver: String) -> ProbeReport {
        let mut facts: Vec<Fact> = SWEEPS
            .iter()
            .zip(&self.sweeps)
            .map(|(s, r)| s.fact(r.as_deref()))
            .collect();
        facts.extend(self.special(ARITHMETIC));
        facts.extend(self.compensation());
        facts.extend(self.special(NON_FINITE));
        facts.extend(self.special(SUBNORMALS));
        let kept = self.stored.to_bits() == 1e-40f32.to_bits();
        let what = "load and store of 1e-40 keep its bits";
        facts.push(Fact::new(
            "subnormal_copy",
            SUBNORMALS,
            what,
            Value::Bool(kept),
            judged(kept),
        ));
        narrowing_facts(false, Some(&self.packed), &mut facts);
        let what = "unpack2x16float: wrong of 65,536";
        facts.push(widening_fact("unpack_wrong", what, Some(&self.unpacked)));
        narrowing_facts(true, self.native_narrow.as_deref(), &mut facts);
        let what = "native load: wrong of 65,536";
        facts.push(widening_fact("native_load_wrong", what, self.native_wide.as_deref()));
        let loops = [
            ("loop_iterations", "iterations done of a loop of 100,000"),
            ("nested_iterations", "iterations done of 200 times 500 in nested loops"),
            ("consecutive_iterations", "iterations done of two loops of 50,000"),
        ];
        for ((id, what), done) in loops.into_iter().zip(self.iterations) {
            let value = Value::Number(f64::from(done));
            facts.push(Fact::new(id, EXECUTION, what, value, judged(done == ITERATIONS)));
        }
        facts.extend(self.subgroups());
        facts.extend(self.strays());
        ProbeReport {
            device,
            backend,
            driver,
            facts,
        }
    }

    /// The facts of one heading out of [`FACTS`].
    fn special(&self, group: &'static str) -> impl Iterator<Item = Fact> {
        let slots = self
            .facts
            .iter()
            .enumerate()
            .map(|(slot, &bits)| special_fact(slot, bits));
        slots.filter(move |fact| fact.group == group)
    }

    /// Whether error terms and compensated sums survive the compiler.
    fn compensation(&self) -> Vec<Fact> {
        type Exact = fn(f64, f64) -> f64;
        let (a, b) = pairs();
        // Of the pairs whose error term is not 0: a compiler that cancels it must not look right by chance.
        let share = |column: usize, exact: Exact| {
            let errors = a.iter().zip(&b).map(|(&a, &b)| {
                let value = exact(f64::from(a), f64::from(b));
                value - f64::from(value as f32)
            });
            let inexact = errors.zip(&self.transforms).filter(|&(error, _)| error != 0.0);
            let (mut right, mut all) = (0, 0);
            for (error, row) in inexact {
                all += 1;
                right += usize::from(f64::from(row[column]) == error);
            }
            right as f64 / f64::from(all)
        };
        let transforms: [(&str, &str, Exact); 3] = [
            (
                "two_sum_plain",
                "TwoSum written plainly: share of right error terms",
                |a, b| a + b,
            ),
            (
                "two_sum_barrier",
                "TwoSum behind the barrier: share of right error terms",
                |a, b| a + b,
            ),
            (
                "two_product_barrier",
                "TwoProduct behind the barrier: share of right error terms",
                |a, b| a * b,
            ),
        ];
        let mut facts = Vec::new();
        for (column, (id, what, exact)) in transforms.into_iter().enumerate() {
            let (value, verdict) = if column == 0 || self.has_barrier {
                let right = share(column, exact);
                (Value::Number(right), judged(right == 1.0))
            } else {
                (not_available("shaders only"), Verdict::Info)
            };
            facts.push(Fact::new(id, ARITHMETIC, what, value, verdict));
        }
        let exact = 2.5e7 + (TERMS - 1) as f64;
        let sums = [
            ("sum_naive", "naive sum of 25,000,000 and 20,000 ones, relative error"),
            ("kahan_plain", "the same by Kahan, written plainly"),
            ("kahan_barrier", "the same by Kahan, behind the barrier"),
        ];
        for ((id, what), sum) in sums.into_iter().zip(self.sums) {
            let (value, verdict) = match sum.map(|s| (f64::from(s) - exact).abs() / exact) {
                None => (not_available("shaders only"), Verdict::Info),
                // A naive sum is expected to be wrong.
                Some(error) if id == "sum_naive" => (Value::Number(error), Verdict::Info),
                Some(error) => (Value::Number(error), judged(error <= f64::from(f32::EPSILON))),
            };
            facts.push(Fact::new(id, ARITHMETIC, what, value, verdict));
        }
        facts
    }

    fn subgroups(&self) -> [Fact; 2] {
        let (size, order) = match &self.lanes {
            None => {
                let missing = || (not_available("no subgroups"), Verdict::Info);
                (missing(), missing())
            }
            Some(lanes) => {
                let width = lanes.first().map_or(0, |lane| lane[0]);
                let same = width > 0 && lanes.iter().all(|lane| lane[0] == width);
                let size = if same {
                    Value::Number(f64::from(width))
                } else {
                    Value::Text("not the same everywhere".into())
                };
                let mut lanes = lanes.iter().zip(0u32..);
                let ordered = same && lanes.all(|(lane, i)| lane[1] == i % width && lane[2] == i - i % width);
                ((size, Verdict::Info), (Value::Bool(ordered), judged(ordered)))
            }
        };
        [
            Fact::new("subgroup_size", EXECUTION, "subgroup size", size.0, size.1),
            Fact::new(
                "subgroup_order",
                EXECUTION,
                "lanes follow the local index",
                order.0,
                order.1,
            ),
        ]
    }

    /// Where reads and writes past the end of a buffer go.
    fn strays(&self) -> [Fact; 2] {
        let (read, write) = match &self.stray {
            None => {
                let checked = || (not_available("indices are checked"), Verdict::Ok);
                (checked(), checked())
            }
            Some((read, words)) => {
                let from = match read.checked_sub(STRAY_MARK) {
                    Some(i) if i < STRAY_WORDS => format!("element {i} of {STRAY_WORDS}"),
                    _ if *read == 0 => "zero".to_string(),
                    _ => format!("{read:#x}, which is not in the buffer"),
                };
                let write = match words.iter().rposition(|&word| word == STRAY_VALUE) {
                    Some(i) => (Value::Text(format!("element {i} of {}", words.len())), Verdict::Beware),
                    None => (Value::Text("nowhere in the buffer".into()), Verdict::Info),
                };
                ((Value::Text(from), Verdict::Info), write)
            }
        };
        [
            Fact::new("stray_read", EXECUTION, "read past the end gives", read.0, read.1),
            Fact::new("stray_write", EXECUTION, "write past the end goes to", write.0, write.1),
        ]
    }
}

/// Contents of the words around a stray read: this plus their index.
const STRAY_MARK: u32 = 0x1000;
/// What the stray write writes.
const STRAY_VALUE: u32 = 0xabcd;

/// The host's own numerics: Rust's f32 and standard library, in the form of the devices' reports.
///
/// Cost: a few tens of milliseconds on one thread.
///
/// ```
/// let report = macheps::probe::cpu();
/// assert_eq!(report.number("two_sum_plain"), Some(1.0));
/// assert_eq!(report.flag("nan_ne_itself"), Some(true));
/// ```
pub fn cpu() -> ProbeReport {
    let sweeps = SWEEPS
        .iter()
        .map(|sweep| {
            let host = sweep.host?;
            let (xs, ys) = sweep.operands();
            Some(
                xs.into_iter()
                    .zip(ys)
                    .map(|(x, y)| host(black_box(x), black_box(y)))
                    .collect(),
            )
        })
        .collect();
    let (a, b) = pairs();
    let terms = terms();
    let naive = terms.iter().fold(0f32, |s, &x| s + x);
    let (mut kahan, mut carry) = (0f32, 0f32);
    for &x in &terms {
        let y = x - carry;
        let t = kahan + y;
        carry = (t - kahan) - y;
        kahan = t;
    }
    let answers = Answers {
        sweeps,
        facts: host_facts(),
        stored: black_box(1e-40),
        transforms: a
            .iter()
            .zip(&b)
            .map(|(&a, &b)| [two_sum_error(a, b), 0.0, 0.0])
            .collect(),
        has_barrier: false,
        sums: [Some(naive), Some(kahan), None],
        iterations: [(0..ITERATIONS).map(black_box).count() as u32; 3],
        packed: narrowing_inputs()
            .iter()
            .map(|&x| half::f16::from_f32(x).to_bits())
            .collect(),
        unpacked: (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect(),
        native_narrow: None,
        native_wide: None,
        lanes: None,
        stray: None,
    };
    let info = super::DeviceInfo::cpu();
    answers.report(info.name, info.backend, info.driver)
}

/// The main shader of the probe.
fn source() -> String {
    [
        lib::BITS,
        lib::ERROR_FREE,
        lib::ELEMENTARY,
        include_str!("../../shaders/probe.wgsl"),
    ]
    .concat()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
}

fn halves(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(bytemuck::pod_read_unaligned).collect()
}

/// Operands and size of the output of one dispatch of the probe shader.
#[derive(Default)]
struct Ask<'a> {
    op: u32,
    count: usize,
    xs: &'a [u8],
    ys: &'a [u8],
    results: usize,
}

impl Gpu {
    /// Measures this device's arithmetic: accuracy of its builtin functions and of this crate's, contraction and
    /// reassociation, NaN, infinity and subnormals, 16-bit conversion, long loops, subgroups, stray indices.
    /// Nothing is assumed about the device; features that it lacks are reported as not available.
    ///
    /// Cost: about thirty dispatches with a wait each and a pipeline for each of a dozen entry points; some hundred
    /// milliseconds on a GPU, a second or two on a software driver.
    ///
    /// Errors: device lost, timeout, or a driver that refuses one of the shaders.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn probe(&self) -> Result<ProbeReport> {
        pollster::block_on(self.probe_async())
    }

    /// [`Gpu::probe`] for browsers and for callers that must not block.
    pub async fn probe_async(&self) -> Result<ProbeReport> {
        let mut sweeps = Vec::new();
        for sweep in &SWEEPS {
            let (xs, ys) = sweep.operands();
            let (xs, ys) = (bytemuck::cast_slice(&xs), bytemuck::cast_slice(&ys));
            let ask = Ask {
                op: sweep.op,
                count: SAMPLES,
                xs,
                ys,
                results: SAMPLES,
            };
            sweeps.push(Some(floats(&self.ask("sweep", ask).await?)));
        }

        let operands = fact_operands();
        let xs = bytemuck::cast_slice(&operands);
        let facts = words(
            &self
                .ask(
                    "facts",
                    Ask {
                        xs,
                        results: FACTS.len(),
                        ..Ask::default()
                    },
                )
                .await?,
        );
        let stored = self.copy_subnormal().await?;

        let (a, b) = pairs();
        let (a, b) = (bytemuck::cast_slice(&a), bytemuck::cast_slice(&b));
        let ask = Ask {
            count: PAIRS,
            xs: a,
            ys: b,
            results: 3 * PAIRS,
            op: 0,
        };
        let transforms = floats(&self.ask("transforms", ask).await?)
            .chunks_exact(3)
            .map(|c| [c[0], c[1], c[2]])
            .collect();

        let terms = terms();
        let mut sums = [None; 3];
        for (op, sum) in (0u32..).zip(&mut sums) {
            let ask = Ask {
                op,
                count: TERMS,
                xs: bytemuck::cast_slice(&terms),
                results: 1,
                ..Ask::default()
            };
            *sum = floats(&self.ask("sums", ask).await?).first().copied();
        }
        let seeds = [3u32, 5, 7, 11];
        let mut iterations = [0; 3];
        for (op, done) in (0u32..).zip(&mut iterations) {
            let ask = Ask {
                op,
                count: ITERATIONS as usize,
                xs: bytemuck::cast_slice(&seeds),
                results: 2,
                ..Ask::default()
            };
            *done = words(&self.ask("loops", ask).await?)[0];
        }

        let inputs = narrowing_inputs();
        let count = inputs.len() / 2;
        let ask = Ask {
            count,
            xs: bytemuck::cast_slice(&inputs),
            results: count,
            ..Ask::default()
        };
        let packed = halves(&self.ask("pack", ask).await?);
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let count = all.len() / 2;
        let ask = Ask {
            count,
            xs: bytemuck::cast_slice(&all),
            results: all.len(),
            ..Ask::default()
        };
        let unpacked = floats(&self.ask("unpack", ask).await?);

        let (mut native_narrow, mut native_wide) = (None, None);
        if self.capabilities().shader_f16 {
            let zeros = vec![0u8; inputs.len() * 2];
            let narrow = self
                .ask_f16("narrow", bytemuck::cast_slice(&inputs), &zeros, "halves")
                .await?;
            native_narrow = Some(halves(&narrow));
            let zeros = vec![0u8; all.len() * 4];
            native_wide = Some(floats(
                &self
                    .ask_f16("widen", &zeros, bytemuck::cast_slice(&all), "words")
                    .await?,
            ));
        }
        let lanes = self.lanes().await?;

        let xs: Vec<u32> = (STRAY_MARK..STRAY_MARK + STRAY_WORDS).collect();
        let ask = Ask {
            op: STRAY_INDEX,
            xs: bytemuck::cast_slice(&xs),
            results: 16,
            ..Ask::default()
        };
        let stray = words(&self.ask("stray", ask).await?);

        let answers = Answers {
            sweeps,
            facts,
            stored,
            transforms,
            has_barrier: true,
            sums,
            iterations,
            packed,
            unpacked,
            native_narrow,
            native_wide,
            lanes,
            stray: Some((stray[0], stray)),
        };
        let info = self.info();
        Ok(answers.report(info.name.clone(), info.backend.clone(), info.driver.clone()))
    }

    async fn ask(&self, entry: &str, ask: Ask<'_>) -> Result<Vec<u8>> {
        let params = [0, ask.op, ask.count as u32, 0];
        let results = vec![0u8; ask.results * 4];
        let workgroups = if matches!(entry, "sweep" | "transforms" | "pack" | "unpack") {
            ask.count.div_ceil(64)
        } else {
            1
        };
        let mut bindings: Vec<(&str, &[u8])> = vec![("params", bytemuck::cast_slice(&params)), ("results", &results)];
        bindings.extend(
            [("xs", ask.xs), ("ys", ask.ys)]
                .into_iter()
                .filter(|(_, bytes)| !bytes.is_empty()),
        );
        self.run_once_start(&source(), entry, &bindings, "results", workgroups as u32)?
            .ready()
            .await
    }

    /// 1e-40 after a load and a store as f32.
    async fn copy_subnormal(&self) -> Result<f32> {
        let loads = [1e-40f32; 4];
        let bindings: [(&str, &[u8]); 2] = [("loads", bytemuck::cast_slice(&loads)), ("stores", &[0; 16])];
        let bytes = self
            .run_once_start(&source(), "copy", &bindings, "stores", 1)?
            .ready()
            .await?;
        Ok(floats(&bytes)[0])
    }

    async fn ask_f16(&self, entry: &str, words: &[u8], halves: &[u8], output: &str) -> Result<Vec<u8>> {
        let bindings = [("words", words), ("halves", halves)];
        let workgroups = (halves.len() / 2).div_ceil(64) as u32;
        let source = include_str!("../../shaders/probe_f16.wgsl");
        self.run_once_start(source, entry, &bindings, output, workgroups)?
            .ready()
            .await
    }

    async fn lanes(&self) -> Result<Option<Vec<[u32; 3]>>> {
        // Browsers demand `enable subgroups;`, which naga, the reader of all shaders here, does not know.
        if cfg!(target_arch = "wasm32") || !self.device().features().contains(wgpu::Features::SUBGROUP) {
            return Ok(None);
        }
        let zeros = [0u8; 64 * 3 * 4];
        let source = include_str!("../../shaders/probe_subgroup.wgsl");
        let bytes = self
            .run_once_start(source, "subgroups", &[("lanes", &zeros)], "lanes", 1)?
            .ready()
            .await?;
        Ok(Some(
            words(&bytes).chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect(),
        ))
    }
}
