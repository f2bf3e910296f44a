//! A 2-D smoke simulation on wgpu, drawn by its own render pipeline, whose pressure is solved by macheps inside the frame.
//!
//! The host owns the device, the buffers, the encoder and the submission. What macheps adds to a frame is a number of dispatches in a
//! pass of the host's: see [`pressure`], which is all of the integration. No file is touched and no thread started here, and all of it
//! compiles for wasm32.
//!
//! ```no_run
//! # fn frames(device: &wgpu::Device, queue: &wgpu::Queue, view: &wgpu::TextureView) -> macheps_fluid::Result<()> {
//! use macheps_fluid::{Canvas, Method, Scene, Settings, Simulation};
//! let settings = Settings { method: Method::Cg, ..Settings::default() };
//! let mut simulation = Simulation::new(device, queue, &Scene::plume(256, 256), &settings)?;
//! let canvas = Canvas::new(device, &simulation, wgpu::TextureFormat::Rgba8Unorm);
//! loop {
//!     let mut encoder = device.create_command_encoder(&Default::default());
//!     simulation.record_frame(&mut encoder, &canvas, view);
//!     queue.submit([encoder.finish()]);
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```

mod draw;
mod error;
mod fluid;
pub mod pressure;
#[cfg(not(target_arch = "wasm32"))]
pub mod readback;
mod scene;
mod stages;

pub use draw::Canvas;
pub use error::{FluidError, Result};
pub use fluid::Buffers;
pub use pressure::{Method, Pressure};
pub use scene::{Circle, Open, SIDES, Scene};
pub use stages::Stage;

use fluid::Fluid;
use macheps::ops::reduction::BoundReduction;
use macheps::solve::GridStencil;
use macheps::{BufferView, DType, Gpu, Reduction, ReductionKind, ReductionOptions, ReductionViews};
use stages::Clock;

/// Opens a device as the simulation likes it: with timestamps and subgroups where there are any. Any other device serves too.
///
/// # Errors
/// [`FluidError::Device`].
pub async fn open_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("macheps-fluid"),
        required_features: macheps::required_features(adapter),
        required_limits: macheps::recommended_limits(adapter),
        ..Default::default()
    };
    adapter
        .request_device(&descriptor)
        .await
        .map_err(|error| FluidError::Device(error.to_string()))
}

/// How a scene is computed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the pressure is solved.
    pub method: Method,
    /// Dispatches that the pressure solve may take in a frame.
    pub dispatches: usize,
    /// Whether a solve begins with the pressure of the frame before, or else with nothing.
    pub warm_start: bool,
    /// Frames whose divergence and times are kept.
    pub history: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            method: Method::Cg,
            dispatches: 60,
            warm_start: true,
            history: 1024,
        }
    }
}

/// What is known of a frame afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameRecord {
    /// Root mean square of the divergence before the projection.
    pub before: f64,
    /// After it.
    pub after: f64,
    /// Milliseconds of each [`Stage`], where the device has timestamps.
    pub stages: Option<[f64; Stage::ALL.len()]>,
}

/// A running simulation.
pub struct Simulation {
    queue: wgpu::Queue,
    gpu: Gpu,
    operator: GridStencil,
    fluid: Fluid,
    pressure: Pressure,
    norms: [BoundReduction; 2],
    norms_now: wgpu::Buffer,
    norms_kept: wgpu::Buffer,
    clock: Clock,
    settings: Settings,
    cells: usize,
    frame: u64,
}

impl Simulation {
    /// Everything that the frames need, on the host's device.
    ///
    /// # Errors
    /// [`FluidError`].
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, scene: &Scene, settings: &Settings) -> Result<Simulation> {
        // macheps borrows the device: it sets no callbacks on it, submits nothing and waits for nothing.
        let gpu = Gpu::borrow(device, queue);
        let operator = pressure::operator(scene)?;
        // One mask of obstacles for both.
        let Some(solid) = operator.buffers(&gpu)?.solid else {
            return Err(FluidError::NoFluid);
        };
        let fluid = Fluid::new(device, scene, solid)?;
        let buffers = &fluid.buffers;
        let pressure = Pressure::new(
            &gpu,
            &operator,
            settings.method,
            settings.dispatches,
            &buffers.excess,
            &buffers.pressure,
        )?;

        // Two norms a frame, kept on the device: looking at them must not hold up the frames.
        let frames = settings.history.max(1);
        let numbers = |label, count: usize| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 8 * count as u64,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let norms_now = numbers("norms of this frame", 1);
        let norm = Reduction::new(&gpu, ReductionKind::NormL2, DType::F32, ReductionOptions::over(&[-1]))?;
        let norm_of = |field: &wgpu::Buffer, at: usize| {
            let x = BufferView::new(field, DType::F32, &[scene.size()]);
            let y = BufferView::new(&norms_now, DType::F32, &[]).at(at);
            norm.bind(&ReductionViews::new(x, y))
        };
        Ok(Simulation {
            norms: [norm_of(&buffers.excess, 0)?, norm_of(&buffers.left, 1)?],
            norms_kept: numbers("norms", frames),
            norms_now,
            clock: Clock::new(device, queue, frames),
            queue: queue.clone(),
            cells: scene.size(),
            settings: settings.clone(),
            frame: 0,
            gpu,
            operator,
            fluid,
            pressure,
        })
    }

    /// Records the next frame and its picture. The caller submits.
    pub fn record_frame(&mut self, encoder: &mut wgpu::CommandEncoder, canvas: &Canvas, view: &wgpu::TextureView) {
        self.fluid.set_time(&self.queue, self.frame);
        self.fluid
            .record_advection(&mut self.clock.pass(encoder, Stage::Advect));
        self.fluid.record_forces(&mut self.clock.pass(encoder, Stage::Forces));
        if !self.settings.warm_start {
            encoder.clear_buffer(&self.fluid.buffers.pressure, 0, None);
        }
        self.pressure.record(&mut self.clock.pass(encoder, Stage::Pressure));
        self.fluid
            .record_projection(&mut self.clock.pass(encoder, Stage::Project));
        {
            let mut pass = self.clock.pass(encoder, Stage::Measure);
            self.fluid.record_left(&mut pass);
            self.norms.iter().for_each(|norm| norm.record_pass(&mut pass));
        }
        canvas.record(encoder, view, self.clock.render_writes());

        let kept = self.frame % self.settings.history.max(1) as u64;
        encoder.copy_buffer_to_buffer(&self.norms_now, 0, &self.norms_kept, 8 * kept, 8);
        self.clock.keep(encoder, self.frame);
        self.frame += 1;
    }

    /// Solves by another method from the next frame on, within the same budget.
    ///
    /// # Errors
    /// Those of [`Pressure::new`]; the simulation then goes on as it was.
    pub fn set_method(&mut self, method: Method) -> Result<()> {
        let buffers = &self.fluid.buffers;
        self.pressure = Pressure::new(
            &self.gpu,
            &self.operator,
            method,
            self.settings.dispatches,
            &buffers.excess,
            &buffers.pressure,
        )?;
        self.settings.method = method;
        Ok(())
    }

    /// The pressure solve.
    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// What macheps runs on: the host's device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The fluid's buffers.
    pub fn buffers(&self) -> &Buffers {
        &self.fluid.buffers
    }

    /// Frames recorded so far.
    pub fn frames(&self) -> u64 {
        self.frame
    }

    /// Waits for the device and says how the frames went, the oldest that is remembered first.
    ///
    /// # Errors
    /// [`FluidError::Device`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn history(&self) -> Result<Vec<FrameRecord>> {
        let device = self.gpu.device();
        let norms = readback::read_buffer(device, &self.queue, &self.norms_kept)?;
        let stamps = match self.clock.buffer() {
            Some(buffer) => readback::read_buffer(device, &self.queue, buffer)?,
            None => Vec::new(),
        };
        Ok(self.decoder().decode(&norms, &stamps))
    }

    /// The same without blocking, in a submission of its own. Frames may go on while it waits: the simulation is not borrowed.
    ///
    /// # Errors
    /// [`FluidError::Macheps`]: the device is lost.
    pub fn history_async(&self) -> impl Future<Output = Result<Vec<FrameRecord>>> + use<> {
        let mut sources = vec![(&self.norms_kept, self.norms_kept.size())];
        sources.extend(self.clock.buffer().map(|buffer| (buffer, buffer.size())));
        let encoder = self.gpu.device().create_command_encoder(&Default::default());
        let started = self.gpu.read_back_all(encoder, &sources);
        let (decoder, split) = (self.decoder(), self.norms_kept.size() as usize);
        async move {
            let bytes = started?.ready().await?;
            let (norms, stamps) = bytes.split_at(split);
            Ok(decoder.decode(norms, stamps))
        }
    }

    fn decoder(&self) -> Decoder {
        Decoder {
            frames: self.frame,
            cells: self.cells,
            clock: self.clock.clone(),
        }
    }
}

/// What the bytes of a history mean.
struct Decoder {
    frames: u64,
    cells: usize,
    clock: Clock,
}

impl Decoder {
    fn decode(&self, norms: &[u8], stamps: &[u8]) -> Vec<FrameRecord> {
        let norms: Vec<[f32; 2]> = bytemuck::pod_collect_to_vec(norms);
        let root_mean = |norm: f32| f64::from(norm) / (self.cells as f64).sqrt();
        let room = norms.len() as u64;
        (self.frames.saturating_sub(room)..self.frames)
            .map(|frame| {
                let [before, after] = norms[(frame % room) as usize];
                FrameRecord {
                    before: root_mean(before),
                    after: root_mean(after),
                    stages: self.clock.decode(stamps, frame),
                }
            })
            .collect()
    }
}
