//! Unscaling on a device: variants of the shaders and their dispatches.

use super::flat;
use super::options::{CLIP_EPSILON, LossScalerOptions};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, compose, lib, unsigned};
use crate::gpu::{Bind, BufferView, Dispatches, Gpu, Recording};

const UNSCALE: &str = include_str!("../../../shaders/unscale.wgsl");
const UNSCALE_STATE: &str = include_str!("../../../shaders/unscale_state.wgsl");
const SQUARES: &str = include_str!("../../../shaders/lib/unscale_squares.wgsl");
pub(crate) const WIDE: &str = include_str!("../../../shaders/lib/wide.wgsl");
pub(crate) const SIGNED_WIDE: &str = include_str!("../../../shaders/lib/signed_wide.wgsl");
pub(crate) const SIGNED_TEAM: &str = include_str!("../../../shaders/lib/signed_team.wgsl");
pub(crate) const STATE: &str = include_str!("../../../shaders/lib/scaler_state.wgsl");

/// Invocations of a workgroup.
const WORKGROUP: u32 = 128;
/// Blocks of 16 elements an invocation takes.
const BLOCKS: u32 = 4;
/// Elements a workgroup takes.
pub(super) const CHUNK: usize = (WORKGROUP * 16 * BLOCKS) as usize;
/// Bytes a chunk leaves in the workspace.
pub(super) const RECORD: u64 = 16;
/// Chunks that one workgroup merges, so that no invocation loops more than 30,000 times.
const MOST_CHUNKS: u64 = 30_000 * WORKGROUP as u64;

/// Parameters as unscale.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    zero: u32,
    grid_x: u32,
    chunks: u32,
    elements: u32,
    first_partial: u32,
    x_base: u32,
    y_base: u32,
    spare: u32,
}

/// Parameters as unscale_state.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct StateParams {
    zero: u32,
    partials: u32,
    max_norm: f32,
    epsilon_high: f32,
    epsilon_low: f32,
    growth_factor: f32,
    backoff_factor: f32,
    growth_interval: u32,
    min_scale: f32,
    max_scale: f32,
    written: u32,
    spare: u32,
}

/// A variant of unscale.wgsl.
#[derive(Clone, Copy, Debug)]
struct Variant {
    x: DType,
    y: DType,
    quad: bool,
    in_place: bool,
    shader_f16: bool,
    all_read_write: bool,
}

impl Variant {
    fn source(&self) -> String {
        let access = |name, dtype, written| TensorAccess {
            name,
            dtype,
            quad: self.quad,
            written,
        };
        compose(&Composition {
            constants: &[("WG", unsigned(WORKGROUP)), ("BLOCKS", unsigned(BLOCKS))],
            tensors: &[access("x", self.x, false), access("y", self.y, true)],
            alias: self.in_place.then_some(("x", "y")),
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &[lib::BITS, lib::ERROR_FREE, WIDE, STATE, SQUARES],
            kernel: UNSCALE,
        })
    }
}

/// The source of the state's kernels.
fn state_source() -> String {
    compose(&Composition {
        constants: &[("WG", unsigned(WORKGROUP))],
        tensors: &[],
        alias: None,
        shader_f16: false,
        all_read_write: false,
        fragments: &[lib::BITS, lib::ERROR_FREE, WIDE, STATE, SQUARES],
        kernel: UNSCALE_STATE,
    })
}

/// Bytes of workspace for tensors of these sizes.
pub(super) fn workspace_bytes(counts: impl Iterator<Item = usize>) -> u64 {
    counts
        .map(|n| n.div_ceil(CHUNK) as u64 * RECORD)
        .sum::<u64>()
        .max(RECORD)
}

/// A gradient and where it goes, with its number of elements.
pub(super) struct Pair<'a> {
    pub x: &'a BufferView,
    pub y: Option<&'a BufferView>,
    pub count: usize,
}

