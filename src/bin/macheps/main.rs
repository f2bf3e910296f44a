//! The command line `macheps`: a thin shell over the library.

mod args;
mod backend;
mod commands;
mod compare;
mod convergence;
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
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return refuse(&refused),
    };
    // Drivers chatter on every level below `error`, and wgpu's drivers' side calls an absent backend an error.
    let filter = env_logger::Env::default().default_filter_or("error,wgpu_hal=off");
    env_logger::Builder::from_env(filter)
        .target(env_logger::Target::Stderr)
        .init();
    let outcome = commands::run(cli);
    if !matches!(outcome, Err(failure::Failure::Usage(_))) {
        output::say_remarks();
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&failure.to_string());
            failure.code()
        }
    }
}

/// Help and the version as they are; of anything else one line, as every other failure gives.
fn refuse(refused: &clap::Error) -> ExitCode {
    if !refused.use_stderr() {
        // A reader that has gone away is no error.
        let _ = refused.print();
        return ExitCode::SUCCESS;
    }
    let text = refused.to_string();
    // What is wrong, and clap's list of what would have been right; the usage and the hint at --help are left out.
    let said: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("tip: to pass"))
        .collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let said = said.split(" For more information").next().unwrap_or(said);
    let failure = failure::Failure::usage(format!("{said} (see macheps --help)"));
    output::note(&failure.to_string());
    failure.code()
}
