//! The CPU path: f64 accumulation, rows and fixed chunks of rows over all threads. Chunks are cut by shape alone, so the
//! bits do not depend on the number of threads.

use super::layout::Layout;
use super::options::{ReductionKind, ReductionOptions};
use super::reproducible;
use crate::element::Element;

/// Elements of a row that one task takes.
const CHUNK: usize = 1 << 16;
/// Neighbouring rows that are reduced together where elements of a row lie apart.
const TILE: usize = 64;

/// What a chunk of a row comes to.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Sum of the terms; for variance the mean.
    a: f64,
    /// For variance the sum of squared deviations.
    b: f64,
    count: usize,
    /// Largest ordered key, 0 of nothing, and where it was met.
    key: u32,
    index: usize,
}

/// Order of f32 as integers, NaN on top, the zeros tied; above 0.
fn key(value: f32, smallest: bool) -> u32 {
    if value.is_nan() {
        return u32::MAX;
    }
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    if smallest { !ordered } else { ordered }
}

fn from_key(key: u32, smallest: bool) -> f32 {
    if key == u32::MAX {
        return f32::NAN;
    }
    let ordered = if smallest { !key } else { key };
    f32::from_bits(if ordered >> 31 == 1 {
        ordered & !(1 << 31)
    } else {
        !ordered
    })
}

/// The kinds by what their state holds.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    Sum,
    Variance,
    Extreme,
}

fn family(kind: ReductionKind) -> Family {
    match kind {
        ReductionKind::Variance | ReductionKind::Std => Family::Variance,
        k if k.is_exact() => Family::Extreme,
        _ => Family::Sum,
    }
}

#[inline(always)]
fn term(kind: ReductionKind, x: f32, second: f32) -> f64 {
    let x = f64::from(x);
    match kind {
        ReductionKind::NormL1 => x.abs(),
        ReductionKind::NormL2 | ReductionKind::SumSquare => x * x,
        ReductionKind::Dot => x * f64::from(second),
        _ => x,
    }
}

#[inline(always)]
fn key_of(kind: ReductionKind, x: f32) -> u32 {
    match kind {
        ReductionKind::NormMax => key(x.abs(), false),
        ReductionKind::Min | ReductionKind::ArgMin => key(x, true),
        _ => key(x, false),
    }
}

/// Chan's merge of two parts of a row, the earlier one first.
fn merge(kind: ReductionKind, first: State, then: State) -> State {
    match family(kind) {
        Family::Sum => State {
            a: first.a + then.a,
            ..first
        },
        Family::Extreme => {
            if then.key > first.key {
                then
            } else {
                first
            }
        }
        Family::Variance => {
            if first.count == 0 || then.count == 0 {
                return if first.count == 0 { then } else { first };
            }
            let count = first.count + then.count;
            let share = then.count as f64 / count as f64;
            let delta = then.a - first.a;
            if !delta.is_finite() {
                // An infinite mean stays one; both kinds make NaN.
                return State {
                    a: first.a + then.a,
                    b: f64::NAN,
                    count,
                    ..first
                };
            }
            State {
                a: first.a + delta * share,
                b: first.b + then.b + delta * delta * (first.count as f64 * share),
                count,
                ..first
            }
        }
    }
}

/// Sum of `f` over a run, eight lanes side by side.
#[inline(always)]
fn lanes<T: Element>(x: &[T], f: impl Fn(usize, f32) -> f64) -> f64 {
    let mut sums = [0f64; 8];
    let (blocks, rest) = x.as_chunks::<8>();
    for (b, block) in blocks.iter().enumerate() {
        for (lane, v) in block.iter().enumerate() {
            sums[lane] += f(b * 8 + lane, v.to_f32());
        }
    }
    let tail: f64 = rest
        .iter()
        .enumerate()
        .map(|(i, v)| f(blocks.len() * 8 + i, v.to_f32()))
        .sum();
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])) + tail
}

/// What is done with an element of each of several neighbouring rows: its index, and the elements of both tensors.
type Line<'a, T> = &'a mut dyn FnMut(usize, &[T], Option<&[T]>);

/// The tensors of a call.
struct Call<'a, T> {
    kind: ReductionKind,
    x: &'a [T],
    second: Option<&'a [T]>,
    layout: &'a Layout,
}

