//! layer_norm and rms_norm on a device: which strategy, which variant of the shaders, which dispatches.

use super::options::{LayerNormOptions, NormKind};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, boolean, compose, lib, unsigned};
use crate::gpu::{
    Bind, Budget, BufferView, Capabilities, Dispatches, Gpu, Kernel, Planned, Recording, Step, Window, pair,
    plan_windows,
};
use crate::rows::{RowDim, RowMap};
use std::sync::Arc;

const ROW_KERNEL: &str = include_str!("../../../shaders/layer_norm.wgsl");
const SPLIT_KERNEL: &str = include_str!("../../../shaders/layer_norm_split.wgsl");
const SPLIT_MERGE_KERNEL: &str = include_str!("../../../shaders/layer_norm_split_merge.wgsl");
const COLUMNS_KERNEL: &str = include_str!("../../../shaders/layer_norm_columns.wgsl");
const MERGE_KERNEL: &str = include_str!("../../../shaders/layer_norm_merge.wgsl");
const ROWS: &str = include_str!("../../../shaders/lib/layer_norm_rows.wgsl");
const SWEEP: &str = include_str!("../../../shaders/lib/layer_norm_sweep.wgsl");
const PARTIAL_STRUCT: &str = include_str!("../../../shaders/lib/layer_norm_partial.wgsl");
const RECORD_STRUCT: &str = include_str!("../../../shaders/lib/layer_norm_record.wgsl");
const KEEP_RECORD: &str = include_str!("../../../shaders/lib/layer_norm_keep.wgsl");
const NO_RECORD: &str = include_str!("../../../shaders/lib/layer_norm_keep_none.wgsl");
const WEIGHT: &str = include_str!("../../../shaders/lib/layer_norm_weight.wgsl");
const NO_WEIGHT: &str = include_str!("../../../shaders/lib/layer_norm_weight_none.wgsl");
const BIAS: &str = include_str!("../../../shaders/lib/layer_norm_bias.wgsl");
const NO_BIAS: &str = include_str!("../../../shaders/lib/layer_norm_bias_none.wgsl");
const UPSTREAM: &str = include_str!("../../../shaders/lib/layer_norm_upstream.wgsl");
const LOAD_UPSTREAM: &str = include_str!("../../../shaders/lib/layer_norm_upstream_load.wgsl");
const NO_UPSTREAM: &str = include_str!("../../../shaders/lib/layer_norm_upstream_none.wgsl");
const DWEIGHT: &str = include_str!("../../../shaders/lib/layer_norm_dweight.wgsl");
const NO_DWEIGHT: &str = include_str!("../../../shaders/lib/layer_norm_dweight_none.wgsl");
const DBIAS: &str = include_str!("../../../shaders/lib/layer_norm_dbias.wgsl");
const NO_DBIAS: &str = include_str!("../../../shaders/lib/layer_norm_dbias_none.wgsl");

/// How rows are given to invocations. All but `Workgroup` and `Split` sum in the same tree and give the same bits at any
/// subgroup width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerNormStrategy {
    /// Rows of at most 64 elements, many a workgroup, each held by just as many invocations as it fills. 1 read, 1 write.
    Short,
    /// One subgroup (at most 16 invocations) a row, with the row in registers, up to 1,024 elements. 1 read, 1 write.
    OnChip,
    /// One subgroup a row, up to 32,768 elements: 4 reads, of which caches serve three, and 1 write.
    Subgroup,
    /// One workgroup a row; in registers up to 16,384 elements, else 4 reads.
    Workgroup,
    /// Rows cut into chunks over many workgroups; statistics merged by a second dispatch. 2 reads of memory, 1 write.
    Split,
}

impl LayerNormStrategy {
    /// All of them.
    pub const ALL: [LayerNormStrategy; 5] = [
        LayerNormStrategy::Short,
        LayerNormStrategy::OnChip,
        LayerNormStrategy::Subgroup,
        LayerNormStrategy::Workgroup,
        LayerNormStrategy::Split,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            LayerNormStrategy::Short => "short",
            LayerNormStrategy::OnChip => "on_chip",
            LayerNormStrategy::Subgroup => "subgroup",
            LayerNormStrategy::Workgroup => "workgroup",
            LayerNormStrategy::Split => "split",
        }
    }

    /// Whether it can serve rows of `len` elements: no invocation may run more than about 30,000 loop iterations, since
    /// some drivers cut loops at 65,535, silently.
    pub const fn serves(self, len: usize) -> bool {
        match self {
            LayerNormStrategy::Short => len <= 64,
            LayerNormStrategy::OnChip => len <= 1024,
            LayerNormStrategy::Subgroup => len <= 32_768,
            LayerNormStrategy::Workgroup => len <= 2_097_152,
            LayerNormStrategy::Split => true,
        }
    }

    /// The choice for `rows` rows of `len` elements. It does not depend on the subgroup width.
    pub fn choose(capabilities: &Capabilities, rows: usize, len: usize) -> LayerNormStrategy {
        let few = rows < if capabilities.software { 8 } else { 128 };
        match len {
            0..=64 => LayerNormStrategy::Short,
            _ if few && len > CHUNK => LayerNormStrategy::Split,
            65..=1024 => LayerNormStrategy::OnChip,
            // A barrier costs software more than a read that the cache serves.
            1025..=32_768 if capabilities.software => LayerNormStrategy::Subgroup,
            1025..=1_048_576 if !capabilities.software => LayerNormStrategy::Workgroup,
            _ => LayerNormStrategy::Split,
        }
    }
}

