//! Layer normalisation and root-mean-square normalisation over the last axis, forward and backward.
//!
//! # Definition
//! For every row x of n elements, with optional weight w and bias b of n elements each:
//! - layer_norm: `y = x^ w + b`, `x^ = (x - mean) / sqrt(variance + eps)`, with the biased variance
//! - rms_norm: `y = x^ w`, `x^ = x / sqrt(mean(x^2) + eps)`
//!
//! and backward, with upstream gradient g:
//! - `dx = (g w - mean(g w) - x^ mean(g w x^)) / sqrt(variance + eps)`; rms_norm has no `mean(g w)`
//! - `dweight = sum over rows of g x^`, `dbias = sum over rows of g`
//!
//! The gradients are computed from the input: nothing else need be saved.
//!
//! # Shapes
//! x of any rank from 1 on, normalised over its last axis; weight and bias have one dimension of that size.
//!
//! # Numerics
//! Storage f32, f16 or bf16, weight and bias in that of x; f32 arithmetic. A row is scaled by a power of two, so squares neither
//! overflow near 1e38 nor vanish near 1e-38; the mean is compensated and kept in two parts, and the variance is summed from
//! the differences from it (chunks of long rows merge after Chan, Golub and LeVeque), so a row of tiny spread far from zero
//! keeps its digits. Bounds against f64, with u = 2^-24: layer_norm `5u |x^ w| + u |y|` and, for the error of the mean, the term in u^2 that [`bounds`] states, which shows where a row is
//! nearly constant and far from zero; rms_norm `4u |y|`, gradients of x `8u` times
//! the sum of the magnitudes of the terms, gradients of the weight `6u sum |g x^|`; see [`bounds`]. Products of upstream gradient
//! and weight, and their sums over a row, have to stay in the range of f32.
//!
//! | row | layer_norm | rms_norm | gradient of x |
//! |---|---|---|---|
//! | constant, eps > 0 | the bias, exactly | | |
//! | a NaN | NaN | NaN | NaN |
//! | an infinity, no NaN | NaN | NaN there, 0 (and bias) elsewhere | NaN |
//! | constant (rms_norm: zero), eps = 0 | NaN | NaN | NaN |
//!
//! The same device, driver and version give the same bits on every run; gradients of weight and bias are added up in an order
//! that the shape fixes.
//!
//! # Cost
//! Forward one read and one write where a row fits on chip (1,024 elements on software devices, 16,384 on others). Backward reads x and
//! upstream gradient once more for the gradients of weight and bias. See [`LayerNormStrategy`].
//!
//! # Source
//! Ba, Kiros and Hinton (2016); Zhang and Sennrich (2019); variances after Chan, Golub and LeVeque (1983).

pub mod bounds;
pub mod cases;
pub mod cpu;
mod kernels;
mod oneshot;
mod options;
pub mod reference;

pub use kernels::LayerNormStrategy;
#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{
    LayerNormGradients, LayerNormInput, backward_async, forward_async, layer_norm_async, rms_norm_async,
};
// A browser's main thread must not block.
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{backward, backward_checked, forward, forward_checked, layer_norm, rms_norm};
pub use options::{LayerNormOptions, NormKind};

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording, check_workspace};
use kernels::Call;

/// layer_norm or rms_norm for embedding: bound to buffers once, recorded into a caller's encoder or pass any number of times.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, x: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::ops::layer_norm::{LayerNorm, LayerNormOptions, LayerNormViews};
/// use macheps::{BufferView, DType, Gpu};
/// let gpu = Gpu::borrow(device, queue);
/// let norm = LayerNorm::new(&gpu, DType::F32, LayerNormOptions::default())?;
/// let x = BufferView::new(x, DType::F32, &[64, 768]);
/// let bound = norm.bind(&LayerNormViews::new(x.clone(), x))?; // in place; outside the frame
/// bound.record(encoder); // every frame
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LayerNorm {
    gpu: Gpu,
    dtype: DType,
    options: LayerNormOptions,
    strategy: Option<LayerNormStrategy>,
}

