//! Inner loops of the CPU path: f32 in and out, f64 inside, written for the autovectoriser and compiled once for each
//! instruction set.
//!
//! A kernel works on blocks of [`LANES`] elements with one partial sum for each lane, and reduces the lanes by a fixed tree at its
//! end: the order of a sum depends on the length alone. The last, partial block is filled up with -inf, which adds 0.
//! An exponential is never wrong about NaN: it comes out as NaN and so do the sums, which is how a row with a NaN is found.

use crate::ops::softmax::SoftmaxKind;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// Elements that a kernel handles at a time.
pub(crate) const LANES: usize = 8;

/// Row stride of a tile of columns, in elements; a multiple of [`LANES`].
pub(super) const TILE_COLUMNS: usize = 64;

type Lanes32 = [f32; LANES];
type Lanes64 = [f64; LANES];

/// `a * b + c`, in one rounding where the target does that in one instruction.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f64, b: f64, c: f64) -> f64 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding this rounds to an integer and leaves it, with the exponent bias of f64, in the lowest bits.
const ROUND: f64 = 6755399441055744.0 + 1023.0;

/// Coefficients of [`exp_reduced`] from the linear term on: the minimax polynomial through (0, 1).
pub(super) const EXP: [f64; 6] = [
    1.0000000648778362,
    0.5000000081043168,
    0.16666325010555608,
    0.041666239859114496,
    0.00838115719023645,
    0.0013948640637153269,
];

/// `exp(r)` for |r| <= ln(2)/2 within a relative error of 2^-27.9.
#[inline(always)]
fn exp_reduced<const FMA: bool>(r: f64) -> f64 {
    let mut p = multiply_add::<FMA>(EXP[5], r, EXP[4]);
    p = multiply_add::<FMA>(p, r, EXP[3]);
    p = multiply_add::<FMA>(p, r, EXP[2]);
    p = multiply_add::<FMA>(p, r, EXP[1]);
    p = multiply_add::<FMA>(p, r, EXP[0]);
    multiply_add::<FMA>(p, r, 1.0)
}

/// `exp(d)` for any d <= 0; exactly 1 for 0, exactly 0 below -709.5 and for -inf, NaN for NaN.
///
/// `d = k ln 2 + r` with integer k and |r| <= ln(2)/2.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(d: f64) -> f64 {
    // Where k is -1023, so that the scale 2^k below comes out as 0.
    const LOWEST: f64 = -709.4;
    // In this form a NaN stays.
    let d = if d < LOWEST { LOWEST } else { d };
    let rounded = multiply_add::<FMA>(d, std::f64::consts::LOG2_E, ROUND);
    let r = multiply_add::<FMA>(rounded - ROUND, -std::f64::consts::LN_2, d);
    exp_reduced::<FMA>(r) * f64::from_bits(rounded.to_bits() << 52)
}

/// Adding this rounds to an integer and leaves it in the lowest bits.
pub(super) const ROUND_UNBIASED: f64 = 6755399441055744.0;

/// `exp(d)` for -708 <= d <= 0, and NaN for NaN. The exponent is added instead of multiplied in.
#[inline(always)]
fn exp_in_range<const FMA: bool>(d: f64) -> f64 {
    let rounded = multiply_add::<FMA>(d, std::f64::consts::LOG2_E, ROUND_UNBIASED);
    let r = multiply_add::<FMA>(rounded - ROUND_UNBIASED, -std::f64::consts::LN_2, d);
    f64::from_bits(exp_reduced::<FMA>(r).to_bits().wrapping_add(rounded.to_bits() << 52))
}

/// Entries so far below the maximum that nothing remains of them are lifted to here: `exp(-700)` is below `2^-1009`.
pub(super) const FLOOR: f32 = 700.0;

/// Up to this maximum, [`FLOOR`] below it is met closely enough in f32.
const MAX_WITH_FLOOR: f32 = 1048576.0;

