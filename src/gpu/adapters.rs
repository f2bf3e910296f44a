//! Which devices there are, and which one is meant.

use crate::error::{Error, Result};

/// What kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The crate's own CPU path; needs no driver.
    Cpu,
    /// A graphics card with memory of its own.
    Discrete,
    /// A GPU that shares memory with the CPU.
    Integrated,
    /// A GPU lent by a hypervisor.
    Virtual,
    /// A driver that runs shaders on the CPU; never chosen by default.
    Software,
    /// The driver does not say.
    Other,
}

impl DeviceKind {
    /// Whether there is hardware behind it that is worth choosing by default.
    pub fn is_hardware_gpu(self) -> bool {
        matches!(
            self,
            DeviceKind::Discrete | DeviceKind::Integrated | DeviceKind::Virtual
        )
    }
}

/// A device as listed by [`devices`](crate::devices).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// Position in the list; 0 is the CPU path.
    pub index: usize,
    /// The adapter's name.
    pub name: String,
    /// `cpu`, `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// Smallest and largest subgroup, 0 where there are none.
    pub subgroup_sizes: (u32, u32),
    /// Whether shaders can store f16 without packing.
    pub shader_f16: bool,
    /// Largest storage binding in bytes, 0 for the CPU path.
    pub max_binding: u64,
}

impl DeviceInfo {
    /// The CPU path.
    pub fn cpu() -> DeviceInfo {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        DeviceInfo {
            index: 0,
            name: format!("CPU path, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            backend: "cpu".into(),
            driver: format!("macheps {}", env!("CARGO_PKG_VERSION")),
            kind: DeviceKind::Cpu,
            subgroup_sizes: (0, 0),
            shader_f16: false,
            max_binding: 0,
        }
    }

    pub(crate) fn of(index: usize, info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> Self {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
            wgpu::DeviceType::Cpu => DeviceKind::Software,
            wgpu::DeviceType::Other => DeviceKind::Other,
        };
        // GL has no device type for software renderers; their names are known.
        let lower = info.name.to_lowercase();
        let software = ["llvmpipe", "swiftshader", "softpipe", "lavapipe"]
            .iter()
            .any(|s| lower.contains(s));
        let subgroups = features.contains(wgpu::Features::SUBGROUP);
        DeviceInfo {
            index,
            name: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            kind: if software { DeviceKind::Software } else { kind },
            subgroup_sizes: if subgroups {
                (info.subgroup_min_size, info.subgroup_max_size)
            } else {
                (0, 0)
            },
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            max_binding: limits.max_storage_buffer_binding_size,
        }
    }

    /// Whether to choose it by default. A browser does not say what kind of GPU it lends, but it does say which is a software one.
    fn is_hardware_gpu(&self) -> bool {
        let in_browser = self.backend == wgpu::Backend::BrowserWebGpu.to_string();
        self.kind.is_hardware_gpu() || (in_browser && self.kind == DeviceKind::Other)
    }

    /// Name and backend in one line.
    pub fn label(&self) -> String {
        format!("{} ({})", self.name, self.backend)
    }
}

/// Which device is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceSelector {
    /// The device named by `MACHEPS_DEVICE` if that is set; else a hardware GPU if there is one, else the CPU path.
    #[default]
    Auto,
    /// The CPU path.
    Cpu,
    /// Any adapter, hardware before software.
    Gpu,
    /// Position in the list of devices.
    Index(usize),
    /// Part of an adapter's name, backend or driver, in any case.
    Name(String),
}

impl std::str::FromStr for DeviceSelector {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.trim() {
            "" | "auto" => DeviceSelector::Auto,
            "cpu" => DeviceSelector::Cpu,
            "gpu" => DeviceSelector::Gpu,
            other => match other.parse() {
                Ok(index) => DeviceSelector::Index(index),
                Err(_) => DeviceSelector::Name(other.to_string()),
            },
        })
    }
}

