//! What a device can do, as far as the kernels care.

/// Features that the crate uses where an adapter has them. All are optional: without SUBGROUP, reductions go through
/// workgroup memory; without SHADER_F16, f16 is kept in packed words; without TIMESTAMP_QUERY, timings are wall-clock.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY)
}

/// The limits worth asking for: everything about storage buffers and compute as large as the adapter has it.
pub fn recommended_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let have = adapter.limits();
    wgpu::Limits {
        max_buffer_size: have.max_buffer_size,
        max_storage_buffer_binding_size: have.max_storage_buffer_binding_size,
        max_storage_buffers_per_shader_stage: have.max_storage_buffers_per_shader_stage,
        max_uniform_buffer_binding_size: have.max_uniform_buffer_binding_size,
        max_compute_workgroup_storage_size: have.max_compute_workgroup_storage_size,
        max_compute_invocations_per_workgroup: have.max_compute_invocations_per_workgroup,
        max_compute_workgroup_size_x: have.max_compute_workgroup_size_x,
        max_compute_workgroup_size_y: have.max_compute_workgroup_size_y,
        max_compute_workgroup_size_z: have.max_compute_workgroup_size_z,
        max_compute_workgroups_per_dimension: have.max_compute_workgroups_per_dimension,
        min_storage_buffer_offset_alignment: have.min_storage_buffer_offset_alignment,
        min_uniform_buffer_offset_alignment: have.min_uniform_buffer_offset_alignment,
        ..wgpu::Limits::downlevel_defaults().using_resolution(have)
    }
}

/// What the kernels ask of a device before they choose a variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// Subgroup width that every subgroup at least has: a power of two, or 1 where subgroups cannot be used.
    pub subgroup: u32,
    /// Native f16 storage.
    pub shader_f16: bool,
    /// GPU timestamps.
    pub timestamps: bool,
    /// Runs on a CPU: barriers are dear, bandwidth is the CPU's.
    pub software: bool,
    /// Invocations a workgroup may have.
    pub max_invocations: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Bytes a storage binding may span.
    pub max_binding: u64,
    /// Bytes a buffer may have.
    pub max_buffer: u64,
    /// Alignment of storage binding offsets in bytes.
    pub storage_alignment: u64,
    /// Alignment of uniform binding offsets in bytes.
    pub uniform_alignment: u64,
    /// Workgroups a dispatch may have in one dimension.
    pub max_workgroups: u32,
}

impl Capabilities {
    /// Invocations of a team that stays within a subgroup: the 64 virtual lanes of the fixed tree are 16 quads wide.
    pub(crate) fn narrow_team(&self) -> u32 {
        if self.subgroup > 1 {
            self.subgroup.min(16)
        } else if self.software {
            // Workgroup memory with few barriers; wider teams wait more, narrower ones take long to compile.
            4
        } else {
            16
        }
    }

    /// Reads them off a device.
    pub fn of(device: &wgpu::Device, kind: super::DeviceKind) -> Capabilities {
        let features = device.features();
        let limits = device.limits();
        let info = device.adapter_info();
        let (low, high) = (info.subgroup_min_size, info.subgroup_max_size);
        // WebGPU promises powers of two; a driver that says otherwise gets the path through workgroup memory.
        let usable = features.contains(wgpu::Features::SUBGROUP)
            && low.is_power_of_two()
            && high.is_power_of_two()
            && high <= limits.max_compute_invocations_per_workgroup;
        Capabilities {
            subgroup: if usable { low } else { 1 },
            shader_f16: features.contains(wgpu::Features::SHADER_F16),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            software: kind == super::DeviceKind::Software,
            max_invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            // What is bound lies in a buffer.
            max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            max_buffer: limits.max_buffer_size,
            storage_alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(16),
            uniform_alignment: u64::from(limits.min_uniform_buffer_offset_alignment).max(16),
            max_workgroups: limits.max_compute_workgroups_per_dimension,
        }
    }
}
