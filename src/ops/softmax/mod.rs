//! Softmax, log-softmax and log-sum-exp along any axis, forward and backward.
//!
//! # Definition
//! With `z = fl(fl(x * scale) + mask)` in f32, for every row along the axis:
//! - softmax: `exp(z_j) / sum_k exp(z_k)`
//! - log_softmax: `z_j - log(sum_k exp(z_k))`
//! - logsumexp: `log(sum_k exp(z_k))`, one value a row
//!
//! and backward, with upstream gradient g and p the softmax: `scale p_j (g_j - sum_k p_k g_k)`,
//! `scale (g_j - p_j sum_k g_k)` and `scale g p_j`. The gradient is computed from the input: nothing else need be saved.
//!
//! # Shapes
//! Any rank and axis. The result has the input's shape; that of logsumexp lacks the axis. A mask broadcasts to the input's
//! shape by NumPy's rules.
//!
//! # Numerics
//! Storage f32, f16 or bf16; f32 arithmetic, error-free transforms and a fixed summation tree. Against f64:
//! softmax and log_softmax 2 ulp at any length and spread (4 in the online and split strategies), logsumexp 3 ulp of
//! `max(|max|, log S)`, gradients `8u` times the sum of the magnitudes of their terms, u = 2^-24; 16-bit results half a
//! unit of the type more. Subnormal results may be zero, and in a gradient so may a subnormal softmax before it is multiplied. See [`bounds`]; measured errors stand in `docs/accuracy.md`.
//!
//! | row | logsumexp | softmax | log_softmax | gradient |
//! |---|---|---|---|---|
//! | length 0 | -inf | nothing | nothing | nothing |
//! | all -inf or hidden | -inf | NaN; 0 with [`MaskedRows::Zero`] | NaN; -inf | NaN; 0 |
//! | a +inf, no NaN | +inf | NaN | NaN | NaN |
//! | a NaN | NaN | NaN | NaN | NaN |
//!
//! The same device, driver and version give the same bits on every run, whatever the subgroup width in the default strategies.
//!
//! # Cost
//! One read and one write of the tensor where a row fits on chip, at most three reads and one write else; see [`Strategy`].
//!
//! # Source
//! Two-pass softmax with the rounding error of `x - max` carried along; error-free transforms after Knuth and Dekker,
//! range reduction after Cody and Waite, online normaliser after Milakov and Gimelshein (2018).

pub mod bounds;
pub mod cases;
pub mod cpu;
mod kernels;
mod oneshot;
mod options;
pub mod reference;

pub use kernels::Strategy;
#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{
    Mask, SoftmaxInput, backward_async, forward_async, log_softmax_async, logsumexp_async, softmax_async,
};
// A browser's main thread must not block.
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{backward, forward, log_softmax, logsumexp, logsumexp_axes, softmax};
pub use options::{MaskedRows, SoftmaxKind, SoftmaxOptions};

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording, check_workspace};
use crate::rows::RowMap;
use kernels::Call;

/// The softmax family for embedding: bound to buffers once, recorded into a caller's encoder or pass any number of times.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, logits: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::{BufferView, DType, Gpu, Softmax, SoftmaxKind, SoftmaxOptions, SoftmaxViews};
/// let gpu = Gpu::borrow(device, queue);
/// let softmax = Softmax::new(&gpu, SoftmaxKind::Softmax, DType::F32, SoftmaxOptions::default())?;
/// let x = BufferView::new(logits, DType::F32, &[64, 1000]);
/// let bound = softmax.bind(&SoftmaxViews::new(x.clone(), x))?; // in place; outside the frame
/// bound.record(encoder); // every frame
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Softmax {
    gpu: Gpu,
    kind: SoftmaxKind,
    dtype: DType,
    options: SoftmaxOptions,
    strategy: Option<Strategy>,
}

