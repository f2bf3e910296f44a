//! The same frames in a window.

use crate::args::Args;
use crate::failure::Failure;
use crate::gpu;
use macheps_fluid::{Canvas, Method, Settings, Simulation};
use std::sync::Arc;
use winit::application::ApplicationHandler;
use winit::event::{ElementState, WindowEvent};
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoop};
use winit::keyboard::{Key, NamedKey};
use winit::window::{Window, WindowId};

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Window(error.to_string())
}

pub fn run(args: &Args) -> Result<(), Failure> {
    args.scene().solid()?;
    let events = EventLoop::new().map_err(|error| Failure::Window(format!("no display to open it on ({error})")))?;
    events.set_control_flow(ControlFlow::Poll);
    let mut program = Program {
        args,
        shown: None,
        failure: None,
    };
    events.run_app(&mut program).map_err(failed)?;
    program.failure.map_or(Ok(()), Err)
}

/// A window with a simulation in it.
struct Shown {
    window: Arc<Window>,
    surface: wgpu::Surface<'static>,
    configuration: wgpu::SurfaceConfiguration,
    device: wgpu::Device,
    queue: wgpu::Queue,
    simulation: Simulation,
    canvas: Canvas,
}

impl Shown {
    fn open(args: &Args, events: &ActiveEventLoop) -> Result<Shown, Failure> {
        let [width, height] = args.size.map(|side| side as u32 * args.scale);
        let attributes = Window::default_attributes()
            .with_title("smoke")
            .with_inner_size(winit::dpi::PhysicalSize::new(width, height));
        let window = Arc::new(events.create_window(attributes).map_err(failed)?);
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let surface = instance.create_surface(window.clone()).map_err(failed)?;
        let adapter = gpu::choose(&instance, args.device.as_deref(), |adapter| {
            adapter.is_surface_supported(&surface)
        })?;
        let (device, queue) = pollster::block_on(macheps_fluid::open_device(&adapter))?;

        let size = window.inner_size();
        let mut configuration = surface
            .get_default_config(&adapter, size.width.max(1), size.height.max(1))
            .ok_or_else(|| failed("the adapter cannot draw into it"))?;
        // The shader gives colours as they are to be seen.
        let formats = surface.get_capabilities(&adapter).formats;
        if let Some(&plain) = formats.iter().find(|format| !format.is_srgb()) {
            configuration.format = plain;
        }
        surface.configure(&device, &configuration);

        let settings = Settings {
            method: args.method(),
            dispatches: args.dispatches as usize,
            warm_start: !args.cold,
            ..Settings::default()
        };
        let simulation = Simulation::new(&device, &queue, &args.scene(), &settings)?;
        Ok(Shown {
            canvas: Canvas::new(&device, &simulation, configuration.format),
            simulation,
            window,
            surface,
            configuration,
            device,
            queue,
        })
    }

    fn resize(&mut self, width: u32, height: u32) {
        (self.configuration.width, self.configuration.height) = (width.max(1), height.max(1));
        self.surface.configure(&self.device, &self.configuration);
    }

    fn draw(&mut self) {
        use wgpu::CurrentSurfaceTexture as Texture;
        let texture = match self.surface.get_current_texture() {
            Texture::Success(texture) | Texture::Suboptimal(texture) => texture,
            Texture::Outdated | Texture::Lost => {
                self.surface.configure(&self.device, &self.configuration);
                return;
            }
            // Nobody would see this frame.
            _ => return,
        };
        let view = texture.texture.create_view(&Default::default());
        let mut encoder = self.device.create_command_encoder(&Default::default());
        self.simulation.record_frame(&mut encoder, &self.canvas, &view);
        self.queue.submit([encoder.finish()]);
        self.window.pre_present_notify();
        self.queue.present(texture);
    }

    fn choose(&mut self, method: Method) -> Result<(), Failure> {
        self.simulation.set_method(method)?;
        let iterations = self.simulation.pressure().iterations();
        self.window
            .set_title(&format!("smoke: {}, {iterations} iterations a frame", method.name()));
        Ok(())
    }
}

struct Program<'a> {
    args: &'a Args,
    shown: Option<Shown>,
    failure: Option<Failure>,
}

impl Program<'_> {
    fn end(&mut self, events: &ActiveEventLoop, failure: Failure) {
        self.failure = Some(failure);
        events.exit();
    }
}

impl ApplicationHandler for Program<'_> {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        if self.shown.is_some() {
            return;
        }
        match Shown::open(self.args, events) {
            Ok(shown) => self.shown = Some(shown),
            Err(failure) => self.end(events, failure),
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        let Some(shown) = &mut self.shown else {
            return;
        };
        match event {
            WindowEvent::CloseRequested => events.exit(),
            WindowEvent::Resized(size) => shown.resize(size.width, size.height),
            WindowEvent::RedrawRequested => shown.draw(),
            WindowEvent::KeyboardInput { event, .. } if event.state == ElementState::Pressed => {
                let method = match event.logical_key.as_ref() {
                    Key::Named(NamedKey::Escape) => return events.exit(),
                    Key::Character("1") => Method::Jacobi,
                    Key::Character("2") => Method::Cg,
                    Key::Character("3") => Method::Pcg,
                    _ => return,
                };
                if let Err(failure) = shown.choose(method) {
                    self.end(events, failure);
                }
            }
            _ => (),
        }
    }

    fn about_to_wait(&mut self, _: &ActiveEventLoop) {
        if let Some(shown) = &self.shown {
            shown.window.request_redraw();
        }
    }
}
