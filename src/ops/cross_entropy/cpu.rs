//! The CPU path of the losses over classes: the same contract as the GPU kernels and [`super::reference`], made fast.
//!
//! Loss and gradient are made in one go. Rows that lie in one piece go a chunk that fits the first-level cache at a time: the
//! maximum, then `exp(z - maximum)` left where the gradient goes, then a factor on that. The exponential is taken once, and a row of
//! f32 that is longer than a chunk is read once. Rows across an inner dimension go as blocks of neighbouring columns, one column
//! a vector lane: statistics of all rows first, then the gradient line by line; that reads the input twice. All of it works
//! in place: what is written over is not needed any more. Beside the input, the gradient and a few chunks a thread there is memory
//! for a few numbers a row.
//!
//! Losses are f64 until the end and summed in row order, so results have the same bits for any number of threads.

mod kernels;

use super::input::Checked;
use super::options::{LossKind, LossReduction};
use crate::element::Element;
use crate::ops::softmax::cpu::kernels as softmax;
use crate::ops::softmax::cpu::{CHUNK, MIN_COLUMNS, TASK, as_f32, as_f32_mut, narrow, parallel, sized, widen};

/// Where a row's target is not a class by probability, and where classes weigh the same.
static ZEROS: [f32; CHUNK] = [0.0; CHUNK];
static ONES: [f32; CHUNK] = [1.0; CHUNK];

/// Below this, the sum of the exponentials of a row is too close to the 1 of its maximum to tell the others' share from.
const DOMINATED: f64 = 1.0 + 1.0 / 4096.0;

/// Bytes of a block of columns: it is read more than once.
const BLOCK: usize = 128 * 1024;

/// Buffers that a thread keeps while it works.
#[derive(Default)]
struct Scratch {
    z: Vec<f32>,
    q: Vec<f32>,
    out: Vec<f32>,
}

/// What a row adds to the losses.
#[derive(Clone, Copy, Debug)]
struct RowLoss {
    /// Loss by the targets.
    targets: f64,
    /// Squared log-sum-exp.
    square: f64,
}

impl RowLoss {
    const IGNORED: RowLoss = RowLoss {
        targets: 0.0,
        square: 0.0,
    };
    const NAN: RowLoss = RowLoss {
        targets: f64::NAN,
        square: f64::NAN,
    };
}

/// A row, or a part of it, reduced.
#[derive(Clone, Copy, Debug)]
struct Part {
    max: f32,
    /// Elements equal to the maximum, or together with `others` where they need not be told apart.
    ties: f64,
    /// Sum of `exp(z - max)` of the others; NaN if there is a NaN.
    others: f64,
    /// Sum of the coefficients that every class has.
    total: f64,
    /// Sum of their products with `base - z`.
    dot: f64,
    /// The maximum, or 0 where that is infinite.
    base: f64,
}

impl Part {
    const EMPTY: Part = Part {
        max: f32::NEG_INFINITY,
        ties: 0.0,
        others: 0.0,
        total: 0.0,
        dot: 0.0,
        base: 0.0,
    };

    fn sum(&self) -> f64 {
        self.ties + self.others
    }

    fn merge(parts: &[Part]) -> Part {
        let max = parts.iter().fold(f32::NEG_INFINITY, |m, part| m.max(part.max));
        let mut all = Part {
            max,
            base: if max.is_finite() { f64::from(max) } else { 0.0 },
            ..Part::EMPTY
        };
        for part in parts {
            if part.max == max {
                all.ties += part.ties;
                all.others += part.others;
            } else {
                all.others += part.sum() * (f64::from(part.max) - f64::from(max)).exp();
            }
            // A part of nothing but NaN and -inf has a sum of NaN and a weight of 0: NaN all the same.
            all.total += part.total;
            all.dot += part.dot;
            if part.total != 0.0 {
                all.dot += part.total * (all.base - part.base);
            }
        }
        all
    }
}

/// What the gradient of a row is made with.
#[derive(Clone, Copy, Debug)]
struct Finish {
    loss: RowLoss,
    /// Upstream gradient, over the divisor.
    upstream: f64,
    /// Factor on `exp(z - max)`.
    factor: f64,
    /// The gradient at the label.
    at_label: f64,
    /// Nothing but NaN.
    nan: bool,
}

