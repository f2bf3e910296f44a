//! The loss scaler and the unscaling of gradients for embedding.

use super::flat;
use super::kernels::{self, Pair};
use super::options::{LossScalerOptions, LossScalerState, UnscaleOptions, check_max_norm};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Readback, Recording, check_workspace};
use std::sync::Arc;

/// The state as lib/scaler_state.wgsl declares it.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Words {
    pub scale: f32,
    pub growth_tracker: u32,
    pub found_nonfinite: u32,
    pub norm: f32,
    pub clip: f32,
    pub steps: u32,
    pub skipped: u32,
    /// `clip / scale` as two floats times a power of two.
    factor: Factor,
    /// What optimizers multiply by.
    rest: Factor,
    spare: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Factor {
    exponent: i32,
    high: f32,
    low: f32,
}

impl Factor {
    /// A positive normal f64.
    fn of(value: f64) -> Factor {
        let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let significand = value * 2f64.powi(-exponent);
        let high = significand as f32;
        Factor {
            exponent,
            high,
            low: (significand - f64::from(high)) as f32,
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Factor {
    fn value(&self) -> f64 {
        (f64::from(self.high) + f64::from(self.low)) * 2f64.powi(self.exponent)
    }
}

impl Words {
    pub(crate) fn of(state: &LossScalerState) -> Words {
        let clip = f64::from(if state.clip > 0.0 { state.clip } else { 1.0 });
        let factor = Factor::of(clip / f64::from(state.scale));
        Words {
            scale: state.scale,
            growth_tracker: state.growth_tracker,
            found_nonfinite: u32::from(state.found_nonfinite),
            norm: state.norm,
            clip: state.clip,
            steps: state.steps,
            skipped: state.skipped,
            factor,
            rest: factor,
            spare: [0; 3],
        }
    }

    pub(crate) fn state(bytes: &[u8]) -> LossScalerState {
        let words: Words = bytemuck::pod_read_unaligned(&bytes[..std::mem::size_of::<Words>()]);
        LossScalerState {
            scale: words.scale,
            growth_tracker: words.growth_tracker,
            found_nonfinite: words.found_nonfinite != 0,
            norm: words.norm,
            clip: words.clip,
            steps: words.steps,
            skipped: words.skipped,
        }
    }
}

/// Bytes of the state on the device.
pub(crate) const STATE_BYTES: u64 = std::mem::size_of::<Words>() as u64;

/// A buffer that holds a scaler's state.
pub(crate) fn state_buffer(gpu: &Gpu, state: &LossScalerState) -> Result<wgpu::Buffer> {
    gpu.upload("macheps loss scaler", bytemuck::bytes_of(&Words::of(state)))
}

/// A loss scaler whose state lives on the device: a step of training reads nothing back.
///
/// A step is: multiply the loss by word 0 of [`LossScaler::state_buffer`]; compute the gradients; record a bound
/// [`Unscale`]; record bound optimizers ([`Sgd`](crate::Sgd), [`AdamW`](crate::AdamW)), which do nothing if a
/// gradient was not finite; record [`LossScaler::record_update`], which moves the scale.
///
/// Cheap to clone; clones share the state.
///
/// ```no_run
/// # fn train(gpu: &macheps::Gpu, gradient: macheps::BufferView, encoder: &mut macheps::wgpu::CommandEncoder) -> macheps::Result<()> {
/// use macheps::{LossScaler, LossScalerOptions};
/// let scaler = LossScaler::new(gpu, LossScalerOptions::default())?;
/// let unscale = scaler.bind(&[gradient])?; // outside the loop
/// unscale.record(encoder); // every step: norm and verdict
/// // optimizers
/// scaler.record_update(encoder);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LossScaler {
    gpu: Gpu,
    state: wgpu::Buffer,
    update: Arc<Recording>,
}

impl std::fmt::Debug for LossScaler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LossScaler")
            .field("gpu", &self.gpu)
            .finish_non_exhaustive()
    }
}

