//! The losses over classes on a device: which strategy, which variant of the shaders, which dispatches.

use super::embed::RowSums;
use super::options::{CrossEntropyOptions, LossKind, LossReduction};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::float::frexp;
use crate::gpu::source::{Composition, TensorAccess, boolean, compose, lib, unsigned};
use crate::gpu::{Bind, Budget, BufferView, Capabilities, Dispatches, Gpu, Kernel, Planned, Recording, Window, pair};
use crate::ops::softmax::Strategy;
use crate::ops::unscale::kernels::{SIGNED_TEAM, SIGNED_WIDE, WIDE};
use crate::rows::{RowDim, RowMap, contiguous_strides};
use std::sync::Arc;

const MAIN: &str = include_str!("../../../shaders/cross_entropy.wgsl");
const SPLIT: &str = include_str!("../../../shaders/cross_entropy_split.wgsl");
const REDUCE: &str = include_str!("../../../shaders/cross_entropy_reduce.wgsl");
const PARAMS: &str = include_str!("../../../shaders/lib/cross_entropy_params.wgsl");
const ROWS: &str = include_str!("../../../shaders/lib/cross_entropy_rows.wgsl");
const SUMS: &str = include_str!("../../../shaders/lib/cross_entropy_sums.wgsl");
const LABELS: &str = include_str!("../../../shaders/lib/cross_entropy_labels.wgsl");
const PROBABILITIES: &str = include_str!("../../../shaders/lib/cross_entropy_probabilities.wgsl");
const WEIGHT: &str = include_str!("../../../shaders/lib/cross_entropy_weight.wgsl");
const NO_WEIGHT: &str = include_str!("../../../shaders/lib/cross_entropy_weight_none.wgsl");
const GRADIENT: &str = include_str!("../../../shaders/lib/cross_entropy_gradient.wgsl");
const NO_GRADIENT: &str = include_str!("../../../shaders/lib/cross_entropy_gradient_none.wgsl");
const LOG_PROB: &str = include_str!("../../../shaders/lib/cross_entropy_log_prob.wgsl");
const NO_LOG_PROB: &str = include_str!("../../../shaders/lib/cross_entropy_log_prob_none.wgsl");
const EACH: &str = include_str!("../../../shaders/lib/cross_entropy_each.wgsl");
const REDUCED: &str = include_str!("../../../shaders/lib/cross_entropy_reduced.wgsl");
const CLASS_WEIGHT: &str = include_str!("../../../shaders/lib/cross_entropy_class_weight.wgsl");
const NO_CLASS_WEIGHT: &str = include_str!("../../../shaders/lib/cross_entropy_class_weight_none.wgsl");
const SUMS_NONE: &str = include_str!("../../../shaders/lib/cross_entropy_sums_none.wgsl");
const SUMS_KEEP: &str = include_str!("../../../shaders/lib/cross_entropy_sums_keep.wgsl");
const SUMS_REUSE: &str = include_str!("../../../shaders/lib/cross_entropy_sums_reuse.wgsl");
const RESULT: &str = include_str!("../../../shaders/lib/cross_entropy_result.wgsl");
const NO_RESULT: &str = include_str!("../../../shaders/lib/cross_entropy_result_none.wgsl");

/// Invocations of a workgroup that works on one row.
const WORKGROUP: u32 = 256;
/// Classes of a chunk of a split row.
const CHUNK: usize = 8192;
/// Rows of a block of the tree over losses and counts.
const BLOCK: usize = 4096;
/// Bytes that a row leaves in the workspace.
const RECORD: u64 = 16;
/// Bytes of what a row comes to, kept from one call for another.
pub(crate) const SUMS_OF_ROW: u64 = 32;
/// Bytes more that a row, and bytes that a chunk leaves there in [`Strategy::Split`].
const STATS: u64 = 40;
/// Bytes of the status and the divisors, and of a block's sums.
const HEAD: u64 = 256;
const SUMS_OF_BLOCK: u64 = 32;

/// Whether a strategy can serve rows of `len` classes with this stride, without an invocation looping more than about
/// 30,000 times.
fn serves(strategy: Strategy, capabilities: &Capabilities, len: usize, len_stride: usize) -> bool {
    let passes = |lanes: usize| Some(10_000 * 4 * lanes);
    let longest = match strategy {
        Strategy::Short => Some(64),
        Strategy::OnChip => Some(1024),
        Strategy::Workgroup => Some(16_384),
        Strategy::Subgroup => passes(capabilities.narrow_team() as usize),
        Strategy::Online => passes(WORKGROUP as usize),
        Strategy::Columns => passes(1),
        Strategy::Split => None,
    };
    let strided = matches!(
        strategy,
        Strategy::Columns | Strategy::Split | Strategy::Subgroup | Strategy::Short
    );
    longest.is_none_or(|max| len <= max) && (len_stride == 1 || strided)
}

/// The choice for `rows` rows of `len` classes. It does not depend on the subgroup width.
fn choose(capabilities: &Capabilities, rows: usize, len: usize, len_stride: usize) -> Strategy {
    let few = rows < if capabilities.software { 8 } else { 128 };
    if len_stride != 1 && len > 1 {
        let columns = len <= 16_384 && !(few && len > 1024);
        return if columns { Strategy::Columns } else { Strategy::Split };
    }
    let narrow = if capabilities.subgroup > 1 { 131_072 } else { 32_768 };
    match len {
        0..=64 => Strategy::Short,
        _ if few && len > CHUNK => Strategy::Split,
        65..=1024 => Strategy::OnChip,
        _ if capabilities.software && len <= narrow => Strategy::Subgroup,
        _ if capabilities.software => Strategy::Split,
        1025..=16_384 => Strategy::Workgroup,
        16_385..=1_048_576 => Strategy::Online,
        _ => Strategy::Split,
    }
}

