//! Reductions over any set of axes: sums, means, variances, norms, dot products, minima, maxima and where they are.
//!
//! # Definition
//! Over the n elements x of a row (everything that the reduced axes make one):
//!
//! | kind | result | of nothing |
//! |---|---|---|
//! | sum, sum_square, L1 norm | `sum x`, `sum x^2`, `sum abs(x)` | 0 |
//! | mean | `sum x / n` | NaN |
//! | variance, std | `sum (x - mean)^2 / (n - correction)`, its root | NaN, as wherever `n <= correction` |
//! | L2 norm, largest magnitude | `sqrt(sum x^2)`, `max abs(x)` | 0 |
//! | dot | `sum x w` with a second tensor of the same shape | 0 |
//! | log_sum | `log(sum x)`; NaN of a negative sum | -inf |
//! | min, max, argmin, argmax | the extreme, or the first index that has it | a typed error |
//!
//! # Shapes
//! Any rank and any axes; the result lacks them or, with `keepdims`, has size 1 there. Indices count the elements of the reduced
//! axes in C order.
//!
//! # Numerics
//! Storage f32, f16 or bf16. Terms are summed in f32 by error-free transforms, in a fixed tree; terms that would overflow or
//! vanish are kept scaled, so that a result is only infinite or zero if its true value rounds to that. Variance merges chunks by
//! Chan's formula about each chunk's own mean, and is never negative. Error bounds stand in [`bounds`]; results of f16 and bf16
//! are rounded once more. The mode [`reproducible`] is exact and rounds once. The same device, driver and version give the same bits on every run; the subgroup width does not matter.
//!
//! NaN makes every result NaN (and is what argmin and argmax find); infinities of both signs make a sum NaN, one infinity makes
//! it infinite; variance of an infinity is NaN. The zeros tie.
//!
//! # Cost
//! Every element is read once; twice, the second time from caches, for variance and std. Rows cut into chunks leave 32 bytes each.
//!
//! # Gradients
//! [`backward`], [`Chain::reduce_backward`](crate::Chain::reduce_backward) and [`Reduction::bind_backward`] give the gradient with
//! respect to x of `sum(upstream * reduce(x))`, with g the upstream gradient of a row:
//!
//! | kind | gradient |
//! |---|---|
//! | sum, mean | g, `g / n` |
//! | sum_square, L1 norm | `2 g x`, `g sign(x)` |
//! | L2 norm, log_sum | `g x / norm`, `g / sum` |
//! | variance | `2 g (x - mean) / (n - correction)` |
//! | std | `g (x - mean) / ((n - correction) std)` |
//! | dot | `g w`; for that of w exchange the two |
//! | min, max, largest magnitude | g, or `g sign(x)`, for the first extreme element, 0 for the others |
//!
//! Where there is no derivative it is 0: norms and std at 0. NaN wherever `n <= correction`; what is not finite follows IEEE
//! arithmetic through these formulas.
//!
//! On a device the forward pass leaves up to 16 bytes a row of what the gradient needs of it (sum, norm, mean and deviation as pairs and
//! with exponents of their own, index of the extreme), and one pass over the elements writes the gradient. So x is read once for
//! sum_square and the L1 norm, not at all for sum, mean and dot, once or twice before the pass for the others. The first pass is left
//! out where nothing of it is needed. A call with more dimensions than a kernel tells apart (six that alternate between
//! reduced and kept ones) is cut into slices.
//!
//! # Source
//! Error-free transforms after Knuth and Dekker, accumulators by magnitude after Blue (1978), merging of variances after Chan,
//! Golub and LeVeque (1979).

pub mod bounds;
pub mod cases;
pub mod cpu;
mod gradient;
mod kernels;
mod layout;
mod oneshot;
mod options;
pub mod reference;
pub mod reproducible;

#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{ReductionInput, arg_reduce_async, backward_async, reduce_async};
// A browser's main thread must not block.
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{
    arg_reduce, argmax, argmin, backward, dot, log_sum, max, mean, min, norm_l1, norm_l2, norm_max, reduce, std, sum,
    sum_square, variance,
};
pub use oneshot::{
    argmax_async, argmin_async, dot_async, log_sum_async, max_async, mean_async, min_async, norm_l1_async,
    norm_l2_async, norm_max_async, std_async, sum_async, sum_square_async, variance_async,
};
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{check_backward, check_forward, check_indices};
pub use options::{ReductionKind, ReductionOptions, SumMode};
pub use reproducible::ExactSum;

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording, check_workspace};

