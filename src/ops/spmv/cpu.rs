//! The CPU path: products and sums in f64, rows dealt out to all threads by their numbers of entries.
//!
//! Products of two f32 are exact in f64, so the result is the true one rounded once, but for sums that cancel by 29 bits. The bits do
//! not depend on the number of threads: what is cut, and where, goes by the matrix alone.

use crate::float::Float;
use crate::sparse::Csr;
use std::ops::Range;

/// Entries that a thread takes at a time.
const SHARE: usize = 1 << 15;
/// Rows that a thread takes at a time.
const SHARE_ROWS: usize = 1 << 14;
/// Rows of more entries are cut into pieces of so many.
const PIECE: usize = 1 << 16;

/// `alpha A x + beta y0`; x is `[cols, k]` and y `[rows, k]`, both row by row. Without `y0` the second term is left out.
#[derive(Clone, Copy, Debug)]
pub struct Scale<'a, Y> {
    /// Factor of the product.
    pub alpha: f64,
    /// Factor of `y0`, and `y0`.
    pub old: Option<(f64, &'a [Y])>,
}

impl<Y> Scale<'_, Y> {
    /// The product alone.
    pub const PLAIN: Self = Scale { alpha: 1.0, old: None };
}

/// `y = A x` in f64.
pub fn apply(a: &Csr<f64>, x: &[f64], y: &mut [f64]) {
    spmm(a, x, 1, Scale::PLAIN, y);
}

/// y for k vectors.
///
/// # Panics
/// Where lengths do not fit.
pub fn spmm<T: Float, X: Float>(a: &Csr<T>, x: &[X], k: usize, scale: Scale<'_, X>, y: &mut [X]) {
    assert_eq!((x.len(), y.len()), (a.cols() * k, a.rows() * k), "lengths of x and y");
    if k == 0 {
        return;
    }
    let mut shares = Vec::new();
    let mut rest = y;
    for rows in shares_of(a.row_ptr()) {
        let (own, after) = rest.split_at_mut(rows.len() * k);
        rest = after;
        shares.push((rows, own));
    }
    let finish = |sum: f64, place: usize| match scale.old {
        None if scale.alpha == 1.0 => X::rounded(sum),
        None => X::rounded(scale.alpha * sum),
        Some((beta, old)) => X::rounded(scale.alpha * sum + beta * old[place].widen()),
    };
    let work = |(rows, own): (Range<usize>, &mut [X])| {
        let first = rows.start;
        if k == 1 {
            if rows.len() == 1 && a.row(first).0.len() > PIECE {
                own[0] = finish(long_sum(a, first, x), first);
                return;
            }
            let ends = &a.row_ptr()[first + 1..=rows.end];
            let mut begin = a.row_ptr()[first] as usize;
            for (i, (y, &end)) in rows.zip(own.iter_mut().zip(ends)) {
                let row = begin..end as usize;
                begin = row.end;
                *y = finish(row_sum(&a.columns()[row.clone()], &a.values()[row], x), i);
            }
            return;
        }
        for (i, y) in rows.zip(own.chunks_exact_mut(k)) {
            let (columns, values) = a.row(i);
            for (c, y) in y.chunks_mut(8).enumerate() {
                let sums = sums_of_eight(columns, values, x, k, c * 8, y.len());
                for (lane, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
                    *y = finish(sum, i * k + c * 8 + lane);
                }
            }
        }
    };
    for_each(shares, work);
}

#[cfg(not(target_arch = "wasm32"))]
fn for_each<I: Send>(items: Vec<I>, work: impl Fn(I) + Sync + Send) {
    use rayon::prelude::*;
    if items.len() < 2 {
        items.into_iter().for_each(work);
    } else {
        items.into_par_iter().for_each(work);
    }
}

#[cfg(target_arch = "wasm32")]
fn for_each<I>(items: Vec<I>, work: impl Fn(I)) {
    items.into_iter().for_each(work);
}

