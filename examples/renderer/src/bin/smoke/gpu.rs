//! Which adapter.

use crate::failure::Failure;

/// The adapter that is asked for, among those that suit; the fastest kind if none is.
pub fn choose(
    instance: &wgpu::Instance,
    wanted: Option<&str>,
    suits: impl Fn(&wgpu::Adapter) -> bool,
) -> Result<wgpu::Adapter, Failure> {
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    adapters.retain(suits);
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Cpu => 3,
        wgpu::DeviceType::Other => 4,
    });
    if adapters.is_empty() {
        return Err(Failure::NoAdapter);
    }
    let Some(wanted) = wanted else {
        return Ok(adapters.swap_remove(0));
    };
    let names: Vec<String> = adapters.iter().map(label).collect();
    let lower = wanted.to_lowercase();
    let found = match wanted.parse::<usize>() {
        Ok(number) => (number < adapters.len()).then_some(number),
        Err(_) => names.iter().position(|name| name.to_lowercase().contains(&lower)),
    };
    match found {
        Some(number) => Ok(adapters.swap_remove(number)),
        None => {
            let lines = names.iter().enumerate().map(|(i, name)| format!("  {i}  {name}"));
            Err(Failure::UnknownDevice {
                wanted: wanted.into(),
                available: lines.collect::<Vec<_>>().join("\n"),
            })
        }
    }
}

/// Name and backend.
pub fn label(adapter: &wgpu::Adapter) -> String {
    let info = adapter.get_info();
    format!("{} ({})", info.name, info.backend)
}