/// `exp(z - m)` by lanes. With `NEAR`, for z not further than [`FLOOR`] below m and NaN; without, for any z.
#[inline(always)]
fn exp_lanes<const FMA: bool, const NEAR: bool>(z: &Lanes32, m: &Lanes64) -> Lanes64 {
    let mut e = [0.0; LANES];
    for i in 0..LANES {
        let d = f64::from(z[i]) - m[i];
        e[i] = if NEAR { exp_in_range::<FMA>(d) } else { exp::<FMA>(d) };
    }
    e
}

/// Lifts what is below `floor`; NaN stays.
#[inline(always)]
fn lift(z: &Lanes32, floor: f32) -> Lanes32 {
    let mut lifted = *z;
    for v in &mut lifted {
        *v = if *v < floor { floor } else { *v };
    }
    lifted
}

/// Sum of the lanes as a balanced tree.
#[inline(always)]
pub(crate) fn reduce(mut lanes: Lanes64) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The elements of a partial block, filled up.
#[inline(always)]
fn padded(tail: &[f32], fill: f32) -> Lanes32 {
    let mut block = [fill; LANES];
    block[..tail.len()].copy_from_slice(tail);
    block
}

#[inline(always)]
fn block(chunk: &[f32]) -> &Lanes32 {
    chunk.try_into().expect("chunks_exact gives whole blocks")
}

#[inline(always)]
fn block_mut(chunk: &mut [f32]) -> &mut Lanes32 {
    chunk.try_into().expect("chunks_exact gives whole blocks")
}

#[inline(always)]
fn max_step(best: &mut Lanes32, z: &Lanes32) {
    for i in 0..LANES {
        best[i] = if z[i] > best[i] { z[i] } else { best[i] };
    }
}

/// Counts the elements equal to the maximum, and adds `exp(z - m)` of the others.
#[inline(always)]
fn ties_step<const FMA: bool>(z: &Lanes32, m: &Lanes64, ties: &mut Lanes64, others: &mut Lanes64) {
    // Taken out before the exponential: a selection after it is compiled to a branch around it.
    let mut below = *z;
    for i in 0..LANES {
        let tie = f64::from(z[i]) == m[i];
        ties[i] += if tie { 1.0 } else { 0.0 };
        below[i] = if tie { f32::NEG_INFINITY } else { z[i] };
    }
    let e = exp_lanes::<FMA, false>(&below, m);
    for i in 0..LANES {
        others[i] += e[i];
    }
}

/// Adds `exp(z - m)`, `exp(z - m) * g` and `g`.
#[inline(always)]
fn dot_step<const FMA: bool>(z: &Lanes32, g: &Lanes32, m: &Lanes64, sums: &mut [Lanes64; 3]) {
    for i in 0..LANES {
        let e = exp::<FMA>(f64::from(z[i]) - m[i]);
        let g = f64::from(g[i]);
        sums[0][i] += e;
        sums[1][i] = multiply_add::<FMA>(e, g, sums[1][i]);
        sums[2][i] += g;
    }
}

/// Runs `step` over blocks of two inputs and one output of equal lengths.
macro_rules! for_blocks {
    ($z:ident, $pad:expr => $out:ident, |$zi:ident, $oi:ident| $step:expr) => {{
        let mut blocks = $z.chunks_exact(LANES);
        let mut outputs = $out.chunks_exact_mut(LANES);
        for (chunk, output) in (&mut blocks).zip(&mut outputs) {
            let ($zi, $oi) = (block(chunk), block_mut(output));
            $step
        }
        let (tail, rest) = (blocks.remainder(), outputs.into_remainder());
        if !tail.is_empty() {
            let mut output = [0.0f32; LANES];
            {
                let ($zi, $oi) = (&padded(tail, $pad), &mut output);
                $step
            }
            rest.copy_from_slice(&output[..tail.len()]);
        }
    }};
    ($z:ident, $pad:expr, |$zi:ident| $step:expr) => {{
        let mut blocks = $z.chunks_exact(LANES);
        for chunk in &mut blocks {
            let $zi = block(chunk);
            $step
        }
        if !blocks.remainder().is_empty() {
            let $zi = &padded(blocks.remainder(), $pad);
            $step
        }
    }};
    ($z:ident, $g:ident, |$zi:ident, $gi:ident| $step:expr) => {{
        let mut blocks = $z.chunks_exact(LANES);
        let mut seconds = $g.chunks_exact(LANES);
        for (chunk, second) in (&mut blocks).zip(&mut seconds) {
            let ($zi, $gi) = (block(chunk), block(second));
            $step
        }
        if !blocks.remainder().is_empty() {
            let ($zi, $gi) = (
                &padded(blocks.remainder(), f32::NEG_INFINITY),
                &padded(seconds.remainder(), 0.0),
            );
            $step
        }
    }};
}