impl std::fmt::Display for LayerNormStrategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Invocations of a workgroup that works on one row.
const WORKGROUP: u32 = 256;
/// Elements of a chunk of a split row, and chunks a row has at most before they grow.
const CHUNK: usize = 8192;
const CHUNKS: usize = 16_384;
/// Bytes of a row's record, of a chunk's sums, and of the sums of four columns.
const RECORD: u64 = 32;
const PARTIAL: u64 = 48;
const COLUMN_SUMS: u64 = 64;
/// Invocations that add up the blocks of four columns.
const MERGE_TEAM: u32 = 16;
/// Bytes that the sums of columns may take; with more columns they go in turns.
const SUMS_BYTES: u64 = 64 << 20;

/// Parameters as lib/layer_norm_rows.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    sizes: [u32; 4],
    strides: [[u32; 4]; 5],
    bases: [u32; 4],
    steps: [u32; 4],
    bias_base: u32,
    bias_step: u32,
    record_base: u32,
    zero: u32,
    rows: u32,
    len: u32,
    grid_x: u32,
    first_row: u32,
    chunks: u32,
    first_chunk: u32,
    chunk_len: u32,
    eps_half: i32,
    inverse: [f32; 2],
    inverse_chunk: [f32; 2],
    inverse_last: [f32; 2],
    eps: [f32; 2],
}

/// Parameters as layer_norm_columns.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct ColumnParams {
    sizes: [u32; 4],
    x_strides: [u32; 4],
    upstream_strides: [u32; 4],
    x_base: u32,
    x_step: u32,
    upstream_base: u32,
    upstream_step: u32,
    zero: u32,
    rows: u32,
    block_rows: u32,
    grid_x: u32,
    columns: u32,
    quads: u32,
    blocks: u32,
    first_block: u32,
    record_base: u32,
    spare: [u32; 3],
}

/// Parameters as layer_norm_merge.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct MergeParams {
    zero: u32,
    columns: u32,
    quads: u32,
    blocks: u32,
    grid_x: u32,
    weight_base: u32,
    weight_step: u32,
    bias_base: u32,
    bias_step: u32,
    spare: [u32; 3],
}

/// A tensor's part in the call, by its place in `Params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    X,
    Y,
    Upstream,
    Weight,
    Bias,
}

impl Role {
    fn tensor(self) -> &'static str {
        match self {
            Role::X => "x",
            Role::Y => "y",
            Role::Upstream => "upstream",
            Role::Weight => "weight",
            Role::Bias => "bias",
        }
    }

    fn binding(self) -> &'static str {
        match self {
            Role::X => "x_data",
            Role::Y => "y_data",
            Role::Upstream => "upstream_data",
            Role::Weight => "weight_data",
            Role::Bias => "bias_data",
        }
    }
}

/// What of the device a shader's text depends on.
#[derive(Clone, Copy, Debug)]
struct Target {
    subgroups: bool,
    lanes: u32,
    shader_f16: bool,
    all_read_write: bool,
}

impl Target {
    fn exchange(self) -> &'static str {
        if self.subgroups {
            lib::EXCHANGE_SUBGROUP
        } else {
            lib::EXCHANGE_WORKGROUP
        }
    }

    /// Words of workgroup memory that collectives of a team need: none where every step stays within a subgroup.
    fn exchange_space(self, team: u32, workgroup: u32) -> u32 {
        if self.subgroups && team <= self.lanes {
            1
        } else {
            workgroup
        }
    }
}

/// A variant of the row kernels.
#[derive(Clone, Debug)]
struct Variant {
    kind: NormKind,
    backward: bool,
    dtype: DType,
    split: bool,
    team: u32,
    accumulators: u32,
    keep: u32,
    workgroup: u32,
    target: Target,
    /// Rows end on multiples of four elements.
    whole: bool,
    /// The tensor that is read through the binding of y.
    alias: Option<Role>,
    record: bool,
    /// Tensors taking part, and whether each can be taken four aligned elements at a time.
    tensors: Vec<(Role, bool)>,
}

impl Variant {
    fn source(&self) -> String {
        let has = |role| self.tensors.iter().any(|t| t.0 == role);
        let target = self.target;
        let constants = [
            ("WG", unsigned(self.workgroup)),
            ("TEAM", unsigned(self.team)),
            ("ACC", unsigned(self.accumulators)),
            ("KEEP", unsigned(self.keep)),
            ("LANES", unsigned(target.lanes)),
            ("EXCHANGE", unsigned(target.exchange_space(self.team, self.workgroup))),
            ("RMS", boolean(self.kind == NormKind::RmsNorm)),
            ("BACKWARD", boolean(self.backward)),
            ("WHOLE", boolean(self.whole)),
            ("HAS_WEIGHT", boolean(has(Role::Weight))),
            ("HAS_BIAS", boolean(has(Role::Bias))),
        ];
        let tensors: Vec<TensorAccess> = self
            .tensors
            .iter()
            .map(|&(role, quad)| TensorAccess {
                name: role.tensor(),
                dtype: self.dtype,
                quad,
                written: role == Role::Y,
            })
            .collect();
        let mut fragments = vec![target.exchange(), lib::BITS, lib::ERROR_FREE, lib::REDUCE, ROWS];
        if self.split || self.record {
            fragments.push(RECORD_STRUCT);
        }
        if self.split {
            fragments.push(PARTIAL_STRUCT);
        }
        fragments.push(if self.record { KEEP_RECORD } else { NO_RECORD });
        fragments.push(if has(Role::Weight) { WEIGHT } else { NO_WEIGHT });
        fragments.push(if has(Role::Bias) { BIAS } else { NO_BIAS });
        if has(Role::Upstream) {
            fragments.push(LOAD_UPSTREAM);
            if self.alias != Some(Role::Upstream) {
                fragments.push(UPSTREAM);
            }
        } else {
            fragments.push(NO_UPSTREAM);
        }
        fragments.push(SWEEP);
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: self.alias.map(|role| (role.tensor(), "y")),
            shader_f16: target.shader_f16,
            all_read_write: target.all_read_write,
            fragments: &fragments,
            kernel: if self.split { SPLIT_KERNEL } else { ROW_KERNEL },
        })
    }
}