/// One call.
struct Call<'a, 'p, T> {
    p: &'p Checked<'a, T>,
    /// With a gradient.
    upstream: Option<&'p [f32]>,
    /// Share of the target, and of each class.
    alpha: f64,
    beta: f64,
    /// Whether every class has a coefficient.
    dense: bool,
    /// Divisors of the mean: weight and rows that count.
    weight: f64,
    counted: f64,
}

/// Where the input is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In `x`.
    Apart,
    /// Where the gradient goes.
    #[cfg_attr(target_arch = "wasm32", expect(dead_code, reason = "its one-shot blocks"))]
    InPlace,
}

/// The losses, one a row or one; with an upstream gradient also the gradient of x, in the shape of x.
///
/// `upstream` and `gradient` come together. In place, `gradient` holds x and `p.x` is not looked at.
pub(super) fn run<T: Element>(
    p: &Checked<T>,
    upstream: Option<&[f32]>,
    mut gradient: Option<&mut [T]>,
    place: Place,
) -> Vec<f32> {
    let smoothing = f64::from(p.options.label_smoothing);
    let (weight, counted) = divisors(p);
    let call = Call {
        p,
        upstream,
        alpha: 1.0 - smoothing,
        beta: smoothing / p.classes as f64,
        dense: p.probabilities.is_some() || smoothing != 0.0,
        weight,
        counted,
    };
    let rows = if p.rows == 0 {
        Vec::new()
    } else if p.kind == LossKind::NllLoss {
        call.labels_only(gradient.as_deref_mut(), place)
    } else if p.inner == 1 {
        call.rows(gradient.as_deref_mut(), place)
    } else if p.inner >= MIN_COLUMNS || p.classes * p.inner >= 1 << 20 {
        call.columns(gradient.as_deref_mut(), place)
    } else {
        call.narrow(gradient, place)
    };
    call.reduce(&rows)
}

/// Sum of the weights of the labels that count, and their number.
pub(super) fn divisors<T: Element>(p: &Checked<T>) -> (f64, f64) {
    if p.probabilities.is_some() {
        return (p.rows as f64, p.rows as f64);
    }
    let (mut weight, mut counted) = (0.0, 0usize);
    for &label in &p.labels {
        if let Ok(class) = usize::try_from(label) {
            weight += p.weight_of(class);
            counted += 1;
        }
    }
    (weight, counted as f64)
}

impl<T: Element> Call<'_, '_, T> {
    fn reduce(&self, rows: &[RowLoss]) -> Vec<f32> {
        let z = f64::from(self.p.options.z_loss);
        // Without z-loss its square, which may be infinite, has no part.
        let with_square = |targets: f64, square: f64| if z == 0.0 { targets } else { targets + z * square };
        let one = |value: f64| vec![canonical(value)];
        let total = || {
            rows.iter()
                .fold((0.0, 0.0), |sum, row| (sum.0 + row.targets, sum.1 + row.square))
        };
        match self.p.options.reduction {
            LossReduction::None => rows
                .iter()
                .map(|row| canonical(with_square(row.targets, row.square)))
                .collect(),
            LossReduction::Sum => {
                let (targets, square) = total();
                one(with_square(targets, square))
            }
            LossReduction::Mean => {
                let (targets, square) = total();
                one(with_square(targets / self.weight, square / self.counted))
            }
        }
    }

    /// The upstream gradient of a row's loss by the targets and of its z-loss.
    fn upstream_of(&self, row: usize) -> (f64, f64) {
        let Some(upstream) = self.upstream else {
            return (0.0, 0.0);
        };
        match self.p.options.reduction {
            LossReduction::None => (f64::from(upstream[row]), f64::from(upstream[row])),
            LossReduction::Sum => (f64::from(upstream[0]), f64::from(upstream[0])),
            LossReduction::Mean => {
                let g = f64::from(upstream[0]);
                (g / self.weight, g / self.counted)
            }
        }
    }