/// The largest element that is not NaN, -inf if there is none.
#[inline(always)]
fn max_body(z: &[f32]) -> f32 {
    if z.len() < LANES {
        return z.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    }
    let mut wide = [f32::NEG_INFINITY; 4 * LANES];
    let mut blocks = z.chunks_exact(4 * LANES);
    for block in &mut blocks {
        for (best, &z) in wide.iter_mut().zip(block) {
            *best = if z > *best { z } else { *best };
        }
    }
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in wide.chunks_exact(LANES).chain(blocks.remainder().chunks_exact(LANES)) {
        max_step(&mut best, block(chunk));
    }
    // The last block overlaps: a maximum may see an element twice.
    max_step(&mut best, block(&z[z.len() - LANES..]));
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            best[i] = if best[i + width] > best[i] {
                best[i + width]
            } else {
                best[i]
            };
        }
        width /= 2;
    }
    best[0]
}

/// Runs the AVX2 form of a loop where `FMA` says that this clone of the caller is the one for that instruction set.
macro_rules! in_avx2 {
    ($fma:ident, $name:ident($($arg:expr),*)) => {
        #[cfg(target_arch = "x86_64")]
        if $fma {
            // SAFETY: on x86-64 `FMA` is true only in functions compiled for AVX2 and FMA, which `multiversion` calls only
            // after finding both on this CPU.
            // (Where the caller itself is such a function, the compiler knows that.)
            #[allow(unsafe_code, unused_unsafe)]
            return unsafe { super::avx2::$name($($arg),*) };
        }
    };
}

#[inline(always)]
fn exp_store_body<const FMA: bool>(z: &[f32], max: f32, out: &mut [f32]) -> f64 {
    if max.abs() <= MAX_WITH_FLOOR {
        in_avx2!(FMA, exp_store(z, max, out));
    }
    let m = [f64::from(max); LANES];
    let mut sum = [0.0; LANES];
    if max.abs() <= MAX_WITH_FLOOR {
        let floor = max - FLOOR;
        for_blocks!(z, f32::NEG_INFINITY => out, |zi, oi| {
            let e = exp_lanes::<FMA, true>(&lift(zi, floor), &m);
            for i in 0..LANES {
                sum[i] += e[i];
                oi[i] = e[i] as f32;
            }
        });
    } else {
        for_blocks!(z, f32::NEG_INFINITY => out, |zi, oi| {
            let e = exp_lanes::<FMA, false>(zi, &m);
            for i in 0..LANES {
                sum[i] += e[i];
                oi[i] = e[i] as f32;
            }
        });
    }
    reduce(sum)
}

#[inline(always)]
fn exp_sum_body<const FMA: bool>(z: &[f32], max: f32) -> f64 {
    let m = [f64::from(max); LANES];
    let mut sum = [0.0; LANES];
    if max.abs() <= MAX_WITH_FLOOR {
        let floor = max - FLOOR;
        for_blocks!(z, f32::NEG_INFINITY, |zi| {
            let e = exp_lanes::<FMA, true>(&lift(zi, floor), &m);
            for i in 0..LANES {
                sum[i] += e[i];
            }
        });
    } else {
        for_blocks!(z, f32::NEG_INFINITY, |zi| {
            let e = exp_lanes::<FMA, false>(zi, &m);
            for i in 0..LANES {
                sum[i] += e[i];
            }
        });
    }
    reduce(sum)
}