/// A reduction for embedding: bound to buffers once, recorded into a caller's encoder or pass any number of times.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, field: &wgpu::Buffer, out: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::{BufferView, DType, Gpu, Reduction, ReductionKind, ReductionOptions, ReductionViews};
/// let gpu = Gpu::borrow(device, queue);
/// let norm = Reduction::new(&gpu, ReductionKind::NormL2, DType::F32, ReductionOptions::over(&[-1]))?;
/// let x = BufferView::new(field, DType::F32, &[64, 1000]);
/// let y = BufferView::new(out, DType::F32, &[64]);
/// let bound = norm.bind(&ReductionViews::new(x, y))?; // outside the frame
/// bound.record(encoder); // every frame
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Reduction {
    gpu: Gpu,
    kind: ReductionKind,
    dtype: DType,
    options: ReductionOptions,
    chunk: Option<usize>,
}

/// What a reduction works on.
#[derive(Clone, Debug)]
pub struct ReductionViews {
    /// Input.
    pub x: BufferView,
    /// Second input of a dot product, of the shape of `x`; strides of 0 repeat it.
    pub second: Option<BufferView>,
    /// Output: the shape of `x` without the reduced axes, or with size 1 there. For argmin and argmax it is a view of 32-bit
    /// words, of type f32, which receive u32 indices.
    pub y: BufferView,
    /// Scratch of at least [`Reduction::workspace_size`] bytes at an offset that is a multiple of 256; where it is needed and
    /// not given, `bind` allocates it.
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl ReductionViews {
    /// Input and output, nothing else.
    pub fn new(x: BufferView, y: BufferView) -> ReductionViews {
        ReductionViews {
            x,
            second: None,
            y,
            workspace: None,
        }
    }
}

/// What the gradient of a reduction works on.
#[derive(Clone, Debug)]
pub struct ReductionGradientViews {
    /// Input of the reduction.
    pub x: BufferView,
    /// Second input of a dot product, of the shape of `x`.
    pub second: Option<BufferView>,
    /// Gradient of the result, in its shape, with or without the reduced axes.
    pub upstream: BufferView,
    /// Output: the gradient of `x`, in its shape.
    pub dx: BufferView,
    /// Scratch of at least [`Reduction::workspace_size_backward`] bytes at an offset that is a multiple of 256; where it is needed
    /// and not given, `bind_backward` allocates it.
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl ReductionGradientViews {
    /// Input, upstream gradient and output, nothing else.
    pub fn new(x: BufferView, upstream: BufferView, dx: BufferView) -> ReductionGradientViews {
        ReductionGradientViews {
            x,
            second: None,
            upstream,
            dx,
            workspace: None,
        }
    }
}

/// A reduction bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundReduction {
    recording: Recording,
}

impl BoundReduction {
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

impl Reduction {
    /// A reduction of a storage type. Pipelines are built by the first `bind` that needs them and shared by everything on the
    /// same [`Gpu`].
    ///
    /// # Errors
    /// [`Error::Option`] for a correction that is negative or not finite.
    pub fn new(gpu: &Gpu, kind: ReductionKind, dtype: DType, options: ReductionOptions) -> Result<Reduction> {
        let any_axes = ReductionOptions {
            axes: None,
            ..options.clone()
        };
        any_axes.check(kind, &[1])?;
        Ok(Reduction {
            gpu: gpu.clone(),
            kind,
            dtype,
            options,
            chunk: None,
        })
    }

    /// Cuts rows into chunks of about so many elements in place of the choice by shape and device, for tests of what is cut.
    #[doc(hidden)]
    pub fn with_chunk(mut self, elements: usize) -> Reduction {
        self.chunk = Some(elements);
        self
    }

