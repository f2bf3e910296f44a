//! The softmax family on a device: which strategy, which variant of the shaders, which dispatches.

use super::options::{MaskedRows, SoftmaxKind, SoftmaxOptions};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, boolean, compose, lib, unsigned};
use crate::gpu::{
    Bind, Budget, BufferView, Capabilities, Dispatches, Gpu, Kernel, Planned, Recording, Window, plan_windows,
};
use crate::rows::{RowDim, RowMap};
use std::sync::Arc;

const SOFTMAX: &str = include_str!("../../../shaders/softmax.wgsl");
const SOFTMAX_ONLINE: &str = include_str!("../../../shaders/softmax_online.wgsl");
const SOFTMAX_SPLIT: &str = include_str!("../../../shaders/softmax_split.wgsl");
const ROWS: &str = include_str!("../../../shaders/lib/softmax_rows.wgsl");
const SWEEP: &str = include_str!("../../../shaders/lib/softmax_sweep.wgsl");
const MASK: &str = include_str!("../../../shaders/lib/softmax_mask_additive.wgsl");
const NO_MASK: &str = include_str!("../../../shaders/lib/softmax_mask_none.wgsl");
const UPSTREAM: &str = include_str!("../../../shaders/lib/softmax_upstream.wgsl");
const NO_UPSTREAM: &str = include_str!("../../../shaders/lib/softmax_upstream_none.wgsl");