impl<T: Element> Call<'_, T> {
    /// Sum of `f(x, second)` over elements `begin..end` of the row at `start`.
    #[inline(always)]
    fn sum(&self, start: [usize; 2], begin: usize, end: usize, f: impl Fn(f32, f32) -> f64) -> f64 {
        let mut total = 0.0;
        self.layout.runs(begin, end, |place, step, count, _| {
            let at = [start[0] + place[0], start[1] + place[1]];
            total += match self.second {
                None if step[0] == 1 => lanes(&self.x[at[0]..at[0] + count], |_, v| f(v, 0.0)),
                Some(w) if step == [1, 1] => {
                    let w = &w[at[1]..at[1] + count];
                    lanes(&self.x[at[0]..at[0] + count], |i, v| f(v, w[i].to_f32()))
                }
                _ => (0..count)
                    .map(|i| {
                        let w = self.second.map_or(0.0, |w| w[at[1] + i * step[1]].to_f32());
                        f(self.x[at[0] + i * step[0]].to_f32(), w)
                    })
                    .sum(),
            };
        });
        total
    }

    /// Elements `begin..end` of a row.
    fn chunk(&self, row: usize, begin: usize, end: usize) -> State {
        let start = self.layout.start(row);
        let kind = self.kind;
        match family(kind) {
            Family::Sum => {
                // Told apart here, so that the loops inside need not be.
                let a = match kind {
                    ReductionKind::NormL1 => self.sum(start, begin, end, |x, _| f64::from(x).abs()),
                    ReductionKind::NormL2 | ReductionKind::SumSquare => {
                        self.sum(start, begin, end, |x, _| f64::from(x) * f64::from(x))
                    }
                    ReductionKind::Dot => self.sum(start, begin, end, |x, w| f64::from(x) * f64::from(w)),
                    _ => self.sum(start, begin, end, |x, _| f64::from(x)),
                };
                State { a, ..State::default() }
            }
            Family::Variance => {
                let count = end - begin;
                let mean = self.sum(start, begin, end, |x, _| f64::from(x)) / count as f64;
                let square = |x: f32, _| (f64::from(x) - mean) * (f64::from(x) - mean);
                State {
                    a: mean,
                    b: self.sum(start, begin, end, square),
                    count,
                    ..State::default()
                }
            }
            Family::Extreme => {
                let mut best = State::default();
                self.layout.runs(begin, end, |place, step, count, first| {
                    let at = start[0] + place[0];
                    for i in 0..count {
                        let key = key_of(kind, self.x[at + i * step[0]].to_f32());
                        if key > best.key {
                            best = State {
                                key,
                                index: first + i,
                                ..best
                            };
                        }
                    }
                });
                best
            }
        }
    }

    /// Elements `begin..end` of `states.len()` neighbouring rows from `row` on, which lie one element apart.
    fn tile(&self, row: usize, begin: usize, end: usize, states: &mut [State]) {
        let kind = self.kind;
        let start = self.layout.start(row);
        let rows = states.len();
        let each = |body: Line<'_, T>| {
            self.layout.runs(begin, end, |place, step, count, first| {
                for i in 0..count {
                    let at = start[0] + place[0] + i * step[0];
                    let second = self.second.map(|w| {
                        let at = start[1] + place[1] + i * step[1];
                        &w[at..at + rows]
                    });
                    body(first + i, &self.x[at..at + rows], second);
                }
            });
        };
        states.fill(State::default());
        match family(kind) {
            Family::Sum => each(&mut |_, x, second| match second {
                Some(w) => {
                    for ((s, x), w) in states.iter_mut().zip(x).zip(w) {
                        s.a += term(kind, x.to_f32(), w.to_f32());
                    }
                }
                None => {
                    for (s, x) in states.iter_mut().zip(x) {
                        s.a += term(kind, x.to_f32(), 0.0);
                    }
                }
            }),
            Family::Variance => {
                each(&mut |_, x, _| {
                    for (s, x) in states.iter_mut().zip(x) {
                        s.a += f64::from(x.to_f32());
                    }
                });
                for s in states.iter_mut() {
                    s.count = end - begin;
                    s.a /= s.count as f64;
                }
                each(&mut |_, x, _| {
                    for (s, x) in states.iter_mut().zip(x) {
                        let d = f64::from(x.to_f32()) - s.a;
                        s.b += d * d;
                    }
                });
            }
            Family::Extreme => each(&mut |index, x, _| {
                for (s, x) in states.iter_mut().zip(x) {
                    let key = key_of(kind, x.to_f32());
                    if key > s.key {
                        s.key = key;
                        s.index = index;
                    }
                }
            }),
        }
    }
}

