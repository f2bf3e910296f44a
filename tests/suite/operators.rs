//! Operators that a user of the crate might write: public interface only.

use macheps::solve::{LinearOperator, OperatorCall, Record};
use macheps::{Gpu, Result, wgpu};

/// The five-point Laplacian on an nx by ny grid with a zero border, times `scale`, plus `shift` on the diagonal. Its eigenvalues are
/// known.
#[derive(Clone)]
pub struct FivePoint {
    pub nx: usize,
    pub ny: usize,
    pub scale: f64,
    pub shift: f64,
}

impl FivePoint {
    pub fn new(nx: usize, ny: usize) -> FivePoint {
        FivePoint {
            nx,
            ny,
            scale: 1.0,
            shift: 0.0,
        }
    }

    /// Smallest and largest eigenvalue.
    pub fn spectrum(&self) -> (f64, f64) {
        let part = |k: usize, n: usize| 4.0 * (std::f64::consts::PI * k as f64 / (2 * (n + 1)) as f64).sin().powi(2);
        (
            self.scale * (part(1, self.nx) + part(1, self.ny)) + self.shift,
            self.scale * (part(self.nx, self.nx) + part(self.ny, self.ny)) + self.shift,
        )
    }
}

const SHADER: &str = "
struct Params { nx: u32, ny: u32, x_base: u32, y_base: u32, x_pitch: u32, y_pitch: u32, scale: f32, shift: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_data: array<f32>;
@group(0) @binding(2) var<storage, read_write> y_data: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let i = id.x;
    if i >= params.nx * params.ny { return; }
    let column = i % params.nx;
    let row = i / params.nx;
    let at = params.x_base + id.y * params.x_pitch + i;
    var sum = 4.0 * x_data[at];
    if column > 0u { sum -= x_data[at - 1u]; }
    if column + 1u < params.nx { sum -= x_data[at + 1u]; }
    if row > 0u { sum -= x_data[at - params.nx]; }
    if row + 1u < params.ny { sum -= x_data[at + params.nx]; }
    y_data[params.y_base + id.y * params.y_pitch + i] = params.scale * sum + params.shift * x_data[at];
}";

/// A user's bound operator: one dispatch.
struct Bound {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 2],
}

impl Record for Bound {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }

    fn dispatches(&self) -> usize {
        1
    }
}

/// What a user writes to bind a shader: parameters, x and y as its bindings 0, 1 and 2, and one dispatch of `main`.
pub fn bind_shader(
    gpu: &Gpu,
    call: &OperatorCall<'_>,
    shader: &str,
    params: &[u32],
    grid: [u32; 2],
) -> Result<Box<dyn Record>> {
    use wgpu::util::DeviceExt;
    let device = gpu.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("user's operator"),
        source: wgpu::ShaderSource::Wgsl(shader.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("user's operator"),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let params = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: Some("user's parameters"),
        contents: bytemuck::cast_slice(params),
        usage: wgpu::BufferUsages::UNIFORM,
    });
    fn entry(binding: u32, buffer: &wgpu::Buffer) -> wgpu::BindGroupEntry<'_> {
        wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        }
    }
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[entry(0, &params), entry(1, call.x.buffer()), entry(2, call.y.buffer())],
    });
    Ok(Box::new(Bound { pipeline, group, grid }))
}

impl LinearOperator for FivePoint {
    fn size(&self) -> usize {
        self.nx * self.ny
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        for row in 0..self.ny {
            for column in 0..self.nx {
                let i = row * self.nx + column;
                let mut sum = 4.0 * x[i];
                if column > 0 {
                    sum -= x[i - 1];
                }
                if column + 1 < self.nx {
                    sum -= x[i + 1];
                }
                if row > 0 {
                    sum -= x[i - self.nx];
                }
                if row + 1 < self.ny {
                    sum -= x[i + self.nx];
                }
                y[i] = self.scale * sum + self.shift * x[i];
            }
        }
    }

    fn bind(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> Result<Box<dyn Record>> {
        let systems = if call.x.shape().len() == 2 {
            call.x.shape()[0]
        } else {
            1
        };
        let pitch = |view: &macheps::BufferView| if systems > 1 { view.strides()[0] as u32 } else { 0 };
        let words = [
            self.nx as u32,
            self.ny as u32,
            call.x.offset() as u32,
            call.y.offset() as u32,
            pitch(call.x),
            pitch(call.y),
            (self.scale as f32).to_bits(),
            (self.shift as f32).to_bits(),
        ];
        let grid = [(self.size() as u32).div_ceil(64), systems as u32];
        bind_shader(gpu, call, SHADER, &words, grid)
    }

    fn diagonal(&self) -> Option<Vec<f64>> {
        Some(vec![4.0 * self.scale + self.shift; self.size()])
    }

    fn norm_inf(&self) -> Option<f64> {
        Some(8.0 * self.scale + self.shift)
    }
}