/// How rows are given to invocations. `Short`, `Subgroup` and `OnChip` sum in the same tree and give the same bits, at any
/// subgroup width; the others have trees of their own. `Online` and `Split` are held to 4 ulp, the others to 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Rows of at most 64 elements, many a workgroup, each held by just as many invocations as it fills. 1 read, 1 write.
    Short,
    /// One subgroup (at most 16 invocations) a row, three passes. 3 reads, 1 write, of which caches serve two.
    Subgroup,
    /// As `Subgroup` with the row in registers, up to 1,024 elements. 1 read, 1 write.
    OnChip,
    /// One workgroup a row; in registers up to 16,384 elements, else three passes.
    Workgroup,
    /// One workgroup a row; maximum and sums in one read. 2 reads, 1 write.
    Online,
    /// Rows cut into chunks over many workgroups, merged by a second dispatch. 2 reads, 1 write.
    Split,
    /// One invocation a row, for rows along an axis with a stride: neighbouring rows are neighbours in memory.
    Columns,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 7] = [
        Strategy::Short,
        Strategy::Subgroup,
        Strategy::OnChip,
        Strategy::Workgroup,
        Strategy::Online,
        Strategy::Split,
        Strategy::Columns,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Strategy::Short => "short",
            Strategy::Subgroup => "subgroup",
            Strategy::OnChip => "on_chip",
            Strategy::Workgroup => "workgroup",
            Strategy::Online => "online",
            Strategy::Split => "split",
            Strategy::Columns => "columns",
        }
    }

    /// Whether sums are merged across different maxima, which costs accuracy (4 ulp instead of 2).
    pub const fn rescales(self) -> bool {
        matches!(self, Strategy::Online | Strategy::Split)
    }

    /// Longest row it takes, so that no invocation runs more than about 30,000 loop iterations (some drivers cut loops
    /// at 65,535, silently). `None`: any length.
    fn max_len(self, capabilities: &Capabilities) -> Option<usize> {
        let passes = |lanes: usize| Some(10_000 * 4 * lanes);
        match self {
            Strategy::Short => Some(64),
            Strategy::OnChip => Some(1024),
            Strategy::Subgroup => passes(capabilities.narrow_team() as usize),
            Strategy::Workgroup | Strategy::Online => passes(WORKGROUP as usize),
            Strategy::Columns => passes(1),
            Strategy::Split => None,
        }
    }

    /// Whether it can serve rows of `len` elements with this stride, forward or backward.
    pub fn serves(self, capabilities: &Capabilities, len: usize, len_stride: usize, backward: bool) -> bool {
        let fits = self.max_len(capabilities).is_none_or(|max| len <= max);
        let strided_ok = len_stride == 1
            || matches!(
                self,
                Strategy::Columns | Strategy::Split | Strategy::Subgroup | Strategy::Short
            );
        fits && strided_ok && !(backward && self == Strategy::Online)
    }

    /// The choice for `rows` rows of `len` elements. It does not depend on the subgroup width.
    pub fn choose(capabilities: &Capabilities, rows: usize, len: usize, len_stride: usize, backward: bool) -> Strategy {
        let few = rows < if capabilities.software { 8 } else { 128 };
        if len_stride != 1 && len > 1 {
            let columns = len <= 16_384 && !(few && len > 1024);
            return if columns { Strategy::Columns } else { Strategy::Split };
        }
        if len <= 64 {
            return Strategy::Short;
        }
        if few && len > CHUNK {
            return Strategy::Split;
        }
        if len <= 1024 {
            return Strategy::OnChip;
        }
        if capabilities.software {
            // A barrier costs more than a read that the cache serves.
            let longest = if capabilities.subgroup > 1 { 131_072 } else { 32_768 };
            return if len <= longest {
                Strategy::Subgroup
            } else {
                Strategy::Split
            };
        }
        match len {
            0..=16_384 => Strategy::Workgroup,
            16_385..=1_048_576 if !backward => Strategy::Online,
            16_385..=1_048_576 => Strategy::Workgroup,
            _ => Strategy::Split,
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Invocations of a workgroup that works on one row.
const WORKGROUP: u32 = 256;
/// Elements of a chunk of a split row.
const CHUNK: usize = 8192;
/// Bytes that the records of a workspace may take before rows go through it in groups.
const LARGEST_WORKSPACE: u64 = 128 << 20;
/// Bytes a chunk or a row leaves in the workspace of [`Strategy::Split`].
const RECORD: u64 = 32;

/// Parameters as lib/softmax_rows.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    sizes: [u32; 4],
    x_strides: [u32; 4],
    y_strides: [u32; 4],
    mask_strides: [u32; 4],
    upstream_strides: [u32; 4],
    bases: [u32; 4],
    steps: [u32; 4],
    zero: u32,
    rows: u32,
    len: u32,
    grid_x: u32,
    first_row: u32,
    queries: u32,
    diagonal: i32,
    scale: f32,
    chunks: u32,
    first_chunk: u32,
    chunk_len: u32,
    group: u32,
}

/// A variant of the shaders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub kind: SoftmaxKind,
    pub backward: bool,
    pub dtype: DType,
    pub strategy: Strategy,
    pub team: u32,
    pub accumulators: u32,
    pub keep: u32,
    pub workgroup: u32,
    pub subgroups: bool,
    pub lanes: u32,
    pub shader_f16: bool,
    pub masked_zero: bool,
    pub scaled: bool,
    /// Rows end on multiples of four elements and there is no causal mask.
    pub whole: bool,
    pub mask: bool,
    pub in_place: bool,
    pub all_read_write: bool,
    /// Whether x and y, the mask, the upstream gradient can be taken four aligned elements at a time.
    pub quads: [bool; 4],
}

impl Variant {
    /// The variant's WGSL.
    pub(crate) fn source(&self) -> String {
        let constants = [
            ("WG", unsigned(self.workgroup)),
            ("TEAM", unsigned(self.team)),
            ("ACC", unsigned(self.accumulators)),
            ("KEEP", unsigned(self.keep)),
            ("LANES", unsigned(self.lanes)),
            // Workgroup memory is taken only where some step of the tree leaves the subgroup.
            (
                "EXCHANGE",
                unsigned(if self.subgroups && self.team <= self.lanes {
                    1
                } else {
                    self.workgroup
                }),
            ),
            ("KIND", unsigned(self.kind as u32)),
            ("BACKWARD", boolean(self.backward)),
            ("MASKED_ZERO", boolean(self.masked_zero)),
            ("WHOLE", boolean(self.whole)),
            ("SCALED", boolean(self.scaled)),
        ];
        let access = |name, quad, written| TensorAccess {
            name,
            dtype: self.dtype,
            quad,
            written,
        };
        let mut tensors = vec![access("x", self.quads[0], false), access("y", self.quads[1], true)];
        if self.mask {
            tensors.push(access("mask", self.quads[2], false));
        }
        if self.backward {
            tensors.push(access("upstream", self.quads[3], false));
        }
        let fragments = [
            if self.subgroups {
                lib::EXCHANGE_SUBGROUP
            } else {
                lib::EXCHANGE_WORKGROUP
            },
            lib::BITS,
            lib::ERROR_FREE,
            lib::REDUCE,
            lib::SOFTMAX_MATH,
            lib::SOFTMAX_QUADS,
            if self.strategy == Strategy::Online {
                lib::SOFTMAX_RUNNING
            } else {
                ""
            },
            ROWS,
            if self.mask { MASK } else { NO_MASK },
            if self.backward { UPSTREAM } else { NO_UPSTREAM },
            SWEEP,
        ];
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: self.in_place.then_some(("x", "y")),
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &fragments,
            kernel: match self.strategy {
                Strategy::Online => SOFTMAX_ONLINE,
                Strategy::Split => SOFTMAX_SPLIT,
                _ => SOFTMAX,
            },
        })
    }
}