/// Number of elements equal to the maximum, and sum of `exp(z - max)` over the others.
pub(crate) fn ties_and_others(z: &[f32], max: f32) -> (f64, f64) {
    if max.abs() <= MAX_WITH_FLOOR {
        ties_and_others_near(z, max)
    } else {
        ties_and_others_far(z, max)
    }
}

/// Multiplies by a factor, with the digits of it that f32 lacks.
#[inline(always)]
fn scale_body<const FMA: bool>(out: &mut [f32], factor: f64) {
    if FMA {
        // Small factors are lifted by 2^64 until the last step: the product with the low digits would be subnormal long before the
        // result is, and lose them. Scaling back is exact where the result is normal.
        const LIFT: f64 = 18446744073709551616.0;
        let (lift, back) = if factor.abs() <= 1.0 {
            (LIFT, 1.0 / LIFT)
        } else {
            (1.0, 1.0)
        };
        let back = back as f32;
        let high = (factor * lift) as f32;
        let low = (factor * lift - f64::from(high)) as f32;
        for v in out {
            *v = v.mul_add(high, *v * low) * back;
        }
    } else {
        for v in out {
            *v = (f64::from(*v) * factor) as f32;
        }
    }
}

/// A function compiled for each instruction set, with `FMA` known to its body.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        #[multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma",
            "x86_64+avx2+fma",
            "aarch64+neon",
        ))]
        pub(crate) fn $name($($arg: $type),*) $(-> $result)? {
            #[allow(dead_code)]
            const FMA: bool = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
            $body
        }
    )*};
}

