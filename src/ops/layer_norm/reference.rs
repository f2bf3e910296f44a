//! The oracle: layer_norm, rms_norm and their gradients as plain mathematics in f64, for rows in C order.
//!
//! | row | layer_norm | rms_norm | gradients |
//! |---|---|---|---|
//! | length 0 | nothing | nothing | nothing |
//! | a NaN | NaN | NaN | NaN |
//! | an infinity, no NaN | NaN | NaN there, 0 elsewhere | NaN; of the weight as x^ |
//! | constant, eps > 0 | bias | | |

use super::bounds::{self, Expected};
use super::options::{LayerNormOptions, NormKind};
use crate::element::Element;

/// What a row is reduced to.
#[derive(Clone, Copy, Debug)]
pub struct RowStatistics {
    /// What is taken off: the mean, 0 for rms_norm.
    pub mean: f64,
    /// `1 / sqrt(variance + eps)`.
    pub rstd: f64,
    /// Mean of the magnitudes.
    pub mean_abs: f64,
}

impl RowStatistics {
    /// Two passes; sums with their rounding errors carried along.
    pub fn new(x: &[f64], options: &LayerNormOptions) -> RowStatistics {
        let n = x.len() as f64;
        let mut mean = match options.kind {
            NormKind::LayerNorm => sum(x.iter().copied()) / n,
            NormKind::RmsNorm => 0.0,
        };
        if options.kind == NormKind::LayerNorm && x.iter().all(|v| *v == x[0]) {
            mean = x[0];
        }
        let variance = sum(x.iter().map(|v| (v - mean) * (v - mean))) / n;
        RowStatistics {
            mean,
            rstd: 1.0 / (variance + options.eps).sqrt(),
            mean_abs: sum(x.iter().map(|v| v.abs())) / n,
        }
    }

    /// The normalised element.
    pub fn normalised(&self, x: f64) -> f64 {
        (x - self.mean) * self.rstd
    }
}

/// Sum of f64 after Neumaier.
fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0f64, 0.0f64);
    for term in terms {
        let next = total + term;
        lost += if total.abs() >= term.abs() {
            (total - next) + term
        } else {
            (term - next) + total
        };
        total = next;
    }
    if total.is_finite() { total + lost } else { total }
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| f64::from(v.to_f32())).collect()
}

fn at(values: Option<&[f64]>, j: usize, otherwise: f64) -> f64 {
    values.map_or(otherwise, |v| v[j])
}

/// Results of a row.
pub fn forward_row(x: &[f64], weight: Option<&[f64]>, bias: Option<&[f64]>, options: &LayerNormOptions) -> Expected {
    let s = RowStatistics::new(x, options);
    let shift = bounds::shift(options.kind, x.len(), s.mean_abs, s.rstd);
    let x_len = x.len();
    let mut expected = Expected::default();
    for (j, &x) in x.iter().enumerate() {
        let w = at(weight, j, 1.0);
        let scaled = s.normalised(x) * w;
        let y = match bias {
            Some(b) => scaled + b[j],
            None => scaled,
        };
        expected.values.push(y);
        expected
            .errors
            .push(bounds::forward(options.kind, x_len, scaled, y, w, shift));
    }
    expected
}

/// Gradient of `sum(upstream * y)` with respect to a row.
pub fn backward_row(x: &[f64], weight: Option<&[f64]>, upstream: &[f64], options: &LayerNormOptions) -> Expected {
    let s = RowStatistics::new(x, options);
    let n = x.len() as f64;
    let layer = options.kind == NormKind::LayerNorm;
    let gw: Vec<f64> = upstream
        .iter()
        .enumerate()
        .map(|(j, g)| g * at(weight, j, 1.0))
        .collect();
    let normal: Vec<f64> = x.iter().map(|&x| s.normalised(x)).collect();
    let both = || gw.iter().zip(&normal);
    let total = if layer { sum(gw.iter().copied()) / n } else { 0.0 };
    let total_abs = sum(gw.iter().map(|g| g.abs())) / n;
    let dot = sum(both().map(|(g, v)| g * v)) / n;
    let dot_abs = sum(both().map(|(g, v)| (g * v).abs())) / n;
    let shift = bounds::shift(options.kind, x.len(), s.mean_abs, s.rstd);
    let mut expected = Expected::default();
    for (g, v) in both() {
        let terms = g.abs() + if layer { total_abs } else { 0.0 } + v.abs() * dot_abs;
        let shifted = shift * (dot_abs + v.abs() * total_abs) * s.rstd;
        expected.values.push((g - total - v * dot) * s.rstd);
        expected
            .errors
            .push(bounds::gradient(x.len(), terms * s.rstd, shifted, dot_abs, s.rstd));
    }
    expected
}

/// Results of all rows.
pub fn forward<T: Element>(
    x: &[T],
    len: usize,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    options: &LayerNormOptions,
) -> Expected {
    let (weight, bias) = (weight.map(wide), bias.map(wide));
    let mut all = Expected::default();
    for row in x.chunks_exact(len.max(1)) {
        let row = forward_row(&wide(row), weight.as_deref(), bias.as_deref(), options);
        all.values.extend(row.values);
        all.errors.extend(row.errors);
    }
    all
}

/// Gradients of x, weight and bias.
pub fn backward<T: Element>(
    x: &[T],
    len: usize,
    weight: Option<&[T]>,
    upstream: &[T],
    options: &LayerNormOptions,
) -> [Expected; 3] {
    let weight = weight.map(wide);
    let mut dx = Expected::default();
    let rows = x.len() / len.max(1);
    let mut sums = vec![[(0.0f64, 0.0f64); 2]; len];
    let mut magnitudes = vec![[0.0f64; 3]; len];
    // Neumaier's step, term by term.
    let add = |sum: &mut (f64, f64), term: f64| {
        let next = sum.0 + term;
        sum.1 += if sum.0.abs() >= term.abs() {
            (sum.0 - next) + term
        } else {
            (term - next) + sum.0
        };
        sum.0 = next;
    };
    for (row, g) in x.chunks_exact(len.max(1)).zip(upstream.chunks_exact(len.max(1))) {
        let (row, g) = (wide(row), wide(g));
        let one = backward_row(&row, weight.as_deref(), &g, options);
        dx.values.extend(one.values);
        dx.errors.extend(one.errors);
        let s = RowStatistics::new(&row, options);
        let shift = bounds::shift(options.kind, len, s.mean_abs, s.rstd);
        for j in 0..len {
            let term = g[j] * s.normalised(row[j]);
            add(&mut sums[j][0], term);
            add(&mut sums[j][1], g[j]);
            magnitudes[j][0] += term.abs();
            magnitudes[j][1] += g[j].abs();
            magnitudes[j][2] += shift * g[j].abs();
        }
    }
    let (mut dweight, mut dbias) = (Expected::default(), Expected::default());
    let value = |sum: (f64, f64)| if sum.0.is_finite() { sum.0 + sum.1 } else { sum.0 };
    for (sums, m) in sums.into_iter().zip(magnitudes) {
        let (w, b) = (value(sums[0]), value(sums[1]));
        dweight.values.push(w);
        dweight
            .errors
            .push(bounds::weight_gradient(len, rows, m[0], m[2], m[1]));
        dbias.values.push(b);
        dbias.errors.push(bounds::bias_gradient(rows, b, m[1]));
    }
    [dx, dweight, dbias]
}
