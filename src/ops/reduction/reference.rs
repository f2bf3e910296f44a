//! The oracle: every reduction by double-double arithmetic, so that sums of f32, f16 and bf16 are exact to about 2^-100 of
//! the sum of magnitudes, and rounded once.

use super::layout::Layout;
use super::options::{ReductionKind, ReductionOptions};
use crate::accuracy::U;
use crate::element::Element;
use crate::error::Result;

/// An unevaluated sum of two f64.
#[derive(Clone, Copy, Debug, Default)]
struct Double {
    high: f64,
    low: f64,
}

impl Double {
    fn new(value: f64) -> Double {
        Double { high: value, low: 0.0 }
    }

    /// Knuth's TwoSum, the errors added up.
    fn add(self, other: Double) -> Double {
        let s = self.high + other.high;
        if !s.is_finite() {
            return Double::new(s);
        }
        let b = s - self.high;
        let e = (self.high - (s - b)) + (other.high - b) + (self.low + other.low);
        let high = s + e;
        Double {
            high,
            low: e - (high - s),
        }
    }

    fn times(self, other: Double) -> Double {
        let p = self.high * other.high;
        if !p.is_finite() {
            return Double::new(p);
        }
        let e = self.high.mul_add(other.high, -p) + (self.high * other.low + self.low * other.high);
        Double::new(p).add(Double::new(e))
    }

    fn over(self, divisor: f64) -> Double {
        let q = self.high / divisor;
        if !q.is_finite() {
            return Double::new(q);
        }
        let rest = self.add(Double::new(q).times(Double::new(-divisor)));
        Double::new(q).add(Double::new(rest.high / divisor))
    }

    fn value(self) -> f64 {
        self.high + self.low
    }
}

/// What a row comes to, and what the error of a result is measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row {
    /// The result, in f64; the index for argmin and argmax.
    pub value: f64,
    /// Sum of the magnitudes of all terms (elements, products or squares).
    pub magnitude: f64,
    /// Sum of the terms.
    pub sum: f64,
    /// Mean of the elements.
    pub mean: f64,
    /// Elements of the row.
    pub count: usize,
}

/// One row: the elements, and those of the second tensor for dot products.
///
/// ```
/// use macheps::ops::reduction::{ReductionKind, reference};
/// assert_eq!(reference::row(ReductionKind::Variance, &[1.0, 2.0, 3.0], &[], 1.0).value, 1.0);
/// ```
pub fn row(kind: ReductionKind, x: &[f64], second: &[f64], correction: f64) -> Row {
    let n = x.len() as f64;
    let term = |i: usize| match kind {
        ReductionKind::NormL1 => x[i].abs(),
        ReductionKind::NormL2 | ReductionKind::SumSquare => x[i] * x[i],
        ReductionKind::Dot => x[i] * second[i],
        _ => x[i],
    };
    // Products of two f32 are exact in f64.
    let sum = (0..x.len()).fold(Double::default(), |s, i| s.add(Double::new(term(i))));
    let magnitude = (0..x.len()).map(|i| term(i).abs()).sum();
    let mean = sum.over(n);
    let squares = || {
        x.iter().fold(Double::default(), |s, &v| {
            let d = Double::new(v).add(Double {
                high: -mean.high,
                low: -mean.low,
            });
            s.add(d.times(d))
        })
    };
    let variance = || {
        if n > correction {
            squares().over(n - correction).value().max(0.0)
        } else {
            f64::NAN
        }
    };
    let value = match kind {
        ReductionKind::Sum | ReductionKind::NormL1 | ReductionKind::Dot | ReductionKind::SumSquare => sum.value(),
        ReductionKind::Mean => mean.value(),
        ReductionKind::NormL2 => sum.value().sqrt(),
        ReductionKind::LogSum => sum.value().ln(),
        // `max` would make 0 of NaN.
        ReductionKind::Variance | ReductionKind::Std if !sum.value().is_finite() => f64::NAN,
        ReductionKind::Variance => variance(),
        ReductionKind::Std => variance().sqrt(),
        ReductionKind::NormMax => x
            .iter()
            .fold(0.0, |m: f64, v| if beats(v.abs(), m) { v.abs() } else { m }),
        ReductionKind::Min => -extreme(x, -1.0).0,
        ReductionKind::Max => extreme(x, 1.0).0,
        ReductionKind::ArgMin => extreme(x, -1.0).1 as f64,
        ReductionKind::ArgMax => extreme(x, 1.0).1 as f64,
    };
    Row {
        value,
        magnitude,
        sum: sum.value(),
        mean: mean.value(),
        count: x.len(),
    }
}