/// The strategy for logits of this view.
pub(crate) fn strategy_for(gpu: &Gpu, x: &BufferView, forced: Option<Strategy>) -> Result<Strategy> {
    strategy_of(gpu, &x.rows(1), forced)
}

fn strategy_of(gpu: &Gpu, map: &RowMap, forced: Option<Strategy>) -> Result<Strategy> {
    let capabilities = gpu.capabilities();
    let stride = if map.len > 1 { map.len_stride } else { 1 };
    let strategy = forced.unwrap_or_else(|| {
        // A row that passes a binding can only be had in chunks; 16-bit elements count like f32.
        let span = (map.len.saturating_sub(1) as u64).saturating_mul(stride as u64 * 4);
        if span.saturating_add(capabilities.storage_alignment + 32) > capabilities.max_binding {
            return Strategy::Split;
        }
        choose(capabilities, map.rows(), map.len, stride)
    });
    if serves(strategy, capabilities, map.len, stride) {
        return Ok(strategy);
    }
    Err(Error::Unsupported {
        what: format!("strategy {strategy}"),
        reason: format!("not for rows of {} classes with stride {stride}", map.len),
    })
}

/// Parts of the workspace, in bytes, in the order in which they lie: status, divisors and sums of blocks; records of rows;
/// what rows and chunks leave where rows are split.
#[derive(Clone, Copy, Debug)]
struct Layout {
    head: u64,
    records: u64,
    stats: u64,
    partials: u64,
}

impl Layout {
    fn of(rows: usize, chunks: Option<usize>) -> Layout {
        let pad = |bytes: u64| bytes.max(1).next_multiple_of(256);
        let rows = rows as u64;
        Layout {
            head: HEAD + pad(rows.div_ceil(BLOCK as u64) * SUMS_OF_BLOCK),
            records: pad(rows * RECORD),
            stats: chunks.map_or(0, |_| pad(rows * STATS)),
            partials: chunks.map_or(0, |c| pad(rows * c as u64 * STATS)),
        }
    }

    fn total(&self) -> u64 {
        self.head + self.records + self.stats + self.partials
    }

    /// What is bound as a whole.
    fn bound(&self) -> [u64; 3] {
        [self.head, self.stats, self.partials]
    }
}

/// Classes of a chunk: few enough that a chunk of a strided row fits a binding.
fn chunk_len(capabilities: &Capabilities, x: &RowMap) -> Result<usize> {
    let bytes = x.len_stride.max(1) as u64 * 4;
    let fitting = (capabilities.max_binding / 2 / bytes) as usize / 4 * 4;
    if fitting < 4 {
        return Err(Error::Limit {
            what: "bytes between four classes of a row in one storage binding",
            need: bytes * 8,
            have: capabilities.max_binding,
        });
    }
    Ok(fitting.min(CHUNK))
}

fn layout(gpu: &Gpu, map: &RowMap, strategy: Strategy) -> Result<Layout> {
    let chunks = match strategy {
        Strategy::Split => Some(map.len.div_ceil(chunk_len(gpu.capabilities(), map)?).max(1)),
        _ => None,
    };
    Ok(Layout::of(map.rows(), chunks))
}

/// Whether the workspace of a call on these rows, with the strategy of choice, fits a buffer and its parts fit bindings.
pub(crate) fn workspace_fits(gpu: &Gpu, map: &RowMap) -> Result<bool> {
    let capabilities = gpu.capabilities();
    let layout = layout(gpu, map, strategy_of(gpu, map, None)?)?;
    Ok(layout.total() <= capabilities.max_buffer
        && layout.bound().into_iter().all(|part| part <= capabilities.max_binding))
}

/// Bytes of workspace that a call on these logits needs.
pub(crate) fn workspace_size(gpu: &Gpu, x: &BufferView, strategy: Option<Strategy>) -> Result<u64> {
    let map = x.rows(1);
    Ok(layout(gpu, &map, strategy_of(gpu, &map, strategy)?)?.total())
}

/// Parameters as lib/cross_entropy_params.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    sizes: [u32; 4],
    x_strides: [u32; 4],
    y_strides: [u32; 4],
    logp_strides: [u32; 4],
    aim_strides: [u32; 4],
    weight_strides: [u32; 4],
    upstream_strides: [u32; 4],
    loss_strides: [u32; 4],
    record_strides: [u32; 4],
    sums_strides: [u32; 4],
    bases: [u32; 4],
    more_bases: [u32; 4],
    steps: [u32; 4],
    zero: u32,
    rows: u32,
    len: u32,
    grid_x: u32,
    first_row: u32,
    all_rows: u32,
    weight_step: u32,
    ignore_set: u32,
    ignore: i32,
    remain: f32,
    spread: f32,
    z: f32,
    counted: u32,
    divisor: f32,
    chunks: u32,
    first_chunk: u32,
    chunk_len: u32,
    blocks: u32,
    first_block: u32,
    sums_base: u32,
}

/// A variant of the shaders that work on rows.
#[derive(Clone, Copy, Debug)]
struct Variant {
    kind: LossKind,
    dtype: DType,
    split: bool,
    team: u32,
    accumulators: u32,
    keep: u32,
    /// Whether maximum and sums take a read each.
    sweep: bool,
    workgroup: u32,
    subgroups: bool,
    lanes: u32,
    shader_f16: bool,
    whole: bool,
    probabilities: bool,
    weighted: bool,
    smoothed: bool,
    z_loss: bool,
    gradient: bool,
    log_prob: bool,
    each: bool,
    sums: Sums,
    in_place: bool,
    all_read_write: bool,
    /// Whether x, y, logp and the probabilities can be taken four aligned elements at a time.
    quads: [bool; 4],
}