    /// Loss and gradient factors of a row from what it is reduced to; `z_label` is the logit of its label.
    fn finish(&self, row: usize, part: &Part, z_label: f32) -> Finish {
        let nan = Finish {
            loss: RowLoss::NAN,
            upstream: f64::NAN,
            factor: f64::NAN,
            at_label: f64::NAN,
            nan: true,
        };
        if !part.max.is_finite() || part.sum().is_nan() {
            return nan;
        }
        let max = f64::from(part.max);
        let log_sum = part.ties.ln() + (part.others / part.ties).ln_1p();
        let lse = max + log_sum;
        let (mut targets, mut total) = (0.0, 0.0);
        if self.dense {
            targets = part.total * log_sum + part.dot;
            total = part.total;
        }
        let mut of_label = 0.0;
        if let Some(label) = self.p.label(row) {
            let weight = self.p.weight_of(label);
            let a = weight * self.alpha;
            if a != 0.0 {
                targets += a * ((max - f64::from(z_label)) + log_sum);
                total += a;
            }
            of_label = a + weight * self.beta;
        }
        let loss = RowLoss {
            targets,
            square: lse * lse,
        };
        if self.upstream.is_none() {
            return Finish { loss, ..nan };
        }
        let (s, s_z) = self.upstream_of(row);
        let mut k = s * total;
        let z = f64::from(self.p.options.z_loss);
        if z != 0.0 {
            k += 2.0 * s_z * z * lse;
        }
        let factor = k / part.sum();
        let at_target = if of_label == 0.0 { 0.0 } else { s * of_label };
        Finish {
            loss,
            upstream: s,
            factor,
            at_label: (f64::from(z_label) - max).exp() * factor - at_target,
            nan: factor.is_nan() || s.is_nan(),
        }
    }

    /// nll_loss: of a row only the element at its label counts.
    fn labels_only(&self, gradient: Option<&mut [T]>, place: Place) -> Vec<RowLoss> {
        let p = self.p;
        let rows: Vec<RowLoss> = (0..p.rows)
            .map(|row| {
                let Some(label) = p.label(row) else {
                    return RowLoss::IGNORED;
                };
                let at = p.map.start(row) + label * p.map.len_stride;
                let x = match (&gradient, place) {
                    (Some(x), Place::InPlace) => x[at],
                    _ => p.x[at],
                };
                let weight = p.weight_of(label);
                RowLoss {
                    targets: if weight == 0.0 {
                        0.0
                    } else {
                        -weight * f64::from(x.to_f32())
                    },
                    square: 0.0,
                }
            })
            .collect();
        if let Some(gradient) = gradient {
            parallel::for_each_chunk(gradient, TASK, |_, piece, _: &mut Scratch| piece.fill(T::default()));
            for row in 0..p.rows {
                if let Some(label) = p.label(row) {
                    let weight = p.weight_of(label);
                    if weight != 0.0 {
                        let at = p.map.start(row) + label * p.map.len_stride;
                        gradient[at] = T::from_f32(canonical(-self.upstream_of(row).0 * weight));
                    }
                }
            }
        }
        rows
    }

    // Rows in one piece.

    fn rows(&self, gradient: Option<&mut [T]>, place: Place) -> Vec<RowLoss> {
        let (p, len) = (self.p, self.p.classes);
        let x_of = |row: usize| match place {
            Place::Apart => Some(&p.x[row * len..(row + 1) * len]),
            Place::InPlace => None,
        };
        // Few long rows leave threads idle unless each is split.
        let split = len > 4 * CHUNK && p.rows < 4 * parallel::threads();
        let mut own = Scratch::default();
        if split {
            return match gradient {
                Some(gradient) => gradient
                    .chunks_mut(len)
                    .enumerate()
                    .map(|(row, out)| self.row(row, x_of(row), Some(out), true, &mut own))
                    .collect(),
                None => (0..p.rows)
                    .map(|row| self.row(row, x_of(row), None, true, &mut own))
                    .collect(),
            };
        }
        let task_rows = (TASK / len).max(1);
        let parts: Vec<Vec<RowLoss>> = match gradient {
            Some(gradient) => parallel::map_chunks(
                true,
                &mut own,
                gradient,
                task_rows * len,
                |task, piece, scratch: &mut Scratch| {
                    piece
                        .chunks_mut(len)
                        .enumerate()
                        .map(|(i, out)| {
                            let row = task * task_rows + i;
                            self.row(row, x_of(row), Some(out), false, scratch)
                        })
                        .collect()
                },
            ),
            None => parallel::map(
                true,
                &mut own,
                p.rows.div_ceil(task_rows),
                |task, scratch: &mut Scratch| {
                    (task * task_rows..p.rows.min((task + 1) * task_rows))
                        .map(|row| self.row(row, x_of(row), None, false, scratch))
                        .collect()
                },
            ),
        };
        parts.into_iter().flatten().collect()
    }

