//! Sums that do not depend on order or device: exact, and rounded once.
//!
//! # Definition
//! Every finite f32 is an integer times 2^-149, and every product of two an integer times 2^-298. The mode
//! [`SumMode::Reproducible`](super::SumMode) adds these integers, in fixed point wide enough for 2^32 terms of any size (Kulisch's long
//! accumulator), and rounds what comes of it to the storage type once, to nearest, ties to even. So a sum, a mean or a dot product
//! is the correctly rounded true value: error at most half a unit in the last place, whatever cancels on the way. And as
//! integers add up to the same in any order, the bits are the same for every order of the terms, on every device and driver, at
//! any subgroup width and on the CPU path.
//!
//! A true value of 0, also of nothing or of -0 alone, gives +0; what is not 0 keeps its sign when it rounds to zero. Values
//! beyond the largest number round to infinity as IEEE 754 has it; that a partial sum lies beyond it does not matter. A NaN
//! gives NaN, and so do infinities of both signs and infinity times 0; else an infinity gives itself. The mean of nothing is NaN. Every NaN is
//! the canonical one.
//!
//! # Cost
//! Elements are read once. On devices a term takes about 20 integer operations and 4 (sums) or 6 (dot products) accesses of workgroup
//! memory; no floating-point unit takes part. Chunks of rows that are cut leave 64 (sums, means) or 112 bytes (dot products).
//!
//! # Source
//! The long accumulator after U. Kulisch; sorting terms by exponent first, on the CPU path, after R. M. Neal, "Fast exact summation
//! using small and large superaccumulators" (2015).
//!
//! ```
//! use macheps::{Context, ReductionOptions, SumMode};
//! use macheps::ops::reduction::{reproducible, sum};
//! let x = [1.0e38f32, 1.0, -1.0e38];
//! assert_eq!(reproducible::sum(&Context::cpu(), &x)?, 1.0);
//! // The same over any axes:
//! let options = ReductionOptions { mode: SumMode::Reproducible, ..ReductionOptions::over(&[1]) };
//! assert_eq!(sum(&Context::cpu(), &x, &[1, 3], &options)?, [1.0]);
//! # Ok::<(), macheps::Error>(())
//! ```

use super::layout::Layout;
use super::oneshot::{ReductionInput, reduce_async};
use super::options::{ReductionKind, ReductionOptions, SumMode};
use crate::context::Context;
use crate::element::{DType, Element};
use crate::error::{Error, Result};

/// Limbs of 32 bits, of which bit 0 stands for 2^-298: room for 2^40 products of the largest numbers, and a sign.
const LIMBS: usize = 20;
/// Bits from the smallest unit of a product to that of an element.
const ELEMENTS_BEGIN: u32 = 149;
/// Terms that may be added before carries move on: each adds less than 2^32 to a limb of 63 bits.
const BETWEEN_CARRIES: u32 = 1 << 30;

const NAN: u8 = 1;
const INF: u8 = 2;
const NEG_INF: u8 = 4;

/// An exact sum of f32 numbers and products of them, on the host.
///
/// # Numerics
/// Nothing is rounded but what [`ExactSum::value`] and [`ExactSum::mean`] give, once. The sum itself does not depend on the order of the
/// terms. Up to 2^40 terms.
///
/// ```
/// use macheps::ExactSum;
/// let mut sum = ExactSum::new();
/// for x in [3.0e38f32, 1.0e-45, -3.0e38] {
///     sum.add(x);
/// }
/// assert_eq!(sum.value::<f32>(), 1.0e-45);
/// ```
#[derive(Clone, Debug)]
pub struct ExactSum {
    limbs: [i64; LIMBS],
    pending: u32,
    flags: u8,
    count: u64,
}

impl Default for ExactSum {
    fn default() -> Self {
        ExactSum::new()
    }
}

/// Significand as an integer with its sign, and the place of its lowest bit in units of the smallest f32. Not of infinities and NaN.
#[inline(always)]
fn parts(bits: u32) -> (i64, u32) {
    let e = bits >> 23 & 0xff;
    let m = i64::from(bits & 0x7f_ffff | u32::from(e > 0) << 23);
    let sign = i64::from(bits as i32 >> 31);
    ((m ^ sign) - sign, e.max(1) - 1)
}