/// What a forward call works on.
#[derive(Clone, Debug)]
pub struct LayerNormViews {
    /// Input.
    pub x: BufferView,
    /// Output, of the input's shape. May be the very view `x`.
    pub y: BufferView,
    /// Factors, one for each element of a row.
    pub weight: Option<BufferView>,
    /// Summands, one for each element of a row; layer_norm only.
    pub bias: Option<BufferView>,
    /// Scratch of at least [`LayerNorm::workspace_size`] bytes at an offset that is a multiple of 256; where it is needed and
    /// not given, `bind` allocates it.
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl LayerNormViews {
    /// Input and output, nothing else.
    pub fn new(x: BufferView, y: BufferView) -> LayerNormViews {
        LayerNormViews {
            x,
            y,
            weight: None,
            bias: None,
            workspace: None,
        }
    }
}

/// What a backward call works on.
#[derive(Clone, Debug)]
pub struct LayerNormGradientViews {
    /// Input of the forward call.
    pub x: BufferView,
    /// Weight of the forward call.
    pub weight: Option<BufferView>,
    /// Gradient with respect to the output, of the output's shape.
    pub upstream: BufferView,
    /// Gradient with respect to the input: written. May be the very view `x` or the very view `upstream`.
    pub dx: BufferView,
    /// Gradient with respect to the weight: written where given.
    pub dweight: Option<BufferView>,
    /// Gradient with respect to the bias: written where given.
    pub dbias: Option<BufferView>,
    /// Scratch, as in [`LayerNormViews::workspace`], of [`LayerNorm::workspace_size_backward`].
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl LayerNormGradientViews {
    /// The gradient of the input alone.
    pub fn new(x: BufferView, upstream: BufferView, dx: BufferView) -> LayerNormGradientViews {
        LayerNormGradientViews {
            x,
            weight: None,
            upstream,
            dx,
            dweight: None,
            dbias: None,
            workspace: None,
        }
    }
}

/// A call bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundLayerNorm {
    recording: Recording,
}

impl BoundLayerNorm {
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

impl LayerNorm {
    /// One of the two functions for a storage type. Pipelines are built by the first `bind` that needs them and shared by
    /// everything on the same [`Gpu`].
    ///
    /// # Errors
    /// [`Error::Option`] for an `eps` that is negative or not finite.
    pub fn new(gpu: &Gpu, dtype: DType, options: LayerNormOptions) -> Result<LayerNorm> {
        options.check()?;
        Ok(LayerNorm {
            gpu: gpu.clone(),
            dtype,
            options,
            strategy: None,
        })
    }

    /// Forces a strategy in place of the choice by shape and device. Where it cannot serve ([`LayerNormStrategy::serves`]) `bind`
    /// gives [`Error::Unsupported`].
    pub fn with_strategy(mut self, strategy: LayerNormStrategy) -> LayerNorm {
        self.strategy = Some(strategy);
        self
    }

    /// The strategy of a forward call.
    pub fn strategy(&self, views: &LayerNormViews) -> Result<LayerNormStrategy> {
        self.options.row_len(views.x.shape())?;
        Ok(kernels::needs(&self.gpu, &self.forward_call(views))?.0)
    }

    /// Bytes of workspace that a forward call needs: 0 but for [`LayerNormStrategy::Split`].
    pub fn workspace_size(&self, views: &LayerNormViews) -> Result<u64> {
        self.options.row_len(views.x.shape())?;
        Ok(kernels::needs(&self.gpu, &self.forward_call(views))?.1)
    }

    /// Bytes of workspace that a backward call needs: 32 a row and at most 64 MiB of sums for the gradients of weight and
    /// bias, and what [`LayerNormStrategy::Split`] takes.
    pub fn workspace_size_backward(&self, views: &LayerNormGradientViews) -> Result<u64> {
        self.options.row_len(views.x.shape())?;
        Ok(kernels::needs(&self.gpu, &self.backward_call(views))?.1)
    }

    fn forward_call<'a>(&self, views: &'a LayerNormViews) -> Call<'a> {
        Call {
            options: self.options,
            strategy: self.strategy,
            x: &views.x,
            y: &views.y,
            upstream: None,
            weight: views.weight.as_ref(),
            bias: views.bias.as_ref(),
            dweight: None,
            dbias: None,
            workspace: views.workspace.as_ref().map(|(buffer, offset)| (buffer, *offset)),
        }
    }