    /// Rows across an inner dimension that is too narrow for vectors, each through a copy.
    fn narrow(&self, gradient: Option<&mut [T]>, place: Place) -> Vec<RowLoss> {
        let (p, inner) = (self.p, self.p.inner);
        let block = p.classes * inner;
        let outers = p.rows / inner;
        let task_outers = (TASK / block).max(1);
        let gather = |from: &[T], column: usize, into: &mut [T]| {
            for (o, v) in into.iter_mut().zip(from[column..].iter().step_by(inner)) {
                *o = *v;
            }
        };
        let mut own = Scratch::default();
        let parts: Vec<Vec<RowLoss>> = match gradient {
            Some(gradient) => parallel::map_chunks(
                true,
                &mut own,
                gradient,
                task_outers * block,
                |task, piece, scratch: &mut Scratch| {
                    let mut losses = Vec::new();
                    let mut packed = vec![T::default(); p.classes];
                    for (i, out) in piece.chunks_mut(block).enumerate() {
                        let outer = task * task_outers + i;
                        for column in 0..inner {
                            match place {
                                Place::Apart => gather(&p.x[outer * block..], column, &mut packed),
                                Place::InPlace => gather(out, column, &mut packed),
                            }
                            losses.push(self.row(outer * inner + column, None, Some(&mut packed), false, scratch));
                            for (&v, o) in packed.iter().zip(out[column..].iter_mut().step_by(inner)) {
                                *o = v;
                            }
                        }
                    }
                    losses
                },
            ),
            None => parallel::map(
                true,
                &mut own,
                outers.div_ceil(task_outers),
                |task, scratch: &mut Scratch| {
                    let mut packed = vec![T::default(); p.classes];
                    (task * task_outers * inner..p.rows.min((task + 1) * task_outers * inner))
                        .map(|row| {
                            gather(&p.x[row / inner * block..], row % inner, &mut packed);
                            self.row(row, Some(&packed), None, false, scratch)
                        })
                        .collect()
                },
            ),
        };
        parts.into_iter().flatten().collect()
    }

    /// One row. The input is `x`, or what `out` holds.
    fn row(
        &self,
        row: usize,
        x: Option<&[T]>,
        mut out: Option<&mut [T]>,
        split: bool,
        scratch: &mut Scratch,
    ) -> RowLoss {
        if self.p.is_ignored(row) {
            if let Some(out) = out {
                out.fill(T::default());
            }
            return RowLoss::IGNORED;
        }
        let label = self.p.label(row);
        let z_label = match (label, x, &out) {
            (Some(label), Some(x), _) => x[label].to_f32(),
            (Some(label), None, Some(x)) => x[label].to_f32(),
            _ => 0.0,
        };
        let finish = if self.p.classes <= CHUNK {
            self.short(row, x, out.as_deref_mut(), z_label, scratch)
        } else {
            self.long(row, x, out.as_deref_mut(), z_label, split, scratch)
        };
        if let Some(out) = out {
            if finish.nan {
                out.fill(T::from_f32(NAN));
            } else if let Some(label) = label {
                out[label] = T::from_f32(canonical(finish.at_label));
            }
        }
        finish.loss
    }

