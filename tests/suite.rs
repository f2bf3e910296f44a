//! The one test binary: every module is a file of tests/suite. Modules named `gpu_*` run on every adapter found.

#[path = "suite/adapters.rs"]
mod adapters;
#[path = "suite/audit.rs"]
mod audit;
#[cfg(feature = "cli")]
#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/cpu_softmax.rs"]
mod cpu_softmax;
#[path = "suite/data.rs"]
mod data;
#[path = "suite/gpu_audit.rs"]
mod gpu_audit;
#[path = "suite/elementary.rs"]
mod gpu_elementary;
#[path = "suite/planted.rs"]
mod gpu_planted;
#[path = "suite/probe.rs"]
mod gpu_probe;
#[path = "suite/gpu_reduction.rs"]
mod gpu_reduction;
#[path = "suite/gpu_reproducible.rs"]
mod gpu_reproducible;
#[path = "suite/robust.rs"]
mod gpu_robust;
#[path = "suite/gpu_softmax.rs"]
mod gpu_softmax;
#[path = "suite/gpu_views.rs"]
mod gpu_views;
#[path = "suite/gpu_windows.rs"]
mod gpu_windows;
#[path = "suite/gpus.rs"]
mod gpus;
#[path = "suite/hard_rows.rs"]
mod hard_rows;
#[path = "suite/house.rs"]
mod house;
#[path = "suite/onnx.rs"]
mod onnx;
#[path = "suite/reduction.rs"]
mod reduction;
#[path = "suite/reproducible.rs"]
mod reproducible;
#[path = "suite/shaders.rs"]
mod shaders;