/// Plans, builds and binds the dispatches that unscale `pairs`.
pub(super) fn bind(
    gpu: &Gpu,
    scaler: &wgpu::Buffer,
    pairs: &[Pair<'_>],
    max_norm: Option<f32>,
    workspace: Option<&(wgpu::Buffer, u64)>,
) -> Result<Recording> {
    let capabilities = gpu.capabilities();
    if WORKGROUP > capabilities.max_invocations {
        return Err(Error::Limit {
            what: "invocations a workgroup",
            need: WORKGROUP.into(),
            have: capabilities.max_invocations.into(),
        });
    }
    let bytes = workspace_bytes(pairs.iter().map(|p| p.count));
    let chunks: u64 = pairs.iter().map(|p| p.count.div_ceil(CHUNK) as u64).sum();
    for (what, need, have) in [
        (
            "bytes of workspace in one storage binding",
            bytes,
            capabilities.max_binding,
        ),
        ("chunks of gradients in one call", chunks, MOST_CHUNKS),
    ] {
        if need > have {
            return Err(Error::Limit { what, need, have });
        }
    }
    let (buffer, offset) = match workspace {
        Some((buffer, offset)) => (buffer.clone(), *offset),
        None => (
            gpu.create_buffer("macheps workspace", bytes, wgpu::BufferUsages::STORAGE)?,
            0,
        ),
    };
    let partials = Bind {
        name: "partials",
        buffer,
        offset,
        size: bytes,
    };
    // An infinite bound clips nothing.
    let clips = max_norm.filter(|bound| bound.is_finite());
    let written = pairs.iter().any(|p| p.y.is_some());

    let mut measure = Dispatches::new(gpu, "unscale");
    let mut rescale = Dispatches::new(gpu, "unscale");
    let mut first_partial = 0;
    for pair in pairs.iter().filter(|p| p.count > 0) {
        let views: Vec<&BufferView> = std::iter::once(pair.x).chain(pair.y).collect();
        let variant = Variant {
            x: pair.x.dtype,
            y: pair.y.map_or(pair.x.dtype, |y| y.dtype),
            quad: flat::quads(&views, pair.count),
            in_place: pair.y.is_some_and(|y| pair.x.same_as(y)),
            shader_f16: capabilities.shader_f16,
            all_read_write: pair.y.is_some_and(|y| y.buffer == pair.x.buffer)
                || pair.x.buffer == partials.buffer
                || pair.x.buffer == *scaler,
        };
        let source = variant.source();
        let entry = match (pair.y, clips) {
            (Some(_), None) => "measure_and_write",
            _ => "measure",
        };
        let kernel = gpu.kernel("unscale", &source, entry)?;
        let writer = match (pair.y, clips) {
            (Some(_), Some(_)) => Some(gpu.kernel("unscale", &source, "rescale")?),
            _ => None,
        };
        for share in flat::shares(gpu, &views, pair.count, CHUNK)? {
            let params = Params {
                grid_x: share.grid[0],
                chunks: share.chunks,
                elements: share.elements,
                first_partial: first_partial + share.first_chunk,
                x_base: share.base(0),
                y_base: if pair.y.is_some() { share.base(1) } else { 0 },
                ..Params::default()
            };
            let mut bindings = vec![share.bind(0, "x_data"), partials.clone(), Bind::whole("scaler", scaler)];
            if pair.y.is_some() {
                bindings.push(share.bind(1, "y_data"));
            }
            measure.add(&kernel, params, share.grid, bindings.clone());
            if let Some(writer) = &writer {
                rescale.add(writer, params, share.grid, bindings);
            }
        }
        first_partial += pair.count.div_ceil(CHUNK) as u32;
    }
    let mut merge = Dispatches::new(gpu, "unscale");
    let params = StateParams {
        partials: chunks as u32,
        max_norm: clips.unwrap_or(0.0),
        epsilon_high: CLIP_EPSILON as f32,
        epsilon_low: (CLIP_EPSILON - f64::from(CLIP_EPSILON as f32)) as f32,
        written: u32::from(written),
        ..StateParams::default()
    };
    let kernel = gpu.kernel("unscale", &state_source(), "merge")?;
    merge.add(&kernel, params, [1, 1], vec![partials, Bind::whole("scaler", scaler)]);
    Ok(Recording {
        label: "unscale",
        steps: [measure.finish()?.steps, merge.finish()?.steps, rescale.finish()?.steps]
            .into_iter()
            .flatten()
            .collect(),
    })
}

/// Binds the end of a step.
pub(super) fn bind_update(gpu: &Gpu, scaler: &wgpu::Buffer, options: &LossScalerOptions) -> Result<Recording> {
    let mut dispatches = Dispatches::new(gpu, "loss scaler");
    let params = StateParams {
        growth_factor: options.growth_factor,
        backoff_factor: options.backoff_factor,
        growth_interval: options.growth_interval,
        min_scale: options.min_scale,
        max_scale: options.max_scale,
        ..StateParams::default()
    };
    let kernel = gpu.kernel("loss scaler", &state_source(), "update")?;
    dispatches.add(&kernel, params, [1, 1], vec![Bind::whole("scaler", scaler)]);
    dispatches.finish()
}

/// Every variant of the shaders that can come about, as a name and its WGSL.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = vec![("unscale_state".to_string(), state_source())];
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    for (x, shader_f16) in storages {
        let mut results = vec![x, DType::F32];
        results.dedup();
        for y in results {
            for quad in [false, true] {
                for (in_place, all_read_write) in [(false, false), (false, true), (true, false)] {
                    if in_place && x != y {
                        continue;
                    }
                    let variant = Variant {
                        x,
                        y,
                        quad,
                        in_place,
                        shader_f16,
                        all_read_write,
                    };
                    let name = format!(
                        "unscale_{x}{}_{y}{}{}{}",
                        if shader_f16 { "_native" } else { "" },
                        if quad { "_quad" } else { "" },
                        if in_place { "_in_place" } else { "" },
                        if all_read_write { "_shared" } else { "" },
                    );
                    all.push((name, variant.source()));
                }
            }
        }
    }
    all
}
