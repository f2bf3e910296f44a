//! The stencil on a device: the variant of the shader and its one dispatch.

use super::options::Reaction;
use super::reference::{Data, Faces, Grid, side_factor};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, boolean, compose, lib, unsigned};
use crate::gpu::{Bind, BufferView, Dispatches, Gpu, Recording};
use crate::rows::contiguous_strides;
use crate::solve::OperatorCall;
use crate::solve::views::{Vectors, check_active, check_binding, part, within};

const STENCIL: &str = include_str!("../../../shaders/stencil.wgsl");
/// Each with the fragment that serves where there is no such buffer.
const FACES: [&str; 2] = [
    include_str!("../../../shaders/lib/stencil_faces_none.wgsl"),
    include_str!("../../../shaders/lib/stencil_faces.wgsl"),
];
const REACTION: [&str; 2] = [
    include_str!("../../../shaders/lib/stencil_reaction_none.wgsl"),
    include_str!("../../../shaders/lib/stencil_reaction.wgsl"),
];
const SOLID: [&str; 2] = [
    include_str!("../../../shaders/lib/stencil_solid_none.wgsl"),
    include_str!("../../../shaders/lib/stencil_solid.wgsl"),
];
const DOT: [&str; 2] = [
    include_str!("../../../shaders/lib/stencil_dot_none.wgsl"),
    include_str!("../../../shaders/lib/stencil_dot.wgsl"),
];
const ACTIVE: [&str; 2] = [
    include_str!("../../../shaders/lib/stencil_active_none.wgsl"),
    include_str!("../../../shaders/lib/stencil_active.wgsl"),
];

/// Steps that an invocation may take: some drivers end loops at 65,535.
const MOST_ROUNDS: u64 = 30_000;

/// Parameters as shaders/stencil.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    size: [u32; 4],
    scale: [f32; 4],
    lower: [f32; 4],
    upper: [f32; 4],
    periodic: [u32; 4],
    step: [u32; 4],
    face_y: u32,
    face_z: u32,
    block: u32,
    rounds: u32,
    blocks: u32,
    x: u32,
    y: u32,
    dot: u32,
    zero: u32,
    x_pitch: u32,
    y_pitch: u32,
    dot_pitch: u32,
}

/// What a stencil's coefficients are stored in on a device, each where it is not constant. All are storage buffers; those made by
/// the crate can also be copied from and to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StencilBuffers {
    /// k of the faces in f32: those across x, across y and, unless z has one cell and no Dirichlet side, across z, one after the
    /// other and each as [`Coefficient::Faces`](super::Coefficient::Faces) says.
    pub faces: Option<wgpu::Buffer>,
    /// c of the cells in f32.
    pub reaction: Option<wgpu::Buffer>,
    /// A bit a cell, 1 where it is solid: bit i % 32 (from the lowest on) of the u32 at i / 32.
    pub solid: Option<wgpu::Buffer>,
}

/// Bits of a mask, 32 a word.
pub(crate) fn pack(solid: &[bool]) -> Vec<u32> {
    solid
        .chunks(32)
        .map(|cells| {
            cells
                .iter()
                .enumerate()
                .fold(0, |word, (bit, &set)| word | (u32::from(set) << bit))
        })
        .collect()
}

fn narrowed(values: &[f64]) -> impl Iterator<Item = f32> + '_ {
    values.iter().map(|&v| v as f32)
}

/// Face coefficients as the device has them.
pub(crate) fn face_values(grid: &Grid, faces: &[Vec<f64>; 3]) -> Vec<f32> {
    let axes = if grid.acts(2) { 3 } else { 2 };
    faces[..axes].iter().flat_map(|values| narrowed(values)).collect()
}

/// Bytes of each buffer that the data asks for: faces, reaction, solid.
pub(crate) fn sizes(grid: &Grid, data: &Data) -> [Option<u64>; 3] {
    let axes = if grid.acts(2) { 3 } else { 2 };
    let faces: usize = (0..axes).map(|axis| grid.face_count(axis)).sum();
    [
        matches!(data.faces, Faces::Each(_)).then_some(faces as u64 * 4),
        matches!(data.reaction, Reaction::Cells(_)).then_some(grid.size as u64 * 4),
        data.solid.is_some().then(|| grid.size.div_ceil(32) as u64 * 4),
    ]
}