/// Elements of workgroup memory that collectives take: hardly any where no step of the tree leaves the subgroup.
fn exchange_space(subgroups: bool, team: u32, lanes: u32, workgroup: u32) -> u32 {
    if subgroups && team <= lanes { 1 } else { workgroup }
}

impl Variant {
    fn source(&self) -> String {
        let constants = [
            ("WG", unsigned(self.workgroup)),
            ("TEAM", unsigned(self.team)),
            ("ACC", unsigned(self.accumulators)),
            ("KEEP", unsigned(self.keep)),
            ("SWEEP", boolean(self.sweep)),
            ("LANES", unsigned(self.lanes)),
            (
                "EXCHANGE",
                unsigned(exchange_space(self.subgroups, self.team, self.lanes, self.workgroup)),
            ),
            ("WHOLE", boolean(self.whole)),
            ("NLL", boolean(self.kind == LossKind::NllLoss)),
            ("DENSE", boolean(self.smoothed || self.probabilities)),
            ("SCALED", boolean(self.weighted || self.probabilities)),
            ("SMOOTHED", boolean(self.smoothed)),
            ("Z_LOSS", boolean(self.z_loss)),
            ("GRADIENT", boolean(self.gradient)),
            ("LOG_PROB", boolean(self.log_prob)),
            ("REUSE", boolean(self.sums == Sums::Reuse)),
        ];
        let access = |name, dtype, quad, written| TensorAccess {
            name,
            dtype,
            quad,
            written,
        };
        let mut tensors = vec![access("x", self.dtype, self.quads[0], false)];
        if self.gradient {
            tensors.push(access("y", self.dtype, self.quads[1], true));
        }
        if self.log_prob {
            tensors.push(access("logp", self.dtype, self.quads[2], true));
        }
        if self.probabilities {
            tensors.push(access("prob", self.dtype, self.quads[3], false));
        }
        if self.weighted {
            tensors.push(access("weight", DType::F32, false, false));
        }
        let either = |yes, with: &'static str, without: &'static str| if yes { with } else { without };
        let fragments = [
            either(self.subgroups, lib::EXCHANGE_SUBGROUP, lib::EXCHANGE_WORKGROUP),
            lib::BITS,
            lib::ERROR_FREE,
            lib::REDUCE,
            WIDE,
            SIGNED_WIDE,
            SIGNED_TEAM,
            lib::SOFTMAX_MATH,
            lib::SOFTMAX_QUADS,
            lib::SOFTMAX_RUNNING,
            PARAMS,
            ROWS,
            SUMS,
            either(self.probabilities, PROBABILITIES, LABELS),
            either(self.weighted, WEIGHT, NO_WEIGHT),
            either(self.gradient, GRADIENT, NO_GRADIENT),
            either(self.log_prob, LOG_PROB, NO_LOG_PROB),
            either(self.each, EACH, REDUCED),
            match self.sums {
                Sums::Fresh => SUMS_NONE,
                Sums::Keep => SUMS_KEEP,
                Sums::Reuse => SUMS_REUSE,
            },
        ];
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: self.in_place.then_some(("x", "y")),
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &fragments,
            kernel: if self.split { SPLIT } else { MAIN },
        })
    }
}

/// A variant of the shader that reduces over rows.
#[derive(Clone, Copy, Debug)]
struct ReduceVariant {
    workgroup: u32,
    subgroups: bool,
    lanes: u32,
    mean: bool,
    z_loss: bool,
    weighted: bool,
    written: bool,
    all_read_write: bool,
}

impl ReduceVariant {
    fn source(&self) -> String {
        let constants = [
            ("WG", unsigned(self.workgroup)),
            ("TEAM", unsigned(self.workgroup)),
            ("LANES", unsigned(self.lanes)),
            (
                "EXCHANGE",
                unsigned(exchange_space(
                    self.subgroups,
                    self.workgroup,
                    self.lanes,
                    self.workgroup,
                )),
            ),
            ("BLOCK", unsigned(BLOCK as u32)),
            ("MEAN", boolean(self.mean)),
            ("Z_LOSS", boolean(self.z_loss)),
            ("WRITTEN", boolean(self.written)),
        ];
        let fragments = [
            if self.subgroups {
                lib::EXCHANGE_SUBGROUP
            } else {
                lib::EXCHANGE_WORKGROUP
            },
            lib::BITS,
            lib::ERROR_FREE,
            lib::ELEMENTARY,
            lib::REDUCE,
            WIDE,
            SIGNED_WIDE,
            SIGNED_TEAM,
            PARAMS,
            if self.weighted { CLASS_WEIGHT } else { NO_CLASS_WEIGHT },
            if self.written { RESULT } else { NO_RESULT },
        ];
        compose(&Composition {
            constants: &constants,
            tensors: &[],
            alias: None,
            shader_f16: false,
            all_read_write: self.all_read_write,
            fragments: &fragments,
            kernel: REDUCE,
        })
    }
}

/// What rows are held to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TargetViews<'a> {
    /// One i32 a row, in C order, from a byte offset on that is a multiple of 4.
    Indices { buffer: &'a wgpu::Buffer, offset: u64 },
    /// A share of every class, of the shape and storage type of the logits.
    Probabilities(&'a BufferView),
}

/// What becomes of what rows come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sums {
    /// It is used in the same call.
    #[default]
    Fresh,
    Keep,
    Reuse,
}

