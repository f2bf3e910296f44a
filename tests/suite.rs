//! suite
#[path = "suite/elementary.rs"]
mod elementary;
#[path = "suite/gpus.rs"]
mod gpus;
#[path = "suite/probe.rs"]
mod probe;
