//! The oracle: losses over classes and their gradients as plain mathematics in f64.
//!
//! Nothing here is fast and nothing is rounded to a storage type. The mathematics and the answers for rows that are not ordinary
//! stand in the [module](super).

use super::bounds::{self, Allowed, FLUSHED};
use super::input::{Checked, CrossEntropyInput};
use super::options::{CrossEntropyOptions, LossKind, LossReduction};
use crate::element::Element;
use crate::error::Result;
use crate::float::Summation;
use crate::ops::softmax::MaskedRows;
use crate::ops::softmax::SoftmaxKind;
use crate::ops::softmax::bounds::{Accuracy, Quantity, bound};
use crate::ops::softmax::reference::{RowClass, RowStatistics, forward_row};

/// What a call should give.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The losses: one a row, or one.
    pub loss: Allowed,
    /// The log-softmax, in the input's shape; empty for nll_loss.
    pub log_prob: Allowed,
    /// The gradient, in the input's shape; empty where there is no upstream gradient.
    pub gradient: Allowed,
}

/// The whole answer for an input, and the gradient if an upstream gradient is given: one value a row without reduction, else one.
///
/// # Errors
/// Those of the operations, see [`cross_entropy`](super::cross_entropy).
pub fn answer<T: Element>(
    kind: LossKind,
    input: &CrossEntropyInput<'_, T>,
    upstream: Option<&[f32]>,
    options: &CrossEntropyOptions,
) -> Result<Answer> {
    let p = Checked::new(kind, input, options)?;
    let mut answer = Answer {
        loss: losses(&p),
        ..Answer::default()
    };
    if kind == LossKind::CrossEntropy {
        answer.log_prob = whole(&p, |row| log_prob_row(&p, row));
    }
    if let Some(upstream) = upstream {
        p.check_upstream(upstream)?;
        let totals = Totals::new(&p);
        answer.gradient = whole(&p, |row| gradient_row(&p, &totals, upstream, row));
    }
    Ok(answer)
}

/// A tensor of the input's shape from its rows.
fn whole<T>(p: &Checked<T>, row: impl Fn(usize) -> Allowed) -> Allowed {
    let count = p.rows * p.classes;
    let mut all = Allowed {
        values: vec![0.0; count],
        bounds: vec![0.0; count],
    };
    for r in 0..p.rows {
        let (start, answer) = (p.map.start(r), row(r));
        for j in 0..p.classes {
            all.values[start + j * p.map.len_stride] = answer.values[j];
            all.bounds[start + j * p.map.len_stride] = answer.bounds[j];
        }
    }
    all
}

/// Sum with the rounding errors carried along.
pub(super) fn sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    terms.into_iter().sum_neumaier()
}

/// What means are divided by.
pub(super) struct Totals {
    /// Sum of the weights of the labels that count; the number of rows for probabilities.
    pub weight: f64,
    /// Sum of their magnitudes.
    pub weight_magnitude: f64,
    /// Number of rows that count.
    pub counted: f64,
}

impl Totals {
    pub fn new<T: Element>(p: &Checked<T>) -> Totals {
        if p.probabilities.is_some() {
            let rows = p.rows as f64;
            return Totals {
                weight: rows,
                weight_magnitude: rows,
                counted: rows,
            };
        }
        let weights = || {
            (0..p.rows)
                .filter_map(|row| p.label(row))
                .map(|class| p.weight_of(class))
        };
        Totals {
            weight: sum(weights()),
            weight_magnitude: sum(weights().map(f64::abs)),
            counted: weights().count() as f64,
        }
    }
}

/// The loss of a row in its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowLoss {
    /// What the targets make of it.
    pub targets: f64,
    /// Sum of the magnitudes of the terms of that.
    pub magnitude: f64,
    /// Sum of the magnitudes of the coefficients.
    pub mass: f64,
    /// Whether it has a term for every class.
    pub dense: bool,
    /// Log-sum-exp; 0 for nll_loss.
    pub lse: f64,
    /// What the error of that is measured against.
    pub lse_magnitude: f64,
    /// Whether it is not ignored.
    pub counts: bool,
}

impl RowLoss {
    /// The loss with its z-loss.
    pub fn value(&self, z: f64) -> f64 {
        if z == 0.0 {
            self.targets
        } else {
            self.targets + z * self.lse * self.lse
        }
    }
}

/// The row as f64.
fn elements<T: Element>(values: &[T], p: &Checked<T>, row: usize) -> Vec<f64> {
    let start = p.map.start(row);
    (0..p.classes)
        .map(|j| f64::from(values[start + j * p.map.len_stride].to_f32()))
        .collect()
}

/// The coefficient of each class in the loss of a row; `None` if it is ignored.
fn coefficients<T: Element>(p: &Checked<T>, row: usize) -> Option<Vec<f64>> {
    let smoothing = f64::from(p.options.label_smoothing);
    let share = |q: f64| (1.0 - smoothing) * q + smoothing / p.classes as f64;
    let q = match p.probabilities {
        Some(probabilities) => elements(probabilities, p, row),
        None => {
            let label = p.label(row)?;
            (0..p.classes).map(|c| if c == label { 1.0 } else { 0.0 }).collect()
        }
    };
    Some(
        q.into_iter()
            .enumerate()
            .map(|(c, q)| p.weight_of(c) * share(q))
            .collect(),
    )
}