    /// Bytes of workspace that a call on this view needs: 32 for every chunk of rows that are cut (64 or, of dot products, 112 in the mode
    /// reproducible), else 0.
    ///
    /// # Errors
    /// Those of [`Reduction::bind`] about shapes and limits.
    pub fn workspace_size(&self, x: &BufferView, second: Option<&BufferView>) -> Result<u64> {
        self.options.check(self.kind, x.shape())?;
        let (x, second) = (x.into(), second.map(kernels::Operand::from));
        Ok(kernels::cutting(&self.gpu, self.kind, &self.options, x, second, self.chunk)?.workspace())
    }

    /// Binds a call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the frame.
    ///
    /// # Shapes
    /// As [`ReductionViews`] says. Offsets and strides are free; nothing may overlap `y`.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes and axes that do not fit, rows without elements where there is no answer, views beyond their
    /// buffers and a workspace that is too small; [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`],
    /// [`Error::Limit`]; [`Error::Unsupported`] for views with more than four separately strided dimensions that stay;
    /// [`Error::DeviceLost`].
    pub fn bind(&self, views: &ReductionViews) -> Result<BoundReduction> {
        self.gpu.check_alive()?;
        let (x, y) = (&views.x, &views.y);
        self.options.check(self.kind, x.shape())?;
        if self.kind.takes_two() != views.second.is_some() {
            return Err(Error::shape(
                "second view",
                if self.kind.takes_two() { "one" } else { "none" },
                if self.kind.takes_two() { "none" } else { "one" },
            ));
        }
        let inputs = [("x", Some(x)), ("second", views.second.as_ref())];
        let inputs = || inputs.iter().filter_map(|&(what, view)| view.map(|v| (what, v)));
        for (what, view) in inputs() {
            expect_type(what, view, self.dtype)?;
            view.check(what)?;
            if view.shape != x.shape {
                return Err(Error::shape(
                    format!("shape of {what}"),
                    format!("{:?}", x.shape),
                    format!("{:?}", view.shape),
                ));
            }
            if view.overlaps(y) {
                return Err(Error::Aliased {
                    first: what,
                    second: "y",
                });
            }
        }
        expect_type("y", y, if self.kind.is_arg() { DType::F32 } else { self.dtype })?;
        y.check_writable("y")?;
        let fitted = fit("y", y, &self.options, x.shape())?;
        let need = self.workspace_size(x, views.second.as_ref())?;
        let all: Vec<_> = inputs().chain([("y", y)]).collect();
        let workspace = given_workspace(views.workspace.as_ref(), need, &all)?;
        let written = [Some(&y.buffer), workspace.map(|(buffer, _)| buffer)];
        let call = kernels::Call {
            kind: self.kind,
            output: kernels::Output::of(self.kind),
            options: &self.options,
            x: x.into(),
            second: views.second.as_ref().map(kernels::Operand::from),
            y: &fitted,
            workspace,
            chunk: self.chunk,
            shared: inputs().any(|(_, read)| written.iter().flatten().any(|&buffer| read.buffer == *buffer)),
        };
        let inputs: Vec<_> = inputs()
            .map(|(_, view)| kernels::Input {
                buffer: &view.buffer,
                begin: 0,
            })
            .collect();
        Ok(BoundReduction {
            recording: kernels::bind(&self.gpu, &call, &inputs)?,
        })
    }

    /// Bytes of workspace that the gradient of a call on this view needs: what is kept of every row, 4 bytes for minima, maxima and
    /// the largest magnitude, 16 for L2 norm, log_sum, variance and std, and what [`Reduction::workspace_size`] says; else 0.
    ///
    /// # Errors
    /// Those of [`Reduction::bind_backward`] about shapes and limits.
    pub fn workspace_size_backward(&self, x: &BufferView) -> Result<u64> {
        self.options.check(self.kind, x.shape())?;
        gradient::workspace(&self.gpu, self.kind, &self.options, x, self.chunk)
    }