/// The flags of a term a b that is not finite, by the bits of its factors.
#[cold]
fn flags_of(a: u32, b: u32) -> u8 {
    let (a_size, b_size) = (a & 0x7fff_ffff, b & 0x7fff_ffff);
    if a_size.max(b_size) > 0x7f80_0000 || a_size.min(b_size) == 0 {
        NAN
    } else if (a ^ b) >> 31 == 0 {
        INF
    } else {
        NEG_INF
    }
}

#[inline(always)]
fn is_finite(bits: u32) -> bool {
    bits & 0x7f80_0000 != 0x7f80_0000
}

const ONE: u32 = 0x3f80_0000;

impl ExactSum {
    /// The sum of nothing.
    pub const fn new() -> ExactSum {
        ExactSum {
            limbs: [0; LIMBS],
            pending: 0,
            flags: 0,
            count: 0,
        }
    }

    /// Adds a number.
    #[inline]
    pub fn add(&mut self, x: f32) {
        self.count += 1;
        let bits = x.to_bits();
        if is_finite(bits) {
            let (m, place) = parts(bits);
            self.add_at(m.into(), place + ELEMENTS_BEGIN);
        } else {
            self.flags |= flags_of(bits, ONE);
        }
    }

    /// Adds a product, unrounded.
    #[inline]
    pub fn add_product(&mut self, x: f32, y: f32) {
        self.count += 1;
        let (x, y) = (x.to_bits(), y.to_bits());
        if is_finite(x) && is_finite(y) {
            let ((m, p), (n, q)) = (parts(x), parts(y));
            self.add_at(i128::from(m * n), p + q);
        } else {
            self.flags |= flags_of(x, y);
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        for (a, b) in self.limbs.iter_mut().zip(other.limbs) {
            *a += b;
        }
        self.pending += 1;
        self.flags |= other.flags;
        self.count += other.count;
    }

    /// Terms added, as [`ExactSum::mean`] counts them.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds `value`, less than 2^95, times 2^`place`.
    #[inline(always)]
    fn add_at(&mut self, value: i128, place: u32) {
        if self.pending == BETWEEN_CARRIES {
            self.carry();
        }
        self.pending += 1;
        let shifted = value << (place % 32);
        let limb = (place / 32) as usize;
        self.limbs[limb] += (shifted & 0xffff_ffff) as i64;
        self.limbs[limb + 1] += (shifted >> 32 & 0xffff_ffff) as i64;
        self.limbs[limb + 2] += (shifted >> 64 & 0xffff_ffff) as i64;
        self.limbs[limb + 3] += (shifted >> 96) as i64;
    }

    /// Limbs to 0 ... 2^32 - 1, the highest one signed.
    fn carry(&mut self) {
        let mut carry = 0;
        for limb in &mut self.limbs[..LIMBS - 1] {
            let v = *limb + carry;
            *limb = v & 0xffff_ffff;
            carry = v >> 32;
        }
        self.limbs[LIMBS - 1] += carry;
        self.pending = 0;
    }

    /// The sum, rounded to nearest, ties to even. Exactly 0 gives +0.
    pub fn value<T: Element>(&self) -> T {
        self.rounded_over(1)
    }

    /// The sum over the number of terms, rounded once; NaN of nothing.
    pub fn mean<T: Element>(&self) -> T {
        self.rounded_over(self.count)
    }

    fn rounded_over<T: Element>(&self, divisor: u64) -> T {
        match self.flags {
            0 if divisor > 0 => (),
            INF => return T::from_f32(f32::INFINITY),
            NEG_INF => return T::from_f32(f32::NEG_INFINITY),
            _ => return T::from_f32(f32::from_bits(0x7fc0_0000)),
        }
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.limbs[LIMBS - 1] < 0;
        if negative {
            sum.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            sum.carry();
        }
        // Long division. Sums of elements have 149 bits below the smallest number, so what is left over cannot make a tie.
        let mut rest = 0u128;
        for limb in sum.limbs.iter_mut().rev() {
            let v = rest << 32 | *limb as u128;
            *limb = (v / u128::from(divisor)) as i64;
            rest = v % u128::from(divisor);
        }
        let Some(top) = sum.limbs.iter().rposition(|&limb| limb != 0) else {
            // A quotient below every unit rounds to zero.
            return signed_zero(negative && rest != 0);
        };
        // The leading 64 bits, of which the highest is set, and whether there are more.
        let below = |back: usize| if top >= back { sum.limbs[top - back] as u128 } else { 0 };
        let leading = (sum.limbs[top] as u128) << 64 | below(1) << 32 | below(2);
        let shift = leading.leading_zeros();
        let window = leading << shift;
        let q = (window >> 64) as u64;
        let more = rest != 0 || window as u64 != 0 || sum.limbs[..top.saturating_sub(2)].iter().any(|&limb| limb != 0);
        // Bit 0 of q in units of 2^-298.
        let pos = top as i32 * 32 - shift as i32;
        round(q, pos, more, negative)
    }
}

fn signed_zero<T: Element>(negative: bool) -> T {
    T::from_f32(if negative { -0.0 } else { 0.0 })
}

/// `(q + a little where more) * 2^(pos - 298)`, of which q has its highest bit set, rounded to nearest, ties to even.
fn round<T: Element>(q: u64, pos: i32, more: bool, negative: bool) -> T {
    let (precision, smallest) = precision(T::DTYPE);
    let quantum = (pos + 63 - (precision - 1)).max(smallest + 2 * ELEMENTS_BEGIN as i32);
    let dropped = (quantum - pos) as u32;
    if dropped > 64 {
        return signed_zero(negative);
    }
    let half = 1u128 << (dropped - 1);
    let (kept, rest) = (u128::from(q) >> dropped, u128::from(q) & ((half << 1) - 1));
    let up = rest > half || (rest == half && (more || kept & 1 == 1));
    // Both factors are exact in f64, and the product too: at most 24 bits, and far from the ends of its range.
    let kept = (kept + u128::from(up)) as f64;
    let size = kept * 2f64.powi(quantum - 2 * ELEMENTS_BEGIN as i32);
    T::from_f64(if negative { -size } else { size })
}

/// Significant bits of a storage type, and the exponent of its smallest number.
const fn precision(dtype: DType) -> (i32, i32) {
    match dtype {
        DType::F32 => (24, -149),
        DType::F16 => (11, -24),
        DType::Bf16 => (8, -133),
    }
}

/// Terms by exponent, for long runs: one addition a term.
struct Bins {
    /// Two sets that take turns, so that equal exponents need not wait for each other; of products one.
    sums: Vec<i64>,
    flags: u8,
    /// Products since the last drain.
    terms: usize,
}

/// Elements that bins take at once; a bin of products has room for 2^15 terms of less than 2^48.
const BLOCK: usize = 1 << 14;

impl Bins {
    fn new(product: bool) -> Bins {
        Bins {
            sums: vec![0; if product { 512 } else { 4 * 256 }],
            flags: 0,
            terms: 0,
        }
    }

