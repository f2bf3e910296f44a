//! The dispatch that follows a product q = A x: residual, its norm, Jacobi's update.

use super::super::views::{Vectors, check_active};
use crate::error::Result;
use crate::gpu::source::lib;
use crate::gpu::{Bind, Dispatches, Gpu, Recording, grid};

const SHADER: &str = include_str!("../../../shaders/relaxation.wgsl");

/// Invocations of a workgroup.
const TEAM: usize = 64;
/// Most workgroups a vector: enough to keep a device busy, few enough to be read back.
const GROUPS: usize = 256;

/// The parameters, as the shader knows them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    zero: u32,
    n: u32,
    vectors: u32,
    groups: u32,
    grid_x: u32,
    b_base: u32,
    q_base: u32,
    x_base: u32,
    slot: u32,
    flags: u32,
    weight: f32,
    rounds: u32,
}

/// b beside x in one buffer: WebGPU refuses `read` beside `read_write`.
fn source(b_beside_x: bool) -> String {
    let text = [lib::BITS, lib::ERROR_FREE, SHADER].concat();
    if b_beside_x {
        text.replace("var<storage, read> b:", "var<storage, read_write> b:")
    } else {
        text
    }
}

/// Every variant of the shader, as a name and its WGSL.
pub(super) fn shader_variants() -> Vec<(String, String)> {
    [false, true]
        .map(|beside| {
            (
                format!("relaxation{}", if beside { "_beside" } else { "" }),
                source(beside),
            )
        })
        .to_vec()
}

/// Workgroups that share a vector of n elements, which is how many pairs they leave of its norm.
pub(super) fn groups(n: usize) -> usize {
    n.div_ceil(8 * TEAM).clamp(1, GROUPS)
}

/// The buffers of the dispatch.
pub(super) struct Update<'a> {
    pub b: &'a Vectors,
    pub q: &'a Vectors,
    pub x: &'a Vectors,
    /// f32 of shape [n].
    pub inverse: &'a wgpu::Buffer,
    /// Pairs of f32, [slots, vectors, groups].
    pub partials: &'a wgpu::Buffer,
    pub active: Option<&'a wgpu::Buffer>,
}

impl Update<'_> {
    /// Residual and norm into a slot, and the update with this factor if there is one.
    pub(super) fn bind(&self, gpu: &Gpu, n: usize, slot: usize, weight: Option<f64>) -> Result<Recording> {
        let mut dispatches = Dispatches::new(gpu, "relaxation");
        if n == 0 || self.x.count == 0 {
            return dispatches.finish();
        }
        check_active(self.active, self.x.count)?;
        let kernel = gpu.kernel("relaxation", &source(self.b.shares_buffer(self.x)), "main")?;
        let groups = groups(n);
        let vectors = self.x.count as usize;
        let grid = grid((groups * vectors) as u64, gpu.capabilities().max_workgroups)?;
        let params = Params {
            zero: 0,
            n: n as u32,
            vectors: self.x.count,
            groups: groups as u32,
            grid_x: grid[0],
            b_base: self.b.base,
            q_base: self.q.base,
            x_base: self.x.base,
            slot: (slot * groups * vectors) as u32,
            flags: u32::from(weight.is_some()) | u32::from(self.active.is_some()) << 1,
            weight: weight.unwrap_or(0.0) as f32,
            rounds: n.div_ceil(groups * TEAM) as u32,
        };
        let bindings = vec![
            self.b.named("b"),
            self.q.named("q"),
            Bind::whole("inverse", self.inverse),
            self.x.named("x"),
            Bind::whole("partials", self.partials),
            // Something has to be bound; without the flag it is not read.
            Bind::whole("active_words", self.active.unwrap_or(self.inverse)),
        ];
        dispatches.add(&kernel, params, grid, bindings);
        dispatches.finish()
    }
}