/// The result of a row.
fn finish(kind: ReductionKind, state: &State, len: usize, correction: f64) -> f64 {
    let n = len as f64;
    match kind {
        ReductionKind::Mean => state.a / n,
        ReductionKind::NormL2 => state.a.sqrt(),
        ReductionKind::LogSum => state.a.ln(),
        ReductionKind::Variance | ReductionKind::Std => {
            // An infinity makes NaN of every deviation.
            if n <= correction {
                return f64::NAN;
            }
            let variance = state.b / (n - correction);
            if kind == ReductionKind::Std {
                variance.sqrt()
            } else {
                variance
            }
        }
        ReductionKind::NormMax if state.key == 0 => 0.0,
        ReductionKind::Min => f64::from(from_key(state.key, true)),
        ReductionKind::Max | ReductionKind::NormMax => f64::from(from_key(state.key, false)),
        _ => state.a,
    }
}

/// Calls `task(i)` for every `i` below `count`, on all threads, and gives the results in order.
fn each<R: Send>(count: usize, work: usize, task: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    #[cfg(not(target_arch = "wasm32"))]
    if work > 1 << 14 {
        use rayon::prelude::*;
        return (0..count).into_par_iter().map(task).collect();
    }
    let _ = work;
    (0..count).map(task).collect()
}

/// States of all rows.
fn states<T: Element>(call: &Call<'_, T>) -> Vec<State> {
    let (rows, len) = (call.layout.rows(), call.layout.len());
    let work = rows.saturating_mul(len);
    let chunks = len.div_ceil(CHUNK).max(1);
    let bounds = |chunk: usize| (chunk * CHUNK, ((chunk + 1) * CHUNK).min(len));
    let inner = call.layout.kept.last().filter(|d| d.size > 1);
    let apart = call.layout.reduced.last().is_some_and(|d| d.strides[0] > 1);
    let neighbours = inner.filter(|d| apart && d.strides[0] == 1 && (call.second.is_none() || d.strides[1] == 1));
    if let Some(inner) = neighbours {
        let per_line = inner.size.div_ceil(TILE);
        let tiles = rows / inner.size * per_line;
        let parts = each(tiles * chunks, work, |task| {
            let (tile, chunk) = (task / chunks, task % chunks);
            let from = tile % per_line * TILE;
            let width = TILE.min(inner.size - from);
            let mut states = [State::default(); TILE];
            let (begin, end) = bounds(chunk);
            call.tile(tile / per_line * inner.size + from, begin, end, &mut states[..width]);
            states[..width].to_vec()
        });
        let mut all = Vec::with_capacity(rows);
        for of_tile in parts.chunks(chunks) {
            let mut merged = of_tile[0].clone();
            for part in &of_tile[1..] {
                for (m, p) in merged.iter_mut().zip(part) {
                    *m = merge(call.kind, *m, *p);
                }
            }
            all.extend(merged);
        }
        return all;
    }
    if chunks == 1 {
        // Short rows go to threads in bundles.
        let bundle = (1 << 12) / len.max(1) + 1;
        return each(rows.div_ceil(bundle), work, |b| {
            let end = ((b + 1) * bundle).min(rows);
            (b * bundle..end).map(|row| call.chunk(row, 0, len)).collect::<Vec<_>>()
        })
        .concat();
    }
    let parts = each(rows * chunks, work, |task| {
        let (begin, end) = bounds(task % chunks);
        call.chunk(task / chunks, begin, end)
    });
    parts
        .chunks(chunks)
        .map(|of_row| {
            of_row[1..]
                .iter()
                .fold(of_row[0], |all, part| merge(call.kind, all, *part))
        })
        .collect()
}

