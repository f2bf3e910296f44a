//! The CPU path of layer_norm and rms_norm: f32 in and out, f64 between, rows in parallel.
//!
//! A row's statistics are those of chunks of fixed length merged in order, and sums over rows those of blocks whose number
//! depends on the shape alone, so the result has the same bits for any number of threads. All squares and sums of f32 fit
//! f64, so nothing need be scaled.

use super::options::{LayerNormOptions, NormKind};
use crate::element::Element;

/// Vector lanes: accumulators side by side.
const LANES: usize = 16;
/// Elements of a row that are reduced at a time.
const CHUNK: usize = 4096;
/// Elements of a parallel task.
const TASK: usize = 32 * 1024;
/// Columns of a task of the gradients of weight and bias, and tasks that are enough.
const TILE: usize = 1024;
const TASKS: usize = 32;

/// `1 / sqrt(variance + eps)` and mean of a row.
#[derive(Clone, Copy, Default)]
struct Stats {
    mean: f64,
    rstd: f64,
}

type Lanes = [f64; LANES];

/// Lanes added up pair by pair.
#[inline(always)]
fn fold(mut lanes: Lanes) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of the elements, or of the squares of their differences from `mean`.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "x86_64+avx512f", "aarch64+neon"))]
fn moment<const SQUARES: bool>(x: &[f32], mean: f64) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            let v = f64::from(block[i]);
            sums[i] += if SQUARES { (v - mean) * (v - mean) } else { v };
        }
    }
    for (sum, &v) in sums.iter_mut().zip(tail) {
        let v = f64::from(v);
        *sum += if SQUARES { (v - mean) * (v - mean) } else { v };
    }
    fold(sums)
}

/// Whether all elements are equal.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "x86_64+avx512f", "aarch64+neon"))]
fn constant(x: &[f32]) -> bool {
    let first = x[0];
    x.chunks(256)
        .all(|part| part.iter().fold(true, |same, v| same & (*v == first)))
}

/// Sums of `g w (x - mean)` and of `g w`.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "x86_64+avx512f", "aarch64+neon"))]
fn dots(x: &[f32], g: &[f32], w: &[f32], mean: f64) -> (f64, f64) {
    let (mut dot, mut total) = ([0.0f64; LANES], [0.0f64; LANES]);
    let (blocks, tail) = x.as_chunks::<LANES>();
    let (g_blocks, g_tail) = g.as_chunks::<LANES>();
    let (w_blocks, w_tail) = w.as_chunks::<LANES>();
    let one = |x: f32, g: f32, w: f32, dot: &mut f64, total: &mut f64| {
        let gw = f64::from(g) * f64::from(w);
        *dot += gw * (f64::from(x) - mean);
        *total += gw;
    };
    for ((x, g), w) in blocks.iter().zip(g_blocks).zip(w_blocks) {
        for i in 0..LANES {
            one(x[i], g[i], w[i], &mut dot[i], &mut total[i]);
        }
    }
    for (i, ((&x, &g), &w)) in tail.iter().zip(g_tail).zip(w_tail).enumerate() {
        one(x, g, w, &mut dot[i], &mut total[i]);
    }
    (fold(dot), fold(total))
}

/// Writes `(x - mean) * rstd * w + b`.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "x86_64+avx512f", "aarch64+neon"))]
fn write_forward(x: &[f32], w: &[f32], b: &[f32], mean: f64, rstd: f64, y: &mut [f32]) {
    for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
        let v = ((f64::from(x) - mean) * rstd * f64::from(w) + f64::from(b)) as f32;
        *y = if v.is_nan() { f32::NAN } else { v };
    }
}

/// Writes `(g w - total - (x - mean) * slope) * rstd`.
#[allow(clippy::too_many_arguments)]
#[multiversion::multiversion(targets("x86_64+avx2+fma", "x86_64+avx512f", "aarch64+neon"))]
fn write_backward(x: &[f32], g: &[f32], w: &[f32], mean: f64, rstd: f64, total: f64, slope: f64, dx: &mut [f32]) {
    for (((dx, &x), &g), &w) in dx.iter_mut().zip(x).zip(g).zip(w) {
        let gw = f64::from(g) * f64::from(w);
        let v = ((gw - total - (f64::from(x) - mean) * slope) * rstd) as f32;
        *dx = if v.is_nan() { f32::NAN } else { v };
    }
}