    /// The target's share and the weight of each of the classes `from ..` of a row; both at most a chunk.
    fn coefficients<'b>(&'b self, row: usize, from: usize, count: usize, buffer: &'b mut Vec<f32>) -> [&'b [f32]; 2] {
        let w = self.p.weight.map_or(&ONES[..count], |w| &w[from..from + count]);
        let Some(probabilities) = self.p.probabilities else {
            return [&ZEROS[..count], w];
        };
        let (start, stride) = (self.p.map.start(row), self.p.map.len_stride);
        if stride == 1 {
            let values = &probabilities[start + from..start + from + count];
            if let Some(direct) = as_f32(values) {
                return [direct, w];
            }
            let buffer = sized(buffer, count);
            widen(values, buffer);
            return [buffer, w];
        }
        let buffer = sized(buffer, count);
        for (j, q) in buffer.iter_mut().enumerate() {
            *q = probabilities[start + (from + j) * stride].to_f32();
        }
        [buffer, w]
    }

    /// The sums over coefficients that a part of a row needs.
    fn dense_part(&self, row: usize, from: usize, z: &[f32], max: f32, q: &mut Vec<f32>) -> [f64; 3] {
        let base = if max.is_finite() { f64::from(max) } else { 0.0 };
        if !self.dense {
            return [0.0, 0.0, base];
        }
        let [q, w] = self.coefficients(row, from, z.len(), q);
        let [total, dot] = kernels::dense_sums(z, q, w, base, self.alpha, self.beta);
        [total, dot, base]
    }

    /// Turns exponentials into the gradient, the label's own part aside.
    fn apply(&self, row: usize, from: usize, finish: &Finish, factor: f64, out: &mut [f32], q: &mut Vec<f32>) {
        if self.dense {
            let [q, w] = self.coefficients(row, from, out.len(), q);
            let s = finish.upstream;
            kernels::scale_dense(out, factor, q, w, s * self.alpha, s * self.beta);
        } else if factor.abs() <= f64::from(f32::MAX) {
            softmax::scale(out, factor);
        } else {
            kernels::scale(out, factor);
        }
    }

    /// Statistics of a part of a row; leaves `exp(z - max)` in `store`.
    fn part(&self, row: usize, from: usize, z: &[f32], store: Option<&mut [f32]>, q: &mut Vec<f32>) -> Part {
        let max = softmax::max(z);
        let [total, dot, base] = self.dense_part(row, from, z, max, q);
        let (ties, others) = if !max.is_finite() {
            if let Some(store) = store {
                store.fill(0.0);
            }
            (0.0, if z.iter().any(|v| v.is_nan()) { f64::NAN } else { 0.0 })
        } else {
            match store {
                None => softmax::ties_and_others(z, max),
                Some(store) => {
                    let sum = softmax::exp_store(z, max, store);
                    if sum < DOMINATED {
                        // The only tie is the maximum itself.
                        match kernels::below_one(store) {
                            // Of exponentials so small f32 holds not all digits.
                            others if others < 1e-30 => softmax::ties_and_others(z, max),
                            others => (1.0, others),
                        }
                    } else {
                        (sum, 0.0)
                    }
                }
            }
        };
        Part {
            max,
            ties,
            others,
            total,
            dot,
            base,
        }
    }

    fn short(&self, row: usize, x: Option<&[T]>, out: Option<&mut [T]>, z_label: f32, scratch: &mut Scratch) -> Finish {
        let Scratch { z, q, out: buffer } = scratch;
        let len = self.p.classes;
        let z: &[f32] = match (x, &out) {
            (Some(x), _) if as_f32(x).is_some() => as_f32(x).unwrap_or_default(),
            (Some(x), _) => {
                widen(x, sized(z, len));
                &z[..len]
            }
            (None, Some(x)) => {
                widen(x, sized(z, len));
                &z[..len]
            }
            (None, None) => &[],
        };
        let Some(out) = out else {
            let part = self.part(row, 0, z, None, q);
            return self.finish(row, &part, z_label);
        };
        let mut work = |out: &mut [f32]| {
            let part = self.part(row, 0, z, Some(&mut *out), q);
            let finish = self.finish(row, &part, z_label);
            if !finish.nan {
                self.apply(row, 0, &finish, finish.factor, out, q);
            }
            finish
        };
        if let Some(direct) = as_f32_mut(out) {
            return work(direct);
        }
        let buffer = sized(buffer, len);
        let finish = work(buffer);
        narrow(buffer, out);
        finish
    }

    fn long(
        &self,
        row: usize,
        x: Option<&[T]>,
        out: Option<&mut [T]>,
        z_label: f32,
        split: bool,
        scratch: &mut Scratch,
    ) -> Finish {
        let len = self.p.classes;
        let chunk_of = |chunk: usize| x.map(|x| &x[chunk * CHUNK..len.min((chunk + 1) * CHUNK)]);
        let Some(out) = out else {
            let parts = parallel::map(split, scratch, len.div_ceil(CHUNK), |chunk, scratch: &mut Scratch| {
                let x = chunk_of(chunk).unwrap_or_default();
                match as_f32(x) {
                    Some(z) => self.part(row, chunk * CHUNK, z, None, &mut scratch.q),
                    None => {
                        let z = sized(&mut scratch.z, x.len());
                        widen(x, z);
                        self.part(row, chunk * CHUNK, z, None, &mut scratch.q)
                    }
                }
            });
            return self.finish(row, &Part::merge(&parts), z_label);
        };
        // Exponentials that can be kept in the gradient's place are; 16-bit places are too narrow for them.
        let parts = parallel::map_chunks(split, scratch, out, CHUNK, |chunk, piece, scratch: &mut Scratch| {
            let Scratch { z, q, .. } = scratch;
            let from = chunk * CHUNK;
            let z = match chunk_of(chunk) {
                Some(x) if as_f32(x).is_some() => as_f32(x).unwrap_or_default(),
                Some(x) => {
                    widen(x, sized(z, x.len()));
                    &z[..x.len()]
                }
                None => {
                    widen(piece, sized(z, piece.len()));
                    &z[..piece.len()]
                }
            };
            self.part(row, from, z, as_f32_mut(piece), q)
        });
        let all = Part::merge(&parts);
        let finish = self.finish(row, &all, z_label);
        if finish.nan {
            return finish;
        }
        parallel::map_chunks(split, scratch, out, CHUNK, |chunk, piece, scratch: &mut Scratch| {
            let Scratch { z, q, out: buffer } = scratch;
            let (from, max) = (chunk * CHUNK, parts[chunk].max);
            let weight = (f64::from(max) - f64::from(all.max)).exp();
            let factor = if weight == 0.0 { 0.0 } else { weight * finish.factor };
            if let Some(direct) = as_f32_mut(piece) {
                self.apply(row, from, &finish, factor, direct, q);
                return;
            }
            let (z, buffer) = (sized(z, piece.len()), sized(buffer, piece.len()));
            widen(chunk_of(chunk).unwrap_or(piece), z);
            if max.is_finite() {
                softmax::exp_store(z, max, buffer);
            } else {
                buffer.fill(0.0);
            }
            self.apply(row, from, &finish, factor, buffer, q);
            narrow(buffer, piece);
        });
        finish
    }

    // Rows across a wide inner dimension.

    fn columns(&self, gradient: Option<&mut [T]>, place: Place) -> Vec<RowLoss> {
        let (p, inner) = (self.p, self.p.inner);
        let width = (BLOCK / (p.classes * size_of::<f32>())).clamp(16, 1024).min(inner);
        let blocks: Vec<(usize, usize)> = (0..p.rows / inner)
            .flat_map(|outer| {
                (0..inner)
                    .step_by(width)
                    .map(move |c| (outer * inner + c, width.min(inner - c)))
            })
            .collect();
        let finishes: Vec<Vec<(f64, Finish)>> = {
            let x: &[T] = match (&gradient, place) {
                (Some(x), Place::InPlace) => x,
                _ => p.x,
            };
            parallel::map(
                true,
                &mut Scratch::default(),
                blocks.len(),
                |block, scratch: &mut Scratch| {
                    let (row, columns) = blocks[block];
                    self.column_statistics(x, row, columns, scratch)
                },
            )
        };
        let finishes: Vec<(f64, Finish)> = finishes.into_iter().flatten().collect();
        let losses = finishes.iter().map(|(_, finish)| finish.loss).collect();
        let Some(gradient) = gradient else {
            return losses;
        };
        // One array for each quantity, as the kernels want them.
        let max: Vec<f64> = finishes.iter().map(|(max, _)| *max).collect();
        let factor: Vec<f64> = finishes
            .iter()
            .map(|(_, f)| if f.nan { f64::NAN } else { f.factor })
            .collect();
        let upstream: Vec<f64> = finishes.iter().map(|(_, f)| f.upstream).collect();
        let ignored: Vec<usize> = (0..p.rows).filter(|&row| p.is_ignored(row)).collect();
        let lines = (TASK / inner).clamp(1, p.classes);
        let pieces: Vec<(usize, usize, &mut [T])> = gradient
            .chunks_mut(p.classes * inner)
            .enumerate()
            .flat_map(|(outer, block)| {
                block
                    .chunks_mut(lines * inner)
                    .enumerate()
                    .map(move |(i, piece)| (outer, i * lines, piece))
            })
            .collect();
        parallel::consume(pieces, |(outer, first, piece), scratch: &mut Scratch| {
            let Scratch { z, q, out: buffer } = scratch;
            let first_row = outer * inner;
            for (i, line) in piece.chunks_mut(inner).enumerate() {
                let class = first + i;
                let w = p.weight.map_or(1.0, |w| w[class]);
                for column in (0..inner).step_by(1024) {
                    let count = 1024.min(inner - column);
                    let rows = first_row + column..first_row + column + count;
                    let at = (outer * p.classes + class) * inner + column;
                    let out = &mut line[column..column + count];
                    let z: &[f32] = match place {
                        Place::Apart => widened(&p.x[at..at + count], z),
                        Place::InPlace => {
                            widen(out, sized(z, count));
                            &z[..count]
                        }
                    };
                    let (max, factor) = (&max[rows.clone()], &factor[rows.clone()]);
                    let upstream = &upstream[rows];
                    let q = p
                        .probabilities
                        .map_or(&ZEROS[..count], |all| widened(&all[at..at + count], q));
                    let work = |out: &mut [f32]| {
                        if self.dense {
                            kernels::columns_gradient_dense(z, q, w, max, factor, upstream, self.alpha, self.beta, out);
                        } else {
                            kernels::columns_gradient(z, max, factor, out);
                        }
                    };
                    if let Some(direct) = as_f32_mut(out) {
                        work(direct);
                    } else {
                        let buffer = sized(buffer, count);
                        work(buffer);
                        narrow(buffer, out);
                    }
                }
            }
            let here = first..first + piece.len() / inner;
            if !p.labels.is_empty() {
                for column in 0..inner {
                    let row = first_row + column;
                    if let Some(label) = p.label(row).filter(|label| here.contains(label)) {
                        piece[(label - first) * inner + column] = T::from_f32(canonical(finishes[row].1.at_label));
                    }
                }
            }
            let from = ignored.partition_point(|&row| row < first_row);
            for &row in ignored[from..].iter().take_while(|&&row| row < first_row + inner) {
                for line in piece.chunks_mut(inner) {
                    line[row - first_row] = T::default();
                }
            }
        });
        losses
    }

    /// The rows `row ..`, which are neighbouring columns: their maxima, and what their gradients are made with.
    fn column_statistics(&self, x: &[T], row: usize, columns: usize, scratch: &mut Scratch) -> Vec<(f64, Finish)> {
        let (p, inner) = (self.p, self.p.inner);
        let Scratch { z, q, .. } = scratch;
        let start = p.map.start(row);
        let mut max = vec![f32::NEG_INFINITY; columns];
        for class in 0..p.classes {
            let at = start + class * inner;
            kernels::columns_max(widened(&x[at..at + columns], z), &mut max);
        }
        let base: Vec<f64> = max
            .iter()
            .map(|m| if m.is_finite() { f64::from(*m) } else { 0.0 })
            .collect();
        let (mut ties, mut others) = (vec![0.0; columns], vec![0.0; columns]);
        let (mut total, mut dot) = (vec![0.0; columns], vec![0.0; columns]);
        for class in 0..p.classes {
            let at = start + class * inner;
            let z = widened(&x[at..at + columns], z);
            kernels::columns_sums(z, &base, &mut ties, &mut others);
            if self.dense {
                let q = p
                    .probabilities
                    .map_or(&ZEROS[..columns], |all| widened(&all[at..at + columns], q));
                let w = p.weight.map_or(1.0, |w| w[class]);
                kernels::columns_dense(z, q, w, &base, self.alpha, self.beta, &mut total, &mut dot);
            }
        }
        (0..columns)
            .map(|i| {
                let part = Part {
                    max: max[i],
                    ties: ties[i],
                    others: others[i],
                    total: total[i],
                    dot: dot[i],
                    base: base[i],
                };
                let row = row + i;
                let finish = if p.is_ignored(row) {
                    Finish {
                        loss: RowLoss::IGNORED,
                        upstream: 0.0,
                        factor: 0.0,
                        at_label: 0.0,
                        nan: false,
                    }
                } else {
                    let z_label = p.label(row).map_or(0.0, |label| x[start + i + label * inner].to_f32());
                    self.finish(row, &part, z_label)
                };
                (base[i], finish)
            })
            .collect()
    }
}

/// The values in f32, in `buffer` unless they are that already.
fn widened<'b, T: Element>(values: &'b [T], buffer: &'b mut Vec<f32>) -> &'b [f32] {
    if let Some(direct) = as_f32(values) {
        return direct;
    }
    let buffer = sized(buffer, values.len());
    widen(values, buffer);
    buffer
}

/// The NaN that this crate writes.
const NAN: f32 = f32::from_bits(0x7fc0_0000);

/// Rounds to f32, every NaN as the one that this crate writes.
pub(super) fn canonical(value: f64) -> f32 {
    if value.is_nan() { NAN } else { value as f32 }
}
