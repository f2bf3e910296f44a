//! The operations on every adapter that Burn runs on here: against macheps's oracle within macheps's bounds, and against Burn's own.

#[path = "suite/adapters.rs"]
mod adapters;
#[path = "suite/cross_entropy.rs"]
mod cross_entropy;
#[path = "suite/differences.rs"]
mod differences;
#[path = "suite/errors.rs"]
mod errors;
#[path = "suite/memory.rs"]
mod memory;
#[path = "suite/softmax.rs"]
mod softmax;
#[path = "suite/sparse.rs"]
mod sparse;
#[path = "suite/training.rs"]
mod training;