    /// Binds the gradient of a call with respect to `x`; else as [`Reduction::bind`]. See the [module](self) for what it is.
    ///
    /// # Shapes
    /// As [`ReductionGradientViews`] says. Offsets and strides are free; nothing may overlap `dx`.
    ///
    /// # Cost
    /// One read of `x` (or of the second tensor) where it matters, one write; and before, for all kinds but sum, mean, sum_square, L1
    /// norm and dot, what the reduction itself costs.
    ///
    /// # Errors
    /// Those of [`Reduction::bind`]; [`Error::Unsupported`] for argmin and argmax, and for views that 256 slices are not enough for.
    pub fn bind_backward(&self, views: &ReductionGradientViews) -> Result<BoundReduction> {
        self.gpu.check_alive()?;
        if self.kind.is_arg() {
            return Err(no_gradient(self.kind));
        }
        let (x, dx) = (&views.x, &views.dx);
        self.options.check(self.kind, x.shape())?;
        if self.kind.takes_two() != views.second.is_some() {
            let (expected, got) = if self.kind.takes_two() {
                ("one", "none")
            } else {
                ("none", "one")
            };
            return Err(Error::shape("second view", expected, got));
        }
        let inputs: Vec<(&'static str, &BufferView)> = [
            Some(("x", x)),
            views.second.as_ref().map(|w| ("second", w)),
            Some(("upstream", &views.upstream)),
        ]
        .into_iter()
        .flatten()
        .collect();
        for &(what, view) in inputs.iter().chain([&("dx", dx)]) {
            expect_type(what, view, self.dtype)?;
            view.check(what)?;
            if what != "upstream" && view.shape != x.shape {
                return Err(Error::shape(
                    format!("shape of {what}"),
                    format!("{:?}", x.shape),
                    format!("{:?}", view.shape),
                ));
            }
        }
        dx.check_writable("dx")?;
        if let Some(&(first, _)) = inputs.iter().find(|(_, view)| view.overlaps(dx)) {
            return Err(Error::Aliased { first, second: "dx" });
        }
        let reduced = self.options.reduced(x.shape())?;
        let fitted = fit("upstream", &views.upstream, &self.options, x.shape())?;
        let need = self.workspace_size_backward(x)?;
        let all: Vec<_> = inputs.iter().copied().chain([("dx", dx)]).collect();
        let workspace = given_workspace(views.workspace.as_ref(), need, &all)?;
        let call = gradient::Call {
            kind: self.kind,
            options: &self.options,
            x,
            second: views.second.as_ref(),
            upstream: &gradient::spread(&fitted, &reduced, x.shape()),
            dx,
            workspace,
            chunk: self.chunk,
        };
        Ok(BoundReduction {
            recording: gradient::bind(&self.gpu, &call)?,
        })
    }
}

fn no_gradient(kind: ReductionKind) -> Error {
    Error::Unsupported {
        what: format!("the gradient of {kind}"),
        reason: "an index has none".into(),
    }
}

/// The workspace if one is needed and given, checked against the views of the call.
fn given_workspace<'a>(
    given: Option<&'a (wgpu::Buffer, u64)>,
    need: u64,
    views: &[(&'static str, &BufferView)],
) -> Result<Option<(&'a wgpu::Buffer, u64)>> {
    let Some((buffer, offset)) = given else {
        return Ok(None);
    };
    check_workspace(buffer, *offset, need, views.iter().copied())?;
    Ok((need > 0).then_some((buffer, *offset)))
}

fn expect_type(what: &'static str, view: &BufferView, expected: DType) -> Result<()> {
    if view.dtype() == expected {
        return Ok(());
    }
    Err(Error::DTypeMismatch {
        what,
        expected,
        got: view.dtype(),
    })
}

/// A result's view brought to the rank of `shape`.
fn fit(what: &str, y: &BufferView, options: &ReductionOptions, shape: &[usize]) -> Result<BufferView> {
    let reduced = options.reduced(shape)?;
    let with: Vec<usize> = shape
        .iter()
        .zip(&reduced)
        .map(|(&n, &gone)| if gone { 1 } else { n })
        .collect();
    let without: Vec<usize> = (0..shape.len()).filter(|&d| !reduced[d]).map(|d| shape[d]).collect();
    if y.shape == with {
        return Ok(y.clone());
    }
    if y.shape != without {
        return Err(Error::shape(
            format!("shape of {what}"),
            format!("{without:?} or {with:?}"),
            format!("{:?}", y.shape),
        ));
    }
    let mut strides = y.strides.iter().copied();
    let fitted = BufferView {
        strides: reduced
            .iter()
            .map(|&gone| if gone { 0 } else { strides.next().unwrap_or(0) })
            .collect(),
        shape: with,
        ..y.clone()
    };
    Ok(fitted)
}
