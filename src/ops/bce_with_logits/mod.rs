//! Binary cross-entropy with logits: loss, gradient, or both in one reading.
//!
//! # Definition
//! As PyTorch's `binary_cross_entropy_with_logits`. Of an element with logit x and target t:
//!
//! `loss = weight * ((1 - t) * softplus(x) + pos_weight * t * softplus(-x))`
//!
//! which is `weight * ((1 - t) * x + (1 + (pos_weight - 1) * t) * softplus(-x))` without that form's cancellation. The result is the
//! losses of all elements, their sum, or their mean: the sum over the number of elements, weights not counted. The gradient of x is
//! `upstream * weight * ((1 - t) * sigmoid(x) - pos_weight * t * sigmoid(-x))`, over the number of elements for the mean.
//!
//! # Shapes
//! Logits and targets of one shape; `weight` and `pos_weight` broadcast to it by NumPy's rules (`[C]` goes along the last axis). The loss
//! has that shape, or is one value. `upstream` is the gradient of the loss, of its shape.
//!
//! # Numerics
//! Logits and their gradient in f32, f16 or bf16; targets in f32 or as the logits; weights, losses and upstream in f32. Arithmetic in
//! f32 with error-free transforms; sums as pairs (sum, error) in a tree that the shape fixes, so the same bits on every run and at any
//! subgroup width. With u = 2^-24 a loss is within `8u` of the sum of its terms' magnitudes, sums and means within `12u`, gradients
//! within `8u`; for targets within [0, 1] no term of a loss cancels another. See [`bounds`]. The whole range of
//! f32 is allowed: a result is infinite or 0 only where the true value rounds to that, whatever sums and products on the way come to.
//! Sums whose losses differ by more than 2^126 keep the larger ones.
//!
//! | | loss | gradient |
//! |---|---|---|
//! | no elements | sum 0, mean NaN | nothing |
//! | x = -inf | NaN | `-pos_weight t weight upstream` |
//! | x = +inf | +inf; NaN for t = 1; -inf above | `(1 - t) weight upstream` |
//! | NaN anywhere | NaN | NaN |
//! | upstream times weight infinite | - | NaN |
//!
//! The losses of infinite logits are PyTorch's.
//!
//! # Cost
//! Every tensor is read or written once, also for loss and gradient together, in place over the logits if wanted. Sums leave 16 bytes a
//! workgroup (8,192 elements) in a workspace, and take a second dispatch.

pub mod bounds;
pub mod cases;
pub(crate) mod cpu;
pub(crate) mod kernels;
mod oneshot;
mod options;
pub mod reference;

#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{
    BceInput, BceOutput, Weights, backward_async, check_gradients, check_losses, forward_async, forward_backward_async,
};
// A browser's main thread must not block.
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{BceTensors, backward, forward, forward_backward};
pub use options::{BceOptions, LossReduction};

use super::elementwise::{broadcast, check_aliases, check_read, check_shape, check_written};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording, check_workspace};

/// Binary cross-entropy for embedding: bound to buffers once, recorded into a caller's encoder or pass any number of times.
///
/// ```no_run
/// # fn step(device: &wgpu::Device, queue: &wgpu::Queue, logits: &wgpu::Buffer, labels: &wgpu::Buffer, loss: &wgpu::Buffer,
/// #     encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::{BceOptions, BceViews, BceWithLogits, BufferView, DType, Gpu};
/// let gpu = Gpu::borrow(device, queue);
/// let bce = BceWithLogits::new(&gpu, DType::F32, BceOptions::default());
/// let x = BufferView::new(logits, DType::F32, &[64, 80]);
/// let mut views = BceViews::new(x.clone(), BufferView::new(labels, DType::F32, &[64, 80]));
/// views.loss = Some(BufferView::new(loss, DType::F32, &[]));
/// views.grad = Some(x); // in place
/// let bound = bce.bind(&views)?; // outside the frame
/// bound.record(encoder); // every frame
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BceWithLogits {
    gpu: Gpu,
    dtype: DType,
    options: BceOptions,
}

/// What a call works on. What of `loss` and `grad` is given is computed.
#[derive(Clone, Debug)]
pub struct BceViews {
    /// Logits.
    pub x: BufferView,
    /// Targets, of the shape of the logits, in f32 or stored as they are.
    pub target: BufferView,
    /// Factor on the losses, f32; broadcasts.
    pub weight: Option<BufferView>,
    /// Factor on the part of the targets, f32; broadcasts.
    pub pos_weight: Option<BufferView>,
    /// Gradient of the loss, f32, one value for means and sums; 1 if absent. Only for `grad`.
    pub upstream: Option<BufferView>,
    /// The loss, f32: of the shape of the logits, or one element for means and sums.
    pub loss: Option<BufferView>,
    /// Gradient of the logits, of their shape and type. May be the very view `x`.
    pub grad: Option<BufferView>,
    /// Scratch of at least [`BceWithLogits::workspace_size`] bytes at an offset that is a multiple of 256; where it is needed and
    /// not given, `bind` allocates it.
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl BceViews {
    /// Logits and targets, nothing else.
    pub fn new(x: BufferView, target: BufferView) -> BceViews {
        BceViews {
            x,
            target,
            weight: None,
            pos_weight: None,
            upstream: None,
            loss: None,
            grad: None,
            workspace: None,
        }
    }

    /// Everything read but x, by name.
    fn readers(&self) -> Vec<(&'static str, &BufferView)> {
        [
            ("x", Some(&self.x)),
            ("target", Some(&self.target)),
            ("weight", self.weight.as_ref()),
            ("pos_weight", self.pos_weight.as_ref()),
            ("upstream", self.upstream.as_ref().filter(|_| self.grad.is_some())),
        ]
        .into_iter()
        .filter_map(|(name, view)| view.map(|v| (name, v)))
        .collect()
    }
}

/// A call bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundBce {
    recording: Recording,
}

