//! Losses over classes: cross-entropy of logits and nll_loss of log-probabilities, forward, backward, and both in one go.
//!
//! # Definition
//! For a row of logits x with C classes, `lse = log(sum_k exp(x_k))`, and the coefficient of a class
//! `a_c = w_c ((1 - e) q_c + e / C)`, where w is the class's weight, e the label smoothing, and q the target's probability, for a label t 1
//! at t and 0 elsewhere:
//! - cross_entropy: `sum_c a_c (lse - x_c) + z lse^2`
//! - nll_loss: `-w_t x_t`
//!
//! The reductions are those of PyTorch 2 and of ONNX's SoftmaxCrossEntropyLoss. Sum adds the rows. Mean divides the sum of the first
//! term by the sum of `w_t` over the rows that are not ignored (by the number of rows where targets are probabilities), and that of
//! the second by the number of rows that are not ignored. With `s` and `s_z` the upstream gradient over those divisors,
//! the gradient is `p_j (s sum_c a_c + 2 s_z z lse) - s a_j` with p the softmax; for nll_loss `-s w_t` at the label.
//!
//! # Shapes
//! x is `[N, C, d1, ..]`, `[N, C]`, or `[C]` for one row. Labels and losses without reduction have that shape without C. Losses are f32
//! whatever the storage of x; gradient and log-probabilities have the storage and the shape of x.
//!
//! # Numerics
//! f32 arithmetic on GPUs, f64 between input and output on the CPU path; see [`bounds`]. Probabilities are used as they are, whatever
//! their sum. A class whose coefficient is 0 adds nothing, not even where its logit is -inf.
//!
//! Logits, weights, probabilities, z and upstream gradients may have any value that f32 has: a result is infinite or 0 only where the
//! true value rounds to that (0 also below the smallest normal number), whatever products and sums on the way come to. On GPUs weights
//! and losses have significands and exponents apart, and sums are in units of their largest term. Two things are left out there:
//! probabilities below 2^-190, and terms more than 2^126 below the largest of their sum.
//!
//! | row | loss | gradient |
//! |---|---|---|
//! | ignored, whatever it holds | 0 | 0 |
//! | a NaN, a +inf, or all -inf | NaN | NaN |
//! | -inf at a class with `a_c > 0`, some finite | +inf | finite, as by the formula |
//! | -inf elsewhere | finite | 0 there |
//!
//! Nothing to divide by gives NaN as in PyTorch: the mean over no row, over ignored rows alone, or over targets that weigh nothing. The
//! gradient of ignored rows is 0 all the same, that of the others NaN. The sum of nothing is 0. For nll_loss only the entry at the label is
//! looked at.
//!
//! # Cost
//! Loss and gradient together read the logits once or twice and write the gradient once, with memory for a few numbers a row.

pub mod bounds;
pub mod cases;
mod cpu;
mod embed;
mod input;
mod kernels;
mod oneshot;
mod options;
pub mod reference;

pub use embed::{BoundCrossEntropy, CrossEntropy, CrossEntropyViews, Labels, RowSums, TargetTensor, TargetView};
pub use input::{CrossEntropyInput, Indices, Target};
#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{
    CrossEntropyOutput, Wanted, compute_async, cross_entropy_async, cross_entropy_backward_async,
    cross_entropy_with_gradient_async, nll_loss_async, nll_loss_backward_async, nll_loss_with_gradient_async,
};
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{
    compute, cross_entropy, cross_entropy_backward, cross_entropy_with_gradient, gradient_in_place, nll_loss,
    nll_loss_backward, nll_loss_with_gradient,
};
pub use options::{CrossEntropyOptions, LossKind, LossReduction};
