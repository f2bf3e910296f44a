//! The adapters that GPU tests run on: every one that can run compute shaders, opened once.

use macheps::gpu::{DeviceKind, Gpu};
use std::sync::OnceLock;

/// All of them. `REQUIRE_ADAPTERS` lists parts of names or backends, of which each must be there.
pub fn gpus() -> &'static [Gpu] {
    static GPUS: OnceLock<Vec<Gpu>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        let compute = wgpu::DownlevelFlags::COMPUTE_SHADERS;
        let gpus: Vec<Gpu> = adapters
            .iter()
            .filter(|a| a.get_downlevel_capabilities().flags.contains(compute))
            .map(|a| pollster::block_on(Gpu::open(a)).expect("an adapter that is listed opens"))
            .collect();
        for gpu in &gpus {
            eprintln!("adapter: {}, {}", gpu.info().label(), gpu.info().driver);
        }
        if let Ok(required) = std::env::var("REQUIRE_ADAPTERS") {
            for wanted in required.split(',').map(str::trim).filter(|w| !w.is_empty()) {
                let found = gpus.iter().any(|g| matches(g, wanted));
                assert!(found, "REQUIRE_ADAPTERS names '{wanted}', which is not here");
            }
        }
        if gpus.is_empty() {
            eprintln!("SKIPPED: no adapter, nothing is tested on a GPU");
        }
        gpus
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