    fn backward_call<'a>(&self, views: &'a LayerNormGradientViews) -> Call<'a> {
        Call {
            options: self.options,
            strategy: self.strategy,
            x: &views.x,
            y: &views.dx,
            upstream: Some(&views.upstream),
            weight: views.weight.as_ref(),
            bias: None,
            dweight: views.dweight.as_ref(),
            dbias: views.dbias.as_ref(),
            workspace: views.workspace.as_ref().map(|(buffer, offset)| (buffer, *offset)),
        }
    }

    /// Binds a forward call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the frame.
    ///
    /// # Shapes
    /// `y` has the shape of `x`; `weight` and `bias` have one dimension, the size of the last axis of `x`. Offsets and strides are
    /// free; `y` may be the very view `x`, else nothing may overlap `y`.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not fit, views beyond their buffers and a workspace that is too small;
    /// [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`], [`Error::Limit`]; [`Error::Unsupported`] for a bias
    /// of rms_norm and for views with more than four separately strided row dimensions; [`Error::DeviceLost`].
    pub fn bind(&self, views: &LayerNormViews) -> Result<BoundLayerNorm> {
        self.bind_call(self.forward_call(views), "y")
    }

    /// Binds a backward call: `upstream` and `dx` have the shape of `x`, `dweight` and `dbias` one dimension.
    ///
    /// # Errors
    /// Those of [`LayerNorm::bind`].
    pub fn bind_backward(&self, views: &LayerNormGradientViews) -> Result<BoundLayerNorm> {
        self.bind_call(self.backward_call(views), "dx")
    }

    fn bind_call(&self, call: Call<'_>, target: &'static str) -> Result<BoundLayerNorm> {
        self.gpu.check_alive()?;
        let len = self.options.row_len(call.x.shape())?;
        if call.bias.is_some() || call.dbias.is_some() {
            no_bias(self.options.kind)?;
        }
        let full = call.x.shape().to_vec();
        let given: Vec<(&'static str, &BufferView, bool, bool)> = [
            ("x", Some(call.x), false, true),
            ("upstream", call.upstream, false, true),
            ("weight", call.weight, false, false),
            ("bias", call.bias, false, false),
            (target, Some(call.y), true, true),
            ("dweight", call.dweight, true, false),
            ("dbias", call.dbias, true, false),
        ]
        .into_iter()
        .filter_map(|(name, view, written, rows)| view.map(|v| (name, v, written, rows)))
        .collect();
        for &(what, view, written, rows) in &given {
            if view.dtype() != self.dtype {
                return Err(Error::DTypeMismatch {
                    what,
                    expected: self.dtype,
                    got: view.dtype(),
                });
            }
            if written {
                view.check_writable(what)?;
            } else {
                view.check(what)?;
            }
            let expected = if rows { full.clone() } else { vec![len] };
            if view.shape() != expected {
                return Err(Error::shape(
                    format!("shape of {what}"),
                    format!("{expected:?}"),
                    format!("{:?}", view.shape()),
                ));
            }
        }
        // dx may take the place of one of the two tensors of its shape.
        let mut in_place = false;
        for (i, &(first, a, a_written, _)) in given.iter().enumerate() {
            for &(second, b, b_written, _) in &given[i + 1..] {
                if !(a_written || b_written) || !a.overlaps(b) {
                    continue;
                }
                let permitted = second == target && matches!(first, "x" | "upstream") && a.same_as(b) && !in_place;
                if !permitted {
                    return Err(Error::Aliased { first, second });
                }
                in_place = true;
            }
        }
        let need = kernels::needs(&self.gpu, &call)?.1;
        if let Some((buffer, offset)) = call.workspace {
            check_workspace(buffer, offset, need, given.iter().map(|&(name, view, ..)| (name, view)))?;
        }
        let workspace = call.workspace.filter(|_| need > 0);
        let call = Call { workspace, ..call };
        Ok(BoundLayerNorm {
            recording: kernels::bind(&self.gpu, &call)?,
        })
    }
}

/// rms_norm has no bias.
fn no_bias(kind: NormKind) -> Result<()> {
    match kind {
        NormKind::LayerNorm => Ok(()),
        NormKind::RmsNorm => Err(Error::Unsupported {
            what: "a bias of rms_norm".into(),
            reason: "it has none; layer_norm does".into(),
        }),
    }
}