/// Uploads what the data has.
pub(crate) fn upload(gpu: &Gpu, grid: &Grid, data: &Data) -> Result<StencilBuffers> {
    for need in sizes(grid, data).into_iter().flatten() {
        check_binding(gpu, need)?;
    }
    Ok(StencilBuffers {
        faces: match &data.faces {
            Faces::Each(faces) => {
                let values = face_values(grid, faces);
                Some(gpu.upload("macheps stencil faces", bytemuck::cast_slice(&values))?)
            }
            Faces::Constant(_) => None,
        },
        reaction: match &data.reaction {
            Reaction::Cells(values) => {
                let values: Vec<f32> = narrowed(values).collect();
                Some(gpu.upload("macheps stencil reaction", bytemuck::cast_slice(&values))?)
            }
            Reaction::Constant(_) => None,
        },
        solid: match &data.solid {
            Some(solid) => Some(gpu.upload("macheps stencil solid cells", bytemuck::cast_slice(&pack(solid)))?),
            None => None,
        },
    })
}

/// How the cells are dealt out to workgroups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub workgroup: u32,
    /// Cells a workgroup, a multiple of its invocations.
    pub block: u32,
    pub count: u32,
}

impl Blocks {
    pub(crate) fn new(gpu: &Gpu, size: usize) -> Blocks {
        let capabilities = gpu.capabilities();
        let software = capabilities.software;
        let widest = if software { 64 } else { 256 }.min(capabilities.max_invocations);
        // A power of two for the tree.
        let workgroup = 1u64 << widest.max(1).ilog2();
        let most = if software { 64 } else { 1024 }.min(u64::from(capabilities.max_workgroups));
        let size = size as u64;
        let block = size.div_ceil(most.max(1)).next_multiple_of(workgroup).max(workgroup);
        Blocks {
            workgroup: workgroup as u32,
            block: block as u32,
            count: size.div_ceil(block).max(1) as u32,
        }
    }
}

/// A variant of the shader. Flags: whether there is such a buffer.
#[derive(Clone, Copy, Debug)]
struct Variant {
    workgroup: u32,
    depth: bool,
    faces: bool,
    reaction: bool,
    solid: bool,
    dot: bool,
    active: bool,
    all_read_write: bool,
}

impl Variant {
    fn source(&self) -> String {
        compose(&Composition {
            constants: &[("WG", unsigned(self.workgroup)), ("DEPTH", boolean(self.depth))],
            tensors: &[],
            alias: None,
            shader_f16: false,
            all_read_write: self.all_read_write,
            fragments: &[
                lib::BITS,
                lib::ERROR_FREE,
                FACES[usize::from(self.faces)],
                REACTION[usize::from(self.reaction)],
                SOLID[usize::from(self.solid)],
                DOT[usize::from(self.dot)],
                ACTIVE[usize::from(self.active)],
            ],
            kernel: STENCIL,
        })
    }
}

/// Everything but the step from vector to vector has to be contiguous.
fn check_contiguous(what: &'static str, view: &BufferView) -> Result<()> {
    let expected = contiguous_strides(&view.shape);
    let free = usize::from(view.shape.len() > 1);
    // Strides of dimensions of one element do not matter.
    let same = |((size, a), b): ((&usize, &usize), &usize)| *size <= 1 || a == b;
    let inner = view.shape.iter().zip(&view.strides).zip(&expected).skip(free);
    if view.strides.len() == expected.len() && { inner }.all(same) {
        return Ok(());
    }
    Err(Error::shape(
        format!("strides of {what}"),
        format!("{expected:?}, contiguous vectors"),
        format!("{:?}", view.strides),
    ))
}

