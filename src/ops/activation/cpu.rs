//! The CPU path of the sigmoid family: f32 in and out, f64 between, written for the autovectoriser and compiled once for each
//! instruction set. Results are rounded once and do not depend on the number of threads.

use super::options::ActivationKind;
use crate::element::{DType, Element, bf16, f16};
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// Elements that go through a kernel at a time: they stay in the first-level cache.
pub(crate) const BLOCK: usize = 512;

/// Elements of a parallel task.
pub(crate) const TASK: usize = 32 * 1024;

/// `a * b + c`, in one rounding where the target does that in one instruction.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f64, b: f64, c: f64) -> f64 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding this rounds to an integer and leaves it, with the exponent bias of f64, in the lowest bits.
const ROUND: f64 = 6755399441055744.0 + 1023.0;

/// `1 / n!` for n from 0 to 9: on |r| <= ln(2) / 2 the series is right to 1e-11.
const EXP: [f64; 10] = [
    1.0,
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5040.0,
    1.0 / 40320.0,
    1.0 / 362880.0,
];

/// `exp(-|x|)`, of |x| at most 700 (where f32 has long been 0, and its products too); NaN for NaN.
#[inline(always)]
pub(crate) fn exp_tail<const FMA: bool>(x: f64) -> f64 {
    let a = x.abs();
    // In this form a NaN stays.
    let a = -(if a > 700.0 { 700.0 } else { a });
    let rounded = multiply_add::<FMA>(a, std::f64::consts::LOG2_E, ROUND);
    let r = multiply_add::<FMA>(rounded - ROUND, -std::f64::consts::LN_2, a);
    let mut p = EXP[9];
    for i in (0..9).rev() {
        p = multiply_add::<FMA>(p, r, EXP[i]);
    }
    p * f64::from_bits(rounded.to_bits() << 52)
}

/// `log(1 + e)` for e in [0, 1], as `2 atanh(e / (2 + e))`: the argument is at most 1/3, so ten terms are right to 1e-11 of the result.
#[inline(always)]
pub(crate) fn log1p_unit<const FMA: bool>(e: f64) -> f64 {
    let s = e / (2.0 + e);
    let z = s * s;
    let mut p = 1.0 / 19.0;
    for i in (0..9).rev() {
        p = multiply_add::<FMA>(p, z, 1.0 / (2 * i + 1) as f64);
    }
    2.0 * s * p
}

/// `max(x, 0)`, of NaN 0.
#[inline(always)]
pub(crate) fn positive(x: f64) -> f64 {
    if x > 0.0 { x } else { 0.0 }
}

/// f64 as f32, every NaN the canonical one.
#[inline(always)]
pub(crate) fn rounded(value: f64) -> f32 {
    if value.is_nan() { f32::NAN } else { value as f32 }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon",
))]
fn forward_block(kind: ActivationKind, x: &[f32], y: &mut [f32]) {
    const FMA: bool = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
    match kind {
        ActivationKind::Sigmoid => {
            for (y, &x) in y.iter_mut().zip(x) {
                let e = exp_tail::<FMA>(f64::from(x));
                *y = rounded((if x < 0.0 { e } else { 1.0 }) / (1.0 + e));
            }
        }
        ActivationKind::LogSigmoid | ActivationKind::Softplus => {
            let sign = if kind == ActivationKind::LogSigmoid { -1.0 } else { 1.0 };
            for (y, &x) in y.iter_mut().zip(x) {
                let x = f64::from(x) * sign;
                *y = rounded(sign * (positive(x) + log1p_unit::<FMA>(exp_tail::<FMA>(x))));
            }
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx2+fma",
    "x86_64+avx2+fma",
    "aarch64+neon",
))]
fn backward_block(kind: ActivationKind, x: &[f32], upstream: &[f32], dx: &mut [f32]) {
    const FMA: bool = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
    let sign = if kind == ActivationKind::LogSigmoid { -1.0 } else { 1.0 };
    let slope_of_sigmoid = kind == ActivationKind::Sigmoid;
    for ((dx, &x), &g) in dx.iter_mut().zip(x).zip(upstream) {
        let x = f64::from(x) * sign;
        let e = exp_tail::<FMA>(x);
        // Exactly 0 at infinities alone, as the oracle has it.
        let e = if x.abs() == f64::INFINITY { 0.0 } else { e };
        let inverse = 1.0 / (1.0 + e);
        let slope = if slope_of_sigmoid {
            e * inverse * inverse
        } else if x < 0.0 {
            e * inverse
        } else {
            inverse
        };
        *dx = rounded(f64::from(g) * slope);
    }
}

/// Widens a slice to f32.
pub(crate) fn widen<T: Element>(from: &[T], into: &mut [f32]) {
    match T::DTYPE {
        DType::F32 => into.copy_from_slice(bytemuck::cast_slice(from)),
        DType::F16 => bytemuck::cast_slice::<T, f16>(from).convert_to_f32_slice(into),
        DType::Bf16 => bytemuck::cast_slice::<T, bf16>(from).convert_to_f32_slice(into),
    }
}

/// Rounds a slice to the storage type.
pub(crate) fn narrow<T: Element>(from: &[f32], into: &mut [T]) {
    match T::DTYPE {
        DType::F32 => into.copy_from_slice(bytemuck::cast_slice(from)),
        DType::F16 => bytemuck::cast_slice_mut::<T, f16>(into).convert_from_f32_slice(from),
        DType::Bf16 => bytemuck::cast_slice_mut::<T, bf16>(into).convert_from_f32_slice(from),
    }
}

/// Calls `work` with the number and the elements of every task of `data`, over threads where there are any.
fn for_each_task<T: Send>(data: &mut [T], work: impl Fn(usize, &mut [T]) + Sync) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        data.par_chunks_mut(TASK)
            .enumerate()
            .for_each(|(i, task)| work(i, task));
    }
    #[cfg(target_arch = "wasm32")]
    data.chunks_mut(TASK).enumerate().for_each(|(i, task)| work(i, task));
}

/// The function of every element of `x`, written to `y` of the same length.
pub fn forward<T: Element>(kind: ActivationKind, x: &[T], y: &mut [T]) {
    for_each_task(y, |task, y| {
        let (mut wide, mut result) = ([0.0; BLOCK], [0.0; BLOCK]);
        for (y, x) in y.chunks_mut(BLOCK).zip(x[task * TASK..].chunks(BLOCK)) {
            let n = y.len();
            widen(&x[..n], &mut wide[..n]);
            forward_block(kind, &wide[..n], &mut result[..n]);
            narrow(&result[..n], y);
        }
    });
}

/// `upstream` times the derivative at `x`, element by element, written to `dx`. All have the same length.
pub fn backward<T: Element>(kind: ActivationKind, x: &[T], upstream: &[T], dx: &mut [T]) {
    for_each_task(dx, |task, dx| {
        let (mut wide, mut g, mut result) = ([0.0; BLOCK], [0.0; BLOCK], [0.0; BLOCK]);
        let inputs = x[task * TASK..]
            .chunks(BLOCK)
            .zip(upstream[task * TASK..].chunks(BLOCK));
        for (dx, (x, upstream)) in dx.chunks_mut(BLOCK).zip(inputs) {
            let n = dx.len();
            widen(&x[..n], &mut wide[..n]);
            widen(&upstream[..n], &mut g[..n]);
            backward_block(kind, &wide[..n], &g[..n], &mut result[..n]);
            narrow(&result[..n], dx);
        }
    });
}
