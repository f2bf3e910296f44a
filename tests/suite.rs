//! The one test binary: every module is a file of tests/suite. Modules named `gpu_*` run on every adapter found.

#[path = "suite/adapters.rs"]
mod adapters;
#[cfg(feature = "cli")]
#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/gpu_softmax.rs"]
mod gpu_softmax;
#[path = "suite/house.rs"]
mod house;
