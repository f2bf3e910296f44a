//! Inner loops that the losses need beside those of softmax: f32 in and out, f64 inside, compiled once for each instruction set.
//!
//! A coefficient is `a = w (alpha q + beta)`: weight, share of the target, and share that smoothing spreads.

use crate::ops::softmax::cpu::kernels::{LANES, canonical, exp, reduce};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

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
        pub(super) fn $name($($arg: $type),*) $(-> $result)? {
            #[allow(dead_code)]
            const FMA: bool = target_cfg_f!(any(target_feature = "fma", target_feature = "neon"));
            $body
        }
    )*};
}

/// The coefficient, and its product with a difference that may be infinite: a class that does not count adds nothing.
#[inline(always)]
fn term(z: f32, q: f32, w: f32, max: f64, alpha: f64, beta: f64) -> (f64, f64) {
    let a = f64::from(w) * (alpha * f64::from(q) + beta);
    let t = a * (max - f64::from(z));
    (a, if a == 0.0 { 0.0 } else { t })
}

kernels! {
    /// Sums of the coefficients and of their products with `max - z`.
    fn dense_sums(z: &[f32], q: &[f32], w: &[f32], max: f64, alpha: f64, beta: f64) -> [f64; 2] {
        let (mut total, mut dot) = ([0.0; LANES], [0.0; LANES]);
        let whole = z.len() / LANES * LANES;
        let (blocks, tail) = z.as_chunks::<LANES>();
        let (q_blocks, w_blocks) = (q.as_chunks::<LANES>().0, w.as_chunks::<LANES>().0);
        for ((z, q), w) in blocks.iter().zip(q_blocks).zip(w_blocks) {
            for i in 0..LANES {
                let (a, t) = term(z[i], q[i], w[i], max, alpha, beta);
                total[i] += a;
                dot[i] += t;
            }
        }
        for (i, &z) in tail.iter().enumerate() {
            let (a, t) = term(z, q[whole + i], w[whole + i], max, alpha, beta);
            total[i] += a;
            dot[i] += t;
        }
        [reduce(total), reduce(dot)]
    }

    /// Sum of the exponentials below 1.
    fn below_one(e: &[f32]) -> f64 {
        let mut sum = [0.0; LANES];
        let (blocks, tail) = e.as_chunks::<LANES>();
        for e in blocks {
            for i in 0..LANES {
                sum[i] += if e[i] == 1.0 { 0.0 } else { f64::from(e[i]) };
            }
        }
        for (i, &e) in tail.iter().enumerate() {
            sum[i] += if e == 1.0 { 0.0 } else { f64::from(e) };
        }
        reduce(sum)
    }

    /// Multiplies by a factor and writes NaN in one form.
    fn scale(out: &mut [f32], factor: f64) {
        for v in out {
            *v = canonical((f64::from(*v) * factor) as f32);
        }
    }

    /// Multiplies by a factor and subtracts the coefficient.
    fn scale_dense(out: &mut [f32], factor: f64, q: &[f32], w: &[f32], alpha: f64, beta: f64) {
        for ((v, &q), &w) in out.iter_mut().zip(q).zip(w) {
            let a = f64::from(w) * (alpha * f64::from(q) + beta);
            *v = canonical((f64::from(*v) * factor - a) as f32);
        }
    }

    /// Raises the maxima of columns by a line of them.
    fn columns_max(z: &[f32], max: &mut [f32]) {
        for (m, &z) in max.iter_mut().zip(z) {
            *m = if z > *m { z } else { *m };
        }
    }

    /// Counts what equals the maximum of its column and adds `exp(z - max)` of the others.
    fn columns_sums(z: &[f32], max: &[f64], ties: &mut [f64], others: &mut [f64]) {
        for (((&z, &m), ties), others) in z.iter().zip(max).zip(ties).zip(others) {
            let z = f64::from(z);
            let tie = z == m;
            *ties += if tie { 1.0 } else { 0.0 };
            let d = if tie { f64::NEG_INFINITY } else { z - m };
            *others += exp::<FMA>(d);
        }
    }

    /// [`dense_sums`] for a line of columns, of one weight.
    fn columns_dense(z: &[f32], q: &[f32], w: f32, max: &[f64], alpha: f64, beta: f64, total: &mut [f64], dot: &mut [f64]) {
        for ((((&z, &q), &m), total), dot) in z.iter().zip(q).zip(max).zip(total).zip(dot) {
            let (a, t) = term(z, q, w, m, alpha, beta);
            *total += a;
            *dot += t;
        }
    }

    /// Writes `exp(z - max) * factor` for a line of columns.
    fn columns_gradient(z: &[f32], max: &[f64], factor: &[f64], out: &mut [f32]) {
        for (((o, &z), &m), &factor) in out.iter_mut().zip(z).zip(max).zip(factor) {
            *o = canonical((exp::<FMA>(f64::from(z) - m) * factor) as f32);
        }
    }

    /// The same minus the upstream gradient of each column times its coefficient.
    fn columns_gradient_dense(z: &[f32], q: &[f32], w: f32, max: &[f64], factor: &[f64], upstream: &[f64], alpha: f64, beta: f64, out: &mut [f32]) {
        for (((((o, &z), &q), &m), &factor), &s) in out.iter_mut().zip(z).zip(q).zip(max).zip(factor).zip(upstream) {
            let a = f64::from(w) * (alpha * f64::from(q) + beta);
            *o = canonical((exp::<FMA>(f64::from(z) - m) * factor - s * a) as f32);
        }
    }
}