/// Whether `a` is above `b`, where NaN is above all numbers.
fn beats(a: f64, b: f64) -> bool {
    a > b || (a.is_nan() && !b.is_nan())
}

/// The largest of `sign * x` and the first index that has it.
fn extreme(x: &[f64], sign: f64) -> (f64, usize) {
    let mut best = (f64::NAN, 0);
    for (i, v) in x.iter().map(|v| v * sign).enumerate() {
        if i == 0 || beats(v, best.0) {
            best = (v, i);
        }
    }
    best
}

/// Gradient of a row's result times `upstream` with respect to the elements.
///
/// Where the result has no derivative the usual choices hold: 0 for a norm or a standard deviation at 0, and the first of several
/// extremal elements takes all. Beside each gradient stands the magnitude that its error is measured against: its own, what
/// errors of the mean come to, and for log_sum what cancels in the sum.
pub fn backward_row(kind: ReductionKind, x: &[f64], second: &[f64], correction: f64, upstream: f64) -> Vec<(f64, f64)> {
    let n = x.len() as f64;
    let stats = row(kind, x, second, correction);
    let deviation = |v: f64| Double::new(v).add(Double::new(-stats.mean)).value();
    let largest = x.iter().map(|&v| deviation(v).abs()).fold(0.0, f64::max);
    let of_mean = (largest + U * stats.mean.abs()) / 2.0;
    let scaled = |scale: f64, v: f64| (scale * deviation(v), scale.abs() * (deviation(v).abs() + of_mean));
    let first_of = |best: f64| x.iter().position(|&v| v.abs() == best || (v.is_nan() && best.is_nan()));
    let chosen = match kind {
        ReductionKind::Min => Some(extreme(x, -1.0).1),
        ReductionKind::Max => Some(extreme(x, 1.0).1),
        ReductionKind::NormMax => first_of(stats.value),
        _ => None,
    };
    x.iter()
        .enumerate()
        .map(|(i, &v)| {
            let g = match kind {
                ReductionKind::Sum => upstream,
                ReductionKind::Mean => upstream / n,
                ReductionKind::Variance if n > correction => return scaled(2.0 * upstream / (n - correction), v),
                ReductionKind::Std if n > correction && stats.value == 0.0 => 0.0,
                ReductionKind::Std if n > correction => {
                    return scaled(upstream / ((n - correction) * stats.value), v);
                }
                ReductionKind::Variance | ReductionKind::Std => f64::NAN,
                ReductionKind::NormL1 if v == 0.0 => 0.0,
                ReductionKind::NormL1 => upstream * v.signum(),
                ReductionKind::NormL2 if stats.value == 0.0 => 0.0,
                ReductionKind::NormL2 => upstream * (v / stats.value),
                ReductionKind::NormMax if chosen == Some(i) && v != 0.0 => upstream * v.signum(),
                ReductionKind::Min | ReductionKind::Max if chosen == Some(i) => upstream,
                ReductionKind::NormMax | ReductionKind::Min | ReductionKind::Max => 0.0,
                ReductionKind::Dot => upstream * second[i],
                ReductionKind::SumSquare => 2.0 * upstream * v,
                ReductionKind::LogSum => {
                    let g = upstream / stats.sum;
                    return (g, g.abs() * (1.0 + n * U * stats.magnitude / (16.0 * stats.sum.abs())));
                }
                ReductionKind::ArgMin | ReductionKind::ArgMax => 0.0,
            };
            (g, g.abs())
        })
        .collect()
}

/// The elements of row `row` of C-ordered tensors, widened.
pub(crate) fn gather<T: Element>(layout: &Layout, x: &[T], second: Option<&[T]>, row: usize) -> (Vec<f64>, Vec<f64>) {
    let start = layout.start(row);
    let at = |values: &[T], t: usize| -> Vec<f64> {
        (0..layout.len())
            .map(|i| f64::from(values[start[t] + layout.element(i)[t]].to_f32()))
            .collect()
    };
    (at(x, 0), second.map_or(Vec::new(), |s| at(s, 1)))
}

/// All rows of a C-ordered tensor, in the order of the result's elements.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) for axes that do not fit.
pub fn forward<T: Element>(
    kind: ReductionKind,
    x: &[T],
    second: Option<&[T]>,
    shape: &[usize],
    options: &ReductionOptions,
) -> Result<Vec<Row>> {
    let layout = Layout::contiguous(shape, options)?;
    Ok((0..layout.rows())
        .map(|r| {
            let (x, second) = gather(&layout, x, second, r);
            row(kind, &x, &second, options.correction)
        })
        .collect())
}