/// Everything that a call is about, checked.
pub(crate) struct Call<'a> {
    pub kind: SoftmaxKind,
    pub backward: bool,
    pub options: SoftmaxOptions,
    pub strategy: Option<Strategy>,
    pub x: &'a BufferView,
    pub y: &'a BufferView,
    pub mask: Option<(&'a BufferView, RowMap)>,
    pub upstream: Option<&'a BufferView>,
    pub workspace: Option<(&'a wgpu::Buffer, u64)>,
}

/// The strategy for rows along `axis` of a view, and the workspace in bytes that it needs.
pub(crate) fn strategy_for(gpu: &Gpu, x: &RowMap, forced: Option<Strategy>, backward: bool) -> Result<(Strategy, u64)> {
    let capabilities = gpu.capabilities();
    let stride = if x.len > 1 { x.len_stride } else { 1 };
    let strategy = forced.unwrap_or_else(|| {
        // A row that passes a binding can only be had in chunks; as in `chunk_len`, 16-bit elements count like f32.
        let span = (x.len.saturating_sub(1) as u64).saturating_mul(stride as u64 * 4);
        if span.saturating_add(capabilities.storage_alignment + 32) > capabilities.max_binding {
            return Strategy::Split;
        }
        Strategy::choose(capabilities, x.rows(), x.len, stride, backward)
    });
    if !strategy.serves(capabilities, x.len, stride, backward) {
        return Err(Error::Unsupported {
            what: format!("strategy {strategy}"),
            reason: format!(
                "not for rows of {} elements with stride {stride}, backward: {backward}",
                x.len
            ),
        });
    }
    let bytes = if strategy == Strategy::Split {
        let chunks = x.len.div_ceil(chunk_len(capabilities, x)?).max(1);
        let (stats, partials) = workspace_parts(group_rows(capabilities, x.rows(), chunks)?, chunks);
        stats + partials
    } else {
        0
    };
    Ok((strategy, bytes))
}

/// Bytes of the two parts of the workspace for so many rows.
fn workspace_parts(rows: usize, chunks: usize) -> (u64, u64) {
    let stats = (rows as u64 * RECORD).next_multiple_of(256);
    (stats, rows as u64 * chunks as u64 * RECORD)
}

/// Rows whose records are in the workspace at a time.
fn group_rows(capabilities: &Capabilities, rows: usize, chunks: usize) -> Result<usize> {
    let one = chunks as u64 * RECORD;
    if one > capabilities.max_binding {
        return Err(Error::Limit {
            what: "bytes of workspace of a row in one storage binding",
            need: one,
            have: capabilities.max_binding,
        });
    }
    let most = capabilities.max_binding.min(LARGEST_WORKSPACE) / one;
    Ok(rows.min(most.max(1) as usize))
}

/// Elements of a chunk: short enough that a chunk of a strided row fits a binding.
fn chunk_len(capabilities: &Capabilities, x: &RowMap) -> Result<usize> {
    let bytes = x.len_stride.max(1) as u64 * 4;
    let fitting = (capabilities.max_binding / 2 / bytes) as usize / 4 * 4;
    if fitting < 4 {
        return Err(Error::Limit {
            what: "bytes between four elements of a row in one storage binding",
            need: bytes * 8,
            have: capabilities.max_binding,
        });
    }
    Ok(fitting.min(CHUNK))
}

/// The same rows cut into chunks: one more row dimension, innermost.
fn chunked(map: &RowMap, chunk: usize, chunks: usize) -> RowMap {
    let mut dims = map.dims.clone();
    dims.push(RowDim {
        size: chunks,
        stride: if map.len == 1 { 0 } else { chunk * map.len_stride },
    });
    let len = if map.len == 1 { 1 } else { chunk.min(map.len) };
    RowMap {
        offset: map.offset,
        dims,
        len,
        len_stride: map.len_stride,
    }
}

/// Plans, builds and binds all dispatches of a call.
pub(crate) fn bind(gpu: &Gpu, call: &Call<'_>) -> Result<Recording> {
    let axis = call.options.check(&call.x.shape)?;
    let label = call.kind.name();
    let mut x = call.x.rows(axis);
    let reduces = call.kind.reduces();
    let one_a_row = |view: &BufferView| {
        let mut map = view.rows(axis);
        map.len_stride = 0;
        map
    };
    let y = if reduces && !call.backward {
        one_a_row(call.y)
    } else {
        call.y.rows(axis)
    };
    let upstream = call.upstream.map(|u| if reduces { one_a_row(u) } else { u.rows(axis) });
    let rows = x.rows();
    let writes_nothing = rows == 0 || (x.len == 0 && (call.backward || !reduces));
    if writes_nothing {
        return Ok(Recording {
            label,
            steps: Vec::new(),
        });
    }
    // Kernels count the elements of a row and its place under the causal mask by u32.
    for (what, need) in [("elements of a row", x.len), ("rows", rows)] {
        if need > u32::MAX as usize / 2 {
            return Err(Error::Limit {
                what,
                need: need as u64,
                have: u64::from(u32::MAX / 2),
            });
        }
    }
    let mut mask_map = call.mask.as_ref().map(|m| m.1.clone());
    if x.len == 0 {
        // Nothing is read: neither place nor strides of what is not there may matter to the plan.
        for map in std::iter::once(&mut x).chain(&mut mask_map) {
            map.offset = 0;
            map.dims.iter_mut().for_each(|d| d.stride = 0);
        }
    }
    let (strategy, workspace_bytes) = strategy_for(gpu, &x, call.strategy, call.backward)?;
    let capabilities = gpu.capabilities();

    let in_place = call.x.same_as(call.y);
    let readers: Vec<&BufferView> = [Some(call.x), call.mask.as_ref().map(|m| m.0), call.upstream]
        .into_iter()
        .flatten()
        .collect();
    // The workspace is written too. Where none is needed, none has been passed on.
    let written = [Some(&call.y.buffer), call.workspace.map(|(buffer, _)| buffer)];
    let shared = readers
        .iter()
        .any(|r| written.iter().flatten().any(|&buffer| r.buffer == *buffer));
    let quad = |view: Option<&BufferView>, map: Option<&RowMap>| view.zip(map).is_some_and(|(v, m)| v.by_quads(m));
    let quads = [
        quad(Some(call.x), Some(&x)),
        quad(Some(call.y), Some(&y)),
        quad(call.mask.as_ref().map(|m| m.0), call.mask.as_ref().map(|m| &m.1)),
        quad(call.upstream, upstream.as_ref()),
    ];
    let subgroup_team = capabilities.narrow_team();
    let quads_in_row = x.len.div_ceil(4).max(1) as u32;
    let (team, accumulators, keep) = match strategy {
        Strategy::Short => {
            let width = quads_in_row.next_power_of_two();
            let team = width.min(subgroup_team);
            (team, width / team, 1)
        }
        Strategy::Subgroup | Strategy::Split => (subgroup_team, 16 / subgroup_team, 0),
        Strategy::OnChip => (subgroup_team, 16 / subgroup_team, quads_in_row.div_ceil(16)),
        Strategy::Workgroup => {
            let team = quads_in_row.div_ceil(8).next_power_of_two().clamp(64, WORKGROUP);
            let blocks = quads_in_row.div_ceil(team);
            (team, 1, if blocks <= 16 { blocks } else { 0 })
        }
        Strategy::Online => (WORKGROUP, 1, 0),
        Strategy::Columns => (1, 2, 0),
    };
    let workgroup = match strategy {
        Strategy::Workgroup | Strategy::Online => team,
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
    let subgroups = capabilities.subgroup > 1 && team > 1;
    let variant = Variant {
        kind: call.kind,
        backward: call.backward,
        dtype: call.x.dtype,
        strategy,
        team,
        accumulators,
        keep,
        workgroup,
        subgroups,
        lanes: capabilities.subgroup,
        shader_f16: capabilities.shader_f16,
        masked_zero: call.options.masked_rows == MaskedRows::Zero,
        scaled: call.options.scale != 1.0,
        whole: x.len.is_multiple_of(4) && call.options.causal.is_none(),
        mask: call.mask.is_some(),
        in_place,
        all_read_write: shared,
        quads,
    };
    let source = variant.source();
    let teams = u64::from(workgroup / team);
    let budget = Budget {
        binding: capabilities.max_binding,
        alignment: capabilities.storage_alignment,
        elements: if capabilities.software { 1 << 23 } else { 1 << 28 },
        rows: (u64::from(capabilities.max_workgroups).pow(2) * teams).min(1 << 30),
    };
    let queries = if call.options.causal.is_some() {
        call.x.shape[axis - 1]
    } else {
        0
    };
    let common = Params {
        steps: [
            x.len_stride as u32,
            y.len_stride as u32,
            call.mask.as_ref().map_or(0, |m| m.1.len_stride as u32),
            upstream.as_ref().map_or(0, |u| u.len_stride as u32),
        ],
        len: x.len as u32,
        queries: queries as u32,
        diagonal: call
            .options
            .causal
            .unwrap_or(0)
            .clamp(i64::from(i32::MIN) / 4, i64::from(i32::MAX) / 4) as i32,
        scale: call.options.scale,
        ..Params::default()
    };
    let views: Vec<(&BufferView, RowMap, Role)> = [
        Some((call.x, x.clone(), Role::X)),
        Some((call.y, y.clone(), Role::Y)),
        call.mask.as_ref().zip(mask_map).map(|((v, _), m)| (*v, m, Role::Mask)),
        call.upstream.zip(upstream.clone()).map(|(v, m)| (v, m, Role::Upstream)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut binder = Binder {
        dispatches: Dispatches::new(gpu, label),
        teams,
        max_workgroups: capabilities.max_workgroups,
        in_place,
        workspace: None,
    };

    if strategy != Strategy::Split {
        let kernel = gpu.kernel(label, &source, "main")?;
        for window in plan(&views, &budget, false)? {
            binder.add(
                &kernel,
                &views,
                &window,
                Params {
                    first_row: window.first_row as u32,
                    ..common
                },
            )?;
        }
        return binder.finish();
    }

    let chunk = chunk_len(capabilities, &x)?;
    let chunks = x.len.div_ceil(chunk).max(1);
    let group = group_rows(capabilities, rows, chunks)?;
    let (stats_bytes, partials_bytes) = workspace_parts(group, chunks);
    let owned;
    let (buffer, offset) = match call.workspace {
        Some((buffer, offset)) => (buffer, offset),
        None => {
            owned = gpu.create_buffer("macheps workspace", workspace_bytes, wgpu::BufferUsages::STORAGE)?;
            (&owned, 0)
        }
    };
    binder.workspace = Some((buffer.clone(), offset, stats_bytes, partials_bytes));
    let common = Params {
        chunks: chunks as u32,
        chunk_len: chunk as u32,
        ..common
    };
    let kernels = SplitKernels {
        reduce: gpu.kernel(label, &source, "reduce_chunks")?,
        merge: gpu.kernel(label, &source, "merge_chunks")?,
        write: gpu.kernel(label, &source, "write_chunks")?,
    };
    let groups: Vec<Vec<(usize, RowMap)>> = views.iter().map(|(_, map, _)| map.groups(group)).collect();
    for g in 0..groups[0].len() {
        let (first, _) = groups[0][g];
        let views: Vec<(&BufferView, RowMap, Role)> = views
            .iter()
            .zip(&groups)
            .map(|((view, _, role), groups)| (*view, groups[g].1.clone(), *role))
            .collect();
        let common = Params {
            group: first as u32,
            ..common
        };
        let merges_into_y = reduces && !call.backward;
        binder.add_split(&kernels, &views, &budget, [chunk, chunks], merges_into_y, first, common)?;
    }
    binder.finish()
}

/// The entry points of split rows.
struct SplitKernels {
    reduce: Arc<Kernel>,
    merge: Arc<Kernel>,
    write: Arc<Kernel>,
}

/// A tensor's part in the call, by its place in `Params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    X,
    Y,
    Mask,
    Upstream,
}

impl Role {
    fn binding(self) -> &'static str {
        match self {
            Role::X => "x_data",
            Role::Y => "y_data",
            Role::Mask => "mask_data",
            Role::Upstream => "upstream_data",
        }
    }
}

fn plan(views: &[(&BufferView, RowMap, Role)], budget: &Budget, chunks: bool) -> Result<Vec<Window>> {
    let planned: Vec<Planned<'_>> = views
        .iter()
        .map(|(view, map, _)| Planned {
            rows: map,
            element: view.dtype.size() as u64,
            buffer: view.buffer.size(),
        })
        .collect();
    plan_windows(&planned, budget, chunks)
}

/// Collects the dispatches of a call.
struct Binder<'a> {
    dispatches: Dispatches<'a, Params>,
    teams: u64,
    max_workgroups: u32,
    /// The shader reads x through the binding of y.
    in_place: bool,
    /// Buffer, offset, bytes of `stats`, bytes of `partials`.
    workspace: Option<(wgpu::Buffer, u64, u64, u64)>,
}

impl Binder<'_> {
    fn add(
        &mut self,
        kernel: &Arc<Kernel>,
        views: &[(&BufferView, RowMap, Role)],
        window: &Window,
        mut params: Params,
    ) -> Result<()> {
        let grid = crate::gpu::grid((window.rows as u64).div_ceil(self.teams), self.max_workgroups)?;
        params.rows = window.rows as u32;
        params.grid_x = grid[0];
        params.sizes = window.sizes;
        let mut bindings = Vec::new();
        let mut bind = |name, buffer: &wgpu::Buffer, offset, size| {
            bindings.push(Bind {
                name,
                buffer: buffer.clone(),
                offset,
                size,
            });
        };
        for ((view, _, role), part) in views.iter().zip(&window.parts) {
            let strides = match role {
                Role::X => &mut params.x_strides,
                Role::Y => &mut params.y_strides,
                Role::Mask => &mut params.mask_strides,
                Role::Upstream => &mut params.upstream_strides,
            };
            *strides = part.strides;
            params.bases[*role as usize] = part.base;
            bind(role.binding(), &view.buffer, part.offset, part.size);
            // A pass that only reads has no other claim to that binding; where y is there too, it is the same window.
            if *role == Role::X && self.in_place {
                bind(Role::Y.binding(), &view.buffer, part.offset, part.size);
            }
        }
        if let Some((buffer, offset, stats, partials)) = &self.workspace {
            bind("stats", buffer, *offset, *stats);
            bind("partials", buffer, offset + stats, *partials);
        }
        self.dispatches.add(kernel, params, grid, bindings);
        Ok(())
    }

    /// The dispatches of a group of split rows, whose first one has number `first`: `chunk` is the length of a chunk and the number
    /// of chunks of a row.
    #[allow(clippy::too_many_arguments)]
    fn add_split(
        &mut self,
        kernels: &SplitKernels,
        views: &[(&BufferView, RowMap, Role)],
        budget: &Budget,
        [chunk, chunks]: [usize; 2],
        merges_into_y: bool,
        first: usize,
        common: Params,
    ) -> Result<()> {
        let chunk_views: Vec<(&BufferView, RowMap, Role)> = views
            .iter()
            .map(|(v, m, role)| (*v, chunked(m, chunk, chunks), *role))
            .collect();
        let chunk_params = |window: &Window| Params {
            first_row: (first + window.first_row / chunks) as u32,
            first_chunk: (window.first_row % chunks) as u32,
            ..common
        };
        let row_params = |number: usize| Params {
            first_row: (first + number) as u32,
            ..common
        };
        let readers: Vec<_> = chunk_views
            .iter()
            .filter(|(_, _, role)| *role != Role::Y)
            .cloned()
            .collect();
        for window in plan(&readers, budget, true)? {
            self.add(&kernels.reduce, &readers, &window, chunk_params(&window))?;
        }
        if merges_into_y {
            let results: Vec<_> = views.iter().filter(|(_, _, role)| *role == Role::Y).cloned().collect();
            for window in plan(&results, budget, false)? {
                self.add(&kernels.merge, &results, &window, row_params(window.first_row))?;
            }
            return Ok(());
        }
        let writes = plan(&chunk_views, budget, true)?;
        // Only the workspace is touched, so rows need no windows; y is bound since the shader names it for logsumexp.
        let named: Vec<_> = chunk_views
            .iter()
            .filter(|(_, _, role)| *role == Role::Y)
            .cloned()
            .collect();
        let part = writes.first().and_then(|w| w.parts.get(1)).cloned();
        let rows = views[0].1.rows();
        let most = budget.rows.min(1 << 20) as usize;
        for begin in (0..rows).step_by(most) {
            let window = Window {
                first_row: begin,
                rows: most.min(rows - begin),
                sizes: [1; 4],
                parts: part.iter().cloned().collect(),
            };
            self.add(&kernels.merge, &named, &window, row_params(begin))?;
        }
        for window in writes {
            self.add(&kernels.write, &chunk_views, &window, chunk_params(&window))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Recording> {
        self.dispatches.finish()
    }
}

/// Every variant of the shaders that can come about, as a name and its WGSL, for the tests that validate and translate them:
/// functions and gradients, strategies, storage types native and packed, aligned and not, masks, in place and shared
/// buffers, team and workgroup sizes, with subgroups and without.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    let widths = [(1, 1), (4, 4), (8, 8), (16, 32), (16, 64), (16, 128), (16, 1), (4, 1)];
    for strategy in Strategy::ALL {
        for (kind, backward) in SoftmaxKind::ALL.into_iter().flat_map(|k| [(k, false), (k, true)]) {
            if backward && strategy == Strategy::Online {
                continue;
            }
            for (dtype, shader_f16) in storages {
                for (i, (team, lanes)) in widths.into_iter().enumerate() {
                    // Options that do not interact take turns, so that each meets each storage and strategy.
                    let turn = i + kind as usize + backward as usize;
                    let quads = turn.is_multiple_of(2) && strategy != Strategy::Columns;
                    let (team, accumulators, keep) = match strategy {
                        Strategy::Workgroup => (
                            if turn.is_multiple_of(2) { 64 } else { WORKGROUP },
                            1,
                            if turn.is_multiple_of(3) { 0 } else { 16 },
                        ),
                        Strategy::Online => (WORKGROUP, 1, 0),
                        Strategy::Columns => (1, 2, 0),
                        Strategy::Short => (team, 16 / team, 1),
                        Strategy::OnChip => (team, 16 / team, 4),
                        Strategy::Subgroup | Strategy::Split => (team, 16 / team, 0),
                    };
                    let variant = Variant {
                        kind,
                        backward,
                        dtype,
                        strategy,
                        team,
                        accumulators,
                        keep,
                        workgroup: team.max(if turn.is_multiple_of(2) { 64 } else { 128 }),
                        subgroups: lanes > 1 && team > 1,
                        lanes,
                        shader_f16,
                        masked_zero: turn % 2 == 1,
                        scaled: turn % 3 == 1,
                        whole: quads,
                        mask: !turn.is_multiple_of(3),
                        in_place: turn % 4 == 1 && (backward || !kind.reduces()),
                        all_read_write: turn % 4 >= 2,
                        quads: [quads; 4],
                    };
                    let name = format!(
                        "{}{}_{strategy}_{dtype}{}_{i}",
                        kind.name(),
                        if backward { "_backward" } else { "" },
                        if shader_f16 { "_native" } else { "" },
                    );
                    all.push((name, variant.source()));
                }
            }
        }
    }
    all
}