/// What a forward call works on.
#[derive(Clone, Debug)]
pub struct SoftmaxViews {
    /// Input.
    pub x: BufferView,
    /// Output: the input's shape, without the axis (or with size 1 there) for logsumexp. May be the very view `x`.
    pub y: BufferView,
    /// Additive mask, broadcast to the input's shape.
    pub mask: Option<BufferView>,
    /// Scratch of at least [`Softmax::workspace_size`] bytes at an offset that is a multiple of 256; where it is needed and
    /// not given, `bind` allocates it.
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl SoftmaxViews {
    /// Input and output, nothing else.
    pub fn new(x: BufferView, y: BufferView) -> SoftmaxViews {
        SoftmaxViews {
            x,
            y,
            mask: None,
            workspace: None,
        }
    }
}

/// What a backward call works on.
#[derive(Clone, Debug)]
pub struct SoftmaxGradientViews {
    /// Input of the forward call.
    pub x: BufferView,
    /// Gradient with respect to the output, of the output's shape.
    pub upstream: BufferView,
    /// Gradient with respect to the input: written. May be the very view `x`.
    pub dx: BufferView,
    /// Additive mask, broadcast to the input's shape.
    pub mask: Option<BufferView>,
    /// Scratch, as in [`SoftmaxViews::workspace`].
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

/// A call bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundSoftmax {
    recording: Recording,
}

impl BoundSoftmax {
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

    pub(crate) fn recording(&self) -> &Recording {
        &self.recording
    }

    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }
}

impl Softmax {
    /// One of the three functions for a storage type. Pipelines are built by the first `bind` that needs them and shared by
    /// everything on the same [`Gpu`].
    ///
    /// # Errors
    /// [`Error::Option`] for a scale that is not finite.
    pub fn new(gpu: &Gpu, kind: SoftmaxKind, dtype: DType, options: SoftmaxOptions) -> Result<Softmax> {
        if !options.scale.is_finite() {
            return Err(Error::Option {
                name: "scale",
                expected: "a finite number",
                got: options.scale.to_string(),
            });
        }
        Ok(Softmax {
            gpu: gpu.clone(),
            kind,
            dtype,
            options,
            strategy: None,
        })
    }

    /// Forces a strategy in place of the choice by shape and device. Where it cannot serve ([`Strategy::serves`]) `bind`
    /// gives [`Error::Unsupported`].
    pub fn with_strategy(mut self, strategy: Strategy) -> Softmax {
        self.strategy = Some(strategy);
        self
    }

    /// The strategy for a view's shape and strides, forward or backward.
    pub fn strategy(&self, x: &BufferView, backward: bool) -> Result<Strategy> {
        let axis = self.options.check(x.shape())?;
        Ok(kernels::strategy_for(&self.gpu, &x.rows(axis), self.strategy, backward)?.0)
    }

    /// Bytes of workspace that a call on this view needs: 0 but for [`Strategy::Split`], which takes 32 a row and 32 a
    /// chunk of a row.
    pub fn workspace_size(&self, x: &BufferView, backward: bool) -> Result<u64> {
        let axis = self.options.check(x.shape())?;
        Ok(kernels::strategy_for(&self.gpu, &x.rows(axis), self.strategy, backward)?.1)
    }

    /// Binds a forward call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the frame.
    ///
    /// # Shapes
    /// `y` has the shape of `x`, or for logsumexp that shape with the axis as 1 or without it. The mask broadcasts to it by
    /// NumPy's rules. Offsets and strides are free; `y` may be the very view `x`, else nothing may overlap `y`.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not fit, views beyond their buffers and a workspace that is too small;
    /// [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`], [`Error::Limit`]; [`Error::Unsupported`] for views with more than
    /// four separately strided row dimensions; [`Error::DeviceLost`].
    pub fn bind(&self, views: &SoftmaxViews) -> Result<BoundSoftmax> {
        self.bind_call(
            &views.x,
            None,
            "y",
            &views.y,
            views.mask.as_ref(),
            views.workspace.as_ref(),
        )
    }