    #[inline(always)]
    fn add<T: Element>(&mut self, x: &[T]) {
        let Ok(sums) = <&mut [i64; 1024]>::try_from(&mut self.sums[..]) else {
            return;
        };
        let mut flags = 0;
        let mut one = |set: usize, v: &T| {
            let bits = v.to_f32().to_bits();
            let e = (bits >> 23 & 0xff) as usize;
            if e == 255 {
                flags |= flags_of(bits, ONE);
                return;
            }
            sums[set * 256 + e] += parts(bits).0;
        };
        let (fours, rest) = x.as_chunks::<4>();
        for four in fours {
            for (set, v) in four.iter().enumerate() {
                one(set, v);
            }
        }
        rest.iter().for_each(|v| one(0, v));
        self.flags |= flags;
    }

    #[inline(always)]
    fn add_products<T: Element>(&mut self, x: &[T], w: &[T]) {
        self.terms += x.len();
        for (x, w) in x.iter().zip(w) {
            let (x, w) = (x.to_f32().to_bits(), w.to_f32().to_bits());
            if !(is_finite(x) && is_finite(w)) {
                self.flags |= flags_of(x, w);
                continue;
            }
            let ((m, p), (n, q)) = (parts(x), parts(w));
            self.sums[(p + q) as usize] += m * n;
        }
    }

