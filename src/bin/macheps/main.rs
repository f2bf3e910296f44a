//! The command line `macheps`: a thin shell over the library.

mod args;
mod backend;
mod commands;
mod compare;
mod destination;
mod failure;
mod histogram;
mod output;
mod report;
mod source;
mod svg;
mod table;
mod tensor;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    // Drivers chatter on every level below `error`, and wgpu's drivers' side calls an absent backend an error.
    let filter = env_logger::Env::default().default_filter_or("error,wgpu_hal=off");
    env_logger::Builder::from_env(filter)
        .target(env_logger::Target::Stderr)
        .init();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&failure.to_string());
            failure.code()
        }
    }
}
