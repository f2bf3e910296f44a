//! Optimizers on f32 master weights: stochastic gradient descent with momentum, and AdamW.
//!
//! Sums of many small changes stall in 16 bits: 0.001 added to 0.5 in bf16, or to 4 in f16, is lost every time. So the weights live
//! in f32, and each step writes their 16-bit copies for the next forward pass beside them.
//!
//! # Definition
//! With gradient `g` unscaled by the [`LossScaler`]'s last verdict (`g * clip / scale`), learning rate r, weight decay c:
//! - SGD: `d = g + c w`; with momentum mu and dampening q `m = mu m + (1 - q) d` (at the first step `m = d`), and then `d` becomes `m`, or
//!   `d + mu m` after Nesterov; `w -= r d`
//! - AdamW at step t: `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//!   `w = (1 - r c) w - r / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + epsilon)`
//!
//! as PyTorch 2 defines them. What momentum and moments hold before the first step does not matter.
//!
//! If a gradient was not finite, nothing changes: neither weights, nor copies, nor moments, nor the count of steps.
//!
//! # Shapes
//! Any number of tensors of any shapes, in C order without gaps at any offset. Weights, momentum and moments are f32, gradients and copies
//! f32, f16 or bf16.
//!
//! # Numerics
//! f32 arithmetic on settled values; the powers of beta are running products kept as pairs of floats on the device, so that bias corrections
//! hold for any number of steps; roots and quotients are corrected by their residuals. Copies are the master weights rounded to nearest
//! even, bit for bit. See [`bounds`]. Squares of gradients below 1e-19 vanish in v, as they do in PyTorch.
//!
//! # Cost
//! One dispatch a step and one a tensor (more beyond a binding). SGD reads w and g and writes w, with momentum it reads and writes m too;
//! AdamW reads g, w, m, v and writes w, m, v; a copy adds its write.
//!
//! # Source
//! Sutskever et al. (2013) for momentum as PyTorch has it; Loshchilov and Hutter (2019), "Decoupled weight decay regularization".

pub mod bounds;
pub mod cases;
#[cfg(not(target_arch = "wasm32"))]
mod chain;
pub mod cpu;
mod kernels;
mod options;
pub mod reference;

#[cfg(not(target_arch = "wasm32"))]
pub use chain::{AdamWTensors, ChainAdamW, ChainSgd, SgdTensors};
pub use cpu::{HostAdamW, HostSgd};
#[doc(hidden)]
pub use kernels::shader_variants;
pub use options::{AdamWOptions, SgdOptions};

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Readback, Recording};
use crate::ops::unscale::{LossScaler, flat};
use kernels::{Rule, Tensors};

/// Stochastic gradient descent for embedding. See the [module](self).
///
/// ```no_run
/// # fn train(scaler: &macheps::LossScaler, w: macheps::BufferView, g: macheps::BufferView, half: macheps::BufferView, encoder: &mut macheps::wgpu::CommandEncoder) -> macheps::Result<()> {
/// use macheps::{Sgd, SgdOptions, SgdViews};
/// let sgd = Sgd::new(SgdOptions { learning_rate: 0.1, ..Default::default() })?;
/// let views = SgdViews { weight: w, gradient: g, momentum: None, copy: Some(half) };
/// let bound = sgd.bind(scaler, &[views])?; // outside the loop
/// bound.record(encoder); // every step, after the unscaling
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Sgd {
    options: SgdOptions,
}

/// A tensor of weights for [`Sgd`].
#[derive(Clone, Debug)]
pub struct SgdViews {
    /// Master weights, f32: read and written.
    pub weight: BufferView,
    /// Gradient: as [`Unscale`](crate::Unscale) had it, or left it where it writes.
    pub gradient: BufferView,
    /// Momentum, f32: needed where the options have any.
    pub momentum: Option<BufferView>,
    /// Gets the weights in its own storage type.
    pub copy: Option<BufferView>,
}

/// Adam with decoupled weight decay for embedding. See the [module](self).
#[derive(Clone, Debug)]
pub struct AdamW {
    options: AdamWOptions,
}

/// A tensor of weights for [`AdamW`].
#[derive(Clone, Debug)]
pub struct AdamWViews {
    /// Master weights, f32: read and written.
    pub weight: BufferView,
    /// Gradient: as [`Unscale`](crate::Unscale) had it, or left it where it writes.
    pub gradient: BufferView,
    /// First moment, f32.
    pub first_moment: BufferView,
    /// Second moment, f32.
    pub second_moment: BufferView,
    /// Gets the weights in its own storage type.
    pub copy: Option<BufferView>,
}

