//! suite

#[cfg(feature = "cli")]
#[path = "suite/cli.rs"]
mod cli;