    /// Binds a backward call: `upstream` has the shape that [`Softmax::bind`] asks of `y`, `dx` that of `x`.
    ///
    /// # Errors
    /// Those of [`Softmax::bind`].
    pub fn bind_backward(&self, views: &SoftmaxGradientViews) -> Result<BoundSoftmax> {
        let workspace = views.workspace.as_ref();
        self.bind_call(
            &views.x,
            Some(&views.upstream),
            "dx",
            &views.dx,
            views.mask.as_ref(),
            workspace,
        )
    }

    fn bind_call(
        &self,
        x: &BufferView,
        upstream: Option<&BufferView>,
        target_name: &'static str,
        target: &BufferView,
        mask: Option<&BufferView>,
        workspace: Option<&(wgpu::Buffer, u64)>,
    ) -> Result<BoundSoftmax> {
        self.gpu.check_alive()?;
        let axis = self.options.check(x.shape())?;
        let given = [
            ("x", Some(x)),
            ("upstream", upstream),
            ("mask", mask),
            (target_name, Some(target)),
        ];
        for (what, view) in given.iter().filter_map(|&(what, view)| view.map(|v| (what, v))) {
            if view.dtype() != self.dtype {
                return Err(Error::DTypeMismatch {
                    what,
                    expected: self.dtype,
                    got: view.dtype(),
                });
            }
            if what == target_name {
                view.check_writable(what)?
            } else {
                view.check(what)?
            }
        }
        let backward = upstream.is_some();
        let reduces = self.kind.reduces();
        let y = fit(target_name, target, x.shape(), axis, reduces && !backward)?;
        let upstream = upstream
            .map(|u| fit("upstream", u, x.shape(), axis, reduces))
            .transpose()?;
        for (name, view) in given.iter().filter_map(|&(name, view)| view.map(|v| (name, v))) {
            if name != target_name && view.overlaps(target) && !(name == "x" && view.same_as(target)) {
                return Err(Error::Aliased {
                    first: name,
                    second: target_name,
                });
            }
        }
        let mask = mask
            .map(|m| Ok::<_, Error>((m, broadcast_rows(m, x.shape(), axis)?)))
            .transpose()?;
        let need = self.workspace_size(x, backward)?;
        if let Some((buffer, offset)) = workspace {
            let views = given.iter().filter_map(|&(name, view)| Some((name, view?)));
            check_workspace(buffer, *offset, need, views)?;
        }
        let call = Call {
            kind: self.kind,
            backward,
            options: self.options,
            strategy: self.strategy,
            x,
            y: &y,
            mask,
            upstream: upstream.as_ref(),
            workspace: workspace.filter(|_| need > 0).map(|(buffer, offset)| (buffer, *offset)),
        };
        Ok(BoundSoftmax {
            recording: kernels::bind(&self.gpu, &call)?,
        })
    }
}

/// A view brought to the rank of `shape`: of that very shape, or with one element a row.
fn fit(what: &'static str, view: &BufferView, shape: &[usize], axis: usize, reduced: bool) -> Result<BufferView> {
    let mut want = shape.to_vec();
    if reduced {
        want[axis] = 1;
    }
    if view.shape == want {
        return Ok(view.clone());
    }
    let mut without = want.clone();
    without.remove(axis);
    if reduced && view.shape == without {
        let mut fitted = view.clone();
        fitted.shape.insert(axis, 1);
        fitted.strides.insert(axis, 0);
        return Ok(fitted);
    }
    Err(Error::shape(
        format!("shape of {what}"),
        format!("{want:?}"),
        format!("{:?}", view.shape),
    ))
}

/// Rows of a mask view broadcast to `shape`, with the view's own strides.
fn broadcast_rows(mask: &BufferView, shape: &[usize], axis: usize) -> Result<RowMap> {
    // The rules are checked on the shape alone; then the view's strides take the place of contiguous ones.
    RowMap::broadcast("mask", &mask.shape, shape, axis)?;
    let missing = shape.len() - mask.shape.len();
    let strides: Vec<usize> = (0..shape.len())
        .map(|d| {
            if d < missing || (mask.shape[d - missing] == 1 && shape[d] != 1) {
                0
            } else {
                mask.strides[d - missing]
            }
        })
        .collect();
    Ok(RowMap::strided(shape, &strides, mask.offset, axis))
}