/// What an optimizer keeps beside its tensors: a checkpoint needs it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct OptimizerState {
    /// Good steps so far.
    pub steps: u32,
    /// Learning rate.
    pub learning_rate: f32,
    /// beta1 to the power of `steps`, as an unevaluated sum.
    pub power1: [f32; 2],
    /// beta2 to the power of `steps`, as an unevaluated sum.
    pub power2: [f32; 2],
    /// What the last step computed from these.
    derived: [f32; 4],
    spare: [u32; 6],
}

impl OptimizerState {
    /// Before the first step.
    pub fn new(learning_rate: f64) -> OptimizerState {
        OptimizerState {
            learning_rate: learning_rate as f32,
            power1: [1.0, 0.0],
            power2: [1.0, 0.0],
            ..OptimizerState::default()
        }
    }
}

/// An optimizer bound to its tensors: records dispatches and nothing else. Its state lives on the device. It keeps the buffers
/// alive.
pub struct BoundOptimizer {
    gpu: Gpu,
    state: wgpu::Buffer,
    recording: Recording,
}

impl std::fmt::Debug for BoundOptimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundOptimizer")
            .field("operation", &self.recording.label)
            .field("dispatches", &self.recording.dispatches())
            .finish_non_exhaustive()
    }
}

impl BoundOptimizer {
    /// Records a step into an encoder as one compute pass. Creates no other wgpu object, submits nothing, waits for nothing; any
    /// number of times per encoder, and each time is a step.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.recording.record(encoder);
    }

    /// Records a step into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.recording.record_pass(pass);
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    /// Sets the learning rate, ahead of the next submission: schedules need nothing bound anew.
    ///
    /// # Errors
    /// [`Error::Option`] for one that is negative or not finite, [`Error::DeviceLost`].
    pub fn set_learning_rate(&self, learning_rate: f64) -> Result<()> {
        check_learning_rate(learning_rate)?;
        self.gpu
            .write(&self.state, 4, bytemuck::bytes_of(&(learning_rate as f32)))
    }

    fn start_read(&self) -> Result<Readback> {
        self.gpu.check_alive()?;
        let encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.gpu
            .read_back(encoder, &self.state, std::mem::size_of::<OptimizerState>() as u64)
    }

    /// Reads the state; waits for the device. For logs and checkpoints: a step does not need it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Timeout`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(&self) -> Result<OptimizerState> {
        Ok(bytemuck::pod_read_unaligned(&self.start_read()?.wait()?))
    }

    /// Reads the state, under any executor.
    pub async fn read_async(&self) -> Result<OptimizerState> {
        Ok(bytemuck::pod_read_unaligned(&self.start_read()?.ready().await?))
    }

    /// Goes on from a state kept earlier, ahead of the next submission.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn write(&self, state: &OptimizerState) -> Result<()> {
        self.gpu.check_alive()?;
        self.gpu.write(&self.state, 0, bytemuck::bytes_of(state))
    }

    // Only `bench` takes it, which is not there in a browser.
    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }
}

impl Sgd {
    /// With these options.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains.
    pub fn new(options: SgdOptions) -> Result<Sgd> {
        options.check()?;
        Ok(Sgd { options })
    }

    /// Binds the tensors that one step changes: builds what pipelines are missing, makes bind groups, parameters and the state. Meant for
    /// outside the loop. `scaler` says whether a step is one, and by what gradients are multiplied.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`], [`Error::Limit`]; [`Error::Unsupported`] for views
    /// with gaps, and for 16-bit gradients and copies of different types; [`Error::DeviceLost`].
    pub fn bind(&self, scaler: &LossScaler, tensors: &[SgdViews]) -> Result<BoundOptimizer> {
        let state = state_buffer(scaler.gpu(), self.options.learning_rate)?;
        self.bind_with(scaler, tensors, state)
    }