impl std::fmt::Display for DeviceSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceSelector::Auto => f.write_str("auto"),
            DeviceSelector::Cpu => f.write_str("cpu"),
            DeviceSelector::Gpu => f.write_str("gpu"),
            DeviceSelector::Index(index) => write!(f, "{index}"),
            DeviceSelector::Name(name) => f.write_str(name),
        }
    }
}

/// An adapter found, with its description.
pub(crate) struct Found {
    pub info: DeviceInfo,
    pub adapter: wgpu::Adapter,
}

/// All adapters that can run compute shaders: Vulkan, Metal and DX12 before GL, in the driver's order.
pub(crate) async fn enumerate() -> Vec<Found> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    if adapters.is_empty() {
        // Browsers do not enumerate; they hand out one adapter.
        let options = wgpu::RequestAdapterOptions::default();
        adapters.extend(instance.request_adapter(&options).await.ok());
    }
    adapters.sort_by_key(|a| a.get_info().backend == wgpu::Backend::Gl);
    adapters
        .into_iter()
        .filter(|a| {
            a.get_downlevel_capabilities()
                .flags
                .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
        })
        .enumerate()
        .map(|(i, adapter)| Found {
            info: DeviceInfo::of(i + 1, &adapter.get_info(), adapter.features(), &adapter.limits()),
            adapter,
        })
        .collect()
}

/// The choice made: a device and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The device.
    pub device: DeviceInfo,
    /// Why this one.
    pub reason: String,
}

/// Resolves a selector. `None` in place of an adapter means the CPU path.
pub(crate) async fn choose(selector: &DeviceSelector) -> Result<(Choice, Option<wgpu::Adapter>)> {
    let from_environment = match (selector, std::env::var("MACHEPS_DEVICE")) {
        (DeviceSelector::Auto, Ok(value)) if !value.trim().is_empty() && value.trim() != "auto" => Some(value),
        _ => None,
    };
    let (selector, why) = match &from_environment {
        // Parsing a selector cannot fail: what is nothing else is a name.
        Some(value) => (
            value.parse().unwrap_or(DeviceSelector::Auto),
            "named by MACHEPS_DEVICE".to_string(),
        ),
        None => (selector.clone(), format!("asked for as '{selector}'")),
    };
    let on_cpu = |reason: String| {
        Ok((
            Choice {
                device: DeviceInfo::cpu(),
                reason,
            },
            None,
        ))
    };
    if matches!(selector, DeviceSelector::Cpu | DeviceSelector::Index(0)) {
        return on_cpu(why);
    }
    let found = enumerate().await;
    let listing = || {
        std::iter::once(DeviceInfo::cpu())
            .chain(found.iter().map(|f| f.info.clone()))
            .map(|d| format!("{}: {}", d.index, d.label()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let hardware = found.iter().position(|f| f.info.is_hardware_gpu());
    let (position, reason) = match &selector {
        DeviceSelector::Auto => match hardware {
            Some(p) => (Some(p), "the first hardware GPU".to_string()),
            None => {
                let seen = if found.is_empty() {
                    "no adapter found"
                } else {
                    "only software adapters found"
                };
                return on_cpu(format!(
                    "no hardware GPU ({seen}): the CPU path is faster than a software driver"
                ));
            }
        },
        DeviceSelector::Gpu => (hardware.or(if found.is_empty() { None } else { Some(0) }), why),
        DeviceSelector::Index(index) => (found.iter().position(|f| f.info.index == *index), why),
        DeviceSelector::Name(name) => {
            let wanted = name.to_lowercase();
            let matches = |text: &str| text.to_lowercase().contains(&wanted);
            let by_name = found.iter().position(|f| matches(&f.info.name));
            let position = by_name.or_else(|| {
                found
                    .iter()
                    .position(|f| matches(&f.info.backend) || matches(&f.info.driver))
            });
            (position, why)
        }
        DeviceSelector::Cpu => (None, why),
    };
    match position {
        Some(p) => {
            let chosen = &found[p];
            Ok((
                Choice {
                    device: chosen.info.clone(),
                    reason,
                },
                Some(chosen.adapter.clone()),
            ))
        }
        None => Err(Error::NoDevice {
            wanted: selector.to_string(),
            available: listing(),
        }),
    }
}
