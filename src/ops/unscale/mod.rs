//! Mixed precision: loss scaling, and unscaling, finite test, global norm and clipping of gradients.
//!
//! 16-bit gradients lose what is below their range. So the loss is multiplied by a scale, which all gradients inherit, and the
//! gradients are divided by it before they change weights. The scale is the largest that overflows seldom: it is doubled after 2,000
//! good steps in a row, and a step in which a gradient overflowed halves it and changes nothing else.
//!
//! # Definition
//! For gradient tensors g with scale s, over all elements of all of them:
//! - norm: `sqrt(sum (g / s)^2)`, of the gradients as stored; infinite if the true value is beyond f32. NaN if an element is NaN, else infinite
//!   if one is
//! - clip: `min(1, max_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_`; 1 without `max_norm` or where an element is not finite
//! - unscaled gradient: `g * clip / s`
//!
//! The scale, as PyTorch's `GradScaler` and options of [`LossScalerOptions`]: after a good step the tracker goes up by one; at
//! the interval it goes to 0 and the scale grows, unless it would pass `max_scale`. After a bad step the tracker is 0 and
//! the scale falls, not below `min_scale`.
//!
//! # Shapes
//! Any number of tensors of any shapes, in C order without gaps at any offset, each in a storage type of its own.
//!
//! # Numerics
//! Unscaled gradients are exact for scales that are powers of two, subnormal ones too, on every device; else within
//! 1 ulp of f32, 4 where clipped. The norm is within 3 ulp of f32 at any number of elements: squares are taken relative to the
//! largest element by exponents, so none overflows or vanishes, and are summed as pairs in a tree that the shapes fix. 16-bit results round
//! once more. NaN and infinities are told by their bits. See [`bounds`].
//!
//! # Cost
//! One read of the gradients where they stay scaled; one read and one write where unscaled ones are written; two reads and one write where
//! they are clipped as well. One dispatch a tensor (more beyond a binding), and one for all; 16 bytes of workspace for 8,192 elements.
//!
//! # Source
//! Micikevicius et al. (2018), "Mixed precision training".

pub mod bounds;
pub mod cases;
#[cfg(not(target_arch = "wasm32"))]
mod chain;
pub mod cpu;
pub(crate) mod flat;
mod host;
pub(crate) mod kernels;
mod oneshot;
mod options;
pub mod reference;
mod scaler;

#[cfg(not(target_arch = "wasm32"))]
pub use chain::ChainScaler;
pub use cpu::HostLossScaler;
pub use host::Gradient;
#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::unscale_async;
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{unscale, unscale_checked};
pub use options::{CLIP_EPSILON, LossScalerOptions, LossScalerState, UnscaleOptions, UnscaleReport};
pub use scaler::{BoundUnscale, LossScaler, Unscale, UnscaleViews};
