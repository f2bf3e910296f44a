//! Which reduction, over which axes, summed how.

use crate::error::{Error, Result};
use crate::rows::resolve_axis;

/// A reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReductionKind {
    /// Sum; 0 of nothing.
    Sum,
    /// Mean; NaN of nothing.
    Mean,
    /// Sum of squared deviations from the mean over `n - correction`; NaN unless `n > correction`.
    Variance,
    /// Square root of the variance.
    Std,
    /// Sum of magnitudes.
    NormL1,
    /// Square root of the sum of squares.
    NormL2,
    /// Largest magnitude; 0 of nothing.
    NormMax,
    /// Sum of products with a second tensor.
    Dot,
    /// Smallest element.
    Min,
    /// Largest element.
    Max,
    /// Index of the first smallest element.
    ArgMin,
    /// Index of the first largest element.
    ArgMax,
    /// Sum of squares.
    SumSquare,
    /// Natural logarithm of the sum.
    LogSum,
}

impl ReductionKind {
    /// All of them.
    pub const ALL: [ReductionKind; 14] = [
        ReductionKind::Sum,
        ReductionKind::Mean,
        ReductionKind::Variance,
        ReductionKind::Std,
        ReductionKind::NormL1,
        ReductionKind::NormL2,
        ReductionKind::NormMax,
        ReductionKind::Dot,
        ReductionKind::Min,
        ReductionKind::Max,
        ReductionKind::ArgMin,
        ReductionKind::ArgMax,
        ReductionKind::SumSquare,
        ReductionKind::LogSum,
    ];

    /// Lower-case name: `sum`, `norm_l2`, `argmax`, ...
    pub const fn name(self) -> &'static str {
        match self {
            ReductionKind::Sum => "sum",
            ReductionKind::Mean => "mean",
            ReductionKind::Variance => "variance",
            ReductionKind::Std => "std",
            ReductionKind::NormL1 => "norm_l1",
            ReductionKind::NormL2 => "norm_l2",
            ReductionKind::NormMax => "norm_max",
            ReductionKind::Dot => "dot",
            ReductionKind::Min => "min",
            ReductionKind::Max => "max",
            ReductionKind::ArgMin => "argmin",
            ReductionKind::ArgMax => "argmax",
            ReductionKind::SumSquare => "sum_square",
            ReductionKind::LogSum => "log_sum",
        }
    }

    /// Name of its gradient.
    pub const fn backward_name(self) -> &'static str {
        match self {
            ReductionKind::Sum => "sum_backward",
            ReductionKind::Mean => "mean_backward",
            ReductionKind::Variance => "variance_backward",
            ReductionKind::Std => "std_backward",
            ReductionKind::NormL1 => "norm_l1_backward",
            ReductionKind::NormL2 => "norm_l2_backward",
            ReductionKind::NormMax => "norm_max_backward",
            ReductionKind::Dot => "dot_backward",
            ReductionKind::Min => "min_backward",
            ReductionKind::Max => "max_backward",
            ReductionKind::ArgMin => "argmin_backward",
            ReductionKind::ArgMax => "argmax_backward",
            ReductionKind::SumSquare => "sum_square_backward",
            ReductionKind::LogSum => "log_sum_backward",
        }
    }

    /// Whether results are indices.
    pub const fn is_arg(self) -> bool {
        matches!(self, ReductionKind::ArgMin | ReductionKind::ArgMax)
    }

    /// Whether it takes a second tensor.
    pub const fn takes_two(self) -> bool {
        matches!(self, ReductionKind::Dot)
    }

    /// Whether it compares elements and rounds nothing.
    pub const fn is_exact(self) -> bool {
        matches!(self, ReductionKind::NormMax | ReductionKind::Min | ReductionKind::Max) || self.is_arg()
    }

    /// Whether there is no answer for a row without elements.
    pub const fn needs_elements(self) -> bool {
        matches!(self, ReductionKind::Min | ReductionKind::Max) || self.is_arg()
    }

    /// Whether [`SumMode`] matters to it.
    pub const fn has_mode(self) -> bool {
        matches!(self, ReductionKind::Sum | ReductionKind::Mean | ReductionKind::Dot)
    }
}