/// Everything that a call is about, checked. Classes lie along axis 1.
pub(crate) struct Call<'a> {
    pub kind: LossKind,
    pub options: &'a CrossEntropyOptions,
    pub x: &'a BufferView,
    pub target: TargetViews<'a>,
    /// f32, one a class.
    pub weight: Option<&'a BufferView>,
    /// f32: the shape of the logits without the classes, or one value where it is reduced.
    pub loss: Option<&'a BufferView>,
    pub log_prob: Option<&'a BufferView>,
    /// May be the very view `x`.
    pub grad: Option<&'a BufferView>,
    /// f32, of the shape of `loss`; absent: 1.
    pub upstream: Option<&'a BufferView>,
    pub workspace: Option<(&'a wgpu::Buffer, u64)>,
    pub row_sums: Option<&'a RowSums>,
    pub strategy: Option<Strategy>,
    /// What a mean divides the losses and the z-losses by, where these rows are a part of all. Else they are counted.
    pub divisors: Option<[f64; 2]>,
}

/// A tensor's part in the call, by its place in `Params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    X,
    Y,
    LogProb,
    Labels,
    Probabilities,
    Weight,
    Upstream,
    Loss,
    Records,
    Sums,
}

impl Role {
    fn binding(self) -> &'static str {
        match self {
            Role::X => "x_data",
            Role::Y => "y_data",
            Role::LogProb => "logp_data",
            Role::Labels => "labels_data",
            Role::Probabilities => "prob_data",
            Role::Weight => "weight_data",
            Role::Upstream => "upstream_data",
            Role::Loss => "loss_data",
            Role::Records => "records",
            Role::Sums => "sums",
        }
    }

    /// Where its strides and the element at which it begins stand.
    fn place(self, params: &mut Params) -> (&mut [u32; 4], &mut u32) {
        let [x, y, logp, aim] = &mut params.bases;
        let [weight, upstream, loss, record] = &mut params.more_bases;
        match self {
            Role::X => (&mut params.x_strides, x),
            Role::Y => (&mut params.y_strides, y),
            Role::LogProb => (&mut params.logp_strides, logp),
            Role::Labels | Role::Probabilities => (&mut params.aim_strides, aim),
            Role::Weight => (&mut params.weight_strides, weight),
            Role::Upstream => (&mut params.upstream_strides, upstream),
            Role::Loss => (&mut params.loss_strides, loss),
            Role::Records => (&mut params.record_strides, record),
            Role::Sums => (&mut params.sums_strides, &mut params.sums_base),
        }
    }
}

/// Something that has a place for every row.
#[derive(Clone, Debug)]
struct Taking<'a> {
    role: Role,
    buffer: &'a wgpu::Buffer,
    map: RowMap,
    /// Bytes an element takes.
    element: u64,
}

