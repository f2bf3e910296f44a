//! Kernels of [macheps] as operations on [Burn](burn) tensors: [`softmax`], [`log_softmax`], [`cross_entropy`], and products with a [`SparseMatrix`], differentiable in Burn's autodiff.
//!
//! They run on the wgpu device, the queue and the buffers that Burn has: nothing is copied through the host, and views (offsets,
//! strides, tensors that share one buffer of Burn's memory pool) are taken as they are. Their error bounds and what they do with infinities
//! and NaN are those of macheps, see [`macheps::ops::softmax`], [`macheps::ops::cross_entropy`] and [`macheps::ops::spmv`].
//!
//! ```no_run
//! use burn::tensor::{Device, Int, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Once: Burn opens its device and tells which one it is.
//! let (device, setup) = Device::wgpu_options().init_with_setup()?;
//! macheps_burn::attach(&device, &setup)?;
//!
//! let device = device.autodiff();
//! let logits = Tensor::<2>::zeros([4, 10], &device).require_grad();
//! let labels = Tensor::<1, Int>::from_data([1, 2, 3, 4], &device);
//! let loss = macheps_burn::cross_entropy(logits.clone(), labels, &Default::default())?;
//! let gradients = loss.backward();
//! let of_logits = logits.grad(&gradients);
//! # Ok(()) }
//! ```
//!
//! # Errors
//! What a caller can get wrong is an [`Error`] before anything is recorded. What happens after that (a device that is lost or has
//! no more memory, a row longer than the device can bind) panics, as in Burn's own operations: a backward pass has nowhere to return it to.
//!
//! # Features
//! `fusion` has to be on if and only if Burn's own feature `fusion` is. The operations then are deferred with those around them, which
//! Burn goes on fusing among themselves.

mod cross_entropy;
mod device;
mod ops;
mod place;
mod softmax;
mod sparse;

pub use cross_entropy::{cross_entropy, cross_entropy_weighted};
pub use device::attach;
pub use ops::{MachepsGradients, MachepsOps, Weights};
pub use softmax::{log_softmax, softmax, softmax_with};
pub use sparse::{SparseMatrix, spmm};

pub use macheps::{CrossEntropyOptions, Csr, Error, LossReduction, MaskedRows, Result, SoftmaxKind, SoftmaxOptions};
