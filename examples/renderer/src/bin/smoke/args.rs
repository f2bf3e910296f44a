//! The command line.

use clap::{Parser, ValueEnum};
use macheps_fluid::{Method, Scene};
use std::path::PathBuf;

/// Simulates smoke on a GPU, its pressure solved by macheps inside every frame. Writes pictures, an animation and a plot of the
/// divergence that each way to solve leaves at the same number of dispatches.
#[derive(Debug, Parser)]
#[command(name = "smoke", version)]
pub struct Args {
    /// Cells of the grid, WIDTHxHEIGHT.
    #[arg(long, default_value = "256x256", value_parser = parse_size)]
    pub size: [usize; 2],

    /// What flows.
    #[arg(long, value_enum, default_value = "plume")]
    pub scene: SceneName,

    /// How the pressure is solved.
    #[arg(long, value_enum, default_value = "cg")]
    pub pressure: MethodName,

    /// Dispatches of the pressure solve in a frame.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub dispatches: u32,

    /// Frames to simulate.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub frames: u32,

    /// Frames from one picture to the next.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub every: u32,

    /// Pixels of a cell in the pictures; those of the animation have one.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4))]
    pub scale: u32,

    /// Folder for what is written; made if it is not there.
    #[arg(long, default_value = "smoke-pictures", value_name = "FOLDER")]
    pub out: PathBuf,

    /// Adapter: its number, or a part of its name.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub device: Option<String>,

    /// Do not run the other ways to solve for the plot.
    #[arg(long)]
    pub no_compare: bool,

    /// Begin every solve with a pressure of 0 in place of the last frame's, to see what the solve alone is worth.
    #[arg(long)]
    pub cold: bool,

    /// Open a window instead (needs the feature `window`). Keys: 1, 2, 3 choose Jacobi, CG, PCG; Escape leaves.
    #[arg(long)]
    pub window: bool,
}

/// A scene by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SceneName {
    /// Smoke rises around a ball.
    Plume,
    /// Wind past a post.
    Street,
}

impl SceneName {
    /// As a plot names it.
    pub fn about(self) -> &'static str {
        match self {
            SceneName::Plume => "smoke around a ball",
            SceneName::Street => "wind past a post",
        }
    }
}

/// A method by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MethodName {
    /// Sweeps of Jacobi's method.
    Jacobi,
    /// Conjugate gradients.
    Cg,
    /// Conjugate gradients, preconditioned by SSOR.
    Pcg,
}

impl Args {
    /// The scene that is asked for.
    pub fn scene(&self) -> Scene {
        let [width, height] = self.size;
        match self.scene {
            SceneName::Plume => Scene::plume(width, height),
            SceneName::Street => Scene::street(width, height),
        }
    }

    /// The method that is asked for.
    pub fn method(&self) -> Method {
        match self.pressure {
            MethodName::Jacobi => Method::Jacobi,
            MethodName::Cg => Method::Cg,
            MethodName::Pcg => Method::Pcg,
        }
    }
}

fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let expected = || "expected WIDTHxHEIGHT in cells, as 256x256".to_string();
    let (width, height) = text.split_once(['x', 'X']).ok_or_else(expected)?;
    let side = |text: &str| text.trim().parse::<usize>().map_err(|_| expected());
    Ok([side(width)?, side(height)?])
}