impl<'a> Taking<'a> {
    fn view(role: Role, view: &'a BufferView, map: RowMap) -> Taking<'a> {
        Taking {
            role,
            buffer: &view.buffer,
            map,
            element: view.dtype.size() as u64,
        }
    }

    /// One element a row in C order, from byte `offset` on.
    fn a_row(role: Role, buffer: &'a wgpu::Buffer, offset: u64, element: u64, sizes: &[usize]) -> Taking<'a> {
        let strides = contiguous_strides(sizes);
        let dims = sizes.iter().zip(strides);
        Taking {
            role,
            buffer,
            map: RowMap {
                offset: (offset / element) as usize,
                dims: dims.map(|(&size, stride)| RowDim { size, stride }).collect(),
                len: 1,
                len_stride: 0,
            },
            element,
        }
    }
}

/// Rows with one value each, from a view without the classes or of one value in all.
fn one_a_row(view: &BufferView, sizes: &[usize]) -> RowMap {
    let strides = if view.shape == sizes {
        view.strides.clone()
    } else {
        vec![0; sizes.len()]
    };
    RowMap {
        offset: view.offset,
        dims: sizes
            .iter()
            .zip(strides)
            .map(|(&size, stride)| RowDim { size, stride })
            .collect(),
        len: 1,
        len_stride: 0,
    }
}

/// The same rows cut into chunks: one more row dimension, innermost.
fn chunked(taking: &Taking<'_>, chunk: usize, chunks: usize) -> RowMap {
    let map = &taking.map;
    let mut dims = map.dims.clone();
    let one = matches!(
        taking.role,
        Role::Labels | Role::Upstream | Role::Loss | Role::Records | Role::Sums
    );
    dims.push(RowDim {
        size: chunks,
        stride: if one || map.len == 1 { 0 } else { chunk * map.len_stride },
    });
    RowMap {
        offset: map.offset,
        dims,
        len: if one { 1 } else { chunk.min(map.len) },
        len_stride: map.len_stride,
    }
}

/// A divisor of the weights as `signed_wide.wgsl` keeps numbers (significand from 1 to 2 in two parts, exponent), and one of the rows.
fn divisor_words(weight: f64, count: f64) -> [u32; 4] {
    let (significand, exponent) = match frexp(weight) {
        (zero, _) if zero == 0.0 => (zero, -1000),
        (special, _) if !special.is_finite() => (special, 1000),
        (half, exponent) => (2.0 * half, exponent - 1),
    };
    let [high, low] = if significand.is_finite() {
        pair(significand)
    } else {
        [significand as f32, 0.0]
    };
    [high.to_bits(), low.to_bits(), exponent as u32, (count as f32).to_bits()]
}

/// Teams, accumulators and blocks in registers for a strategy.
fn widths(strategy: Strategy, capabilities: &Capabilities, len: usize) -> (u32, u32, u32) {
    let narrow = capabilities.narrow_team();
    let quads = len.div_ceil(4).max(1) as u32;
    match strategy {
        Strategy::Short => {
            let width = quads.next_power_of_two();
            let team = width.min(narrow);
            (team, width / team, 1)
        }
        Strategy::OnChip => (narrow, 16 / narrow, quads.div_ceil(16)),
        Strategy::Workgroup => {
            let team = quads.div_ceil(8).next_power_of_two().clamp(64, WORKGROUP);
            (team, 1, quads.div_ceil(team))
        }
        Strategy::Subgroup => (narrow, 16 / narrow, 0),
        // A chunk by as many invocations as share a workgroup, but where barriers are dear.
        Strategy::Split if capabilities.software => (narrow, 16 / narrow, 0),
        Strategy::Online | Strategy::Split => (WORKGROUP, 1, 0),
        Strategy::Columns => (1, 1, 0),
    }
}

/// Plans, builds and binds all dispatches of a call.
pub(crate) fn bind(gpu: &Gpu, call: &Call<'_>) -> Result<Recording> {
    let label = call.kind.name();
    let capabilities = gpu.capabilities();
    let options = call.options;
    let x = call.x.rows(1);
    let rows = x.rows();
    let classes = x.len;
    for (what, need) in [("classes", classes), ("rows", rows)] {
        if need > u32::MAX as usize / 2 {
            return Err(Error::Limit {
                what,
                need: need as u64,
                have: u64::from(u32::MAX / 2),
            });
        }
    }
    let sizes: Vec<usize> = x.dims.iter().map(|d| d.size).collect();
    let strategy = strategy_of(gpu, &x, call.strategy)?;
    let layout = layout(gpu, &x, strategy)?;
    let owned;
    let (workspace, at) = match call.workspace {
        Some(given) => given,
        None => {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            owned = gpu.create_buffer("macheps workspace", layout.total(), usage)?;
            (&owned, 0)
        }
    };
    for need in layout.bound() {
        if need > capabilities.max_binding {
            return Err(Error::Limit {
                what: "bytes of workspace in one storage binding",
                need,
                have: capabilities.max_binding,
            });
        }
    }
    let part = |name, offset, size| Bind {
        name,
        buffer: workspace.clone(),
        offset,
        size,
    };
    let head = part("head", at, layout.head);

    let mean = options.reduction == LossReduction::Mean;
    let each = options.reduction == LossReduction::None && call.loss.is_some();
    let (sums, kept) = match call.row_sums {
        None => (Sums::Fresh, None),
        Some(RowSums::Keep { buffer, offset }) => (Sums::Keep, Some((buffer, *offset))),
        Some(RowSums::Reuse { buffer, offset }) => (Sums::Reuse, Some((buffer, *offset))),
    };
    let (labels, probabilities) = match call.target {
        TargetViews::Indices { buffer, offset } => (Some((buffer, offset)), None),
        TargetViews::Probabilities(view) => (None, Some(view)),
    };
    let ignore = options.ignore_index.and_then(|i| i32::try_from(i).ok());
    let given = call.divisors.filter(|_| mean);
    let unequal = call.weight.is_some() || ignore.is_some();
    let counting = mean && given.is_none() && rows > 0 && labels.is_some() && unequal;
    let counted = counting || given.is_some();
    if let Some([weight, count]) = given {
        // Where the shader that counts would leave them.
        let words = [divisor_words(weight, count), divisor_words(1.0 / weight, 1.0 / count)];
        gpu.write(workspace, at + 16, bytemuck::bytes_of(&words))?;
    }
    let one;
    let upstream = match (call.grad, call.upstream) {
        (Some(_), Some(view)) => Some(view),
        (Some(_), None) => {
            let buffer = gpu.upload("macheps one", bytemuck::bytes_of(&1.0f32))?;
            one = BufferView::new(&buffer, DType::F32, &[]);
            Some(&one)
        }
        (None, _) => None,
    };

    let mut takings = vec![Taking::view(Role::X, call.x, x.clone())];
    takings.extend(call.grad.map(|v| Taking::view(Role::Y, v, v.rows(1))));
    takings.extend(call.log_prob.map(|v| Taking::view(Role::LogProb, v, v.rows(1))));
    takings.extend(labels.map(|(buffer, offset)| Taking::a_row(Role::Labels, buffer, offset, 4, &sizes)));
    takings.extend(probabilities.map(|v| Taking::view(Role::Probabilities, v, v.rows(1))));
    takings.extend(call.weight.map(|v| {
        let map = RowMap {
            offset: v.offset,
            dims: sizes.iter().map(|&size| RowDim { size, stride: 0 }).collect(),
            len: classes,
            len_stride: v.strides[0],
        };
        Taking::view(Role::Weight, v, map)
    }));
    takings.extend(upstream.map(|v| Taking::view(Role::Upstream, v, one_a_row(v, &sizes))));
    takings.extend(
        call.loss
            .filter(|_| each)
            .map(|v| Taking::view(Role::Loss, v, one_a_row(v, &sizes))),
    );
    takings.push(Taking::a_row(
        Role::Records,
        workspace,
        at + layout.head,
        RECORD,
        &sizes,
    ));

    takings.extend(kept.map(|(buffer, offset)| Taking::a_row(Role::Sums, buffer, offset, SUMS_OF_ROW, &sizes)));

    let in_place = call.grad.is_some_and(|g| call.x.same_as(g));
    let written = |role| match role {
        Role::Y | Role::LogProb | Role::Loss | Role::Records => true,
        Role::Sums => sums == Sums::Keep,
        Role::X | Role::Labels | Role::Probabilities | Role::Weight | Role::Upstream => false,
    };
    let shared = takings
        .iter()
        .any(|r| !written(r.role) && takings.iter().any(|w| written(w.role) && w.buffer == r.buffer))
        || call
            .loss
            .is_some_and(|l| takings.iter().any(|r| !written(r.role) && *r.buffer == l.buffer));
    let step = |role| {
        let found = takings.iter().find(|t| t.role == role);
        found.map_or(0, |t| t.map.len_stride as u32)
    };
    let quad = |view: Option<&BufferView>| view.is_some_and(|v| v.by_quads(&v.rows(1)));
    let (team, accumulators, keep) = widths(strategy, capabilities, classes);
    let nll = call.kind == LossKind::NllLoss;
    let (accumulators, keep) = if nll || sums == Sums::Reuse {
        (accumulators.max(1), 0)
    } else {
        (accumulators, keep)
    };
    let workgroup = match strategy {
        Strategy::Workgroup | Strategy::Online => team,
        _ if capabilities.software => 64.max(team),
        _ => 128.max(team),
    };
    let reduce_workgroup = if capabilities.software { 64 } else { WORKGROUP };
    let widest = workgroup.max(reduce_workgroup);
    if widest > capabilities.max_invocations {
        return Err(Error::Limit {
            what: "invocations a workgroup",
            need: widest.into(),
            have: capabilities.max_invocations.into(),
        });
    }
    let smoothing = f64::from(options.label_smoothing);
    let common = Params {
        steps: [
            step(Role::X),
            step(Role::Y),
            step(Role::LogProb),
            step(Role::Probabilities),
        ],
        len: classes as u32,
        all_rows: rows as u32,
        weight_step: step(Role::Weight),
        ignore_set: u32::from(ignore.is_some()),
        ignore: ignore.unwrap_or(0),
        remain: (1.0 - smoothing) as f32,
        spread: (smoothing / classes.max(1) as f64) as f32,
        z: options.z_loss,
        counted: u32::from(counted),
        ..Params::default()
    };
    let reduce = ReduceVariant {
        workgroup: reduce_workgroup,
        subgroups: capabilities.subgroup > 1,
        lanes: capabilities.subgroup,
        mean,
        z_loss: options.z_loss != 0.0,
        weighted: false,
        written: false,
        all_read_write: shared,
    };
    let mut binder = Binder {
        dispatches: Dispatches::new(gpu, label),
        teams: u64::from(workgroup / team),
        max_workgroups: capabilities.max_workgroups,
        in_place,
    };
    let blocks = Blocks {
        rows,
        // Whole blocks of records fit a binding, and so do those of labels.
        window: ((capabilities.max_binding / 2 / RECORD) as usize / BLOCK).max(1) * BLOCK,
        params: Params {
            divisor: rows as f32,
            ..common
        },
    };

    if let (true, Some((buffer, offset))) = (counting, labels) {
        let source = ReduceVariant {
            weighted: call.weight.is_some(),
            ..reduce
        }
        .source();
        let mut bindings = vec![head.clone()];
        let mut params = blocks.params;
        if let Some(view) = call.weight {
            let bytes = ((classes.max(1) - 1) * view.strides[0] + 1) as u64 * 4;
            bindings.push(slice(
                capabilities,
                "weight_data",
                &view.buffer,
                view.offset as u64 * 4,
                bytes,
                4,
                &mut params.more_bases[0],
            )?);
        }
        let blocks = Blocks { params, ..blocks };
        blocks.add(
            &mut binder,
            gpu,
            &source,
            ["count_rows", "count_blocks"],
            |params, first, count| {
                let mut all = bindings.clone();
                all.push(slice(
                    capabilities,
                    "labels_data",
                    buffer,
                    offset + first as u64 * 4,
                    count as u64 * 4,
                    4,
                    &mut params.bases[3],
                )?);
                Ok(all)
            },
        )?;
    }

    if rows > 0 {
        let variant = Variant {
            kind: call.kind,
            dtype: call.x.dtype,
            split: strategy == Strategy::Split,
            team,
            accumulators,
            keep,
            // One read for both computes three exponentials a class. Devices for which this is the choice run on a CPU, where
            // those cost more than a read. With a gradient there are to be two reads in all.
            sweep: strategy == Strategy::Subgroup && call.grad.is_none(),
            workgroup,
            subgroups: capabilities.subgroup > 1 && team > 1,
            lanes: capabilities.subgroup,
            shader_f16: capabilities.shader_f16,
            whole: classes.is_multiple_of(4),
            probabilities: probabilities.is_some(),
            weighted: call.weight.is_some(),
            smoothed: options.label_smoothing != 0.0,
            z_loss: options.z_loss != 0.0,
            gradient: call.grad.is_some(),
            log_prob: call.log_prob.is_some(),
            each,
            sums,
            in_place,
            all_read_write: shared,
            quads: [
                quad(Some(call.x)),
                quad(call.grad),
                quad(call.log_prob),
                quad(probabilities),
            ],
        };
        let source = variant.source();
        let budget = Budget {
            binding: capabilities.max_binding,
            alignment: capabilities.storage_alignment,
            elements: if capabilities.software { 1 << 23 } else { 1 << 28 },
            rows: (u64::from(capabilities.max_workgroups).pow(2) * binder.teams).min(1 << 30),
        };
        let common = Params {
            divisor: if mean { (1.0 / rows as f64) as f32 } else { 1.0 },
            ..common
        };
        let some = |roles: &[Role]| -> Vec<Taking<'_>> {
            takings.iter().filter(|t| roles.contains(&t.role)).cloned().collect()
        };
        if strategy == Strategy::Split {
            let chunk = chunk_len(capabilities, &x)?;
            let chunks = classes.div_ceil(chunk).max(1);
            let common = Params {
                chunks: chunks as u32,
                chunk_len: chunk as u32,
                ..common
            };
            let stats_at = at + layout.head + layout.records;
            let stats = part("stats", stats_at, layout.stats);
            let partials = part("partials", stats_at + layout.stats, layout.partials);
            let cut = |roles: &[Role]| -> Vec<Taking<'_>> {
                let mut all = some(roles);
                for taking in &mut all {
                    taking.map = chunked(taking, chunk, chunks);
                }
                all
            };
            let aims = [Role::Labels, Role::Probabilities, Role::Weight];
            let reading = cut(&[&[Role::X][..], &aims].concat());
            let of_chunk = |window: &Window| Params {
                first_row: (window.first_row / chunks) as u32,
                first_chunk: (window.first_row % chunks) as u32,
                ..common
            };
            let kernel = gpu.kernel(label, &source, "reduce_chunks")?;
            let unread = if sums == Sums::Reuse {
                Vec::new()
            } else {
                plan(&reading, &budget, true)?
            };
            for window in unread {
                let extra = vec![partials.clone(), head.clone()];
                binder.add(&kernel, &reading, &window, of_chunk(&window), extra)?;
            }
            let merging = some(&[Role::Labels, Role::Upstream, Role::Loss, Role::Records, Role::Sums]);
            let kernel = gpu.kernel(label, &source, "merge_chunks")?;
            for window in plan(&merging, &budget, false)? {
                let params = Params {
                    first_row: window.first_row as u32,
                    ..common
                };
                let extra = vec![partials.clone(), stats.clone(), head.clone()];
                binder.add(&kernel, &merging, &window, params, extra)?;
            }
            if variant.gradient || variant.log_prob {
                let writing = cut(&[&[Role::X, Role::Y, Role::LogProb][..], &aims].concat());
                let kernel = gpu.kernel(label, &source, "write_chunks")?;
                for window in plan(&writing, &budget, true)? {
                    let extra = vec![stats.clone(), head.clone()];
                    binder.add(&kernel, &writing, &window, of_chunk(&window), extra)?;
                }
            }
        } else {
            let kernel = gpu.kernel(label, &source, "main")?;
            for window in plan(&takings, &budget, false)? {
                let params = Params {
                    first_row: window.first_row as u32,
                    ..common
                };
                binder.add(&kernel, &takings, &window, params, vec![head.clone()])?;
            }
        }
    }

