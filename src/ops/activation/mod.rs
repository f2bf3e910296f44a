//! sigmoid, log_sigmoid and softplus of every element, forward and backward.
//!
//! # Definition
//! - sigmoid: `1 / (1 + exp(-x))`
//! - log_sigmoid: `log(sigmoid(x)) = -softplus(-x)`
//! - softplus: `log(1 + exp(x))`
//!
//! and backward, with upstream gradient g: `g sigmoid(x) sigmoid(-x)`, `g sigmoid(-x)` and `g sigmoid(x)`. The gradient is computed
//! from the input, not from the output: where sigmoid(x) has rounded to 1 its gradient is still right.
//!
//! # Shapes
//! Any; the result has the input's.
//!
//! # Numerics
//! Storage f32, f16 or bf16, arithmetic in f32 with error-free transforms. Everything comes from `exp(-|x|)`, which overflows for no
//! float: softplus is `max(x, 0) + log(1 + exp(-|x|))`, and the small one of sigmoid(x) and sigmoid(-x) has all of its digits.
//! Wherever the result is a normal number, it is within 1 ulp of f32, a gradient within `4u` of itself, u = 2^-24; 16-bit
//! results half a unit of the type more. Subnormal results may be zero. See [`bounds`].
//!
//! | x | sigmoid | log_sigmoid | softplus | gradients |
//! |---|---|---|---|---|
//! | -inf | 0 | -inf | 0 | 0, g, 0 |
//! | +inf | 1 | -0 | +inf | 0, 0, g |
//! | NaN | NaN | NaN | NaN | NaN |
//!
//! log_sigmoid is never positive: what is too small for a float is -0. An infinite upstream gradient gives an infinity at every finite
//! x, and NaN where the derivative is 0. Every NaN is the canonical one.
//!
//! # Cost
//! One read (backward two) and one write of the tensor.
//!
//! # Source
//! The splitting by sign is common knowledge (see Maechler, "Accurately computing log(1 - exp(-|a|))", 2012); the pairs are those
//! of the softmax family.

pub mod bounds;
pub mod cases;
pub mod cpu;
pub(crate) mod kernels;
mod oneshot;
mod options;
pub mod reference;

#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{backward_async, check_results, forward_async, log_sigmoid_async, sigmoid_async, softplus_async};
// A browser's main thread must not block.
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{backward, forward, log_sigmoid, sigmoid, softplus};
pub use options::ActivationKind;

use super::elementwise::{check_aliases, check_read, check_shape, check_written};
use crate::element::DType;
use crate::error::Result;
use crate::gpu::{BufferView, Gpu, Recording};

/// The sigmoid family for embedding: bound to buffers once, recorded into a caller's encoder or pass any number of times.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, gates: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::{Activation, ActivationKind, ActivationViews, BufferView, DType, Gpu};
/// let gpu = Gpu::borrow(device, queue);
/// let x = BufferView::new(gates, DType::F16, &[64, 1000]);
/// let sigmoid = Activation::new(&gpu, ActivationKind::Sigmoid, DType::F16);
/// let bound = sigmoid.bind(&ActivationViews { x: x.clone(), y: x })?; // in place; outside the frame
/// bound.record(encoder); // every frame
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Activation {
    gpu: Gpu,
    kind: ActivationKind,
    dtype: DType,
}

/// What a forward call works on.
#[derive(Clone, Debug)]
pub struct ActivationViews {
    /// Input.
    pub x: BufferView,
    /// Output, of the input's shape. May be the very view `x`.
    pub y: BufferView,
}

/// What a backward call works on.
#[derive(Clone, Debug)]
pub struct ActivationGradientViews {
    /// Input of the forward call.
    pub x: BufferView,
    /// Gradient with respect to the output, of its shape.
    pub upstream: BufferView,
    /// Gradient with respect to the input: written. May be the very view `x`.
    pub dx: BufferView,
}

/// A call bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundActivation {
    recording: Recording,
}

impl BoundActivation {
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

impl Activation {
    /// One of the functions for a storage type. Pipelines are built by the first `bind` that needs them and shared by
    /// everything on the same [`Gpu`].
    pub fn new(gpu: &Gpu, kind: ActivationKind, dtype: DType) -> Activation {
        Activation {
            gpu: gpu.clone(),
            kind,
            dtype,
        }
    }

    /// Binds a forward call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the frame.
    ///
    /// # Shapes
    /// `y` has the shape of `x`. Offsets and strides are free; `y` may be the very view `x`, else they may not overlap.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for shapes that do not fit and views beyond their buffers;
    /// [`Error::DTypeMismatch`](crate::Error::DTypeMismatch), [`Error::Aliased`](crate::Error::Aliased),
    /// [`Error::BufferUsage`](crate::Error::BufferUsage), [`Error::Limit`](crate::Error::Limit);
    /// [`Error::Unsupported`](crate::Error::Unsupported) for views with more than four separately strided dimensions;
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn bind(&self, views: &ActivationViews) -> Result<BoundActivation> {
        self.bind_call(&views.x, None, ("y", &views.y))
    }

    /// Binds a backward call: `upstream` and `dx` have the shape of `x`.
    ///
    /// # Errors
    /// Those of [`Activation::bind`].
    pub fn bind_backward(&self, views: &ActivationGradientViews) -> Result<BoundActivation> {
        self.bind_call(&views.x, Some(&views.upstream), ("dx", &views.dx))
    }

    fn bind_call(
        &self,
        x: &BufferView,
        upstream: Option<&BufferView>,
        written: (&'static str, &BufferView),
    ) -> Result<BoundActivation> {
        self.gpu.check_alive()?;
        let readers: Vec<(&'static str, &BufferView)> = [("x", Some(x)), ("upstream", upstream)]
            .into_iter()
            .filter_map(|(name, view)| view.map(|v| (name, v)))
            .collect();
        for (name, view) in &readers {
            check_read(name, view, self.dtype)?;
            check_shape(name, view, &x.shape)?;
        }
        check_written(written.0, written.1, self.dtype)?;
        check_shape(written.0, written.1, &x.shape)?;
        check_aliases(written, &readers, "x")?;
        Ok(BoundActivation {
            recording: kernels::bind(&self.gpu, self.kind, x, upstream, written.1)?,
        })
    }
}