kernels! {
    /// The largest element that is not NaN, -inf if there is none.
    fn max(z: &[f32]) -> f32 {
        max_body(z)
    }

    /// Softmax of consecutive rows. Rows that are not ordinary are not finished but named in `others`.
    fn softmax_rows(z: &[f32], len: usize, out: &mut [f32], others: &mut Vec<usize>) {
        for (row, (z, out)) in z.chunks_exact(len).zip(out.chunks_exact_mut(len)).enumerate() {
            let max = max_body(z);
            if !max.is_finite() {
                others.push(row);
                continue;
            }
            let sum = exp_store_body::<FMA>(z, max, out);
            if sum.is_nan() {
                others.push(row);
            } else {
                scale_body::<FMA>(out, 1.0 / sum);
            }
        }
    }

    /// Writes `exp(z - m)` and returns their sum.
    fn exp_store(z: &[f32], m: f32, out: &mut [f32]) -> f64 {
        exp_store_body::<FMA>(z, m, out)
    }

    /// Sum of `exp(z - m)`.
    fn exp_sum(z: &[f32], m: f32) -> f64 {
        exp_sum_body::<FMA>(z, m)
    }

    /// [`ties_and_others`] for a maximum up to [`MAX_WITH_FLOOR`].
    fn ties_and_others_near(z: &[f32], max: f32) -> (f64, f64) {
        in_avx2!(FMA, ties_and_others(z, max));
        let m = [f64::from(max); LANES];
        let floor = max - FLOOR;
        // Exact in f32: a chunk is far shorter than 2^24.
        let mut count = [0.0f32; LANES];
        let mut others = [0.0; LANES];
        for_blocks!(z, f32::NEG_INFINITY, |zi| {
            let mut below = lift(zi, floor);
            for i in 0..LANES {
                count[i] += if zi[i] == max { 1.0 } else { 0.0 };
                below[i] = if zi[i] == max { floor } else { below[i] };
            }
            let e = exp_lanes::<FMA, true>(&below, &m);
            for i in 0..LANES {
                others[i] += e[i];
            }
        });
        (reduce(count.map(f64::from)), reduce(others))
    }

    /// [`ties_and_others`] for any finite maximum.
    fn ties_and_others_far(z: &[f32], max: f32) -> (f64, f64) {
        let m = [f64::from(max); LANES];
        let (mut ties, mut others) = ([0.0; LANES], [0.0; LANES]);
        for_blocks!(z, f32::NEG_INFINITY, |zi| ties_step::<FMA>(zi, &m, &mut ties, &mut others));
        (reduce(ties), reduce(others))
    }

    /// Sums of `exp(z - m)`, `exp(z - m) * g` and `g`.
    fn exp_dot(z: &[f32], g: &[f32], m: f32) -> [f64; 3] {
        let m = [f64::from(m); LANES];
        let mut sums = [[0.0; LANES]; 3];
        for_blocks!(z, g, |zi, gi| dot_step::<FMA>(zi, gi, &m, &mut sums));
        sums.map(reduce)
    }

    /// Multiplies by a factor.
    fn scale(out: &mut [f32], factor: f64) {
        scale_body::<FMA>(out, factor);
    }

    /// Writes `exp(z - m) * factor`.
    fn softmax(z: &[f32], m: f64, factor: f64, out: &mut [f32]) {
        for (o, &z) in out.iter_mut().zip(z) {
            *o = (exp::<FMA>(f64::from(z) - m) * factor) as f32;
        }
    }

    /// Writes `(z - m) - log_sum`.
    fn log_softmax(z: &[f32], m: f64, log_sum: f64, out: &mut [f32]) {
        for (o, &z) in out.iter_mut().zip(z) {
            *o = ((f64::from(z) - m) - log_sum) as f32;
        }
    }

    /// Writes `scale * p * (g - mean)` with `p = exp(z - m) * factor`.
    fn softmax_gradient(z: &[f32], g: &[f32], m: f64, factor: f64, mean: f64, scale: f64, out: &mut [f32]) {
        for ((o, &z), &g) in out.iter_mut().zip(z).zip(g) {
            let p = exp::<FMA>(f64::from(z) - m) * factor;
            *o = canonical((scale * p * (f64::from(g) - mean)) as f32);
        }
    }

    /// Writes `scale * (g - p * total)` with `p = exp(z - m) * factor`.
    fn log_softmax_gradient(z: &[f32], g: &[f32], m: f64, factor: f64, total: f64, scale: f64, out: &mut [f32]) {
        for ((o, &z), &g) in out.iter_mut().zip(z).zip(g) {
            let p = exp::<FMA>(f64::from(z) - m) * factor;
            *o = canonical((scale * (f64::from(g) - p * total)) as f32);
        }
    }

    /// Writes `scale * g * p` with `p = exp(z - m) * factor`.
    fn logsumexp_gradient(z: &[f32], m: f64, factor: f64, scaled_g: f64, out: &mut [f32]) {
        for (o, &z) in out.iter_mut().zip(z) {
            let p = exp::<FMA>(f64::from(z) - m) * factor;
            *o = canonical((scaled_g * p) as f32);
        }
    }

    /// Multiplies by a factor in f32.
    fn scale_f32(values: &mut [f32], factor: f32) {
        for v in values {
            *v *= factor;
        }
    }

    /// Adds in f32.
    fn add_f32(values: &mut [f32], terms: &[f32]) {
        for (v, &t) in values.iter_mut().zip(terms) {
            *v += t;
        }
    }

    /// Maxima of [`LANES`] neighbouring columns of a tile, as [`max`].
    fn column_max(tile: &[f32]) -> [f32; LANES] {
        let mut best = [f32::NEG_INFINITY; LANES];
        for row in tile.chunks(TILE_COLUMNS) {
            max_step(&mut best, block(&row[..LANES]));
        }
        best
    }

    /// [`ties_and_others`] of neighbouring columns of a tile.
    fn column_ties(tile: &[f32], m: &[f64; LANES]) -> [[f64; LANES]; 2] {
        let m = *m;
        let (mut ties, mut others) = ([0.0; LANES], [0.0; LANES]);
        for row in tile.chunks(TILE_COLUMNS) {
            ties_step::<FMA>(block(&row[..LANES]), &m, &mut ties, &mut others);
        }
        [ties, others]
    }

    /// [`exp_dot`] of neighbouring columns of a tile.
    fn column_dot(tile: &[f32], g: &[f32], m: &[f64; LANES]) -> [[f64; LANES]; 3] {
        let m = *m;
        let mut sums = [[0.0; LANES]; 3];
        for (z, g) in tile.chunks(TILE_COLUMNS).zip(g.chunks(TILE_COLUMNS)) {
            dot_step::<FMA>(block(&z[..LANES]), block(&g[..LANES]), &m, &mut sums);
        }
        sums
    }

    /// [`softmax`] with a maximum and a factor for each element.
    fn columns_softmax(z: &[f32], m: &[f64], factor: &[f64], out: &mut [f32]) {
        for (((o, &z), &m), &factor) in out.iter_mut().zip(z).zip(m).zip(factor) {
            *o = canonical((exp::<FMA>(f64::from(z) - m) * factor) as f32);
        }
    }

    /// [`log_softmax`] with statistics for each element.
    fn columns_log_softmax(z: &[f32], m: &[f64], log_sum: &[f64], out: &mut [f32]) {
        for (((o, &z), &m), &log_sum) in out.iter_mut().zip(z).zip(m).zip(log_sum) {
            *o = canonical(((f64::from(z) - m) - log_sum) as f32);
        }
    }

    /// The three gradients with statistics for each element.
    fn columns_gradient(z: &[f32], g: &[f32], m: &[f64], factor: &[f64], constant: &[f64], kind: SoftmaxKind, scale: f64, out: &mut [f32]) {
        for (((((o, &z), &g), &m), &factor), &constant) in out.iter_mut().zip(z).zip(g).zip(m).zip(factor).zip(constant) {
            let p = exp::<FMA>(f64::from(z) - m) * factor;
            let g = f64::from(g);
            *o = canonical(match kind {
                SoftmaxKind::Softmax => scale * p * (g - constant),
                SoftmaxKind::LogSoftmax => scale * (g - p * constant),
                SoftmaxKind::LogSumExp => constant * p,
            } as f32);
        }
    }

    /// Widens bf16, the upper half of an f32.
    fn widen_bf16(from: &[u16], into: &mut [f32]) {
        for (o, &v) in into.iter_mut().zip(from) {
            *o = f32::from_bits(u32::from(v) << 16);
        }
    }

    /// Rounds to bf16, to nearest, ties to even.
    fn narrow_bf16(from: &[f32], into: &mut [u16]) {
        for (o, &v) in into.iter_mut().zip(from) {
            let bits = v.to_bits();
            let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
            *o = if v.is_nan() { 0x7fc0 } else { rounded };
        }
    }
}

/// Every NaN as the one bit pattern that this crate writes.
#[inline(always)]
pub(crate) fn canonical(value: f32) -> f32 {
    if value.is_nan() {
        f32::from_bits(0x7fc0_0000)
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_holds_its_bound() {
        let mut worst: f64 = 0.0;
        for i in 0..400_000 {
            let d = -f64::from(i) * (700.0 / 400_000.0);
            for got in [
                exp::<true>(d),
                exp::<false>(d),
                exp_in_range::<true>(d),
                exp_in_range::<false>(d),
            ] {
                worst = worst.max((got / d.exp() - 1.0).abs());
            }
        }
        assert!(worst < 1.1 * 2f64.powi(-28), "{worst:e}");
        for (d, want) in [(0.0, 1.0), (f64::NEG_INFINITY, 0.0), (-1e300, 0.0), (-709.5, 0.0)] {
            assert_eq!(exp::<false>(d), want);
        }
        assert!(exp::<false>(f64::NAN).is_nan());
    }
}
