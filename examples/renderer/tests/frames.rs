//! What a frame promises: whose device it runs on, what it makes and waits for, and what it does to the fluid.

mod common;

use common::{Host, hosts, say};
use macheps_fluid::readback::{Screen, read_buffer, wait};
use macheps_fluid::{Canvas, FrameRecord, Method, Scene, Settings, Simulation};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A simulation and what it is drawn on.
struct Stage<'a> {
    host: &'a Host,
    simulation: Simulation,
    canvas: Canvas,
    screen: Screen,
}

impl<'a> Stage<'a> {
    fn new(host: &'a Host, scene: &Scene, method: Method, dispatches: usize) -> Stage<'a> {
        let settings = Settings {
            method,
            dispatches,
            ..Settings::default()
        };
        Stage::with(host, scene, &settings)
    }

    fn with(host: &'a Host, scene: &Scene, settings: &Settings) -> Stage<'a> {
        let simulation = Simulation::new(&host.device, &host.queue, scene, settings).expect("a simulation");
        let [width, height] = scene.cells.map(|side| side as u32);
        Stage {
            canvas: Canvas::new(&host.device, &simulation, Screen::FORMAT),
            screen: Screen::new(&host.device, width, height),
            simulation,
            host,
        }
    }

    /// Records a frame and gives its one submission.
    fn frame(&mut self) -> wgpu::SubmissionIndex {
        let mut encoder = self.host.device.create_command_encoder(&Default::default());
        self.simulation
            .record_frame(&mut encoder, &self.canvas, self.screen.view());
        self.host.queue.submit([encoder.finish()])
    }

    fn frames(&mut self, count: usize) {
        for frame in 0..count {
            let submission = self.frame();
            // Some frames may be under way at once.
            if frame % 8 == 7 {
                wait(&self.host.device, submission).expect("a device");
            }
        }
    }

    fn values(&self, buffer: &wgpu::Buffer) -> Vec<f64> {
        let bytes = read_buffer(&self.host.device, &self.host.queue, buffer).expect("a device");
        bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)
            .into_iter()
            .map(f64::from)
            .collect()
    }
}

/// Objects of wgpu that are alive: buffers, bind groups and their layouts, pipelines and their layouts, shader modules, query sets, textures,
/// and views.
fn live_objects(device: &wgpu::Device) -> [isize; 10] {
    let hal = device.get_internal_counters().hal;
    [
        hal.buffers.read(),
        hal.bind_groups.read(),
        hal.bind_group_layouts.read(),
        hal.compute_pipelines.read(),
        hal.render_pipelines.read(),
        hal.pipeline_layouts.read(),
        hal.shader_modules.read(),
        hal.query_sets.read(),
        hal.textures.read(),
        hal.texture_views.read(),
    ]
}

/// The number that wgpu gives a submission.
fn number(submission: &wgpu::SubmissionIndex) -> u64 {
    let digits: String = format!("{submission:?}").chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a submission has a number")
}

/// Records something into an encoder and submits that, and sees to it that nobody polled or submitted anything before. Gives the number of
/// the submission.
fn submit_alone(host: &Host, what: &str, record: impl FnOnce(&mut wgpu::CommandEncoder)) -> u64 {
    // This mapping is ready; its callback comes with the first poll or submission by anybody.
    let trap = host.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("trap"),
        size: 4,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let sprung = Arc::new(AtomicBool::new(false));
    let spring = sprung.clone();
    trap.map_async(wgpu::MapMode::Read, .., move |_| spring.store(true, Ordering::SeqCst));

    let mut encoder = host.device.create_command_encoder(&Default::default());
    record(&mut encoder);
    let commands = encoder.finish();
    assert!(
        !sprung.load(Ordering::SeqCst),
        "{what} polls or submits while it is recorded"
    );
    let submission = host.queue.submit([commands]);
    wait(&host.device, submission.clone()).expect("a device");
    assert!(sprung.load(Ordering::SeqCst), "the trap works");
    number(&submission)
}

#[test]
fn one_device_one_submission_no_wait() {
    for host in hosts("one_device_one_submission_no_wait") {
        // From one submission to the next with nothing in between: mapping the trap uses up a number too.
        let first = submit_alone(&host, "nothing", |_| ());
        let step = submit_alone(&host, "nothing", |_| ()) - first;
        for method in Method::ALL {
            let name = format!("{} {}", host.name, method.name());
            let mut stage = Stage::new(&host, &Scene::plume(40, 32), method, 60);
            // The very object, not another handle to the same adapter.
            assert_eq!(stage.simulation.gpu().device(), &host.device, "{name}");
            assert_eq!(stage.simulation.gpu().queue(), &host.queue, "{name}");

            // The first frames may still have something to prepare.
            stage.frames(4);
            let mut before = submit_alone(&host, &name, |_| ());
            let objects = live_objects(&host.device);
            for frame in 0..12 {
                let after = submit_alone(&host, &name, |encoder| {
                    stage
                        .simulation
                        .record_frame(encoder, &stage.canvas, stage.screen.view());
                });
                assert_eq!(after - before, step, "{name}: submissions of frame {frame}");
                before = after;
            }
            // Staging memory comes and goes with the frames; everything else stays as it was.
            assert_eq!(live_objects(&host.device)[1..], objects[1..], "{name}");
        }
    }
}

#[test]
fn macheps_makes_nothing_in_a_frame() {
    for host in hosts("macheps_makes_nothing_in_a_frame") {
        for method in Method::ALL {
            let name = format!("{} {}", host.name, method.name());
            let stage = Stage::new(&host, &Scene::street(40, 32), method, 60);
            assert!(stage.simulation.pressure().dispatches() <= 60, "{name}");
            let mut encoder = host.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                let objects = live_objects(&host.device);
                assert!(
                    objects[..8].iter().all(|&count| count > 0),
                    "{name}: nothing is counted"
                );
                let kernels = stage.simulation.gpu().kernel_count();
                for _ in 0..3 {
                    stage.simulation.pressure().record(&mut pass);
                }
                assert_eq!(live_objects(&host.device), objects, "{name}");
                assert_eq!(stage.simulation.gpu().kernel_count(), kernels, "{name}");
            }
            let submission = host.queue.submit([encoder.finish()]);
            wait(&host.device, submission).expect("a device");
        }
    }
}

