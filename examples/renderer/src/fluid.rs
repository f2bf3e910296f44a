//! The host's own compute passes, written as if macheps did not exist.

use crate::error::Result;
use crate::scene::{Open, Scene};
use wgpu::util::DeviceExt;

/// What the shaders know of a frame; as in `shaders/grid.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Frame {
    cells: [u32; 2],
    time: f32,
    open: u32,
    inflow: f32,
    buoyancy: f32,
    confinement: f32,
    fade: f32,
    source: [f32; 4],
}

const GRID: &str = include_str!("../shaders/grid.wgsl");

/// A shader of the fluid with what all of them begin with.
pub(crate) fn shader(device: &wgpu::Device, label: &str, source: &str) -> wgpu::ShaderModule {
    device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some(label),
        source: wgpu::ShaderSource::Wgsl(format!("{GRID}\n{source}").into()),
    })
}

/// The bind group of a pipeline, from the numbers of its bindings and the buffers that belong there.
pub(crate) fn bind(
    device: &wgpu::Device,
    label: &str,
    layout: &wgpu::BindGroupLayout,
    buffers: &[(u32, &wgpu::Buffer)],
) -> wgpu::BindGroup {
    let entries: Vec<_> = buffers
        .iter()
        .map(|&(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(label),
        layout,
        entries: &entries,
    })
}

/// A dispatch that is ready to go.
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    workgroups: [u32; 2],
}

impl Dispatch {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.workgroups[0], self.workgroups[1], 1);
    }
}

/// The buffers of a fluid, all of f32.
#[derive(Debug)]
pub struct Buffers {
    /// Parameters.
    pub(crate) frame: wgpu::Buffer,
    /// Solid cells, a bit each; macheps's own.
    pub(crate) solid: wgpu::Buffer,
    /// How much of each cell obstacles cover.
    pub(crate) coverage: wgpu::Buffer,
    /// Velocity along x on `(width + 1) * height` faces, along y on `width * (height + 1)`, and smoke in the cells.
    pub state: wgpu::Buffer,
    /// The same between advection and projection.
    pub moved: wgpu::Buffer,
    /// Curl of the corners.
    pub(crate) curl: wgpu::Buffer,
    /// What flows into every cell before the projection and not out of it: the right-hand side.
    pub excess: wgpu::Buffer,
    /// The same after the projection.
    pub left: wgpu::Buffer,
    /// Pressure of the cells.
    pub pressure: wgpu::Buffer,
}

/// The passes of a frame around the pressure solve.
pub(crate) struct Fluid {
    scene: Scene,
    pub(crate) buffers: Buffers,
    curl: Dispatch,
    advect: Dispatch,
    forces: Dispatch,
    excess: Dispatch,
    project: Dispatch,
    left: Dispatch,
}

impl Fluid {
    pub(crate) fn new(device: &wgpu::Device, scene: &Scene, solid: wgpu::Buffer) -> Result<Fluid> {
        let [width, height] = scene.cells;
        let cells = width * height;
        let values = |label, count: usize| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 4 * count as u64,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let state = (width + 1) * height + width * (height + 1) + cells;
        let buffers = Buffers {
            frame: device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("frame"),
                contents: bytemuck::bytes_of(&parameters(scene, 0)),
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            }),
            solid,
            coverage: device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("coverage"),
                contents: bytemuck::cast_slice(&scene.coverage()?),
                usage: wgpu::BufferUsages::STORAGE,
            }),
            state: values("state", state),
            moved: values("moved", state),
            curl: values("curl", (width + 1) * (height + 1)),
            excess: values("excess", cells),
            left: values("left", cells),
            pressure: values("pressure", cells),
        };
        // One invocation for each cell and its left and lower faces; the faces of the far sides take one more.
        let workgroups = scene.cells.map(|side| (side as u32 + 1).div_ceil(8));
        let dispatch = |label: &str, source: &str, used: &[(u32, &wgpu::Buffer)]| {
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(label),
                layout: None,
                module: &shader(device, label, source),
                entry_point: Some("main"),
                compilation_options: Default::default(),
                cache: None,
            });
            Dispatch {
                group: bind(device, label, &pipeline.get_bind_group_layout(0), used),
                pipeline,
                workgroups,
            }
        };
        let b = &buffers;
        let (frame, solid) = ((0, &b.frame), (1, &b.solid));
        let divergence = include_str!("../shaders/divergence.wgsl");
        let project = include_str!("../shaders/project.wgsl");
        Ok(Fluid {
            curl: dispatch(
                "curl",
                include_str!("../shaders/curl.wgsl"),
                &[frame, (2, &b.state), (3, &b.curl)],
            ),
            advect: dispatch(
                "advect",
                include_str!("../shaders/advect.wgsl"),
                &[frame, solid, (2, &b.state), (3, &b.curl), (4, &b.moved)],
            ),
            forces: dispatch(
                "forces",
                include_str!("../shaders/forces.wgsl"),
                &[frame, solid, (2, &b.moved)],
            ),
            excess: dispatch("divergence", divergence, &[frame, solid, (2, &b.moved), (3, &b.excess)]),
            project: dispatch(
                "project",
                project,
                &[frame, solid, (2, &b.moved), (3, &b.pressure), (4, &b.state)],
            ),
            left: dispatch("divergence", divergence, &[frame, solid, (2, &b.state), (3, &b.left)]),
            scene: scene.clone(),
            buffers,
        })
    }

    /// Tells the shaders the time, ahead of the next submission.
    pub(crate) fn set_time(&self, queue: &wgpu::Queue, frame: u64) {
        queue.write_buffer(
            &self.buffers.frame,
            0,
            bytemuck::bytes_of(&parameters(&self.scene, frame)),
        );
    }

    pub(crate) fn record_advection(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.curl.record(pass);
        self.advect.record(pass);
    }

    pub(crate) fn record_forces(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.forces.record(pass);
        self.excess.record(pass);
    }

    pub(crate) fn record_projection(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.project.record(pass);
    }

    /// What the projection has left of the divergence.
    pub(crate) fn record_left(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.left.record(pass);
    }
}

fn parameters(scene: &Scene, frame: u64) -> Frame {
    let height = scene.cells[1] as f32;
    Frame {
        cells: scene.cells.map(|side| side as u32),
        time: frame as f32,
        open: match scene.open {
            Open::Top => 0,
            Open::Right => 1,
        },
        inflow: scene.inflow * height,
        buoyancy: scene.buoyancy * height,
        confinement: scene.confinement,
        fade: scene.fade,
        source: scene.source.unwrap_or_default().map(|length| length * height),
    }
}
