//! The renderer's example on a canvas: its simulation, its shaders, its frame.

use js_sys::Promise;
use macheps_fluid::{Canvas, FrameRecord, Method, Scene, Settings, Simulation, Stage};
use serde_json::json;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::HtmlCanvasElement;

/// Frames whose divergence and times are remembered.
const HISTORY: usize = 120;

/// A simulation that draws into a canvas.
#[wasm_bindgen]
pub struct Smoke {
    device: wgpu::Device,
    queue: wgpu::Queue,
    surface: wgpu::Surface<'static>,
    configuration: wgpu::SurfaceConfiguration,
    simulation: Simulation,
    canvas: Canvas,
}

impl Smoke {
    pub(crate) fn new(
        instance: &wgpu::Instance,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        canvas: HtmlCanvasElement,
        side: usize,
        dispatches: usize,
    ) -> Result<Smoke, JsError> {
        let configuration = wgpu::SurfaceConfiguration {
            usage: wgpu::TextureUsages::RENDER_ATTACHMENT,
            // Every browser has it; the shader gives colours as they are to be seen.
            format: wgpu::TextureFormat::Bgra8Unorm,
            color_space: Default::default(),
            width: canvas.width(),
            height: canvas.height(),
            present_mode: wgpu::PresentMode::Fifo,
            desired_maximum_frame_latency: 2,
            alpha_mode: wgpu::CompositeAlphaMode::Opaque,
            view_formats: Vec::new(),
        };
        let surface = instance.create_surface(wgpu::SurfaceTarget::Canvas(canvas))?;
        surface.configure(device, &configuration);
        let settings = Settings {
            method: Method::Cg,
            dispatches,
            history: HISTORY,
            ..Settings::default()
        };
        let simulation = Simulation::new(device, queue, &Scene::plume(side, side), &settings)?;
        Ok(Smoke {
            canvas: Canvas::new(device, &simulation, configuration.format),
            device: device.clone(),
            queue: queue.clone(),
            surface,
            configuration,
            simulation,
        })
    }
}

#[wasm_bindgen]
impl Smoke {
    /// A frame: one encoder with the host's passes, the pressure that macheps solves, and the picture; one submission; no waiting.
    pub fn frame(&mut self) -> Result<(), JsError> {
        use wgpu::CurrentSurfaceTexture as Texture;
        let texture = match self.surface.get_current_texture() {
            Texture::Success(texture) | Texture::Suboptimal(texture) => texture,
            Texture::Outdated | Texture::Lost => {
                self.surface.configure(&self.device, &self.configuration);
                return Ok(());
            }
            // Nobody would see this frame.
            Texture::Timeout | Texture::Occluded => return Ok(()),
            Texture::Validation => return Err(JsError::new("the canvas gives no texture to draw into")),
        };
        let view = texture.texture.create_view(&Default::default());
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.simulation.record_frame(&mut encoder, &self.canvas, &view);
        self.queue.submit([encoder.finish()]);
        self.queue.present(texture);
        Ok(())
    }

    /// Solves the pressure by `jacobi`, `cg` or `pcg` from the next frame on, within the same number of dispatches.
    pub fn set_method(&mut self, name: &str) -> Result<(), JsError> {
        let method = Method::ALL.into_iter().find(|method| method.name() == name);
        let method = method.ok_or_else(|| JsError::new("no such method"))?;
        Ok(self.simulation.set_method(method)?)
    }

    /// Iterations and dispatches a frame.
    pub fn pressure(&self) -> String {
        let pressure = self.simulation.pressure();
        json!({ "iterations": pressure.iterations(), "dispatches": pressure.dispatches() }).to_string()
    }

    /// The last frames, the oldest first: divergence before and after the projection, and milliseconds of each stage where the
    /// device has timestamps. Not a part of any frame: the answer comes when the device gets to it, and frames go on meanwhile.
    pub fn history(&self) -> Promise {
        let history = self.simulation.history_async();
        let frames = self.simulation.frames();
        future_to_promise(async move {
            let history = history.await.map_err(JsError::from)?;
            let records: Vec<_> = history.iter().map(record).collect();
            Ok(json!({ "frames": frames, "records": records }).to_string().into())
        })
    }
}

fn record(frame: &FrameRecord) -> serde_json::Value {
    let stages = frame.stages.map(|times| {
        let named = Stage::ALL.into_iter().zip(times);
        named
            .map(|(stage, ms)| json!({ "stage": stage.name(), "ms": ms }))
            .collect::<Vec<_>>()
    });
    json!({ "before": frame.before, "after": frame.after, "stages": stages })
}
