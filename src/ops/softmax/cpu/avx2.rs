//! The two hottest loops of the CPU path written out for AVX2 and FMA: left to itself, the compiler does half of this
//! arithmetic in 128-bit registers. Same operations in the same order as in [`super::kernels`], so the same bits.

use super::kernels::{EXP, FLOOR, LANES, ROUND_UNBIASED, reduce};
use std::arch::x86_64::*;

/// Rows follow each other in memory as a rule, and what comes after the one at hand is asked for while the arithmetic keeps the
/// memory idle: a row is often a page, at whose end the hardware's own prefetching stops. At least so many elements ahead.
const SHORTEST_LEAD: usize = 1024;

/// `exp(d)` for -708 <= d <= 0, and NaN for NaN; as `exp_in_range`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp_in_range(d: __m256d) -> __m256d {
    let round = _mm256_set1_pd(ROUND_UNBIASED);
    let rounded = _mm256_fmadd_pd(d, _mm256_set1_pd(std::f64::consts::LOG2_E), round);
    let k = _mm256_sub_pd(rounded, round);
    let r = _mm256_fmadd_pd(k, _mm256_set1_pd(-std::f64::consts::LN_2), d);
    let mut p = _mm256_fmadd_pd(_mm256_set1_pd(EXP[5]), r, _mm256_set1_pd(EXP[4]));
    p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(EXP[3]));
    p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(EXP[2]));
    p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(EXP[1]));
    p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(EXP[0]));
    p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(1.0));
    let exponent = _mm256_slli_epi64::<52>(_mm256_castpd_si256(rounded));
    _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(p), exponent))
}

/// `exp(z - m)` of eight elements that are not below `floor`, or NaN.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp_block(z: __m256, m: __m256d) -> [__m256d; 2] {
    let low = _mm256_cvtps_pd(_mm256_castps256_ps128(z));
    let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(z));
    [
        exp_in_range(_mm256_sub_pd(low, m)),
        exp_in_range(_mm256_sub_pd(high, m)),
    ]
}

/// Eight elements, the missing ones -inf.
#[inline]
fn load(z: &[f32]) -> [f32; LANES] {
    let mut block = [f32::NEG_INFINITY; LANES];
    block[..z.len()].copy_from_slice(z);
    block
}

/// The lanes of a pair of registers added up as in the portable loops.
#[inline]
fn total(sum: [__m256d; 2]) -> f64 {
    reduce(bytemuck::cast(sum))
}

/// Writes `exp(z - max)` and returns their sum; `|max|` is small enough for [`FLOOR`] below it to be met in f32.
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp_store(z: &[f32], max: f32, out: &mut [f32]) -> f64 {
    let m = _mm256_set1_pd(f64::from(max));
    let floor = _mm256_set1_ps(max - FLOOR);
    let mut sum = [_mm256_setzero_pd(); 2];
    let whole = z.len() / LANES * LANES;
    let (blocks, tail) = z.split_at(whole);
    let (outputs, rest) = out.split_at_mut(whole);
    let ahead = z.len().max(SHORTEST_LEAD);
    for (z, o) in blocks
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(outputs.as_chunks_mut::<LANES>().0)
    {
        // SAFETY: a prefetch reads nothing that the program sees and never faults, whatever the address. (Newer compilers know.)
        #[allow(unsafe_code, unused_unsafe)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(z.as_ptr().wrapping_add(ahead).cast());
        }
        // The second operand is kept where one is NaN.
        let e = exp_block(_mm256_max_ps(floor, bytemuck::cast(*z)), m);
        sum = [_mm256_add_pd(sum[0], e[0]), _mm256_add_pd(sum[1], e[1])];
        *o = bytemuck::cast(_mm256_set_m128(_mm256_cvtpd_ps(e[1]), _mm256_cvtpd_ps(e[0])));
    }
    if !tail.is_empty() {
        let e = exp_block(_mm256_max_ps(floor, bytemuck::cast(load(tail))), m);
        sum = [_mm256_add_pd(sum[0], e[0]), _mm256_add_pd(sum[1], e[1])];
        let last: [f32; LANES] = bytemuck::cast(_mm256_set_m128(_mm256_cvtpd_ps(e[1]), _mm256_cvtpd_ps(e[0])));
        rest.copy_from_slice(&last[..tail.len()]);
    }
    total(sum)
}

/// Number of elements equal to the maximum, and sum of `exp(z - max)` over the others.
#[target_feature(enable = "avx2,fma")]
pub(super) fn ties_and_others(z: &[f32], max: f32) -> (f64, f64) {
    let m = _mm256_set1_pd(f64::from(max));
    let top = _mm256_set1_ps(max);
    let floor = _mm256_set1_ps(max - FLOOR);
    let one = _mm256_set1_ps(1.0);
    let mut count = _mm256_setzero_ps();
    let mut sum = [_mm256_setzero_pd(); 2];
    let (blocks, tail) = z.as_chunks::<LANES>();
    let last = load(tail);
    for z in blocks.iter().chain((!tail.is_empty()).then_some(&last)) {
        let z: __m256 = bytemuck::cast(*z);
        let tie = _mm256_cmp_ps::<_CMP_EQ_OQ>(z, top);
        count = _mm256_add_ps(count, _mm256_and_ps(tie, one));
        let below = _mm256_blendv_ps(_mm256_max_ps(floor, z), floor, tie);
        let e = exp_block(below, m);
        sum = [_mm256_add_pd(sum[0], e[0]), _mm256_add_pd(sum[1], e[1])];
    }
    let count: [f32; LANES] = bytemuck::cast(count);
    (reduce(count.map(f64::from)), total(sum))
}