/// Cuts rows into shares of about equal numbers of entries; rows that are cut themselves stand alone.
fn shares_of(row_ptr: &[u32]) -> Vec<Range<usize>> {
    let rows = row_ptr.len() - 1;
    let mut shares = Vec::new();
    let mut first = 0;
    while first < rows {
        let limit = row_ptr[first] as usize + SHARE;
        let most = rows.min(first + SHARE_ROWS);
        // Rows that end before the limit, one at least.
        let fit = row_ptr[first + 1..=most].partition_point(|&end| end as usize <= limit);
        let last = first + fit.max(1);
        shares.push(first..last);
        first = last;
    }
    shares
}

/// The sum of a row. Lengths that grids give have code of their own, without loops.
#[inline(always)]
fn row_sum<T: Float, X: Float>(columns: &[u32], values: &[T], x: &[X]) -> f64 {
    match columns.len() {
        0 => 0.0,
        1 => short_sum::<1, T, X>(columns, values, x),
        2 => short_sum::<2, T, X>(columns, values, x),
        3 => short_sum::<3, T, X>(columns, values, x),
        4 => short_sum::<4, T, X>(columns, values, x),
        5 => short_sum::<5, T, X>(columns, values, x),
        6 => short_sum::<6, T, X>(columns, values, x),
        7 => short_sum::<7, T, X>(columns, values, x),
        8 => short_sum::<8, T, X>(columns, values, x),
        9 => short_sum::<9, T, X>(columns, values, x),
        _ => any_sum(columns, values, x),
    }
}

/// [`any_sum`] of N entries.
#[inline(always)]
fn short_sum<const N: usize, T: Float, X: Float>(columns: &[u32], values: &[T], x: &[X]) -> f64 {
    let (Some(columns), Some(values)) = (columns.first_chunk::<N>(), values.first_chunk::<N>()) else {
        return any_sum(columns, values, x);
    };
    let mut sums = [0.0; 4];
    for k in 0..N {
        sums[k % 4] += values[k].widen() * x[columns[k] as usize].widen();
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// Four sums take turns; always in the same order.
fn any_sum<T: Float, X: Float>(columns: &[u32], values: &[T], x: &[X]) -> f64 {
    let mut sums = [0.0; 4];
    let (quads, last) = columns.as_chunks::<4>();
    let (value_quads, last_values) = values.as_chunks::<4>();
    for (columns, values) in quads.iter().zip(value_quads) {
        for lane in 0..4 {
            sums[lane] += values[lane].widen() * x[columns[lane] as usize].widen();
        }
    }
    for (sum, (&column, value)) in sums.iter_mut().zip(last.iter().zip(last_values)) {
        *sum += value.widen() * x[column as usize].widen();
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// A row in pieces, each summed by some thread, added up in their order.
fn long_sum<T: Float, X: Float>(a: &Csr<T>, row: usize, x: &[X]) -> f64 {
    let (columns, values) = a.row(row);
    let pieces = columns.len().div_ceil(PIECE);
    let mut sums = vec![0.0; pieces];
    let items: Vec<_> = sums
        .iter_mut()
        .zip(columns.chunks(PIECE).zip(values.chunks(PIECE)))
        .collect();
    for_each(items, |(sum, (columns, values))| *sum = row_sum(columns, values, x));
    sums.iter().sum()
}

/// The sums of up to eight vectors from the one at `first` on.
fn sums_of_eight<T: Float, X: Float>(
    columns: &[u32],
    values: &[T],
    x: &[X],
    k: usize,
    first: usize,
    count: usize,
) -> [f64; 8] {
    let mut sums = [0.0; 8];
    for (&column, value) in columns.iter().zip(values) {
        let value = value.widen();
        let place = column as usize * k + first;
        for (sum, x) in sums.iter_mut().zip(&x[place..place + count]) {
            *sum += value * x.widen();
        }
    }
    sums
}