    /// Moves everything into `sum`.
    fn drain(&mut self, sum: &mut ExactSum, product: bool) {
        for (i, bin) in self.sums.iter_mut().enumerate().filter(|(_, bin)| **bin != 0) {
            let place = if product {
                i as u32
            } else {
                ELEMENTS_BEGIN + (i as u32 % 256).max(1) - 1
            };
            sum.add_at(i128::from(std::mem::take(bin)), place);
        }
        sum.flags |= std::mem::take(&mut self.flags);
        self.terms = 0;
    }
}

/// Elements of a row that one task takes.
const CHUNK: usize = 1 << 16;
/// Neighbouring rows that are summed together where elements of a row lie apart.
const TILE: usize = 64;
/// From so many elements on it pays to sort them by exponent.
const SORTED: usize = 1024;

/// The tensors of a call.
struct Call<'a, T> {
    x: &'a [T],
    second: Option<&'a [T]>,
    layout: &'a Layout,
}

impl<T: Element> Call<'_, T> {
    /// Elements `begin..end` of a row.
    fn chunk(&self, row: usize, begin: usize, end: usize) -> ExactSum {
        let start = self.layout.start(row);
        let mut sum = ExactSum::new();
        let product = self.second.is_some();
        let mut bins = (end - begin >= SORTED).then(|| Bins::new(product));
        self.layout.runs(begin, end, |place, step, count, _| {
            let at = [start[0] + place[0], start[1] + place[1]];
            if let Some(bins) = bins.as_mut().filter(|_| step[0] == 1 && (!product || step[1] == 1)) {
                for from in (0..count).step_by(BLOCK) {
                    let len = BLOCK.min(count - from);
                    let x = &self.x[at[0] + from..][..len];
                    match self.second {
                        None => bins.add(x),
                        Some(w) => {
                            if bins.terms + len > 2 * BLOCK {
                                bins.drain(&mut sum, true);
                            }
                            bins.add_products(x, &w[at[1] + from..][..len]);
                        }
                    }
                }
                sum.count += count as u64;
                return;
            }
            for i in 0..count {
                let x = self.x[at[0] + i * step[0]].to_f32();
                match self.second {
                    None => sum.add(x),
                    Some(w) => sum.add_product(x, w[at[1] + i * step[1]].to_f32()),
                }
            }
        });
        if let Some(bins) = &mut bins {
            bins.drain(&mut sum, product);
        }
        sum
    }

    /// Elements `begin..end` of `width` neighbouring rows from `row` on, which lie one element apart.
    fn tile(&self, row: usize, width: usize, begin: usize, end: usize) -> Vec<ExactSum> {
        let start = self.layout.start(row);
        let mut sums = vec![ExactSum::new(); width];
        self.layout.runs(begin, end, |place, step, count, _| {
            for i in 0..count {
                let x = &self.x[start[0] + place[0] + i * step[0]..][..width];
                match self.second {
                    None => sums.iter_mut().zip(x).for_each(|(sum, x)| sum.add(x.to_f32())),
                    Some(w) => {
                        let w = &w[start[1] + place[1] + i * step[1]..][..width];
                        for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                            sum.add_product(x.to_f32(), w.to_f32());
                        }
                    }
                }
            }
        });
        sums
    }
}

/// Calls `task(i)` for every `i` below `count`, on all threads, and gives the results in order.
fn each<R: Send>(count: usize, work: usize, task: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    #[cfg(not(target_arch = "wasm32"))]
    if work > 1 << 13 {
        use rayon::prelude::*;
        return (0..count).into_par_iter().map(task).collect();
    }
    let _ = work;
    (0..count).map(task).collect()
}