/// The geometric mean of what the projection divides the divergence by.
fn reduction(frames: &[FrameRecord]) -> f64 {
    let sum: f64 = frames.iter().map(|frame| (frame.before / frame.after).ln()).sum();
    (sum / frames.len() as f64).exp()
}

#[test]
fn a_gust_from_rest_at_equal_budget() {
    // The wind sets in at once: every cell of the grid has to hear of it within the frame. 450 dispatches let conjugate gradients reach
    // the far side; Jacobi's sweeps spread like heat.
    const BUDGET: usize = 450;
    for host in hosts("a_gust_from_rest_at_equal_budget") {
        let mut ratios = Vec::new();
        for method in [Method::Jacobi, Method::Cg] {
            let mut stage = Stage::new(&host, &Scene::street(64, 48), method, BUDGET);
            stage.frames(1);
            let frames = stage.simulation.history().expect("a device");
            let pressure = stage.simulation.pressure();
            say(&format!(
                "{}: {}, {} iterations in {} dispatches: divergence of a gust divided by {:.1}",
                host.name,
                method.name(),
                pressure.iterations(),
                pressure.dispatches(),
                reduction(&frames)
            ));
            assert!(pressure.dispatches() <= BUDGET);
            ratios.push(reduction(&frames));
        }
        assert!(ratios[0] < 10.0, "{}: Jacobi {}", host.name, ratios[0]);
        assert!(ratios[1] >= 100.0, "{}: CG {}", host.name, ratios[1]);
    }
}

#[test]
fn a_plume_at_equal_budget() {
    const BUDGET: usize = 120;
    for host in hosts("a_plume_at_equal_budget") {
        let mut ratios = Vec::new();
        for method in Method::ALL {
            let mut stage = Stage::new(&host, &Scene::plume(64, 64), method, BUDGET);
            stage.frames(40);
            let frames = stage.simulation.history().expect("a device");
            assert_eq!(frames.len(), 40);
            // The first frames have hardly any flow.
            let ratio = reduction(&frames[10..]);
            say(&format!(
                "{}: {}, {} iterations in {} dispatches: divergence of a plume divided by {ratio:.1}",
                host.name,
                method.name(),
                stage.simulation.pressure().iterations(),
                stage.simulation.pressure().dispatches(),
            ));
            ratios.push(ratio);
        }
        assert!(
            ratios[1] > 1.5 * ratios[0],
            "{}: CG {} Jacobi {}",
            host.name,
            ratios[1],
            ratios[0]
        );
        assert!(
            ratios[2] > ratios[0],
            "{}: PCG {} Jacobi {}",
            host.name,
            ratios[2],
            ratios[0]
        );
    }
}

#[test]
fn warm_starts_pay() {
    for host in hosts("warm_starts_pay") {
        let ratio = |warm_start: bool| {
            let settings = Settings {
                dispatches: 60,
                warm_start,
                ..Settings::default()
            };
            let mut stage = Stage::with(&host, &Scene::plume(48, 48), &settings);
            stage.frames(30);
            reduction(&stage.simulation.history().expect("a device")[10..])
        };
        let (cold, warm) = (ratio(false), ratio(true));
        say(&format!(
            "{}: divided by {cold:.1} from nothing, by {warm:.1} from the last frame",
            host.name
        ));
        assert!(warm > 3.0 * cold, "{}: {warm} {cold}", host.name);
    }
}