    let result = call.loss.filter(|_| options.reduction != LossReduction::None);
    if result.is_some() || (labels.is_some() && rows > 0 && sums != Sums::Reuse) {
        let source = ReduceVariant {
            written: result.is_some(),
            ..reduce
        }
        .source();
        let mut params = blocks.params;
        let mut bindings = vec![head];
        if let Some(view) = result {
            let place = &mut params.more_bases[2];
            bindings.push(slice(
                capabilities,
                "loss_data",
                &view.buffer,
                view.offset as u64 * 4,
                4,
                4,
                place,
            )?);
        }
        let blocks = Blocks { params, ..blocks };
        blocks.add(
            &mut binder,
            gpu,
            &source,
            ["sum_rows", "sum_blocks"],
            |params, first, count| {
                let mut all = bindings.clone();
                all.push(slice(
                    capabilities,
                    "records",
                    workspace,
                    at + layout.head + first as u64 * RECORD,
                    count.max(1) as u64 * RECORD,
                    RECORD,
                    &mut params.more_bases[3],
                )?);
                Ok(all)
            },
        )?;
    }
    binder.finish()
}

/// A binding of `bytes` bytes from `begin` on; the element at which they begin there goes into `base`.
fn slice(
    capabilities: &Capabilities,
    name: &'static str,
    buffer: &wgpu::Buffer,
    begin: u64,
    bytes: u64,
    element: u64,
    base: &mut u32,
) -> Result<Bind> {
    let offset = begin / capabilities.storage_alignment * capabilities.storage_alignment;
    *base = ((begin - offset) / element) as u32;
    let size = begin + bytes - offset;
    if size > capabilities.max_binding {
        return Err(Error::Limit {
            what: "bytes of class weights in one storage binding",
            need: size,
            have: capabilities.max_binding,
        });
    }
    Ok(Bind {
        name,
        buffer: buffer.clone(),
        offset,
        size,
    })
}

