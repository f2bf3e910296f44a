//! The devices of [`crate::adapters`], for tests that need no context.

use macheps::gpu::{DeviceKind, Gpu};
use std::sync::OnceLock;

/// All of them.
pub fn gpus() -> &'static [Gpu] {
    static GPUS: OnceLock<Vec<Gpu>> = OnceLock::new();
    GPUS.get_or_init(|| {
        crate::adapters::all("the device room")
            .iter()
            .map(|a| a.gpu().clone())
            .collect()
    })
}

/// Whether `part` names this adapter or its backend.
pub fn matches(gpu: &Gpu, part: &str) -> bool {
    let part = part.to_lowercase();
    gpu.info().name.to_lowercase().contains(&part) || gpu.info().backend.to_lowercase() == part
}

/// Whether this is a driver that runs shaders on the CPU, of this name and backend.
pub fn is_software(gpu: &Gpu, name: &str, backend: &str) -> bool {
    gpu.info().kind == DeviceKind::Software && matches(gpu, name) && gpu.info().backend == backend
}