#[test]
fn obstacles_hold_and_mass_is_conserved() {
    let scene = Scene::street(64, 48);
    let [width, height] = scene.cells;
    let solid = scene.solid().expect("a scene");
    assert!(solid.iter().any(|&s| s), "there is an obstacle");
    for host in hosts("obstacles_hold_and_mass_is_conserved") {
        let mut stage = Stage::new(&host, &scene, Method::Cg, 200);
        stage.frames(50);
        let state = stage.values(&stage.simulation.buffers().state);
        let (u, rest) = state.split_at((width + 1) * height);
        let (v, smoke) = rest.split_at(width * (height + 1));
        let along_x = |i: usize, j: usize| u[i + (width + 1) * j];
        let along_y = |i: usize, j: usize| v[i + width * j];

        let mut fastest = 0.0f64;
        for j in 0..height {
            for i in 0..width {
                let faces = [along_x(i, j), along_x(i + 1, j), along_y(i, j), along_y(i, j + 1)];
                assert!(faces.iter().all(|face| face.is_finite()), "{}", host.name);
                if solid[i + width * j] {
                    assert_eq!(faces, [0.0; 4], "{}: flow through the obstacle at {i}, {j}", host.name);
                    assert_eq!(smoke[i + width * j], 0.0, "{}: smoke in the obstacle", host.name);
                } else {
                    fastest = faces.iter().fold(fastest, |most, face| most.max(face.abs()));
                }
            }
        }
        // Nothing through the walls, and around the obstacle it goes faster than the wind.
        assert!(
            (0..width).all(|i| along_y(i, 0) == 0.0 && along_y(i, height) == 0.0),
            "{}",
            host.name
        );
        let inflow = f64::from(scene.inflow) * height as f64;
        assert!(fastest > 1.2 * inflow, "{}: {fastest}", host.name);

        // What flows in flows out: the difference is the sum of the divergence that the solve has left.
        let entered: f64 = (0..height).map(|j| along_x(0, j)).sum();
        let left: f64 = (0..height).map(|j| along_x(width, j)).sum();
        let last = stage.simulation.history().expect("a device").pop().expect("frames");
        let most = last.after * scene.size() as f64;
        assert!(
            (entered - left).abs() <= most * 1.001 + 1e-9,
            "{}: {entered} {left} {most}",
            host.name
        );
        let relative = (entered - left).abs() / entered;
        say(&format!(
            "{}: in {entered:.4}, out {left:.4}, relative difference {relative:.1e}",
            host.name
        ));
        assert!(relative < 1e-3, "{}: {relative}", host.name);
        // The same in every column, obstacle or not.
        for i in 0..=width {
            let through: f64 = (0..height).map(|j| along_x(i, j)).sum();
            assert!(
                (through - entered).abs() < 1e-3 * entered,
                "{}: column {i}: {through}",
                host.name
            );
        }
    }
}

#[test]
fn the_picture_shows_smoke_and_obstacle() {
    let scene = Scene::plume(96, 96);
    for host in hosts("the_picture_shows_smoke_and_obstacle") {
        let mut stage = Stage::new(&host, &scene, Method::Cg, 100);
        stage.frames(30);
        let mut encoder = host.device.create_command_encoder(&Default::default());
        stage
            .simulation
            .record_frame(&mut encoder, &stage.canvas, stage.screen.view());
        stage.screen.record_copy(&mut encoder);
        let submission = host.queue.submit([encoder.finish()]);
        let pixels = stage.screen.read(&host.device, submission).expect("a picture");
        assert_eq!(pixels.len(), 3 * scene.size());
        let brightness = |x: f32, y: f32| {
            let (column, line) = ((x * 96.0) as usize, ((1.0 - y) * 96.0) as usize);
            let at = 3 * (column + 96 * line);
            pixels[at..at + 3].iter().map(|&v| u32::from(v)).sum::<u32>()
        };
        let [sx, sy, ..] = scene.source.expect("a source");
        let ball = scene.obstacles[0].centre;
        assert!(brightness(sx, sy) > 500, "{}: smoke", host.name);
        assert!(brightness(0.05, 0.95) < 60, "{}: night", host.name);
        let shown = brightness(ball[0], ball[1]);
        assert!((200..400).contains(&shown), "{}: obstacle {shown}", host.name);
    }
}

#[test]
fn methods_can_change_between_frames() {
    for host in hosts("methods_can_change_between_frames") {
        let mut stage = Stage::new(&host, &Scene::plume(48, 48), Method::Jacobi, 60);
        stage.frames(20);
        let sweeps = stage.simulation.pressure().iterations();
        stage.simulation.set_method(Method::Cg).expect("fits the budget");
        assert_ne!(stage.simulation.pressure().iterations(), sweeps);
        stage.frames(20);
        let frames = stage.simulation.history().expect("a device");
        assert_eq!(frames.len(), 40);
        assert!(reduction(&frames[24..]) > reduction(&frames[10..20]), "{}", host.name);
    }
}