/// Checks a call and binds its dispatch.
pub(crate) fn bind(
    gpu: &Gpu,
    grid: &Grid,
    data: &Data,
    buffers: &StencilBuffers,
    call: &OperatorCall<'_>,
) -> Result<Recording> {
    gpu.check_alive()?;
    let n = grid.size;
    let x = Vectors::of(gpu, call.x, "x", n, false)?;
    let y = Vectors::of(gpu, call.y, "y", n, true)?;
    let count = x.count as usize;
    // One vector may come as [n] here and as [1, n] there.
    if y.count != x.count {
        return Err(Error::shape(
            "shape of y",
            format!("{count} vectors, as x has"),
            format!("{:?}", call.y.shape()),
        ));
    }
    if call.x.overlaps(call.y) {
        return Err(Error::Aliased {
            first: "x",
            second: "y",
        });
    }
    let blocks = Blocks::new(gpu, grid.size);
    if let Some(dot) = call.dot {
        let expected = [count, blocks.count as usize, 2];
        if dot.dtype() != DType::F32 || dot.shape() != expected {
            return Err(Error::shape(
                "parts of x.y",
                format!("f32 of shape {expected:?}"),
                format!("{} of shape {:?}", dot.dtype(), dot.shape()),
            ));
        }
        check_contiguous("dot", dot)?;
        dot.check_writable("dot")?;
        for (first, view) in [("x", call.x), ("y", call.y)] {
            if view.overlaps(dot) {
                return Err(Error::Aliased { first, second: "dot" });
            }
        }
    }
    check_active(call.active, x.count)?;
    if count == 0 || (grid.size == 0 && call.dot.is_none()) {
        return Ok(Recording {
            label: "grid stencil",
            steps: Vec::new(),
        });
    }
    let most = u64::from(gpu.capabilities().max_workgroups);
    let rounds = u64::from(blocks.block / blocks.workgroup);
    let limits = [
        ("vectors of one stencil product", count as u64, most),
        ("cells of a workgroup's block", rounds, MOST_ROUNDS),
        ("elements of the vectors", count as u64 * grid.size as u64, 1 << 31),
    ];
    for (what, need, have) in limits {
        within(what, need, have)?;
    }

    let mut bindings = vec![x.named("x_data"), y.named("y_data")];
    let (mut dot_base, mut dot_pitch) = (0, 0);
    if let Some(dot) = call.dot {
        let (bind, base) = part(gpu, "dot_data", dot)?;
        bindings.push(bind);
        (dot_base, dot_pitch) = (base, dot.strides[0] as u32);
    }
    let stored = [
        ("faces_data", buffers.faces.as_ref()),
        ("reaction_data", buffers.reaction.as_ref()),
        ("solid_data", buffers.solid.as_ref()),
    ];
    for ((name, buffer), size) in stored.into_iter().zip(sizes(grid, data)) {
        if let (Some(buffer), Some(size)) = (buffer, size) {
            bindings.push(Bind {
                name,
                buffer: buffer.clone(),
                offset: 0,
                size: size.max(4),
            });
        }
    }
    if let Some(active) = call.active {
        bindings.push(Bind {
            size: count as u64 * 4,
            ..Bind::whole("active_data", active)
        });
    }
    let written = |bind: &&Bind| ["y_data", "dot_data"].contains(&bind.name);
    let shared = bindings
        .iter()
        .filter(|bind| !written(bind))
        .any(|reader| bindings.iter().filter(written).any(|w| w.buffer == reader.buffer));
    let variant = Variant {
        workgroup: blocks.workgroup,
        depth: grid.acts(2),
        faces: buffers.faces.is_some(),
        reaction: buffers.reaction.is_some(),
        solid: buffers.solid.is_some(),
        dot: call.dot.is_some(),
        active: call.active.is_some(),
        all_read_write: shared,
    };

    let [nx, ny, nz] = grid.cells.map(|n| n as u32);
    let step = |by: u32, along: u32| if along == 0 { 0 } else { by % along };
    let wg = blocks.workgroup;
    let side = |axis: usize, upper: usize| side_factor(grid.boundary[axis][upper]) as f32;
    let periodic = |axis: usize| u32::from(grid.boundary[axis][0] == super::Boundary::Periodic && grid.cells[axis] > 1);
    let scale = |axis: usize| match data.faces {
        Faces::Constant(k) => (k * grid.inverse[axis]) as f32,
        Faces::Each(_) => grid.inverse[axis] as f32,
    };
    let reaction = match data.reaction {
        Reaction::Constant(c) => c as f32,
        Reaction::Cells(_) => 0.0,
    };
    let params = Params {
        size: [nx, ny, nz, grid.size as u32],
        scale: [scale(0), scale(1), scale(2), reaction],
        lower: [side(0, 0), side(1, 0), side(2, 0), 0.0],
        upper: [side(0, 1), side(1, 1), side(2, 1), 0.0],
        periodic: [periodic(0), periodic(1), periodic(2), 0],
        step: [step(wg, nx), step(wg / nx.max(1), ny), wg / nx.max(1) / ny.max(1), 0],
        face_y: grid.face_count(0) as u32,
        face_z: (grid.face_count(0) + grid.face_count(1)) as u32,
        block: blocks.block,
        rounds: rounds as u32,
        blocks: blocks.count,
        x: x.base,
        y: y.base,
        dot: dot_base,
        zero: 0,
        x_pitch: x.pitch,
        y_pitch: y.pitch,
        dot_pitch,
    };
    let kernel = gpu.kernel("grid stencil", &variant.source(), "main")?;
    let mut dispatches = Dispatches::new(gpu, "grid stencil");
    dispatches.add(&kernel, params, [blocks.count, count as u32], bindings);
    dispatches.finish()
}

/// Every variant of the shader, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    (0..256)
        .map(|bits: u32| {
            let flag = |bit: u32| bits >> bit & 1 != 0;
            let variant = Variant {
                workgroup: if flag(7) { 256 } else { 64 },
                depth: flag(0),
                faces: flag(1),
                reaction: flag(2),
                solid: flag(3),
                dot: flag(4),
                active: flag(5),
                all_read_write: flag(6),
            };
            (format!("stencil_{bits:08b}"), variant.source())
        })
        .collect()
}
