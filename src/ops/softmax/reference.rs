//! The oracle: softmax, log-softmax, log-sum-exp and their gradients as plain mathematics in f64.
//!
//! Nothing here is fast and nothing is rounded to a storage type; GPU kernels and [`super::cpu`] are judged by it
//! within the bounds of [`super::bounds`]. Results agree with 50-digit values to about 1e-14.
//!
//! A row goes through three functions: [`visible_row`] forms `z = fl(fl(x * scale) + mask)` of the entries that take part,
//! [`forward_row`] and [`backward_row`] give the answers for all entries. [`forward`] and [`backward`] run whole tensors.
//!
//! # Rows that are not ordinary
//!
//! | row | logsumexp | softmax | log_softmax | gradient |
//! |---|---|---|---|---|
//! | length 0 | -inf | nothing | nothing | nothing |
//! | all -inf or hidden | -inf | NaN; 0 with [`MaskedRows::Zero`] | NaN; -inf | NaN; 0 |
//! | a +inf, no NaN | +inf | NaN | NaN | NaN |
//! | a NaN | NaN | NaN | NaN | NaN |
//!
//! Entries hidden by the causal mask give softmax 0, log_softmax -inf and gradient 0 whatever the others are, except in a row
//! of the second kind without [`MaskedRows::Zero`], which is NaN throughout. What they hold is never read.

use super::bounds::Expected;
use super::options::{MaskedRows, SoftmaxKind, SoftmaxOptions};
use crate::element::Element;
use crate::float::Summation;
use crate::rows::RowMap;

/// `exp(z - max)` with the rounding error of the difference put back; 0 for z = -inf.
fn exp_below(z: f64, max: f64) -> f64 {
    let d = z - max;
    if d == f64::NEG_INFINITY {
        return 0.0;
    }
    let part = d - z;
    let error = (z - (d - part)) - (max + part);
    d.exp() * (1.0 + error)
}

/// What kind of row, which settles the answer where it is not `Ordinary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowClass {
    /// Has a finite maximum.
    Ordinary,
    /// No entry, or nothing but -inf.
    Masked,
    /// A +inf and no NaN.
    Infinite,
    /// A NaN.
    Nan,
}

/// What a row is reduced to: `sum exp(z - max) = ties + others`.
#[derive(Clone, Copy, Debug)]
pub struct RowStatistics {
    /// The kind of row; the other fields mean something only for [`RowClass::Ordinary`].
    pub class: RowClass,
    /// The maximum.
    pub max: f64,
    /// Number of entries equal to the maximum.
    pub ties: f64,
    /// Sum of `exp(z - max)` over the entries below the maximum. It is kept apart since in a dominated row it drowns in `ties`.
    pub others: f64,
}

impl RowStatistics {
    /// Reduces the visible entries of a row.
    pub fn new(z: &[f64]) -> RowStatistics {
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let class = if z.iter().any(|v| v.is_nan()) {
            RowClass::Nan
        } else if max == f64::INFINITY {
            RowClass::Infinite
        } else if max == f64::NEG_INFINITY {
            RowClass::Masked
        } else {
            RowClass::Ordinary
        };
        if class != RowClass::Ordinary {
            return RowStatistics {
                class,
                max,
                ties: 0.0,
                others: 0.0,
            };
        }
        let ties = z.iter().filter(|&&v| v == max).count() as f64;
        let others = z
            .iter()
            .filter(|&&v| v < max)
            .map(|&v| exp_below(v, max))
            .sum_neumaier();
        RowStatistics {
            class,
            max,
            ties,
            others,
        }
    }

    /// `log(sum exp(z - max))`, not negative, with all its digits also where it is tiny.
    pub fn log_sum(&self) -> f64 {
        self.ties.ln() + (self.others / self.ties).ln_1p()
    }