/// Values of a sum, mean or dot product of C-ordered tensors, into `y` with one element a row.
pub(super) fn forward<T: Element>(kind: ReductionKind, x: &[T], second: Option<&[T]>, layout: &Layout, y: &mut [T]) {
    let call = Call { x, second, layout };
    let (rows, len) = (layout.rows(), layout.len());
    let work = rows.saturating_mul(len);
    let result = |sum: &ExactSum| {
        if kind == ReductionKind::Mean {
            sum.mean()
        } else {
            sum.value()
        }
    };
    let inner = layout.kept.last().filter(|d| d.size > 1);
    let apart = layout.reduced.last().is_some_and(|d| d.strides[0] > 1);
    let neighbours = inner.filter(|d| apart && d.strides[0] == 1 && (second.is_none() || d.strides[1] == 1));
    // Rows that are long and few are cut; the others go to threads in bundles, neighbours together.
    let chunks = len.div_ceil(CHUNK).max(1);
    let bounds = |chunk: usize| (chunk * CHUNK, ((chunk + 1) * CHUNK).min(len));
    let values: Vec<Vec<T>> = if let Some(inner) = neighbours {
        let per_line = inner.size.div_ceil(TILE);
        each(rows / inner.size * per_line, work, |tile| {
            let from = tile % per_line * TILE;
            let row = tile / per_line * inner.size + from;
            let sums = call.tile(row, TILE.min(inner.size - from), 0, len);
            sums.iter().map(result).collect()
        })
    } else if chunks == 1 {
        let bundle = (1 << 12) / len.max(1) + 1;
        each(rows.div_ceil(bundle), work, |b| {
            (b * bundle..((b + 1) * bundle).min(rows))
                .map(|row| result(&call.chunk(row, 0, len)))
                .collect()
        })
    } else {
        let parts = each(rows * chunks, work, |task| {
            let (begin, end) = bounds(task % chunks);
            call.chunk(task / chunks, begin, end)
        });
        let whole = |of_row: &[ExactSum]| {
            let mut sum = ExactSum::new();
            of_row.iter().for_each(|part| sum.merge(part));
            result(&sum)
        };
        vec![parts.chunks(chunks).map(whole).collect()]
    };
    for (y, value) in y.iter_mut().zip(values.into_iter().flatten()) {
        *y = value;
    }
}

fn options() -> ReductionOptions {
    ReductionOptions {
        mode: SumMode::Reproducible,
        ..ReductionOptions::default()
    }
}

fn only<T: Element>(values: Result<Vec<T>>) -> Result<T> {
    values?
        .pop()
        .ok_or_else(|| Error::shape("the result", "one element", "none"))
}

/// The exact sum of all elements, rounded once: the same bits on every device and for any order. See the [module](self).
///
/// # Errors
/// [`Error::Limit`], [`Error::DeviceLost`], [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// use macheps::{Context, f16, ops::reduction::reproducible};
/// let ones = vec![f16::from_f32(1.0); 4096];
/// assert_eq!(reproducible::sum(&Context::cpu(), &ones)?.to_f32(), 4096.0);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn sum<T: Element>(context: &Context, x: &[T]) -> Result<T> {
    only(super::sum(context, x, &[x.len()], &options()))
}

/// As `sum`, under any executor.
///
/// # Errors
/// Those of `sum`.
pub async fn sum_async<T: Element>(context: &Context, x: &[T]) -> Result<T> {
    let shape = [x.len()];
    let input = ReductionInput::new(x, &shape);
    only(reduce_async(context, ReductionKind::Sum, &input, &options()).await)
}

/// The exact mean of all elements, rounded once; NaN of nothing. See the [module](self).
///
/// # Errors
/// Those of [`sum`].
#[cfg(not(target_arch = "wasm32"))]
pub fn mean<T: Element>(context: &Context, x: &[T]) -> Result<T> {
    only(super::mean(context, x, &[x.len()], &options()))
}

/// As `mean`, under any executor.
///
/// # Errors
/// Those of `sum`.
pub async fn mean_async<T: Element>(context: &Context, x: &[T]) -> Result<T> {
    let shape = [x.len()];
    let input = ReductionInput::new(x, &shape);
    only(reduce_async(context, ReductionKind::Mean, &input, &options()).await)
}

/// The exact sum of products, rounded once. See the [module](self).
///
/// # Errors
/// Those of [`sum`]; [`Error::Shape`] for unequal lengths.
#[cfg(not(target_arch = "wasm32"))]
pub fn dot<T: Element>(context: &Context, x: &[T], second: &[T]) -> Result<T> {
    only(super::dot(context, x, second, &[x.len()], &options()))
}

/// As `dot`, under any executor.
///
/// # Errors
/// Those of `dot`.
pub async fn dot_async<T: Element>(context: &Context, x: &[T], second: &[T]) -> Result<T> {
    let shape = [x.len()];
    let input = ReductionInput::pair(x, second, &shape);
    only(reduce_async(context, ReductionKind::Dot, &input, &options()).await)
}