/// The tree over rows: a workgroup a block, then one over all blocks.
#[derive(Clone, Copy)]
struct Blocks {
    rows: usize,
    /// Rows of a dispatch, a multiple of [`BLOCK`].
    window: usize,
    params: Params,
}

impl Blocks {
    fn add(
        &self,
        binder: &mut Binder<'_>,
        gpu: &Gpu,
        source: &str,
        entries: [&str; 2],
        bindings: impl Fn(&mut Params, usize, usize) -> Result<Vec<Bind>>,
    ) -> Result<()> {
        let blocks = self.rows.div_ceil(BLOCK);
        let limit = u64::from(binder.max_workgroups).pow(2).min(1 << 24) as usize;
        // On wasm32 as many rows are more than a usize can count.
        let window = self.window.min(limit.saturating_mul(BLOCK));
        let label = binder.dispatches.label();
        let kernel = gpu.kernel(label, source, entries[0])?;
        // Of no rows, too, there is a sum.
        for first in (0..self.rows.max(1)).step_by(window) {
            let count = window.min(self.rows - first);
            let grid = crate::gpu::grid(count.div_ceil(BLOCK).max(1) as u64, binder.max_workgroups)?;
            let mut params = Params {
                rows: count as u32,
                grid_x: grid[0],
                first_row: first as u32,
                blocks: blocks as u32,
                first_block: (first / BLOCK) as u32,
                ..self.params
            };
            let bound = bindings(&mut params, first, count)?;
            binder.dispatches.add(&kernel, params, grid, bound);
        }
        if blocks > 1 {
            let mut params = Params {
                blocks: blocks as u32,
                ..self.params
            };
            let bound = bindings(&mut params, 0, 1)?;
            let kernel = gpu.kernel(label, source, entries[1])?;
            binder.dispatches.add(&kernel, params, [1, 1], bound);
        }
        Ok(())
    }
}

