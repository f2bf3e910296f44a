//! What a loss over classes is asked for.

use crate::error::{Error, Result};

/// How the losses of the rows become the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LossReduction {
    /// One loss a row.
    None,
    /// Their sum over the sum of the weights of the targets that are not ignored; over the number of rows for soft targets.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl LossReduction {
    /// All of them.
    pub const ALL: [LossReduction; 3] = [LossReduction::None, LossReduction::Mean, LossReduction::Sum];

    /// Lower-case name: `none`, `mean`, `sum`.
    pub const fn name(self) -> &'static str {
        match self {
            LossReduction::None => "none",
            LossReduction::Mean => "mean",
            LossReduction::Sum => "sum",
        }
    }
}

impl std::str::FromStr for LossReduction {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        LossReduction::ALL
            .into_iter()
            .find(|r| r.name() == s)
            .ok_or_else(|| Error::Option {
                name: "reduction",
                expected: "none, mean or sum",
                got: s.to_string(),
            })
    }
}

/// Which of the two losses: they differ in what the input holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// The input holds logits.
    CrossEntropy,
    /// The input holds log-probabilities.
    NllLoss,
}

impl LossKind {
    /// Both.
    pub const ALL: [LossKind; 2] = [LossKind::CrossEntropy, LossKind::NllLoss];

    /// Name in reports: `cross_entropy`, `nll_loss`.
    pub const fn name(self) -> &'static str {
        match self {
            LossKind::CrossEntropy => "cross_entropy",
            LossKind::NllLoss => "nll_loss",
        }
    }
}

/// Options of the losses over classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropyOptions {
    /// Rows with this label have loss and gradient 0 and no part in a mean; it need not be a class. -100 if not told
    /// otherwise. Soft targets know no such row.
    pub ignore_index: Option<i64>,
    /// The share of a target that is spread evenly over all classes, 0 to 1.
    pub label_smoothing: f32,
    /// Weight of the squared log-sum-exp of each row that is not ignored, at least 0. It keeps logits from drifting.
    pub z_loss: f32,
    /// How the losses of the rows become the result.
    pub reduction: LossReduction,
}

impl Default for CrossEntropyOptions {
    fn default() -> Self {
        CrossEntropyOptions {
            ignore_index: Some(-100),
            label_smoothing: 0.0,
            z_loss: 0.0,
            reduction: LossReduction::Mean,
        }
    }
}

impl CrossEntropyOptions {
    /// Refuses values outside their domains, and what a loss whose input is normalised already does not have.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn check(&self, kind: LossKind) -> Result<()> {
        let wrong = |name, expected, got: f32| Error::Option {
            name,
            expected,
            got: got.to_string(),
        };
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return Err(wrong("label_smoothing", "a number from 0 to 1", self.label_smoothing));
        }
        if !(self.z_loss.is_finite() && self.z_loss >= 0.0) {
            return Err(wrong("z_loss", "a finite number, at least 0", self.z_loss));
        }
        if kind == LossKind::NllLoss && self.z_loss != 0.0 {
            return Err(wrong(
                "z_loss",
                "0: nll_loss takes log-probabilities, not logits",
                self.z_loss,
            ));
        }
        if kind == LossKind::NllLoss && self.label_smoothing != 0.0 {
            return Err(wrong("label_smoothing", "0: nll_loss has none", self.label_smoothing));
        }
        Ok(())
    }
}
