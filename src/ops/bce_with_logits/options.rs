//! What a binary cross-entropy is asked for.

pub use crate::ops::cross_entropy::LossReduction;

/// Options of binary cross-entropy with logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BceOptions {
    /// What becomes of the losses of the elements: nothing, their mean over all elements (weights are not in the denominator), or
    /// their sum.
    pub reduction: LossReduction,
}
