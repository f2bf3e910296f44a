//! WGSL compute kernels for numerics that stay right: stable softmax and log-sum-exp, losses with their gradients, reductions,
//! layer norms, mixed precision, sparse products and solvers on any wgpu device, with a CPU path that needs no driver, and with
//! every GPU result checkable against a CPU reference within a stated bound. On the host: a float toolkit, gradient checks, sparse
//! matrices and their files.
//!
//! ```
//! let ctx = macheps::Context::new()?;
//! let y = macheps::softmax(&ctx, &[1.0f32, 2.0, 3.0], &[3])?;
//! # assert!((y[2] - 0.66524094).abs() < 1e-7);
//! # Ok::<(), macheps::Error>(())
//! ```
//!
//! There are three grips on the same kernels: one-shots from host data to host data ([`softmax`], [`ops::softmax::forward`]),
//! tensors that stay on the device ([`Context::upload`], [`Context::chain`]), and kernels bound to your own buffers and
//! recorded into your own command encoder ([`Softmax`]).

pub mod accuracy;
pub mod bench;
pub mod context;
pub mod element;
pub mod error;
pub mod float;
pub mod gpu;
pub mod gradcheck;
mod job;
pub mod ops;
#[doc(hidden)]
pub mod random;
pub mod rows;
pub mod solve;
pub mod sparse;
pub mod tensor;
pub mod verify;

#[cfg(not(target_arch = "wasm32"))]
pub use context::devices;
pub use context::{Context, ContextOptions, CrossCheck, OnDeviceLost, devices_async};
pub use element::{DType, Element, Storable, bf16, f16};
pub use error::CsrDefect;
pub use error::{Error, Result};
pub use gpu::probe;
pub use gpu::{BufferView, Choice, DeviceInfo, DeviceKind, DeviceSelector, Gpu, recommended_limits, required_features};
pub use ops::activation::{Activation, ActivationGradientViews, ActivationKind, ActivationViews};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::activation::{log_sigmoid, sigmoid, softplus};
pub use ops::activation::{log_sigmoid_async, sigmoid_async, softplus_async};
pub use ops::audit::{Audit, TensorAudit};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::bce_with_logits::BceTensors;
pub use ops::bce_with_logits::{BceInput, BceOptions, BceOutput, BceViews, BceWithLogits, Weights};
pub use ops::cross_entropy::{CrossEntropy, CrossEntropyViews, LossKind};
pub use ops::cross_entropy::{CrossEntropyInput, CrossEntropyOptions, LossReduction};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::cross_entropy::{cross_entropy, cross_entropy_with_gradient, nll_loss, nll_loss_with_gradient};
pub use ops::layer_norm::{
    LayerNorm, LayerNormGradientViews, LayerNormGradients, LayerNormInput, LayerNormOptions, LayerNormStrategy,
    LayerNormViews, NormKind,
};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::layer_norm::{layer_norm, rms_norm};
pub use ops::layer_norm::{layer_norm_async, rms_norm_async};
pub use ops::optimizer::{
    AdamW, AdamWOptions, AdamWViews, BoundOptimizer, HostAdamW, HostSgd, OptimizerState, Sgd, SgdOptions, SgdViews,
};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::optimizer::{AdamWTensors, ChainAdamW, ChainSgd, SgdTensors};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::prune::prune;
pub use ops::prune::{BoundPrune, Prune, PruneReport, PruneViews, Pruned, prune_async};
pub use ops::reduction::{
    BoundReduction, ExactSum, Reduction, ReductionGradientViews, ReductionInput, ReductionKind, ReductionOptions,
    ReductionViews, SumMode,
};
pub use ops::softmax::{
    MaskedRows, Softmax, SoftmaxGradientViews, SoftmaxInput, SoftmaxKind, SoftmaxOptions, SoftmaxViews, Strategy,
};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::softmax::{log_softmax, logsumexp, softmax};
pub use ops::softmax::{log_softmax_async, logsumexp_async, softmax_async};
pub use ops::spmv::{BoundSpmv, Spmv, SpmvInput, SpmvOptions, SpmvScale, SpmvStrategy, spmm_async, spmv_async};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::spmv::{spmm, spmv};
#[cfg(not(target_arch = "wasm32"))]
pub use ops::unscale::ChainScaler;
#[cfg(not(target_arch = "wasm32"))]
pub use ops::unscale::unscale;
pub use ops::unscale::{
    BoundUnscale, Gradient, HostLossScaler, LossScaler, LossScalerOptions, LossScalerState, Unscale, UnscaleOptions,
    UnscaleReport, UnscaleViews, unscale_async,
};
pub use sparse::{Coo, Csr, Dense};
pub use tensor::{Chain, Tensor, TensorMut, TensorRef};
pub use wgpu;

/// The README's code, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// The guide's code, likewise.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
mod embedding {}