    /// With a state that is there already.
    fn bind_with(&self, scaler: &LossScaler, tensors: &[SgdViews], state: wgpu::Buffer) -> Result<BoundOptimizer> {
        let needs = self.options.momentum != 0.0;
        let given = tensors
            .iter()
            .map(|t| {
                if needs && t.momentum.is_none() {
                    return Err(no_momentum());
                }
                Ok(Given {
                    weight: &t.weight,
                    gradient: &t.gradient,
                    m: t.momentum.as_ref().filter(|_| needs).map(|m| ("momentum", m)),
                    v: None,
                    copy: t.copy.as_ref(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        bind(scaler, Rule::Sgd(self.options), &given, state)
    }
}

impl AdamW {
    /// With these options.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains.
    pub fn new(options: AdamWOptions) -> Result<AdamW> {
        options.check()?;
        Ok(AdamW { options })
    }

    /// Binds the tensors that one step changes, as [`Sgd::bind`].
    ///
    /// # Errors
    /// Those of [`Sgd::bind`].
    pub fn bind(&self, scaler: &LossScaler, tensors: &[AdamWViews]) -> Result<BoundOptimizer> {
        let state = state_buffer(scaler.gpu(), self.options.learning_rate)?;
        self.bind_with(scaler, tensors, state)
    }

    /// With a state that is there already.
    fn bind_with(&self, scaler: &LossScaler, tensors: &[AdamWViews], state: wgpu::Buffer) -> Result<BoundOptimizer> {
        let given: Vec<_> = tensors
            .iter()
            .map(|t| Given {
                weight: &t.weight,
                gradient: &t.gradient,
                m: Some(("first moment", &t.first_moment)),
                v: Some(("second moment", &t.second_moment)),
                copy: t.copy.as_ref(),
            })
            .collect();
        bind(scaler, Rule::AdamW(self.options), &given, state)
    }
}

/// Views of a tensor as they came.
struct Given<'a> {
    weight: &'a BufferView,
    gradient: &'a BufferView,
    m: Option<(&'static str, &'a BufferView)>,
    v: Option<(&'static str, &'a BufferView)>,
    copy: Option<&'a BufferView>,
}

/// The state of an optimizer before its first step.
fn state_buffer(gpu: &Gpu, learning_rate: f64) -> Result<wgpu::Buffer> {
    gpu.check_alive()?;
    gpu.upload(
        "macheps optimizer",
        bytemuck::bytes_of(&OptimizerState::new(learning_rate)),
    )
}

fn no_momentum() -> Error {
    Error::shape("momentum", "one, as the options have momentum", "none")
}

fn check_learning_rate(learning_rate: f64) -> Result<()> {
    let rate = learning_rate as f32;
    if rate >= 0.0 && rate.is_finite() {
        return Ok(());
    }
    Err(Error::Option {
        name: "learning_rate",
        expected: "a finite number, not negative",
        got: learning_rate.to_string(),
    })
}

fn bind(scaler: &LossScaler, rule: Rule, given: &[Given<'_>], state: wgpu::Buffer) -> Result<BoundOptimizer> {
    let gpu = scaler.gpu();
    gpu.check_alive()?;
    let mut all = Vec::new();
    let mut views: Vec<(&'static str, &BufferView, bool)> = Vec::new();
    for t in given {
        let count = flat::count("weight", t.weight)?;
        let written = [Some(("weight", t.weight)), t.m, t.v];
        for (what, view) in written.into_iter().flatten() {
            if view.dtype != DType::F32 {
                return Err(Error::DTypeMismatch {
                    what,
                    expected: DType::F32,
                    got: view.dtype,
                });
            }
            view.check_writable(what)?;
            views.push((what, view, true));
        }
        t.gradient.check("gradient")?;
        views.push(("gradient", t.gradient, false));
        if let Some(copy) = t.copy {
            copy.check_writable("copy")?;
            views.push(("copy", copy, true));
            let sixteen = |d: DType| d != DType::F32;
            if sixteen(copy.dtype) && sixteen(t.gradient.dtype) && copy.dtype != t.gradient.dtype {
                return Err(Error::Unsupported {
                    what: format!("a copy in {} beside a gradient in {}", copy.dtype, t.gradient.dtype),
                    reason: "use one 16-bit type for both, or f32 for one of them".into(),
                });
            }
        }
        let others = [t.m, t.v, Some(("gradient", t.gradient)), t.copy.map(|c| ("copy", c))];
        for (what, view) in others.into_iter().flatten() {
            if view.shape != t.weight.shape {
                return Err(Error::shape(
                    format!("shape of {what}"),
                    format!("{:?}", t.weight.shape),
                    format!("{:?}", view.shape),
                ));
            }
            flat::count(what, view)?;
        }
        all.push(Tensors {
            count,
            gradient: t.gradient,
            weight: t.weight,
            m: t.m.map(|m| m.1),
            v: t.v.map(|v| v.1),
            copy: t.copy,
        });
    }
    flat::check_overlaps(&views, |_, _| false)?;
    let recording = kernels::bind(gpu, &rule, scaler.state_buffer(), &state, &all)?;
    Ok(BoundOptimizer {
        gpu: gpu.clone(),
        state,
        recording,
    })
}