/// The loss of a row.
pub(super) fn row_loss<T: Element>(p: &Checked<T>, row: usize) -> RowLoss {
    let mut loss = RowLoss {
        targets: 0.0,
        magnitude: 0.0,
        mass: 0.0,
        dense: p.probabilities.is_some() || p.options.label_smoothing != 0.0,
        lse: 0.0,
        lse_magnitude: 0.0,
        counts: false,
    };
    let Some(a) = coefficients(p, row) else {
        return loss;
    };
    loss.counts = true;
    loss.mass = a.iter().map(|a| a.abs()).sum();
    let x = elements(p.x, p, row);
    let negated_log: Vec<f64> = match p.kind {
        LossKind::NllLoss => x.iter().map(|x| -x).collect(),
        LossKind::CrossEntropy => {
            let stats = RowStatistics::new(&x);
            if stats.class != RowClass::Ordinary {
                (loss.targets, loss.lse) = (f64::NAN, f64::NAN);
                return loss;
            }
            loss.lse = stats.logsumexp();
            loss.lse_magnitude = stats.max.abs().max(stats.log_sum());
            x.iter().map(|&x| -stats.log_softmax(x)).collect()
        }
    };
    // A class that does not count adds nothing, were its probability 0.
    let terms = || {
        a.iter()
            .zip(&negated_log)
            .filter(|(a, _)| **a != 0.0)
            .map(|(a, l)| a * l)
    };
    loss.targets = sum(terms());
    loss.magnitude = terms().map(f64::abs).sum();
    loss
}

/// The losses of a call and the errors allowed.
pub(super) fn losses<T: Element>(p: &Checked<T>) -> Allowed {
    let rows: Vec<RowLoss> = (0..p.rows).map(|row| row_loss(p, row)).collect();
    bounds::losses(p, &rows)
}

/// The log-softmax of a row.
pub(super) fn log_prob_row<T: Element>(p: &Checked<T>, row: usize) -> Allowed {
    let answer = forward_row(
        SoftmaxKind::LogSoftmax,
        &elements(p.x, p, row),
        p.classes,
        MaskedRows::Nan,
    );
    let quantity = Quantity::Forward(SoftmaxKind::LogSoftmax);
    let mut result = Allowed::default();
    for (&value, &magnitude) in answer.values.iter().zip(&answer.magnitudes) {
        result.push(value, bound(quantity, T::DTYPE, Accuracy::Standard, value, magnitude));
    }
    result
}

/// The gradient of a row: `p_j (s A + 2 s_z z lse) - s a_j`, where s and s_z are the upstream gradient over what the mean
/// divides the losses and the z-losses by, and A is the sum of the coefficients.
pub(super) fn gradient_row<T: Element>(p: &Checked<T>, totals: &Totals, upstream: &[f32], row: usize) -> Allowed {
    let mut result = Allowed::default();
    let Some(a) = coefficients(p, row) else {
        (result.values, result.bounds) = (vec![0.0; p.classes], vec![0.0; p.classes]);
        return result;
    };
    let mean = p.options.reduction == LossReduction::Mean;
    let g = f64::from(
        upstream[if p.options.reduction == LossReduction::None {
            row
        } else {
            0
        }],
    );
    let s = if mean { g / totals.weight } else { g };
    // Where weights of both signs cancel in the divisor, its rounding errors weigh more.
    let s_magnitude = s.abs()
        * if mean {
            totals.weight_magnitude / totals.weight.abs()
        } else {
            1.0
        };
    let of_target = |a: f64| if a == 0.0 { 0.0 } else { s * a };
    let of_target_magnitude = |a: f64| if a == 0.0 { 0.0 } else { s_magnitude * a.abs() };
    if p.kind == LossKind::NllLoss {
        for &a in &a {
            let magnitude = of_target_magnitude(a) + FLUSHED;
            let bound = if a == 0.0 {
                0.0
            } else {
                bounds::gradient(T::DTYPE, -of_target(a), magnitude)
            };
            result.push(-of_target(a), bound);
        }
        return result;
    }
    let x = elements(p.x, p, row);
    let stats = RowStatistics::new(&x);
    if stats.class != RowClass::Ordinary {
        (result.values, result.bounds) = (vec![f64::NAN; p.classes], vec![0.0; p.classes]);
        return result;
    }
    let z = f64::from(p.options.z_loss);
    let s_z = if mean { g / totals.counted } else { g };
    let mut factor = s * sum(a.iter().copied());
    let mut factor_magnitude = s_magnitude * a.iter().map(|a| a.abs()).sum::<f64>();
    if z != 0.0 {
        factor += 2.0 * s_z * z * stats.logsumexp();
        factor_magnitude += 2.0 * (s_z * z).abs() * stats.max.abs().max(stats.log_sum());
    }
    for (&x, &a) in x.iter().zip(&a) {
        let q = stats.softmax(x);
        let value = q * factor - of_target(a);
        let magnitude = (q + FLUSHED) * factor_magnitude + of_target_magnitude(a) + FLUSHED;
        result.push(value, bounds::gradient(T::DTYPE, value, magnitude));
    }
    result
}