fn plan(takings: &[Taking<'_>], budget: &Budget, chunks: bool) -> Result<Vec<Window>> {
    let planned: Vec<Planned<'_>> = takings
        .iter()
        .map(|t| Planned {
            rows: &t.map,
            element: t.element,
            buffer: t.buffer.size(),
        })
        .collect();
    crate::gpu::plan_windows(&planned, budget, chunks)
}

/// Collects the dispatches of a call.
struct Binder<'a> {
    dispatches: Dispatches<'a, Params>,
    teams: u64,
    max_workgroups: u32,
    /// The shader reads x through the binding of y.
    in_place: bool,
}

impl Binder<'_> {
    fn add(
        &mut self,
        kernel: &Arc<Kernel>,
        takings: &[Taking<'_>],
        window: &Window,
        mut params: Params,
        mut bindings: Vec<Bind>,
    ) -> Result<()> {
        let grid = crate::gpu::grid((window.rows as u64).div_ceil(self.teams), self.max_workgroups)?;
        params.rows = window.rows as u32;
        params.grid_x = grid[0];
        params.sizes = window.sizes;
        for (taking, part) in takings.iter().zip(&window.parts) {
            let (strides, base) = taking.role.place(&mut params);
            *strides = part.strides;
            *base = part.base;
            let mut bind = |name| {
                bindings.push(Bind {
                    name,
                    buffer: taking.buffer.clone(),
                    offset: part.offset,
                    size: part.size,
                });
            };
            bind(taking.role.binding());
            // A pass that only reads has no other claim to that binding; where y is there too, it is the same window.
            if taking.role == Role::X && self.in_place {
                bind(Role::Y.binding());
            }
        }
        self.dispatches.add(kernel, params, grid, bindings);
        Ok(())
    }

    fn finish(self) -> Result<Recording> {
        self.dispatches.finish()
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
    let shapes = [
        ("short", false, 1),
        ("on_chip", false, 4),
        ("online", false, 0),
        ("columns", false, 0),
        ("split", true, 0),
    ];
    let widths = [(4, 4), (8, 8), (16, 32), (256, 32), (16, 1), (4, 1)];
    for kind in LossKind::ALL {
        for (strategy, split, keep) in shapes {
            for (dtype, shader_f16) in storages {
                for (i, (team, lanes)) in widths.into_iter().enumerate() {
                    // Options that do not interact take turns, so that each meets each storage and strategy.
                    let turn = i + keep as usize + dtype as usize;
                    let nll = kind == LossKind::NllLoss;
                    let team = if strategy == "columns" { 1 } else { team };
                    let probabilities = !nll && turn % 3 == 1;
                    let variant = Variant {
                        kind,
                        dtype,
                        split,
                        team,
                        accumulators: if team == 1 { 1 } else { (16 / team).max(1) },
                        keep: if nll { 0 } else { keep },
                        sweep: i % 2 == 1,
                        workgroup: team.max(if turn.is_multiple_of(2) { 64 } else { 128 }),
                        subgroups: lanes > 1 && team > 1,
                        lanes,
                        shader_f16,
                        whole: turn.is_multiple_of(2),
                        probabilities,
                        weighted: i % 2 == 1,
                        smoothed: !nll && turn % 4 >= 2,
                        z_loss: !nll && turn % 5 < 2,
                        gradient: i != 4,
                        log_prob: !nll && turn % 3 == 2,
                        each: i.is_multiple_of(3),
                        sums: match (i, turn % 3) {
                            // What keeps them makes no gradient.
                            (4, _) => Sums::Keep,
                            (_, 0) => Sums::Reuse,
                            _ => Sums::Fresh,
                        },
                        in_place: i % 4 == 1,
                        all_read_write: i % 4 >= 2,
                        quads: [turn.is_multiple_of(2) && strategy != "columns"; 4],
                    };
                    let native = if shader_f16 { "_native" } else { "" };
                    let name = format!("{}_{strategy}_{dtype}{native}_{i}", kind.name());
                    all.push((name, variant.source()));
                }
            }
        }
    }
    for (i, (workgroup, lanes)) in [(64, 4), (64, 1), (256, 32), (256, 1)].into_iter().enumerate() {
        for mean in [false, true] {
            let variant = ReduceVariant {
                workgroup,
                subgroups: lanes > 1,
                lanes,
                mean,
                z_loss: i % 2 == 1,
                weighted: i < 2,
                written: i != 1,
                all_read_write: i == 2,
            };
            all.push((format!("cross_entropy_reduce_mean_{mean}_{i}"), variant.source()));
        }
    }
    all
}
