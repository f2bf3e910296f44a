//! What a softmax, log-softmax or log-sum-exp is asked to do.

use crate::error::{Error, Result};

/// Which function of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SoftmaxKind {
    /// `exp(z_j) / sum_k exp(z_k)`.
    Softmax,
    /// `z_j - log(sum_k exp(z_k))`.
    LogSoftmax,
    /// `log(sum_k exp(z_k))`, one value a row.
    LogSumExp,
}

impl SoftmaxKind {
    /// All three.
    pub const ALL: [SoftmaxKind; 3] = [SoftmaxKind::Softmax, SoftmaxKind::LogSoftmax, SoftmaxKind::LogSumExp];

    /// Name of the operation: `softmax`, `log_softmax`, `logsumexp`.
    pub const fn name(self) -> &'static str {
        match self {
            SoftmaxKind::Softmax => "softmax",
            SoftmaxKind::LogSoftmax => "log_softmax",
            SoftmaxKind::LogSumExp => "logsumexp",
        }
    }

    /// Whether the result has one element a row instead of one for each input element.
    pub const fn reduces(self) -> bool {
        matches!(self, SoftmaxKind::LogSumExp)
    }
}

/// Result for a row of which every entry is minus infinity or masked out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MaskedRows {
    /// softmax and log_softmax are NaN, as in PyTorch.
    #[default]
    Nan,
    /// softmax is 0, log_softmax is minus infinity, the gradient is 0: what masked attention wants.
    Zero,
}

/// Options of the softmax family. `z = fl(fl(x * scale) + mask)` in f32 is what enters the exponential.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxOptions {
    /// Axis along which rows run; negative ones count from the end.
    pub axis: isize,
    /// Factor on the input; finite.
    pub scale: f32,
    /// `Some(d)`: of the last two dimensions [Q, K], entry (q, k) takes part only if `k <= q + d`. The others are not read.
    /// `Some(0)` is the lower triangle of PyTorch's `is_causal`. Needs the last axis.
    pub causal: Option<i64>,
    /// What a row without any finite or +inf entry gives.
    pub masked_rows: MaskedRows,
}

impl Default for SoftmaxOptions {
    fn default() -> Self {
        SoftmaxOptions {
            axis: -1,
            scale: 1.0,
            causal: None,
            masked_rows: MaskedRows::Nan,
        }
    }
}

impl SoftmaxOptions {
    /// Checks the options against a shape and resolves the axis: what `bind` does, for hosts that want to know earlier.
    ///
    /// # Errors
    /// [`Error::Option`] for a scale that is not finite, [`Error::Shape`] for an axis or a causal mask that does not fit.
    pub fn check(&self, shape: &[usize]) -> Result<usize> {
        if !self.scale.is_finite() {
            return Err(Error::Option {
                name: "scale",
                expected: "a finite number",
                got: self.scale.to_string(),
            });
        }
        let axis = crate::rows::resolve_axis(self.axis, shape.len())?;
        if self.causal.is_some() && (shape.len() < 2 || axis + 1 != shape.len()) {
            return Err(Error::shape(
                "causal mask",
                "at least two dimensions and the last axis",
                format!("shape {shape:?}, axis {}", self.axis),
            ));
        }
        Ok(axis)
    }

    /// Of row `row` (row-major over the other dimensions), how many leading entries take part.
    /// `queries` is the size of the second to last dimension.
    pub(crate) fn visible(&self, row: usize, queries: usize, len: usize) -> usize {
        match self.causal {
            None => len,
            Some(diagonal) => {
                let q = (row % queries.max(1)) as i64;
                (q.saturating_add(diagonal).saturating_add(1)).clamp(0, len as i64) as usize
            }
        }
    }
}
