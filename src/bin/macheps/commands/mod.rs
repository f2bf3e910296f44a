//! One file a command.

pub mod audit;
mod bench;
mod devices;
mod probe;
mod run;
mod solve;
mod verify;
mod visit;

use crate::args::{Cli, Command};
use crate::failure::Outcome;

/// Runs the command asked for.
pub fn run(cli: Cli) -> Outcome {
    match cli.command {
        None => visit::run(),
        Some(Command::Devices { json }) => devices::run(json.json.as_deref()),
        Some(Command::Probe { device, json }) => probe::run(&device.device, json.json.as_deref()),
        Some(Command::Verify { device, op, json }) => verify::run(&device, op.as_deref(), json.json.as_deref()),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Solve(args)) => solve::run(&args),
        Some(Command::Audit(args)) => audit::run(&args),
    }
}