/// Adds `g (x - mean) rstd` and `g` of a row to sums over rows.
#[multiversion::multiversion(targets("x86_64+avx2+fma", "x86_64+avx512f", "aarch64+neon"))]
fn add_columns(x: &[f32], g: &[f32], mean: f64, rstd: f64, weight: &mut [f64], bias: &mut [f64]) {
    for (((w, b), &x), &g) in weight.iter_mut().zip(bias).zip(x).zip(g) {
        *w += f64::from(g) * ((f64::from(x) - mean) * rstd);
        *b += f64::from(g);
    }
}

/// Elements widened into a buffer; f32 as they are.
fn widened<'a, T: Element>(values: &'a [T], buffer: &'a mut Vec<f32>) -> &'a [f32] {
    match bytemuck::try_cast_slice::<T, f32>(values) {
        Ok(same) if T::DTYPE == crate::element::DType::F32 => same,
        _ => {
            buffer.clear();
            buffer.extend(values.iter().map(|v| v.to_f32()));
            buffer
        }
    }
}

/// All of a tensor as f32, or `otherwise` throughout where there is none.
fn whole<T: Element>(values: Option<&[T]>, len: usize, otherwise: f32) -> Vec<f32> {
    match values {
        Some(values) => values.iter().map(|v| v.to_f32()).collect(),
        None => vec![otherwise; len],
    }
}

/// Adds up a function of chunks in order; in parallel where the row is alone and long.
fn by_chunks<const N: usize>(
    len: usize,
    alone: bool,
    of: impl Fn(std::ops::Range<usize>) -> [f64; N] + Sync,
) -> [f64; N] {
    let range = |c: usize| c * CHUNK..((c + 1) * CHUNK).min(len);
    let chunks = len.div_ceil(CHUNK);
    let mut sums = [0.0; N];
    let mut add = |part: [f64; N]| sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
    if alone && chunks > 8 {
        parallel_map(chunks, |c| of(range(c))).into_iter().for_each(&mut add);
    } else {
        (0..chunks).for_each(|c| add(of(range(c))));
    }
    sums
}

#[cfg(not(target_arch = "wasm32"))]
fn parallel_map<R: Send>(count: usize, of: impl Fn(usize) -> R + Sync) -> Vec<R> {
    use rayon::prelude::*;
    (0..count).into_par_iter().map(&of).collect()
}

#[cfg(target_arch = "wasm32")]
fn parallel_map<R: Send>(count: usize, of: impl Fn(usize) -> R + Sync) -> Vec<R> {
    (0..count).map(of).collect()
}

/// Runs `of` on tasks of `size` elements each of `out`.
#[cfg(not(target_arch = "wasm32"))]
fn parallel_chunks<T: Send>(out: &mut [T], size: usize, of: impl Fn(usize, &mut [T]) + Sync) {
    use rayon::prelude::*;
    if out.len() <= size {
        out.chunks_mut(size).enumerate().for_each(|(i, part)| of(i, part));
    } else {
        out.par_chunks_mut(size).enumerate().for_each(|(i, part)| of(i, part));
    }
}

#[cfg(target_arch = "wasm32")]
fn parallel_chunks<T: Send>(out: &mut [T], size: usize, of: impl Fn(usize, &mut [T]) + Sync) {
    out.chunks_mut(size).enumerate().for_each(|(i, part)| of(i, part));
}

fn statistics(x: &[f32], options: &LayerNormOptions, alone: bool) -> Stats {
    let n = x.len() as f64;
    let layer = options.kind == NormKind::LayerNorm;
    let mut mean = 0.0;
    if layer {
        mean = by_chunks(x.len(), alone, |r| [moment::<false>(&x[r], 0.0)])[0] / n;
        if constant(x) {
            mean = f64::from(x[0]);
        }
    }
    let [squares] = by_chunks(x.len(), alone, |r| [moment::<true>(&x[r], mean)]);
    Stats {
        mean,
        rstd: 1.0 / (squares / n + options.eps).sqrt(),
    }
}

/// Writes rows by `row`, which gets the widened row of x, its number, whether the row is alone, and where the f32 results go.
fn by_rows<T: Element>(x: &[T], len: usize, y: &mut [T], row: impl Fn(&[f32], usize, bool, &mut [f32]) + Sync) {
    let task_rows = (TASK / len).max(1);
    let alone = x.len() / len < 4;
    let run = |task: usize, out: &mut [T]| {
        let (mut wide, mut results) = (Vec::new(), Vec::new());
        for (i, out) in out.chunks_exact_mut(len).enumerate() {
            let number = task * task_rows + i;
            let values = widened(&x[number * len..(number + 1) * len], &mut wide);
            if T::DTYPE == crate::element::DType::F32
                && let Ok(direct) = bytemuck::try_cast_slice_mut::<T, f32>(out)
            {
                row(values, number, alone, direct);
                continue;
            }
            results.resize(len, 0.0);
            row(values, number, alone, &mut results);
            for (o, &v) in out.iter_mut().zip(&results) {
                *o = T::from_f32(v);
            }
        }
    };
    if alone {
        // Parallel within the row.
        y.chunks_mut(task_rows * len)
            .enumerate()
            .for_each(|(i, part)| run(i, part));
    } else {
        parallel_chunks(y, task_rows * len, run);
    }
}