/// Values of a reduction of C-ordered tensors, into `y` with one element a row.
pub(crate) fn forward<T: Element>(
    kind: ReductionKind,
    x: &[T],
    second: Option<&[T]>,
    layout: &Layout,
    options: &ReductionOptions,
    y: &mut [T],
) {
    if options.is_reproducible(kind) {
        return reproducible::forward(kind, x, second, layout, y);
    }
    let call = Call {
        kind,
        x,
        second,
        layout,
    };
    let len = layout.len();
    for (y, state) in y.iter_mut().zip(states(&call)) {
        *y = canonical(finish(kind, &state, len, options.correction));
    }
}

/// Indices that argmin and argmax find.
pub(crate) fn indices<T: Element>(kind: ReductionKind, x: &[T], layout: &Layout) -> Vec<u64> {
    let call = Call {
        kind,
        x,
        second: None,
        layout,
    };
    states(&call).iter().map(|state| state.index as u64).collect()
}

/// Rounded once; every NaN is the canonical one.
fn canonical<T: Element>(value: f64) -> T {
    if value.is_nan() {
        T::from_f32(f32::from_bits(0x7fc0_0000))
    } else {
        T::from_f64(value)
    }
}

/// Gradient with respect to x of a reduction of C-ordered tensors, into `dx` of the shape of x.
pub(crate) fn backward<T: Element>(
    kind: ReductionKind,
    x: &[T],
    second: Option<&[T]>,
    upstream: &[T],
    layout: &Layout,
    options: &ReductionOptions,
    dx: &mut [T],
) {
    let call = Call {
        kind,
        x,
        second,
        layout,
    };
    let len = layout.len();
    let n = len as f64;
    let divisor = n - options.correction;
    for (row, state) in states(&call).iter().enumerate() {
        let start = layout.start(row);
        let g = f64::from(upstream[row].to_f32());
        let value = finish(kind, state, len, options.correction);
        let chosen = state.index;
        // Whatever does not depend on the element.
        let factor = match kind {
            ReductionKind::Mean => g / n,
            ReductionKind::Variance => 2.0 * g / divisor,
            ReductionKind::Std => g / (divisor * value),
            ReductionKind::SumSquare => 2.0 * g,
            ReductionKind::LogSum => g / state.a,
            _ => g,
        };
        let of = |index: usize, x: f64, w: f64| match kind {
            ReductionKind::Variance | ReductionKind::Std if divisor <= 0.0 => f64::NAN,
            ReductionKind::Std if value == 0.0 => 0.0,
            ReductionKind::Variance | ReductionKind::Std => factor * (x - state.a),
            ReductionKind::NormL1 if x == 0.0 => 0.0,
            ReductionKind::NormL1 => factor * x.signum(),
            ReductionKind::NormL2 if value == 0.0 => 0.0,
            ReductionKind::NormL2 => factor * (x / value),
            ReductionKind::NormMax if index != chosen || x == 0.0 => 0.0,
            ReductionKind::NormMax => factor * x.signum(),
            ReductionKind::Min | ReductionKind::Max if index != chosen => 0.0,
            ReductionKind::Dot => factor * w,
            ReductionKind::SumSquare => factor * x,
            ReductionKind::ArgMin | ReductionKind::ArgMax => 0.0,
            _ => factor,
        };
        layout.runs(0, len, |place, step, count, first| {
            for i in 0..count {
                let at = start[0] + place[0] + i * step[0];
                let w = second.map_or(0.0, |w| w[start[1] + place[1] + i * step[1]].to_f32());
                dx[at] = canonical(of(first + i, f64::from(x[at].to_f32()), f64::from(w)));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_numbers() {
        let rising = [
            f32::NEG_INFINITY,
            -1.0,
            -f32::MIN_POSITIVE,
            0.0,
            1e-45,
            2.0,
            f32::INFINITY,
        ];
        for w in rising.windows(2) {
            assert!(key(w[0], false) < key(w[1], false) && key(w[0], true) > key(w[1], true));
            assert_eq!(from_key(key(w[0], true), true), w[0]);
            assert_eq!(from_key(key(w[0], false), false), w[0]);
        }
        assert_eq!(key(-0.0, false), key(0.0, false));
        assert!(key(f32::NAN, true) > key(f32::NEG_INFINITY, true) && key(f32::NEG_INFINITY, false) > 0);
        assert!(key(f32::INFINITY, true) > 0);
    }
}