    /// `log(sum exp(z))`.
    pub fn logsumexp(&self) -> f64 {
        match self.class {
            RowClass::Ordinary => self.max + self.log_sum(),
            RowClass::Masked => f64::NEG_INFINITY,
            RowClass::Infinite => f64::INFINITY,
            RowClass::Nan => f64::NAN,
        }
    }

    /// Softmax of an entry `z` of an ordinary row.
    pub fn softmax(&self, z: f64) -> f64 {
        exp_below(z, self.max) / (self.ties + self.others)
    }

    /// Log-softmax of an entry `z` of an ordinary row. Both terms are at most 0: nothing cancels.
    pub fn log_softmax(&self, z: f64) -> f64 {
        (z - self.max) - self.log_sum()
    }
}

/// The answer for a row that is not ordinary, given what its hidden entries hold.
fn exceptional_row(class: RowClass, visible: usize, len: usize, masked: MaskedRows, hidden: f64) -> Expected {
    let values = match (class, masked) {
        (RowClass::Masked, MaskedRows::Zero) => vec![hidden; len],
        (RowClass::Masked, MaskedRows::Nan) => vec![f64::NAN; len],
        _ => (0..len).map(|j| if j < visible { f64::NAN } else { hidden }).collect(),
    };
    Expected {
        magnitudes: vec![0.0; values.len()],
        values,
    }
}

/// One row forward. `z` are its visible entries, which lead the `len` entries of the row; logsumexp gives one value.
pub fn forward_row(kind: SoftmaxKind, z: &[f64], len: usize, masked: MaskedRows) -> Expected {
    let row = RowStatistics::new(z);
    let hidden = if kind == SoftmaxKind::LogSoftmax {
        f64::NEG_INFINITY
    } else {
        0.0
    };
    if kind == SoftmaxKind::LogSumExp {
        return Expected {
            values: vec![row.logsumexp()],
            magnitudes: vec![row.max.abs().max(row.log_sum())],
        };
    }
    if row.class != RowClass::Ordinary {
        return exceptional_row(row.class, z.len(), len, masked, hidden);
    }
    let mut values: Vec<f64> = match kind {
        SoftmaxKind::LogSoftmax => z.iter().map(|&z| row.log_softmax(z)).collect(),
        _ => z.iter().map(|&z| row.softmax(z)).collect(),
    };
    values.resize(len, hidden);
    Expected {
        magnitudes: values.iter().map(|v| v.abs()).collect(),
        values,
    }
}

/// A term or result below the smallest normal f32 may be flushed, before the factor `scale` is applied or after. Added to
/// the magnitude of a gradient, `2^-105` is worth `2^-126` in the bound `8u * magnitude`.
const FLUSHED: f64 = 1.0 / (1u128 << 105) as f64;

/// One row backward: gradient of `sum_j g_j * y_j` with respect to x, where y is the row forward and `dz/dx = scale`.
/// `g` holds the `len` upstream values of the row, one for logsumexp.
pub fn backward_row(kind: SoftmaxKind, z: &[f64], g: &[f64], len: usize, scale: f64, masked: MaskedRows) -> Expected {
    let row = RowStatistics::new(z);
    if row.class != RowClass::Ordinary {
        return exceptional_row(row.class, z.len(), len, masked, 0.0);
    }
    let p: Vec<f64> = z.iter().map(|&z| row.softmax(z)).collect();
    let (mut values, mut magnitudes): (Vec<f64>, Vec<f64>) = match kind {
        SoftmaxKind::Softmax => {
            let mean: f64 = p.iter().zip(g).map(|(p, g)| p * g).sum_neumaier();
            let mean_magnitude: f64 = p.iter().zip(g).map(|(p, g)| (p + FLUSHED) * g.abs()).sum();
            p.iter()
                .zip(g)
                .map(|(p, g)| (scale * p * (g - mean), scale.abs() * p * (g.abs() + mean_magnitude)))
                .unzip()
        }
        SoftmaxKind::LogSoftmax => {
            let total: f64 = g[..z.len()].iter().sum_neumaier();
            let total_magnitude: f64 = g[..z.len()].iter().map(|g| g.abs()).sum();
            p.iter()
                .zip(g)
                .map(|(p, g)| (scale * (g - p * total), scale.abs() * (g.abs() + p * total_magnitude)))
                .unzip()
        }
        SoftmaxKind::LogSumExp => p.iter().map(|p| (scale * g[0] * p, (scale * g[0]).abs() * p)).unzip(),
    };
    let flushed = FLUSHED * (1.0 + scale.abs());
    magnitudes.iter_mut().for_each(|m| *m += flushed);
    values.resize(len, 0.0);
    magnitudes.resize(len, 0.0);
    Expected { values, magnitudes }
}

