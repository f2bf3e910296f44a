//! How far a result of a reduction may be from the truth: the one place of its tolerances. With u = 2^-24, n elements, A the
//! sum of the magnitudes of the terms and s their sum:
//!
//! | result | error allowed in f32 |
//! |---|---|
//! | sum, dot, pairwise | `(log2 n + 4) u A` |
//! | sum, dot, compensated | `2 u abs(s) + n u^2 A` |
//! | sum, dot, mean, reproducible | half a unit in the last place of the storage type |
//! | mean | that over n, and `2 u abs(mean)` |
//! | L1 norm, sum_square | `(log2 n + 4) u` of the result |
//! | L2 norm | `((log2 n + 4) / 2 + 2) u` of the result |
//! | log_sum | the error of a compensated sum over s, and `4 u` of the result |
//! | variance | `(log2 n + 10) u` of the result, and `16 u^2 mean^2` |
//! | std | `((log2 n + 10) / 2 + 2) u` of the result, and `4 u^2 abs(mean)` |
//! | largest magnitude, min, max, argmin, argmax | none |
//! | gradients | `16 u` of the gradient |
//! | of variance, std | also `8 u` of the largest deviation from the mean and `8 u^2` of the mean, scaled as deviations are |
//! | of log_sum | also `n u^2 A / abs(s)` of the gradient: what cancels in the sum |
//! | of sum, L1 norm, largest magnitude, min, max | none |
//!
//! f16 and bf16 add half a unit in the last place of the type. A value below the smallest normal f32 may be flushed to zero.

use super::options::{ReductionKind, SumMode};
use super::reference::Row;
use crate::accuracy::{U, allowed};
use crate::element::DType;

/// Absolute error allowed in a result of storage type `dtype`.
pub fn bound(kind: ReductionKind, mode: SumMode, dtype: DType, row: &Row) -> f64 {
    let n = (row.count.max(1)) as f64;
    let (a, s, value) = (row.magnitude, row.sum.abs(), row.value.abs());
    let pairwise = (n.log2() + 4.0) * U;
    let compensated = 2.0 * U * s + n * U * U * a;

    let summed = match mode {
        SumMode::Pairwise => pairwise * a,
        SumMode::Compensated | SumMode::Reproducible => compensated,
    };
    if mode == SumMode::Reproducible && kind.has_mode() {
        // Half a unit, and what the oracle, of about 106 bits, may be off.
        return 0.5 * dtype.ulp(value) * (1.0 + 1e-9)
            + U.powi(4) * a / if kind == ReductionKind::Mean { n } else { 1.0 };
    }
    let in_f32 = match kind {
        ReductionKind::Sum | ReductionKind::Dot => summed,
        ReductionKind::Mean => summed / n + 2.0 * U * value,
        ReductionKind::NormL1 | ReductionKind::SumSquare => pairwise * value,
        ReductionKind::NormL2 => (pairwise / 2.0 + 2.0 * U) * value,
        ReductionKind::LogSum => compensated / s + 4.0 * U * value,
        ReductionKind::Variance => (pairwise + 6.0 * U) * value + 16.0 * U * U * row.mean * row.mean,
        ReductionKind::Std => (pairwise / 2.0 + 5.0 * U) * value + 4.0 * U * U * row.mean.abs(),
        _ => 0.0,
    };
    allowed(dtype, row.value, in_f32)
}

/// Absolute error allowed in a gradient; `magnitude` is what [`backward_row`](super::reference::backward_row) gives beside it.
pub fn gradient_bound(kind: ReductionKind, dtype: DType, value: f64, magnitude: f64) -> f64 {
    // One upstream gradient, passed on or not.
    let exact = matches!(kind, ReductionKind::Sum | ReductionKind::NormL1) || kind.is_exact();
    allowed(dtype, value, if exact { 0.0 } else { 16.0 * U * magnitude })
}
