//! What ends the program, in words for whoever called it.

use macheps_fluid::FluidError;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why the program ends early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("--device {wanted}: no such adapter; expected a number or a part of a name of\n{available}")]
    UnknownDevice { wanted: String, available: String },
    #[error("no graphics adapter on this machine; install a driver (Debian: mesa-vulkan-drivers has one for the CPU)")]
    NoAdapter,
    #[error("--out {}: cannot write {what} there: {error}", folder.display())]
    Unwritable {
        folder: PathBuf,
        what: String,
        error: std::io::Error,
    },
    #[error("cannot encode {what}: {error}")]
    Encode { what: &'static str, error: String },
    #[cfg(not(feature = "window"))]
    #[error("--window: this program was built without windows; build it with `--features window`")]
    NoWindow,
    #[cfg(feature = "window")]
    #[error("--window: {0}")]
    Window(String),
    #[error("{0}")]
    Fluid(#[from] FluidError),
}

impl Failure {
    /// 2 for what the caller asked wrongly, 1 for what failed.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Encode { .. } | Failure::NoAdapter => ExitCode::FAILURE,
            Failure::Fluid(FluidError::Device(_) | FluidError::Macheps(_)) => ExitCode::FAILURE,
            #[cfg(feature = "window")]
            Failure::Window(_) => ExitCode::FAILURE,
            _ => ExitCode::from(2),
        }
    }
}