/// Visible entries of row `row` as they enter the exponential: `fl(fl(x * scale) + mask)` in f32, widened.
pub fn visible_row<T: Element>(
    x: &[T],
    x_map: &RowMap,
    mask: Option<(&[T], &RowMap)>,
    options: &SoftmaxOptions,
    queries: usize,
    row: usize,
) -> Vec<f64> {
    let visible = options.visible(row, queries, x_map.len);
    let scaled = elements(x, x_map, row).take(visible).map(|x| x * options.scale);
    match mask {
        None => scaled.map(f64::from).collect(),
        Some((mask, mask_map)) => scaled
            .zip(elements(mask, mask_map, row))
            .map(|(x, m)| f64::from(x + m))
            .collect(),
    }
}

/// Elements of a row in f32.
fn elements<'a, T: Element>(values: &'a [T], map: &RowMap, row: usize) -> impl Iterator<Item = f32> + 'a {
    let (start, stride) = (map.start(row), map.len_stride);
    (0..map.len).map(move |j| values[start + j * stride].to_f32())
}

/// Writes the answers of a row where `map` places them.
fn place(answers: Expected, map: &RowMap, row: usize, into: &mut Expected) {
    let start = map.start(row);
    for (j, (value, magnitude)) in answers.values.into_iter().zip(answers.magnitudes).enumerate() {
        into.values[start + j * map.len_stride] = value;
        into.magnitudes[start + j * map.len_stride] = magnitude;
    }
}

/// A whole tensor forward. Results lie as `y_map` says, in `y_map.end()` elements; its rows are those of `x_map`, and its row
/// length is 1 for logsumexp. Elements that it does not reach are 0.
pub fn forward<T: Element>(
    kind: SoftmaxKind,
    x: &[T],
    x_map: &RowMap,
    mask: Option<(&[T], &RowMap)>,
    options: &SoftmaxOptions,
    queries: usize,
    y_map: &RowMap,
) -> Expected {
    let mut all = Expected {
        values: vec![0.0; y_map.end()],
        magnitudes: vec![0.0; y_map.end()],
    };
    for row in 0..x_map.rows() {
        let z = visible_row(x, x_map, mask, options, queries, row);
        place(
            forward_row(kind, &z, x_map.len, options.masked_rows),
            y_map,
            row,
            &mut all,
        );
    }
    all
}

/// A whole tensor backward: the gradient of `sum(upstream * forward(x))` with respect to x, placed by `dx_map` as in [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Element>(
    kind: SoftmaxKind,
    x: &[T],
    x_map: &RowMap,
    mask: Option<(&[T], &RowMap)>,
    upstream: &[T],
    upstream_map: &RowMap,
    options: &SoftmaxOptions,
    queries: usize,
    dx_map: &RowMap,
) -> Expected {
    let mut all = Expected {
        values: vec![0.0; dx_map.end()],
        magnitudes: vec![0.0; dx_map.end()],
    };
    for row in 0..x_map.rows() {
        let z = visible_row(x, x_map, mask, options, queries, row);
        let g: Vec<f64> = elements(upstream, upstream_map, row).map(f64::from).collect();
        let answers = backward_row(kind, &z, &g, x_map.len, f64::from(options.scale), options.masked_rows);
        place(answers, dx_map, row, &mut all);
    }
    all
}
