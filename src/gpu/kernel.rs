//! Compute pipelines: layouts read off the WGSL by reflection, bind groups by name, and recordings of dispatches.

use super::Gpu;
use crate::error::{Error, Result};
use std::sync::Arc;

/// A compiled entry point and its bindings, as the shader declares them.
pub struct Kernel {
    pub(crate) pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: Vec<Binding>,
    label: String,
}

struct Binding {
    name: String,
    index: u32,
    uniform: bool,
}

/// Where the source of a kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// One of the crate's own shaders as it is shipped.
    Crate,
    /// One of the crate's own with a bug planted in it.
    Edited,
    /// Anybody's.
    Foreign,
}

/// Parses and validates WGSL, so that a mistake in a shader is a typed error and not a panic of the driver's.
pub(crate) fn reflect(source: &str) -> Result<(naga::Module, naga::valid::ModuleInfo)> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| Error::Wgpu(e.emit_to_string(source)))?;
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
        .validate(&module)
        .map_err(|e| Error::Wgpu(e.emit_to_string(source)))?;
    Ok((module, info))
}

impl Kernel {
    /// The checks that wgpu adds go by the source's `origin`.
    pub(crate) fn build(gpu: &Gpu, label: &str, source: &str, entry: &str, origin: Origin) -> Result<Kernel> {
        gpu.check_alive()?;
        let (module, info) = reflect(source)?;
        let position = module
            .entry_points
            .iter()
            .position(|e| e.name == entry)
            .ok_or_else(|| Error::Wgpu(format!("{label} has no entry point {entry}")))?;
        let used = info.get_entry_point(position);
        let mut bindings = Vec::new();
        let mut entries = Vec::new();
        for (handle, variable) in module.global_variables.iter() {
            let Some(at) = variable.binding.filter(|_| !used[handle].is_empty()) else {
                continue;
            };
            let uniform = variable.space == naga::AddressSpace::Uniform;
            let ty = match variable.space {
                naga::AddressSpace::Storage { access } => wgpu::BufferBindingType::Storage {
                    read_only: !access.contains(naga::StorageAccess::STORE),
                },
                _ => wgpu::BufferBindingType::Uniform,
            };
            entries.push(wgpu::BindGroupLayoutEntry {
                binding: at.binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty,
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            });
            let name = variable.name.clone().unwrap_or_default();
            bindings.push(Binding {
                name,
                index: at.binding,
                uniform,
            });
        }
        let device = gpu.device();
        let (pipeline, layout) = gpu.scoped(|| {
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(label),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(label),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            };
            let checks = wgpu::ShaderRuntimeChecks {
                force_loop_bounding: origin != Origin::Crate,
                ..wgpu::ShaderRuntimeChecks::checked()
            };
            // SAFETY: every loop of the crate's own shaders counts a u32 up or down to a bound that does not change inside
            // the loop, so none is infinite; all other run-time checks stay on. With wgpu's bound, naga counts every
            // iteration in a second variable, which keeps drivers from unrolling; other sources have it.
            #[allow(unsafe_code)]
            let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(label),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    // The crate's shaders write their workgroup memory before they read it. Zeroing 2,048 counters takes
                    // GL on llvmpipe half a minute of compiling, during which it locks out every other thread.
                    zero_initialize_workgroup_memory: origin == Origin::Foreign,
                },
                cache: None,
            });
            (pipeline, layout)
        })?;
        Ok(Kernel {
            pipeline,
            layout,
            bindings,
            label: label.to_string(),
        })
    }

    /// Whether the binding of this name is a uniform.
    pub(crate) fn is_uniform(&self, name: &str) -> bool {
        self.bindings.iter().any(|b| b.name == name && b.uniform)
    }

    /// A bind group with a resource for every binding of the shader, by the variable's name. Resources that the shader
    /// does not use are left out.
    pub(crate) fn bind(&self, gpu: &Gpu, resources: &[(&str, wgpu::BindingResource<'_>)]) -> Result<wgpu::BindGroup> {
        let mut entries = Vec::new();
        for binding in &self.bindings {
            let (_, resource) = resources
                .iter()
                .find(|(name, _)| *name == binding.name)
                .ok_or_else(|| Error::Wgpu(format!("{}: nothing given for binding {}", self.label, binding.name)))?;
            entries.push(wgpu::BindGroupEntry {
                binding: binding.index,
                resource: resource.clone(),
            });
        }
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(&self.label),
            layout: &self.layout,
            entries: &entries,
        };
        gpu.scoped(|| gpu.device().create_bind_group(&descriptor))
    }
}

/// One dispatch, ready to be recorded.
pub struct Step {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) grid: [u32; 2],
}

/// Dispatches with everything they need, bound once and recorded any number of times.
#[derive(Default)]
pub struct Recording {
    pub(crate) label: &'static str,
    pub(crate) steps: Vec<Step>,
}

impl Recording {
    /// Records into a command encoder, as one compute pass. Creates no wgpu object but that pass, submits nothing and
    /// waits for nothing.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        if self.steps.is_empty() {
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(self.label),
            timestamp_writes: None,
        });
        self.record_pass(&mut pass);
    }

    /// Records into an open compute pass, inside a debug group of the operation's name.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.push_debug_group(self.label);
        for step in &self.steps {
            pass.set_pipeline(&step.kernel.pipeline);
            pass.set_bind_group(0, &step.bind_group, &[]);
            pass.dispatch_workgroups(step.grid[0], step.grid[1], 1);
        }
        pass.pop_debug_group();
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.steps.len()
    }
}