impl BoundBce {
    /// Records into an encoder as one compute pass. Creates no other wgpu object, submits nothing, waits for nothing; any
    /// number of times per encoder.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.recording.record(encoder);
    }

    /// Records into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.recording.record_pass(pass);
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }
}

impl BceWithLogits {
    /// For logits of a storage type. Pipelines are built by the first `bind` that needs them and shared by everything on the same
    /// [`Gpu`].
    pub fn new(gpu: &Gpu, dtype: DType, options: BceOptions) -> BceWithLogits {
        BceWithLogits {
            gpu: gpu.clone(),
            dtype,
            options,
        }
    }

    /// Bytes of workspace that a call on these views needs: 8 for each 8,192 elements that are summed, else 0.
    ///
    /// # Errors
    /// Those of [`BceWithLogits::bind`] about single views.
    pub fn workspace_size(&self, views: &BceViews) -> Result<u64> {
        self.call(views)?.workspace_size(&self.gpu)
    }

    /// Binds a call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the frame.
    ///
    /// # Shapes
    /// As [`BceViews`] says. Offsets and strides are free; `grad` may be the very view `x`, else nothing may overlap what is written.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not fit, views beyond their buffers, a workspace that is too small, and where neither loss nor
    /// gradient is asked for; [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`], [`Error::Limit`];
    /// [`Error::Unsupported`] for views with more than four separately strided dimensions; [`Error::DeviceLost`].
    pub fn bind(&self, views: &BceViews) -> Result<BoundBce> {
        self.gpu.check_alive()?;
        let mut call = self.call(views)?;
        let readers = views.readers();
        let mut written = Vec::new();
        for (name, view) in [("loss", &views.loss), ("grad", &views.grad)] {
            if let Some(view) = view {
                check_aliases((name, view), &readers, if name == "grad" { "x" } else { "" })?;
                check_aliases((name, view), &written, "")?;
                written.push((name, view));
            }
        }
        if let Some((buffer, offset)) = &views.workspace {
            let need = call.workspace_size(&self.gpu)?;
            check_workspace(buffer, *offset, need, readers.into_iter().chain(written))?;
            call.workspace = Some((buffer, *offset));
        }
        Ok(BoundBce {
            recording: kernels::bind(&self.gpu, &call)?,
        })
    }

    /// The call, its views checked one by one.
    fn call<'a>(&self, views: &'a BceViews) -> Result<kernels::Call<'a>> {
        let shape = views.x.shape();
        check_read("x", &views.x, self.dtype)?;
        let target = views.target.dtype();
        check_read(
            "target",
            &views.target,
            if target == DType::F32 { target } else { self.dtype },
        )?;
        check_shape("target", &views.target, shape)?;
        let stretched = |what: &'static str, view: &Option<BufferView>| {
            view.as_ref()
                .map(|view| {
                    check_read(what, view, DType::F32)?;
                    broadcast(what, view, shape)
                })
                .transpose()
        };
        let (weight, pos_weight) = (
            stretched("weight", &views.weight)?,
            stretched("pos_weight", &views.pos_weight)?,
        );
        let reduced = self.options.reduction != LossReduction::None;
        // One element, in whatever rank: as a view that repeats it.
        let one = |what: &str, view: &BufferView| {
            if view.shape().iter().all(|&n| n == 1) {
                Ok(())
            } else {
                Err(Error::shape(
                    format!("shape of {what}"),
                    "one element",
                    format!("{:?}", view.shape()),
                ))
            }
        };
        let upstream = match views.upstream.as_ref().filter(|_| views.grad.is_some()) {
            None => None,
            Some(view) => {
                check_read("upstream", view, DType::F32)?;
                if reduced {
                    one("upstream", view)?;
                    let repeated = BufferView::new(&view.buffer, DType::F32, shape).at(view.offset);
                    Some(repeated.with_strides(&vec![0; shape.len()]))
                } else {
                    check_shape("upstream", view, shape)?;
                    Some(view.clone())
                }
            }
        };
        if let Some(loss) = &views.loss {
            check_written("loss", loss, DType::F32)?;
            if reduced {
                one("loss", loss)?;
            } else {
                check_shape("loss", loss, shape)?;
            }
        }
        if let Some(grad) = &views.grad {
            check_written("grad", grad, self.dtype)?;
            check_shape("grad", grad, shape)?;
        }
        if views.loss.is_none() && views.grad.is_none() {
            return Err(Error::shape("outputs", "loss, grad or both", "neither"));
        }
        Ok(kernels::Call {
            reduction: self.options.reduction,
            x: &views.x,
            target: &views.target,
            weight,
            pos_weight,
            upstream,
            loss: views.loss.as_ref(),
            grad: views.grad.as_ref(),
            workspace: None,
        })
    }
}
