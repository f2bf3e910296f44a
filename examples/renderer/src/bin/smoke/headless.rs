//! Simulating without a window: frames as fast as they come, pictures now and then, figures in the end.

use crate::args::Args;
use crate::failure::Failure;
use crate::picture::{Animation, Folder, png};
use crate::{gpu, plot};
use macheps_fluid::readback::{Screen, wait};
use macheps_fluid::{Canvas, FluidError, FrameRecord, Method, Settings, Simulation, Stage};
use std::time::{Duration, Instant};

/// A frame of the animation lasts this long for every frame of the simulation, in hundredths of a second.
const PACE: u32 = 2;

/// What a run leaves.
pub struct Run {
    pub method: Method,
    pub iterations: usize,
    pub dispatches: usize,
    pub frames: Vec<FrameRecord>,
    /// From the recording of the first frame until the device is done with the last, but for the writing of pictures.
    pub spent: Duration,
}

impl Run {
    /// The geometric mean of what the projection divides the divergence by.
    pub fn reduction(&self) -> f64 {
        let logs = self.frames.iter().filter(|f| f.before > 0.0 && f.after > 0.0);
        let (sum, count) = logs.fold((0.0, 0usize), |(sum, count), f| {
            (sum + (f.before / f.after).ln(), count + 1)
        });
        (sum / count.max(1) as f64).exp()
    }

    /// The median of the divergence after the projection.
    pub fn left(&self) -> f64 {
        median(self.frames.iter().map(|f| f.after).collect())
    }

    /// As plots and tables name it.
    pub fn title(&self) -> String {
        let (name, unit) = match self.method {
            Method::Jacobi => ("Jacobi", "sweeps"),
            Method::Cg => ("CG", "iterations"),
            Method::Pcg => ("PCG (SSOR)", "iterations"),
        };
        format!("{name}, {} {unit}", self.iterations)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The pictures of one run.
struct Pictures<'a> {
    folder: &'a Folder,
    animation: Animation,
    every: u32,
    scale: u32,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    // What cannot work is said before anything takes time.
    args.scene().solid()?;
    let folder = Folder::open(&args.out)?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = gpu::choose(&instance, args.device.as_deref(), |_| true)?;
    let (device, queue) = pollster::block_on(macheps_fluid::open_device(&adapter))?;
    let [width, height] = args.size;
    let chosen = args.method();
    Simulation::new(&device, &queue, &args.scene(), &settings(args, chosen))?;
    let mut compared = Vec::new();
    for method in Method::ALL
        .into_iter()
        .filter(|&method| method != chosen && !args.no_compare)
    {
        match Simulation::new(&device, &queue, &args.scene(), &settings(args, method)) {
            Ok(_) => compared.push(method),
            Err(error @ FluidError::Budget { .. }) => eprintln!("smoke: not compared: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    println!(
        "{width} x {height} cells, {} frames, {} dispatches a frame for the pressure, on {}",
        args.frames,
        args.dispatches,
        gpu::label(&adapter)
    );

    let mut pictures = Pictures {
        folder: &folder,
        animation: Animation::new([width, height], PACE * args.every),
        every: args.every,
        scale: args.scale,
    };
    let mut runs = vec![simulate(&device, &queue, args, chosen, Some(&mut pictures))?];
    folder.write("smoke.gif", &pictures.animation.encode()?)?;
    for method in compared {
        runs.push(simulate(&device, &queue, args, method, None)?);
    }
    runs.sort_by_key(|run| run.method as usize);
    let start = if args.cold { ", from a pressure of 0" } else { "" };
    let about = format!(
        "{}, {width} x {height} cells, at most {} dispatches a frame{start}, on {}",
        args.scene.about(),
        args.dispatches,
        gpu::label(&adapter)
    );
    folder.write("divergence.svg", plot::divergence(&runs, &about).as_bytes())?;

    print_table(&runs);
    println!(
        "\nwrote frame-*.png, smoke.gif and divergence.svg to {}",
        args.out.display()
    );
    Ok(())
}

fn settings(args: &Args, method: Method) -> Settings {
    Settings {
        method,
        dispatches: args.dispatches as usize,
        warm_start: !args.cold,
        history: args.frames as usize,
    }
}

fn simulate(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    args: &Args,
    method: Method,
    mut pictures: Option<&mut Pictures<'_>>,
) -> Result<Run, Failure> {
    let mut simulation = Simulation::new(device, queue, &args.scene(), &settings(args, method))?;
    let [width, height] = args.size.map(|side| side as u32 * args.scale);
    let screen = Screen::new(device, width, height);
    let canvas = Canvas::new(device, &simulation, Screen::FORMAT);
    let mut spent = Duration::ZERO;
    let mut under_way = None;
    for frame in 0..args.frames {
        let start = Instant::now();
        let mut encoder = device.create_command_encoder(&Default::default());
        simulation.record_frame(&mut encoder, &canvas, screen.view());
        let shown = pictures
            .as_deref_mut()
            .filter(|pictures| (frame + 1) % pictures.every == 0 || frame + 1 == args.frames);
        if shown.is_some() {
            screen.record_copy(&mut encoder);
        }
        // The one submission of a frame.
        let submission = queue.submit([encoder.finish()]);
        // While the device is at this frame the next one is recorded, unless this one is looked at or the last.
        if let Some(before) = under_way.replace(submission.clone()) {
            wait(device, before)?;
        }
        if shown.is_some() || frame + 1 == args.frames {
            wait(device, submission.clone())?;
        }
        spent += start.elapsed();
        if let Some(pictures) = shown {
            let pixels = screen.read(device, submission)?;
            let name = format!("frame-{:05}.png", frame + 1);
            pictures.folder.write(&name, &png(&pixels, width, height)?)?;
            pictures.animation.add(&pixels, pictures.scale);
        }
    }
    Ok(Run {
        method,
        iterations: simulation.pressure().iterations(),
        dispatches: simulation.pressure().dispatches(),
        frames: simulation.history()?,
        spent,
    })
}

fn print_table(runs: &[Run]) {
    println!("\npressure                    dispatches  frames/s  divergence left (rms)  divided by (geometric mean)");
    for run in runs {
        println!(
            "{:<28}{:>10}{:>10.1}{:>23.2e}{:>29.1}",
            run.title(),
            run.dispatches,
            run.frames.len() as f64 / run.spent.as_secs_f64(),
            run.left(),
            run.reduction(),
        );
    }
    let timed: Vec<(&Run, Vec<f64>)> = runs
        .iter()
        .filter_map(|run| {
            let stages: Option<Vec<_>> = run.frames.iter().map(|frame| frame.stages).collect();
            let stages = stages?;
            let of = |stage: Stage| median(stages.iter().map(|frame| frame[stage as usize]).collect());
            Some((run, Stage::ALL.map(of).to_vec()))
        })
        .collect();
    if timed.is_empty() {
        println!("\nno times by stage: the device has no timestamps");
        return;
    }
    print!("\nms a frame (median)         ");
    Stage::ALL.iter().for_each(|stage| print!("{:>10}", stage.name()));
    println!();
    for (run, stages) in timed {
        print!("{:<28}", run.title());
        stages.iter().for_each(|ms| print!("{ms:>10.2}"));
        println!();
    }
}