impl LossScaler {
    /// Before the first step.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains, [`Error::DeviceLost`].
    pub fn new(gpu: &Gpu, options: LossScalerOptions) -> Result<LossScaler> {
        options.check()?;
        gpu.check_alive()?;
        let state = state_buffer(gpu, &LossScalerState::new(&options))?;
        let update = Arc::new(kernels::bind_update(gpu, &state, &options)?);
        Ok(LossScaler {
            gpu: gpu.clone(),
            state,
            update,
        })
    }

    /// Binds the finite test and the norm of gradients, which stay as they are. [`Unscale`] has more to choose.
    ///
    /// # Errors
    /// Those of [`Unscale::bind`].
    pub fn bind(&self, gradients: &[BufferView]) -> Result<BoundUnscale> {
        Unscale::new(self, UnscaleOptions::default())?.bind(&UnscaleViews::new(gradients))
    }

    /// The state on the device, 64 bytes: scale (f32), growth tracker (u32), whether a gradient was not finite (u32), norm (f32),
    /// clip factor (f32), good steps (u32), skipped steps (u32), and words of the library's own. A kernel that scales a
    /// loss reads the first.
    pub fn state_buffer(&self) -> &wgpu::Buffer {
        &self.state
    }

    /// Records the end of a step: moves the scale and counts. One dispatch.
    pub fn record_update(&self, encoder: &mut wgpu::CommandEncoder) {
        self.update.record(encoder);
    }

    /// As [`LossScaler::record_update`], into an open compute pass.
    pub fn record_update_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.update.record_pass(pass);
    }

    fn start_read(&self) -> Result<Readback> {
        self.gpu.check_alive()?;
        let encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.gpu.read_back(encoder, &self.state, STATE_BYTES)
    }

    /// Reads the state; waits for the device. For logs and checkpoints: a step does not need it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Timeout`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(&self) -> Result<LossScalerState> {
        Ok(Words::state(&self.start_read()?.wait()?))
    }

    /// Reads the state, under any executor.
    pub async fn read_async(&self) -> Result<LossScalerState> {
        Ok(Words::state(&self.start_read()?.ready().await?))
    }

    /// Goes on from a state kept earlier, ahead of the next submission.
    ///
    /// # Errors
    /// [`Error::Option`] for a scale that is not a positive normal number, [`Error::DeviceLost`].
    pub fn write(&self, state: &LossScalerState) -> Result<()> {
        super::options::check_scale("scale", state.scale)?;
        self.gpu.check_alive()?;
        self.gpu.write(&self.state, 0, bytemuck::bytes_of(&Words::of(state)))
    }

    /// The end of a step, as it is recorded.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn update(&self) -> Arc<Recording> {
        self.update.clone()
    }

    /// Whether optimizers skip the step, and else what they multiply gradients by; waits for the device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn verdict(&self) -> Result<(bool, f64)> {
        let words: Words = bytemuck::pod_read_unaligned(&self.start_read()?.wait()?);
        Ok((words.found_nonfinite != 0, words.rest.value()))
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

/// Unscaling, finite test, global norm and clipping of gradient tensors for embedding. See the [module](super).
#[derive(Clone, Debug)]
pub struct Unscale {
    scaler: LossScaler,
    options: UnscaleOptions,
}

/// What an unscaling works on.
#[derive(Clone, Debug)]
pub struct UnscaleViews {
    /// The gradients, in any storage types.
    pub gradients: Vec<BufferView>,
    /// Where unscaled and clipped gradients are written: a view for each, of its shape and of its storage type or f32; may be the
    /// very view. `None`: nothing is written, and optimizers unscale on the way, in f32, which loses nothing of 16-bit gradients
    /// and saves the traffic.
    pub unscaled: Option<Vec<BufferView>>,
    /// Scratch of at least [`Unscale::workspace_size`] bytes at an offset that is a multiple of 256; `bind` allocates it where it is
    /// not given.
    pub workspace: Option<(wgpu::Buffer, u64)>,
}

