//! Smoke: simulates, draws, and compares ways to solve for the pressure.

mod args;
mod failure;
mod gpu;
mod headless;
mod picture;
mod plot;
#[cfg(feature = "window")]
mod window;

use args::Args;
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn run(args: &Args) -> Result<(), Failure> {
    if !args.window {
        return headless::run(args);
    }
    #[cfg(feature = "window")]
    return window::run(args);
    #[cfg(not(feature = "window"))]
    Err(Failure::NoWindow)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("smoke: {failure}");
            failure.exit_code()
        }
    }
}