/// Statistics of split rows from those of chunks.
fn split_merge_source(kind: NormKind, target: Target, team: u32, accumulators: u32, workgroup: u32) -> String {
    compose(&Composition {
        constants: &[
            ("WG", unsigned(workgroup)),
            ("TEAM", unsigned(team)),
            ("ACC", unsigned(accumulators)),
            ("LANES", unsigned(target.lanes)),
            ("EXCHANGE", unsigned(target.exchange_space(team, workgroup))),
            ("RMS", boolean(kind == NormKind::RmsNorm)),
            ("WHOLE", boolean(true)),
            ("HAS_WEIGHT", boolean(false)),
            ("HAS_BIAS", boolean(false)),
        ],
        tensors: &[],
        alias: None,
        shader_f16: false,
        all_read_write: false,
        fragments: &[
            target.exchange(),
            lib::BITS,
            lib::ERROR_FREE,
            lib::REDUCE,
            ROWS,
            RECORD_STRUCT,
            PARTIAL_STRUCT,
            NO_WEIGHT,
            NO_BIAS,
            NO_UPSTREAM,
        ],
        kernel: SPLIT_MERGE_KERNEL,
    })
}

/// The first stage of the gradients of weight and bias.
fn columns_source(
    kind: NormKind,
    dtype: DType,
    target: Target,
    wanted: [bool; 2],
    whole: bool,
    quads: [bool; 2],
    workgroup: u32,
) -> String {
    let tensor = |name, quad| TensorAccess {
        name,
        dtype,
        quad,
        written: false,
    };
    compose(&Composition {
        constants: &[
            ("WG", unsigned(workgroup)),
            ("RMS", boolean(kind == NormKind::RmsNorm)),
            ("WHOLE", boolean(whole)),
            ("WEIGHT", boolean(wanted[0])),
            ("BIAS", boolean(wanted[1])),
        ],
        tensors: &[tensor("x", quads[0]), tensor("upstream", quads[1])],
        alias: None,
        shader_f16: target.shader_f16,
        all_read_write: target.all_read_write,
        fragments: &[lib::BITS, lib::ERROR_FREE, RECORD_STRUCT],
        kernel: COLUMNS_KERNEL,
    })
}

/// The second stage.
fn merge_source(dtype: DType, target: Target, wanted: [bool; 2], workgroup: u32) -> String {
    let tensors: Vec<TensorAccess> = ["dweight", "dbias"]
        .into_iter()
        .zip(wanted)
        .filter(|(_, wanted)| *wanted)
        .map(|(name, _)| TensorAccess {
            name,
            dtype,
            quad: false,
            written: true,
        })
        .collect();
    compose(&Composition {
        constants: &[
            ("WG", unsigned(workgroup)),
            ("TEAM", unsigned(MERGE_TEAM)),
            ("LANES", unsigned(target.lanes)),
            ("EXCHANGE", unsigned(target.exchange_space(MERGE_TEAM, workgroup))),
            ("WEIGHT", boolean(wanted[0])),
            ("BIAS", boolean(wanted[1])),
        ],
        tensors: &tensors,
        alias: None,
        shader_f16: target.shader_f16,
        all_read_write: target.all_read_write,
        fragments: &[
            target.exchange(),
            lib::BITS,
            lib::ERROR_FREE,
            lib::REDUCE,
            if wanted[0] { DWEIGHT } else { NO_DWEIGHT },
            if wanted[1] { DBIAS } else { NO_DBIAS },
        ],
        kernel: MERGE_KERNEL,
    })
}

/// Everything that a call is about, checked.
pub(super) struct Call<'a> {
    pub options: LayerNormOptions,
    pub strategy: Option<LayerNormStrategy>,
    pub x: &'a BufferView,
    /// The result, or the gradient of x.
    pub y: &'a BufferView,
    pub upstream: Option<&'a BufferView>,
    pub weight: Option<&'a BufferView>,
    pub bias: Option<&'a BufferView>,
    pub dweight: Option<&'a BufferView>,
    pub dbias: Option<&'a BufferView>,
    pub workspace: Option<(&'a wgpu::Buffer, u64)>,
}