/// The results; `y` has the elements of `x`, rows of `len` in C order.
pub fn forward<T: Element>(
    x: &[T],
    len: usize,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
    options: &LayerNormOptions,
    y: &mut [T],
) {
    if x.is_empty() {
        return;
    }
    let (w, b) = (whole(weight, len, 1.0), whole(bias, len, 0.0));
    by_rows(x, len, y, |x, _, alone, y| {
        let s = statistics(x, options, alone);
        let size = if alone { CHUNK } else { len };
        parallel_chunks(y, size, |i, y| {
            let r = i * size..i * size + y.len();
            write_forward(&x[r.clone()], &w[r.clone()], &b[r], s.mean, s.rstd, y);
        });
    });
}

/// The gradient of `sum(upstream * y)` with respect to x.
pub fn backward<T: Element>(
    x: &[T],
    len: usize,
    weight: Option<&[T]>,
    upstream: &[T],
    options: &LayerNormOptions,
    dx: &mut [T],
) {
    if x.is_empty() {
        return;
    }
    let w = whole(weight, len, 1.0);
    let n = len as f64;
    by_rows(x, len, dx, |x, number, alone, dx| {
        let mut wide = Vec::new();
        let g = widened(&upstream[number * len..(number + 1) * len], &mut wide);
        let s = statistics(x, options, alone);
        let [dot, total] = by_chunks(len, alone, |r| {
            let (dot, total) = dots(&x[r.clone()], &g[r.clone()], &w[r], s.mean);
            [dot, total]
        });
        let total = if options.kind == NormKind::LayerNorm {
            total / n
        } else {
            0.0
        };
        let slope = dot / n * s.rstd * s.rstd;
        let size = if alone { CHUNK } else { len };
        parallel_chunks(dx, size, |i, dx| {
            let r = i * size..i * size + dx.len();
            write_backward(&x[r.clone()], &g[r.clone()], &w[r], s.mean, s.rstd, total, slope, dx);
        });
    });
}

/// The gradients of weight and bias: sums over the rows, rounded once.
pub fn backward_columns<T: Element>(
    x: &[T],
    len: usize,
    upstream: &[T],
    options: &LayerNormOptions,
) -> (Vec<T>, Vec<T>) {
    if len == 0 {
        return (Vec::new(), Vec::new());
    }
    let rows = x.len() / len;
    let stats = parallel_map(rows, |r| {
        let mut wide = Vec::new();
        statistics(widened(&x[r * len..(r + 1) * len], &mut wide), options, false)
    });
    let tiles = len.div_ceil(TILE);
    let blocks = TASKS.div_ceil(tiles).min(rows.div_ceil(64)).max(1);
    let block_rows = rows.div_ceil(blocks);
    let parts = parallel_map(tiles * blocks, |task| {
        let (tile, block) = (task % tiles, task / tiles);
        let columns = tile * TILE..((tile + 1) * TILE).min(len);
        let (mut weight, mut bias) = (vec![0.0f64; columns.len()], vec![0.0f64; columns.len()]);
        let (mut wide, mut wide_g) = (Vec::new(), Vec::new());
        let own = (block * block_rows).min(rows)..((block + 1) * block_rows).min(rows);
        for (r, s) in own.clone().zip(&stats[own]) {
            let range = r * len + columns.start..r * len + columns.end;
            let x = widened(&x[range.clone()], &mut wide);
            let g = widened(&upstream[range], &mut wide_g);
            add_columns(x, g, s.mean, s.rstd, &mut weight, &mut bias);
        }
        (weight, bias)
    });
    let (mut weight, mut bias) = (vec![0.0f64; len], vec![0.0f64; len]);
    for (task, (w, b)) in parts.into_iter().enumerate() {
        let from = task % tiles * TILE;
        weight[from..].iter_mut().zip(w).for_each(|(sum, v)| *sum += v);
        bias[from..].iter_mut().zip(b).for_each(|(sum, v)| *sum += v);
    }
    let rounded = |v: Vec<f64>| {
        let one = |v: f64| T::from_f64(if v.is_nan() { f64::NAN } else { v });
        v.into_iter().map(one).collect()
    };
    (rounded(weight), rounded(bias))
}