impl std::fmt::Display for ReductionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How sums, means and dot products are summed. With n terms t whose exact sum is s, and u = 2^-24:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SumMode {
    /// Error at most `(log2 n + 4) u` times the sum of the magnitudes of t.
    #[default]
    Pairwise,
    /// Error at most `2 u abs(s) + n u^2` times the sum of the magnitudes of t.
    Compensated,
    /// Error at most half a unit in the last place, whatever cancels; and the same bits on every device and for any order of the
    /// elements. See [`reproducible`](super::reproducible).
    Reproducible,
}

impl SumMode {
    /// All of them.
    pub const ALL: [SumMode; 3] = [SumMode::Pairwise, SumMode::Compensated, SumMode::Reproducible];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            SumMode::Pairwise => "pairwise",
            SumMode::Compensated => "compensated",
            SumMode::Reproducible => "reproducible",
        }
    }
}

impl std::fmt::Display for SumMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Options of a reduction.
#[derive(Clone, Debug, PartialEq)]
pub struct ReductionOptions {
    /// The axes reduced, negative ones counted from the end, each once; `None` is all of them. An empty list is refused.
    pub axes: Option<Vec<isize>>,
    /// Whether reduced axes stay with size 1.
    pub keepdims: bool,
    /// How sums, means and dot products are summed.
    pub mode: SumMode,
    /// What variance and std subtract from the number of elements: 1 for a sample, 0 for a population. Finite, not negative.
    pub correction: f64,
}

impl Default for ReductionOptions {
    fn default() -> Self {
        ReductionOptions {
            axes: None,
            keepdims: false,
            mode: SumMode::Pairwise,
            correction: 1.0,
        }
    }
}

impl ReductionOptions {
    /// Over these axes, the rest by default.
    pub fn over(axes: &[isize]) -> ReductionOptions {
        ReductionOptions {
            axes: Some(axes.to_vec()),
            ..Default::default()
        }
    }

    /// Which dimensions of `shape` are reduced.
    ///
    /// # Errors
    /// [`Error::Shape`] for axes that are none, doubled or out of range.
    pub fn reduced(&self, shape: &[usize]) -> Result<Vec<bool>> {
        let Some(axes) = &self.axes else {
            return Ok(vec![true; shape.len()]);
        };
        if axes.is_empty() {
            return Err(Error::shape("axes", "at least one axis", "none"));
        }
        let mut reduced = vec![false; shape.len()];
        for &axis in axes {
            let axis = resolve_axis(axis, shape.len())?;
            if std::mem::replace(&mut reduced[axis], true) {
                return Err(Error::shape("axes", "each axis once", format!("{axes:?}")));
            }
        }
        Ok(reduced)
    }

    /// Shape of the result.
    ///
    /// # Errors
    /// Those of [`ReductionOptions::reduced`].
    pub fn output_shape(&self, shape: &[usize]) -> Result<Vec<usize>> {
        let reduced = self.reduced(shape)?;
        Ok(shape
            .iter()
            .zip(&reduced)
            .filter(|&(_, &gone)| self.keepdims || !gone)
            .map(|(&size, &gone)| if gone { 1 } else { size })
            .collect())
    }

    /// Whether the options fit a shape and a kind.
    pub(crate) fn check(&self, kind: ReductionKind, shape: &[usize]) -> Result<()> {
        let reduced = self.reduced(shape)?;
        if !(self.correction.is_finite() && self.correction >= 0.0) {
            return Err(Error::Option {
                name: "correction",
                expected: "a finite number that is not negative",
                got: self.correction.to_string(),
            });
        }
        let empty = shape.iter().zip(&reduced).any(|(&size, &gone)| gone && size == 0);
        let rows = shape.iter().zip(&reduced).all(|(&size, &gone)| gone || size > 0);
        if empty && rows && kind.needs_elements() {
            return Err(Error::shape(
                format!("elements of a {kind}"),
                "at least one in every row",
                format!("none in shape {shape:?}"),
            ));
        }
        Ok(())
    }

    /// Whether a reduction is summed exactly.
    pub(crate) fn is_reproducible(&self, kind: ReductionKind) -> bool {
        self.mode == SumMode::Reproducible && kind.has_mode()
    }
}