impl UnscaleViews {
    /// Gradients that stay as they are.
    pub fn new(gradients: &[BufferView]) -> UnscaleViews {
        UnscaleViews {
            gradients: gradients.to_vec(),
            unscaled: None,
            workspace: None,
        }
    }

    /// Gradients unscaled in place.
    pub fn in_place(gradients: &[BufferView]) -> UnscaleViews {
        UnscaleViews {
            unscaled: Some(gradients.to_vec()),
            ..UnscaleViews::new(gradients)
        }
    }
}

/// An unscaling bound to its buffers: records dispatches and nothing else. It keeps the buffers alive.
pub struct BoundUnscale {
    recording: Recording,
}

impl BoundUnscale {
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

impl Unscale {
    /// An unscaling by the scale of `scaler`, which takes its verdict.
    ///
    /// # Errors
    /// [`Error::Option`] for a `max_norm` that is not positive.
    pub fn new(scaler: &LossScaler, options: UnscaleOptions) -> Result<Unscale> {
        check_max_norm(options.max_norm)?;
        Ok(Unscale {
            scaler: scaler.clone(),
            options,
        })
    }

    /// Bytes of workspace: 16 a chunk of 8,192 elements, of each gradient apart.
    pub fn workspace_size(&self, gradients: &[BufferView]) -> Result<u64> {
        let counts: Vec<usize> = gradients
            .iter()
            .map(|g| flat::count("gradient", g))
            .collect::<Result<_>>()?;
        Ok(kernels::workspace_bytes(counts.into_iter()))
    }

    /// Binds a call: builds what pipelines are missing, makes bind groups and parameters. Meant for outside the loop.
    ///
    /// # Shapes
    /// Any, in C order without gaps, at any offset.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DTypeMismatch`], [`Error::Aliased`], [`Error::BufferUsage`], [`Error::Limit`];
    /// [`Error::Unsupported`] for views with gaps; [`Error::DeviceLost`].
    pub fn bind(&self, views: &UnscaleViews) -> Result<BoundUnscale> {
        let gpu = &self.scaler.gpu;
        gpu.check_alive()?;
        let targets = views.unscaled.as_deref();
        if let Some(targets) = targets.filter(|t| t.len() != views.gradients.len()) {
            return Err(Error::shape(
                "unscaled gradients",
                format!("{} of them", views.gradients.len()),
                targets.len().to_string(),
            ));
        }
        let mut pairs = Vec::new();
        let mut all: Vec<(&'static str, &BufferView, bool)> = Vec::new();
        for (i, x) in views.gradients.iter().enumerate() {
            x.check("gradient")?;
            all.push(("gradient", x, false));
            let y = targets.map(|t| &t[i]);
            if let Some(y) = y {
                y.check_writable("unscaled gradient")?;
                flat::count("unscaled gradient", y)?;
                if y.shape != x.shape {
                    return Err(Error::shape(
                        "shape of an unscaled gradient",
                        format!("{:?}", x.shape),
                        format!("{:?}", y.shape),
                    ));
                }
                if y.dtype != x.dtype && y.dtype != DType::F32 {
                    return Err(Error::DTypeMismatch {
                        what: "unscaled gradient",
                        expected: x.dtype,
                        got: y.dtype,
                    });
                }
                all.push(("unscaled gradient", y, true));
            }
            pairs.push(Pair {
                x,
                y,
                count: flat::count("gradient", x)?,
            });
        }
        // A gradient stands before its own target.
        flat::check_overlaps(&all, |i, j| targets.is_some() && i % 2 == 0 && j == i + 1)?;
        let need = kernels::workspace_bytes(pairs.iter().map(|p| p.count));
        if let Some((buffer, offset)) = &views.workspace {
            check_workspace(buffer, *offset, need, all.iter().map(|&(name, view, _)| (name, view)))?;
        }
        let max_norm = self.options.max_norm;
        Ok(BoundUnscale {
            recording: kernels::bind(gpu, &self.scaler.state, &pairs, max_norm, views.workspace.as_ref())?,
        })
    }
}