/// `v` as a pair in [1, 4) times 4 to an integer; 0 has an exponent below all others.
fn quartered(v: f64) -> ([f32; 2], i32) {
    if v == 0.0 {
        return ([0.0; 2], -1000);
    }
    let exponent = ((v.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let half = exponent.div_euclid(2);
    (pair(v * 2f64.powi(-2 * half)), half)
}

/// A tensor of one row, seen as one for every row of `x`.
fn repeated(view: &BufferView, x: &RowMap) -> RowMap {
    RowMap {
        offset: view.offset,
        dims: x
            .dims
            .iter()
            .map(|d| RowDim {
                size: d.size,
                stride: 0,
            })
            .collect(),
        len: x.len,
        len_stride: view.strides.last().copied().unwrap_or(1),
    }
}

/// The same rows cut into chunks: one more row dimension, innermost.
fn chunked(map: &RowMap, chunk: usize, chunks: usize) -> RowMap {
    let mut dims = map.dims.clone();
    dims.push(RowDim {
        size: chunks,
        stride: chunk * map.len_stride,
    });
    RowMap {
        offset: map.offset,
        dims,
        len: chunk.min(map.len),
        len_stride: map.len_stride,
    }
}

/// Some columns of the rows.
fn narrowed(map: &RowMap, first: usize, count: usize) -> RowMap {
    RowMap {
        offset: map.offset + first * map.len_stride,
        dims: map.dims.clone(),
        len: count,
        len_stride: map.len_stride,
    }
}

/// Some columns, the windows of their rows and the blocks of those.
struct Range {
    first: usize,
    columns: usize,
    windows: Vec<Window>,
    blocks: usize,
}

/// What a call needs, found out before anything is built.
struct Layout {
    rows: usize,
    len: usize,
    strategy: LayerNormStrategy,
    chunk: usize,
    chunks: usize,
    tensors: Vec<(BufferView, RowMap, Role)>,
    budget: Budget,
    ranges: Vec<Range>,
    block_rows: usize,
    records_bytes: u64,
    partials_bytes: u64,
    sums_bytes: u64,
}

impl Layout {
    fn new(gpu: &Gpu, call: &Call<'_>) -> Result<Layout> {
        let capabilities = gpu.capabilities();
        let axis = call.x.shape.len() - 1;
        let x = call.x.rows(axis);
        let (rows, len) = (x.rows(), x.len);
        for (what, need) in [("elements of a row", len), ("rows", rows)] {
            if need > u32::MAX as usize / 2 {
                return Err(Error::Limit {
                    what,
                    need: need as u64,
                    have: u64::from(u32::MAX / 2),
                });
            }
        }
        let mut tensors = vec![
            (call.x.clone(), x.clone(), Role::X),
            (call.y.clone(), call.y.rows(axis), Role::Y),
        ];
        tensors.extend(call.upstream.map(|v| (v.clone(), v.rows(axis), Role::Upstream)));
        tensors.extend(call.weight.map(|v| (v.clone(), repeated(v, &x), Role::Weight)));
        tensors.extend(call.bias.map(|v| (v.clone(), repeated(v, &x), Role::Bias)));

        let widest = tensors.iter().map(|t| t.1.len_stride).max().unwrap_or(1).max(1) as u64;
        let strategy = call.strategy.unwrap_or_else(|| {
            // A row that passes a binding can only be had in chunks; 16-bit elements count like f32.
            let span = (len.saturating_sub(1) as u64).saturating_mul(widest * 4);
            if span.saturating_add(capabilities.storage_alignment + 32) > capabilities.max_binding {
                return LayerNormStrategy::Split;
            }
            LayerNormStrategy::choose(capabilities, rows, len)
        });
        if !strategy.serves(len) {
            return Err(Error::Unsupported {
                what: format!("strategy {strategy}"),
                reason: format!("not for rows of {len} elements"),
            });
        }
        let fitting = (capabilities.max_binding / 2 / (widest * 4)) as usize / 4 * 4;
        let chunk = CHUNK.max(len.div_ceil(CHUNKS).next_multiple_of(4)).min(fitting);
        if chunk == 0 {
            return Err(Error::Limit {
                what: "bytes between four elements of a row in one storage binding",
                need: widest * 32,
                have: capabilities.max_binding,
            });
        }
        let chunks = len.div_ceil(chunk).max(1);
        let split = strategy == LayerNormStrategy::Split;
        let columns = call.dweight.is_some() || call.dbias.is_some();
        let records_bytes = if split || columns {
            (rows as u64 * RECORD).next_multiple_of(256)
        } else {
            0
        };
        let partials_bytes = if split {
            (rows as u64 * chunks as u64 * PARTIAL).next_multiple_of(256)
        } else {
            0
        };
        for need in [partials_bytes, if split { records_bytes } else { 0 }] {
            if need > capabilities.max_binding {
                return Err(Error::Limit {
                    what: "bytes of workspace in one storage binding",
                    need,
                    have: capabilities.max_binding,
                });
            }
        }
        let record_rows = (capabilities.max_binding / RECORD).saturating_sub(16).max(1);
        let budget = Budget {
            binding: capabilities.max_binding,
            alignment: capabilities.storage_alignment,
            elements: if capabilities.software { 1 << 23 } else { 1 << 28 },
            // Workgroups of the grid; teams come on top.
            rows: u64::from(capabilities.max_workgroups)
                .pow(2)
                .min(1 << 30)
                .min(if columns { record_rows } else { u64::MAX }),
        };
        let mut layout = Layout {
            rows,
            len,
            strategy,
            chunk,
            chunks,
            tensors,
            budget,
            ranges: Vec::new(),
            block_rows: 1,
            records_bytes,
            partials_bytes,
            sums_bytes: 0,
        };
        if columns && len > 0 {
            layout.plan_columns(capabilities)?;
        }
        Ok(layout)
    }

    /// Cuts the columns into ranges whose sums fit the workspace, and the rows into blocks.
    fn plan_columns(&mut self, capabilities: &Capabilities) -> Result<()> {
        let quads = self.len.div_ceil(4);
        // Enough invocations to fill a device, but no more sums than are soon added up.
        let most = if !capabilities.software && quads < 256 {
            1024
        } else {
            256
        };
        let blocks = self.rows.div_ceil(16).clamp(1, most);
        self.block_rows = self.rows.div_ceil(blocks).clamp(1, 16_384);
        let blocks = self.rows.div_ceil(self.block_rows) as u64 + 16;
        let room = SUMS_BYTES.min(capabilities.max_binding);
        let columns = ((room / (blocks * COLUMN_SUMS)) as usize * 4).clamp(4, self.len.next_multiple_of(4));
        let taken = [Role::X, Role::Upstream];
        for first in (0..self.len).step_by(columns) {
            let count = columns.min(self.len - first);
            let maps: Vec<(u64, u64, RowMap)> = self
                .tensors
                .iter()
                .filter(|t| taken.contains(&t.2))
                .map(|t| (t.0.dtype.size() as u64, t.0.buffer.size(), narrowed(&t.1, first, count)))
                .collect();
            let planned: Vec<Planned<'_>> = maps
                .iter()
                .map(|(element, buffer, map)| Planned {
                    rows: map,
                    element: *element,
                    buffer: *buffer,
                })
                .collect();
            let windows = plan_windows(&planned, &self.budget, false)?;
            let blocks: usize = windows.iter().map(|w| w.rows.div_ceil(self.block_rows)).sum();
            let bytes = (blocks.max(1) * count.div_ceil(4)) as u64 * COLUMN_SUMS;
            if bytes > capabilities.max_binding {
                return Err(Error::Limit {
                    what: "bytes of workspace in one storage binding",
                    need: bytes,
                    have: capabilities.max_binding,
                });
            }
            self.sums_bytes = self.sums_bytes.max(bytes);
            self.ranges.push(Range {
                first,
                columns: count,
                windows,
                blocks,
            });
        }
        Ok(())
    }

    fn workspace(&self) -> u64 {
        self.records_bytes + self.partials_bytes + self.sums_bytes
    }
}

/// The strategy of a call and the workspace in bytes that it needs.
pub(super) fn needs(gpu: &Gpu, call: &Call<'_>) -> Result<(LayerNormStrategy, u64)> {
    let layout = Layout::new(gpu, call)?;
    Ok((layout.strategy, layout.workspace()))
}

fn plan(tensors: &[&(BufferView, RowMap, Role)], budget: &Budget, chunks: bool) -> Result<Vec<Window>> {
    let planned: Vec<Planned<'_>> = tensors
        .iter()
        .map(|(view, map, _)| Planned {
            rows: map,
            element: view.dtype.size() as u64,
            buffer: view.buffer.size(),
        })
        .collect();
    plan_windows(&planned, budget, chunks)
}

/// Plans, builds and binds all dispatches of a call.
pub(super) fn bind(gpu: &Gpu, call: &Call<'_>) -> Result<Recording> {
    let label = call.options.kind.name();
    let layout = Layout::new(gpu, call)?;
    let mut steps = Vec::new();
    if layout.len == 0 {
        return Ok(Recording { label, steps });
    }
    let workspace_bytes = layout.workspace();
    let owned;
    let workspace = match call.workspace {
        Some(given) => given,
        None => {
            owned = gpu.create_buffer(
                "macheps workspace",
                workspace_bytes.max(16),
                wgpu::BufferUsages::STORAGE,
            )?;
            (&owned, 0)
        }
    };
    let binder = Binder {
        gpu,
        call,
        layout: &layout,
        workspace,
    };
    let columns = !layout.ranges.is_empty();
    if layout.rows == 0 {
        // Sums over no rows.
        steps.extend(binder.columns()?);
        return Ok(Recording { label, steps });
    }
    if layout.strategy == LayerNormStrategy::Split {
        steps.extend(binder.split(&["reduce_chunks"])?);
        steps.extend(binder.merge_split()?);
        steps.extend(binder.columns()?);
        if call.upstream.is_some() {
            steps.extend(binder.split(&["dot_chunks", "write_chunks"])?);
        } else {
            steps.extend(binder.split(&["write_chunks"])?);
        }
    } else if columns && binder.alias().is_some() {
        // The gradient of x takes the place of what the sums over columns are made from.
        steps.extend(binder.rows("statistics", true)?);
        steps.extend(binder.columns()?);
        steps.extend(binder.rows("main", false)?);
    } else {
        steps.extend(binder.rows("main", columns)?);
        steps.extend(binder.columns()?);
    }
    Ok(Recording { label, steps })
}

struct Binder<'a> {
    gpu: &'a Gpu,
    call: &'a Call<'a>,
    layout: &'a Layout,
    workspace: (&'a wgpu::Buffer, u64),
}

impl Binder<'_> {
    fn alias(&self) -> Option<Role> {
        self.layout
            .tensors
            .iter()
            .find(|t| t.2 != Role::Y && t.0.same_as(self.call.y))
            .map(|t| t.2)
    }

    /// The device's side of a shader; `written` are the buffers that it writes beside the workspace.
    fn target(&self, written: &[Option<&BufferView>], team: u32) -> Target {
        let capabilities = self.gpu.capabilities();
        let all_read_write = self.layout.tensors.iter().filter(|t| t.2 != Role::Y).any(|t| {
            let own = &t.0.buffer;
            own == self.workspace.0 || written.iter().flatten().any(|w| w.buffer == *own)
        });
        Target {
            subgroups: capabilities.subgroup > 1 && team > 1,
            lanes: capabilities.subgroup,
            shader_f16: capabilities.shader_f16,
            all_read_write,
        }
    }

    fn variant(&self, record: bool) -> Result<Variant> {
        let capabilities = self.gpu.capabilities();
        let layout = self.layout;
        let subgroup_team = capabilities.narrow_team();
        let quads_in_row = layout.len.div_ceil(4).max(1) as u32;
        let (team, accumulators, keep) = match layout.strategy {
            LayerNormStrategy::Short => {
                let width = quads_in_row.next_power_of_two();
                let team = width.min(subgroup_team);
                (team, width / team, 1)
            }
            LayerNormStrategy::Subgroup | LayerNormStrategy::Split => (subgroup_team, 16 / subgroup_team, 0),
            LayerNormStrategy::OnChip => (subgroup_team, 16 / subgroup_team, quads_in_row.div_ceil(16)),
            LayerNormStrategy::Workgroup => {
                let team = quads_in_row.div_ceil(8).next_power_of_two().clamp(64, WORKGROUP);
                let blocks = quads_in_row.div_ceil(team);
                (team, 1, if blocks <= 16 { blocks } else { 0 })
            }
        };
        let workgroup = match layout.strategy {
            LayerNormStrategy::Workgroup => team,
            _ if capabilities.software => 64.max(team),
            _ => 128.max(team),
        };
        if workgroup > capabilities.max_invocations {
            return Err(Error::Limit {
                what: "invocations a workgroup",
                need: workgroup.into(),
                have: capabilities.max_invocations.into(),
            });
        }
        Ok(Variant {
            kind: self.call.options.kind,
            backward: self.call.upstream.is_some(),
            dtype: self.call.x.dtype,
            split: layout.strategy == LayerNormStrategy::Split,
            team,
            accumulators,
            keep,
            workgroup,
            target: self.target(&[Some(self.call.y)], team),
            whole: layout.len.is_multiple_of(4),
            alias: self.alias(),
            record,
            tensors: layout.tensors.iter().map(|t| (t.2, t.0.by_quads(&t.1))).collect(),
        })
    }

    fn common(&self) -> Params {
        let layout = self.layout;
        let (eps, eps_half) = quartered(self.call.options.eps);
        let mut params = Params {
            len: layout.len as u32,
            chunks: layout.chunks as u32,
            chunk_len: layout.chunk as u32,
            eps_half,
            eps,
            inverse: pair(1.0 / layout.len as f64),
            inverse_chunk: pair(1.0 / layout.chunk as f64),
            inverse_last: pair(1.0 / (layout.len - (layout.chunks - 1) * layout.chunk) as f64),
            ..Params::default()
        };
        for (_, map, role) in &layout.tensors {
            match role {
                Role::Bias => params.bias_step = map.len_stride as u32,
                _ => params.steps[*role as usize] = map.len_stride as u32,
            }
        }
        params
    }

    fn part(&self, name: &'static str, offset: u64, size: u64) -> Bind {
        Bind {
            name,
            buffer: self.workspace.0.clone(),
            offset: self.workspace.1 + offset,
            size,
        }
    }

    /// The records of rows `first ..`, from a multiple of 8 of them on; and the place of the first one.
    fn records(&self, first: usize, rows: usize) -> (Bind, u32) {
        let begin = first / 8 * 8;
        let bind = self.part("records", begin as u64 * RECORD, (first + rows - begin) as u64 * RECORD);
        (bind, (first - begin) as u32)
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &self,
        dispatches: &mut Dispatches<'_, Params>,
        kernel: &Arc<Kernel>,
        teams: u32,
        tensors: &[&(BufferView, RowMap, Role)],
        window: &Window,
        mut params: Params,
        mut bindings: Vec<Bind>,
    ) -> Result<()> {
        let groups = (window.rows as u64).div_ceil(u64::from(teams));
        let grid = crate::gpu::grid(groups, self.gpu.capabilities().max_workgroups)?;
        params.rows = window.rows as u32;
        params.grid_x = grid[0];
        params.sizes = window.sizes;
        let alias = self.alias();
        for ((view, _, role), part) in tensors.iter().zip(&window.parts) {
            params.strides[*role as usize] = part.strides;
            match role {
                Role::Bias => params.bias_base = part.base,
                _ => params.bases[*role as usize] = part.base,
            }
            let mut bind = |name| {
                bindings.push(Bind {
                    name,
                    buffer: view.buffer.clone(),
                    offset: part.offset,
                    size: part.size,
                });
            };
            bind(role.binding());
            // A pass that only reads has no other claim to that binding; where y is there too, it is the same window.
            if alias == Some(*role) {
                bind(Role::Y.binding());
            }
        }
        dispatches.add(kernel, params, grid, bindings);
        Ok(())
    }

    /// Dispatches of one entry point over whole rows.
    fn rows(&self, entry: &str, record: bool) -> Result<Vec<Step>> {
        let label = self.call.options.kind.name();
        let variant = self.variant(record)?;
        let kernel = self.gpu.kernel(label, &variant.source(), entry)?;
        let teams = variant.workgroup / variant.team;
        let mut dispatches = Dispatches::new(self.gpu, label);
        let tensors: Vec<_> = self.layout.tensors.iter().collect();
        for window in plan(&tensors, &self.layout.budget, false)? {
            let (mut params, mut bindings) = (self.common(), Vec::new());
            params.first_row = window.first_row as u32;
            if record {
                let (bind, base) = self.records(window.first_row, window.rows);
                params.record_base = base;
                bindings.push(bind);
            }
            self.add(&mut dispatches, &kernel, teams, &tensors, &window, params, bindings)?;
        }
        Ok(dispatches.finish()?.steps)
    }

    fn split_parts(&self) -> Vec<Bind> {
        let layout = self.layout;
        vec![
            self.part("records", 0, layout.records_bytes),
            self.part("partials", layout.records_bytes, layout.partials_bytes),
        ]
    }

    /// Dispatches of these entry points over chunks.
    fn split(&self, entries: &[&str]) -> Result<Vec<Step>> {
        let label = self.call.options.kind.name();
        let layout = self.layout;
        let variant = self.variant(false)?;
        let source = variant.source();
        let all: Vec<_> = layout
            .tensors
            .iter()
            .map(|(view, map, role)| (view.clone(), chunked(map, layout.chunk, layout.chunks), *role))
            .collect();
        let mut dispatches = Dispatches::new(self.gpu, label);
        for &entry in entries {
            let kernel = self.gpu.kernel(label, &source, entry)?;
            let tensors: Vec<_> = all
                .iter()
                .filter(|t| match t.2 {
                    Role::X => true,
                    Role::Y | Role::Bias => entry == "write_chunks",
                    Role::Upstream | Role::Weight => entry != "reduce_chunks",
                })
                .collect();
            for window in plan(&tensors, &layout.budget, true)? {
                let params = Params {
                    first_row: (window.first_row / layout.chunks) as u32,
                    first_chunk: (window.first_row % layout.chunks) as u32,
                    ..self.common()
                };
                let teams = variant.workgroup / variant.team;
                self.add(
                    &mut dispatches,
                    &kernel,
                    teams,
                    &tensors,
                    &window,
                    params,
                    self.split_parts(),
                )?;
            }
        }
        Ok(dispatches.finish()?.steps)
    }

    /// The statistics of split rows from those of their chunks.
    fn merge_split(&self) -> Result<Vec<Step>> {
        let label = self.call.options.kind.name();
        let variant = self.variant(false)?;
        let source = split_merge_source(
            variant.kind,
            variant.target,
            variant.team,
            variant.accumulators,
            variant.workgroup,
        );
        let kernel = self.gpu.kernel(label, &source, "merge_chunks")?;
        let mut dispatches = Dispatches::new(self.gpu, label);
        let most = self.layout.budget.rows.min(1 << 20) as usize;
        for first in (0..self.layout.rows).step_by(most) {
            let window = Window {
                first_row: first,
                rows: most.min(self.layout.rows - first),
                sizes: [1; 4],
                parts: Vec::new(),
            };
            let params = Params {
                first_row: first as u32,
                ..self.common()
            };
            let teams = variant.workgroup / variant.team;
            self.add(
                &mut dispatches,
                &kernel,
                teams,
                &[],
                &window,
                params,
                self.split_parts(),
            )?;
        }
        Ok(dispatches.finish()?.steps)
    }

    /// Both stages of the gradients of weight and bias, range by range.
    fn columns(&self) -> Result<Vec<Step>> {
        let label = self.call.options.kind.name();
        let (call, layout, capabilities) = (self.call, self.layout, self.gpu.capabilities());
        let wanted = [call.dweight.is_some(), call.dbias.is_some()];
        let workgroup = if capabilities.software { 64 } else { 128 };
        let mut steps = Vec::new();
        let sums_at = layout.records_bytes + layout.partials_bytes;
        for range in &layout.ranges {
            let quads = range.columns.div_ceil(4);
            let sums = || self.part("sums", sums_at, (range.blocks.max(1) * quads) as u64 * COLUMN_SUMS);
            if range.blocks > 0 {
                let views: Vec<(&BufferView, RowMap)> = layout
                    .tensors
                    .iter()
                    .filter(|t| matches!(t.2, Role::X | Role::Upstream))
                    .map(|t| (&t.0, narrowed(&t.1, range.first, range.columns)))
                    .collect();
                let quad = |i: usize| views[i].0.by_quads(&views[i].1) && range.first.is_multiple_of(4);
                let source = columns_source(
                    call.options.kind,
                    call.x.dtype,
                    self.target(&[], 1),
                    wanted,
                    range.columns.is_multiple_of(4),
                    [quad(0), quad(1)],
                    workgroup,
                );
                let kernel = self.gpu.kernel(label, &source, "main")?;
                let mut dispatches = Dispatches::new(self.gpu, label);
                let mut first_block = 0;
                for window in &range.windows {
                    let blocks = window.rows.div_ceil(layout.block_rows);
                    let groups = (blocks * quads).div_ceil(workgroup as usize) as u64;
                    let grid = crate::gpu::grid(groups, capabilities.max_workgroups)?;
                    let (records, record_base) = self.records(window.first_row, window.rows);
                    let mut bindings = vec![records, sums()];
                    for ((view, _), (part, name)) in
                        views.iter().zip(window.parts.iter().zip(["x_data", "upstream_data"]))
                    {
                        bindings.push(Bind {
                            name,
                            buffer: view.buffer.clone(),
                            offset: part.offset,
                            size: part.size,
                        });
                    }
                    let params = ColumnParams {
                        sizes: window.sizes,
                        x_strides: window.parts[0].strides,
                        upstream_strides: window.parts[1].strides,
                        x_base: window.parts[0].base,
                        x_step: views[0].1.len_stride as u32,
                        upstream_base: window.parts[1].base,
                        upstream_step: views[1].1.len_stride as u32,
                        rows: window.rows as u32,
                        block_rows: layout.block_rows as u32,
                        grid_x: grid[0],
                        columns: range.columns as u32,
                        quads: quads as u32,
                        blocks: blocks as u32,
                        first_block,
                        record_base,
                        ..ColumnParams::default()
                    };
                    dispatches.add(&kernel, params, grid, bindings);
                    first_block += blocks as u32;
                }
                steps.extend(dispatches.finish()?.steps);
            }
            let mut target = self.target(&[], MERGE_TEAM);
            target.all_read_write = false;
            let source = merge_source(call.x.dtype, target, wanted, workgroup);
            let kernel = self.gpu.kernel(label, &source, "main")?;
            let groups = quads.div_ceil((workgroup / MERGE_TEAM) as usize) as u64;
            let grid = crate::gpu::grid(groups, capabilities.max_workgroups)?;
            let mut params = MergeParams {
                columns: range.columns as u32,
                quads: quads as u32,
                blocks: range.blocks as u32,
                grid_x: grid[0],
                ..MergeParams::default()
            };
            let mut bindings = vec![sums()];
            for (view, name) in [(call.dweight, "dweight_data"), (call.dbias, "dbias_data")] {
                let Some(view) = view else { continue };
                let step = view.strides.last().copied().unwrap_or(1);
                let map = RowMap {
                    offset: view.offset + range.first * step,
                    dims: Vec::new(),
                    len: range.columns,
                    len_stride: step,
                };
                let planned = Planned {
                    rows: &map,
                    element: view.dtype.size() as u64,
                    buffer: view.buffer.size(),
                };
                for window in plan_windows(&[planned], &layout.budget, false)? {
                    let part = &window.parts[0];
                    bindings.push(Bind {
                        name,
                        buffer: view.buffer.clone(),
                        offset: part.offset,
                        size: part.size,
                    });
                    let (base, stride) = match name {
                        "dweight_data" => (&mut params.weight_base, &mut params.weight_step),
                        _ => (&mut params.bias_base, &mut params.bias_step),
                    };
                    (*base, *stride) = (part.base, step as u32);
                }
            }
            let mut dispatches = Dispatches::new(self.gpu, label);
            dispatches.add(&kernel, params, grid, bindings);
            steps.extend(dispatches.finish()?.steps);
        }
        Ok(steps)
    }
}

/// Every variant of the shaders that can come about, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    let widths = [(4, 4), (8, 8), (16, 32), (16, 128), (16, 1), (4, 1)];
    for (dtype, shader_f16) in storages {
        let native = if shader_f16 { "_native" } else { "" };
        for (kind, backward) in NormKind::ALL.into_iter().flat_map(|k| [(k, false), (k, true)]) {
            let name = format!("{}{}", kind.name(), if backward { "_backward" } else { "" });
            for strategy in LayerNormStrategy::ALL {
                for (i, (team, lanes)) in widths.into_iter().enumerate() {
                    // Options that do not interact take turns, so that each meets each storage and strategy.
                    let turn = i + kind as usize + backward as usize + strategy as usize;
                    let quad = turn.is_multiple_of(2);
                    let (team, accumulators, keep) = match strategy {
                        LayerNormStrategy::Workgroup => (WORKGROUP, 1, if turn.is_multiple_of(3) { 0 } else { 16 }),
                        LayerNormStrategy::Short => (team, 16 / team, 1),
                        LayerNormStrategy::OnChip => (team, 16 / team, 4),
                        _ => (team, 16 / team, 0),
                    };
                    let mut roles = vec![Role::X, Role::Y];
                    roles.extend(backward.then_some(Role::Upstream));
                    roles.extend((turn % 3 != 1).then_some(Role::Weight));
                    roles.extend((!backward && kind == NormKind::LayerNorm && turn % 3 != 2).then_some(Role::Bias));
                    let variant = Variant {
                        kind,
                        backward,
                        dtype,
                        split: strategy == LayerNormStrategy::Split,
                        team,
                        accumulators,
                        keep,
                        workgroup: team.max(64),
                        target: Target {
                            subgroups: lanes > 1,
                            lanes,
                            shader_f16,
                            all_read_write: turn % 4 >= 2,
                        },
                        whole: quad,
                        alias: match turn % 4 {
                            1 => Some(Role::X),
                            3 if backward => Some(Role::Upstream),
                            _ => None,
                        },
                        record: backward && strategy != LayerNormStrategy::Split && turn.is_multiple_of(2),
                        tensors: roles.into_iter().map(|role| (role, quad)).collect(),
                    };
                    all.push((format!("{name}_{strategy}_{dtype}{native}_{i}"), variant.source()));
                }
            }
        }
        for (team, lanes) in widths.into_iter().filter(|_| dtype == DType::F32) {
            let target = Target {
                subgroups: lanes > 1,
                lanes,
                shader_f16,
                all_read_write: false,
            };
            for kind in NormKind::ALL {
                let source = split_merge_source(kind, target, team, 16 / team, 64);
                all.push((format!("{}_split_merge_{team}_{lanes}", kind.name()), source));
            }
        }
        for (i, wanted) in [[true, true], [true, false], [false, true]].into_iter().enumerate() {
            for (lanes, subgroups) in [(1, false), (8, true), (32, true)] {
                let target = Target {
                    subgroups,
                    lanes,
                    shader_f16,
                    all_read_write: subgroups,
                };
                for kind in NormKind::ALL {
                    let quad = i == 0;
                    let source = columns_source(kind, dtype, target, wanted, quad, [quad; 2], 64);
                    all.push((format!("{}_columns_{dtype}{native}_{i}_{lanes}", kind.name()), source));
                }
                let source = merge_source(dtype, target, wanted, 64);
                all.push((format!("layer_norm_merge_{dtype}{native}_{i}_{lanes}"), source));
            }
        }
    }
    all
}
