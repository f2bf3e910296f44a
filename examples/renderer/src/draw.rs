//! The host's own render pipeline: it reads the buffers that the simulation works in.

use crate::Simulation;
use crate::fluid::{bind, shader};

/// Draws a simulation into textures of one format. Colours are meant for the eye as they are: the format is one without sRGB.
pub struct Canvas {
    pipeline: wgpu::RenderPipeline,
    group: wgpu::BindGroup,
}

impl Canvas {
    /// For a simulation and a format.
    pub fn new(device: &wgpu::Device, simulation: &Simulation, format: wgpu::TextureFormat) -> Canvas {
        let module = shader(device, "draw", include_str!("../shaders/draw.wgsl"));
        let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
            label: Some("draw"),
            layout: None,
            vertex: wgpu::VertexState {
                module: &module,
                entry_point: Some("triangle"),
                compilation_options: Default::default(),
                buffers: &[],
            },
            primitive: Default::default(),
            depth_stencil: None,
            multisample: Default::default(),
            fragment: Some(wgpu::FragmentState {
                module: &module,
                entry_point: Some("shade"),
                compilation_options: Default::default(),
                targets: &[Some(format.into())],
            }),
            multiview_mask: None,
            cache: None,
        });
        let buffers = simulation.buffers();
        let used = [(0, &buffers.frame), (2, &buffers.state), (3, &buffers.coverage)];
        Canvas {
            group: bind(device, "draw", &pipeline.get_bind_group_layout(0), &used),
            pipeline,
        }
    }

    pub(crate) fn record(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        view: &wgpu::TextureView,
        timestamp_writes: Option<wgpu::RenderPassTimestampWrites<'_>>,
    ) {
        let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
            label: Some("draw"),
            color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                view,
                depth_slice: None,
                resolve_target: None,
                ops: wgpu::Operations {
                    // The triangle covers everything.
                    load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                    store: wgpu::StoreOp::Store,
                },
            })],
            depth_stencil_attachment: None,
            timestamp_writes,
            occlusion_query_set: None,
            multiview_mask: None,
        });
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.draw(0..3, 0..1);
    }
}
