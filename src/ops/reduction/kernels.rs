//! Reductions on a device: how rows are cut into chunks, which variant of the shaders, which dispatches.

use super::layout::{Dim, Layout};
use super::options::{ReductionKind, ReductionOptions, SumMode};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, boolean, compose, lib, unsigned};
use crate::gpu::{
    Bind, Budget, BufferView, Capabilities, Dispatches, Gpu, Kernel, Planned, Recording, Window, pair, plan_windows,
};
use crate::rows::{RowDim, RowMap};
use std::sync::Arc;

const REDUCTION: &str = include_str!("../../../shaders/reduction.wgsl");
const ROWS: &str = include_str!("../../../shaders/lib/reduction_rows.wgsl");
const SUM: &str = include_str!("../../../shaders/lib/reduction_sum.wgsl");
const STATE_SUM: &str = include_str!("../../../shaders/lib/reduction_state_sum.wgsl");
const STATE_VARIANCE: &str = include_str!("../../../shaders/lib/reduction_state_variance.wgsl");
const STATE_EXTREME: &str = include_str!("../../../shaders/lib/reduction_state_extreme.wgsl");
const TO_VALUE: &str = include_str!("../../../shaders/lib/reduction_to_value.wgsl");
const TO_INDEX: &str = include_str!("../../../shaders/lib/reduction_to_index.wgsl");
const TO_STATISTICS: &str = include_str!("../../../shaders/lib/reduction_to_statistics.wgsl");
const SECOND: &str = include_str!("../../../shaders/lib/reduction_second.wgsl");
const REPRODUCIBLE: &str = include_str!("../../../shaders/lib/reduction_state_reproducible.wgsl");
const WORDS_ANY: &str = include_str!("../../../shaders/lib/words_any.wgsl");
const WORDS_QUAD32: &str = include_str!("../../../shaders/lib/words_quad32.wgsl");
const WORDS_QUAD16: &str = include_str!("../../../shaders/lib/words_quad16.wgsl");
const WORDS_STORE: &str = include_str!("../../../shaders/lib/words_store.wgsl");
const NO_SECOND: &str = include_str!("../../../shaders/lib/reduction_second_none.wgsl");

/// Vectors of four words in a record, in the usual modes.
const RECORD: u32 = 2;
/// Records of a row that one team merges.
const FAN: usize = 4096;
/// Quads that the virtual lanes of a team take at once.
const VIRTUAL: u32 = 16;
/// Longest chunk: the smallest team that a device has then loops about 16,000 times a pass over quads and blocks.
const LONGEST: usize = 131_072;
/// Chunk of a row where there are few rows.
const SHORTER: usize = 16_384;
/// Dimensions that a kernel tells apart inside a chunk.
const INNER: usize = 4;

/// Parameters as lib/reduction_rows.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Params {
    sizes: [u32; 4],
    x_strides: [u32; 4],
    w_strides: [u32; 4],
    y_strides: [u32; 4],
    inner: [u32; 4],
    x_steps: [u32; 4],
    w_steps: [u32; 4],
    bases: [u32; 4],
    count: [f32; 2],
    divisor: [f32; 2],
    zero: u32,
    rows: u32,
    grid_x: u32,
    first_row: u32,
    kept: u32,
    records: u32,
    chunks: u32,
    part: u32,
    cut: u32,
    below: u32,
    fan: u32,
    elements: u32,
}

/// What is written of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The result, in the storage type.
    Value,
    /// The index of the extreme element, a u32.
    Index,
    /// What the gradient needs: four words.
    Statistics,
}

impl Output {
    /// What the reduction itself writes.
    pub(crate) fn of(kind: ReductionKind) -> Output {
        if kind.is_arg() { Output::Index } else { Output::Value }
    }
}

/// A variant of the shaders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub kind: ReductionKind,
    pub output: Output,
    pub mode: SumMode,
    pub dtype: DType,
    pub dims: u32,
    pub columns: bool,
    pub team: u32,
    pub accumulators: u32,
    pub workgroup: u32,
    pub subgroups: bool,
    pub lanes: u32,
    pub shader_f16: bool,
    /// Whether the innermost loops may be unrolled; it costs software drivers seconds.
    pub unroll: bool,
    pub all_read_write: bool,
    /// Whether x and the second tensor can be taken four aligned elements at a time.
    pub quads: [bool; 2],
}

impl Variant {
    fn is_exact_sum(&self) -> bool {
        self.mode == SumMode::Reproducible && self.kind.has_mode()
    }

    /// The WGSL of an exact sum: elements are loaded and stored as bits.
    fn exact_source(&self) -> String {
        let (storage, precision, smallest, infinity, nan) = match self.dtype {
            DType::F32 => (0, 24, 0, 0x7f80_0000, 0x7fc0_0000),
            DType::F16 => (1, 11, 149 - 24, 0x7c00, 0x7e00),
            DType::Bf16 => (2, 8, 149 - 133, 0x7f80, 0x7fc0),
        };
        let two = self.kind.takes_two();
        let limbs = exact_limbs(two);
        let constants = [
            ("WG", self.workgroup),
            ("TEAM", self.team),
            ("ACC", self.accumulators),
            ("EXCHANGE", 1),
            ("KIND", self.kind as u32),
            ("MEAN", ReductionKind::Mean as u32),
            ("DIMS", self.dims),
            ("LIMBS", limbs),
            ("SPACE", (limbs + 1) * self.workgroup),
            ("RECORD", exact_record(two)),
            ("STORAGE", storage),
            ("PRECISION", precision),
            // Bits of products begin 149 further down.
            ("LOWEST_BIT", smallest + if two { 149 } else { 0 }),
            ("INFINITY", infinity),
            ("NOT_A_NUMBER", nan),
        ];
        let flags = [
            ("TWO", boolean(two)),
            ("COLUMNS", boolean(self.columns)),
            ("UNROLL", boolean(self.unroll)),
        ];
        let constants: Vec<_> = constants
            .map(|(name, value)| (name, unsigned(value)))
            .into_iter()
            .chain(flags)
            .collect();
        let mut text = compose(&Composition {
            constants: &constants,
            tensors: &[],
            alias: None,
            shader_f16: false,
            all_read_write: self.all_read_write,
            fragments: &[
                lib::EXCHANGE_WORKGROUP,
                lib::ROUND16,
                if two { SECOND } else { NO_SECOND },
                ROWS,
                REPRODUCIBLE,
                TO_VALUE,
            ],
            kernel: REDUCTION,
        });
        let words = |quads| match (quads, self.dtype) {
            (false, _) => WORDS_ANY,
            (true, DType::F32) => WORDS_QUAD32,
            (true, _) => WORDS_QUAD16,
        };
        text.push_str(&words(self.quads[0]).replace("tensor_", "x_"));
        text.push_str(&WORDS_STORE.replace("tensor_", "y_"));
        if two {
            text.push_str(&words(self.quads[1]).replace("tensor_", "w_"));
        }
        text
    }

    /// The variant's WGSL.
    pub(crate) fn source(&self) -> String {
        use ReductionKind as K;
        let kind = self.kind;
        if self.is_exact_sum() {
            return self.exact_source();
        }
        // What tells kinds apart in the shaders; kinds that differ only on the host share their kernels.
        let number = |k: K| unsigned(k as u32);
        let variance = matches!(kind, K::Variance | K::Std);
        let constants = [
            ("WG", unsigned(self.workgroup)),
            ("TEAM", unsigned(self.team)),
            ("ACC", unsigned(self.accumulators)),
            ("LANES", unsigned(self.lanes)),
            (
                "EXCHANGE",
                unsigned(if self.subgroups && self.team <= self.lanes {
                    1
                } else {
                    self.workgroup
                }),
            ),
            ("KIND", number(kind)),
            ("MEAN", number(K::Mean)),
            ("NORM_L2", number(K::NormL2)),
            ("NORM_MAX", number(K::NormMax)),
            ("LOG_SUM", number(K::LogSum)),
            ("VARIANCE_OF", number(K::Variance)),
            ("VARIANCE", boolean(variance)),
            ("ABSOLUTE", boolean(kind == K::NormL1)),
            ("PRODUCT", boolean(matches!(kind, K::Dot | K::NormL2 | K::SumSquare))),
            ("TWO", boolean(kind.takes_two())),
            (
                "COMPENSATED",
                boolean(kind == K::LogSum || (kind.has_mode() && self.mode == SumMode::Compensated)),
            ),
            ("ARG", boolean(self.output == Output::Index)),
            ("STATISTICS", boolean(self.output == Output::Statistics)),
            ("MINIMUM", boolean(matches!(kind, K::Min | K::ArgMin))),
            ("UNROLL", boolean(self.unroll)),
            ("DIMS", unsigned(self.dims)),
            ("COLUMNS", boolean(self.columns)),
        ];
        let access = |name, quad, written| TensorAccess {
            name,
            dtype: self.dtype,
            quad,
            written,
        };
        let mut tensors = vec![access("x", self.quads[0], false)];
        if self.output == Output::Value {
            tensors.push(access("y", false, true));
        }
        if kind.takes_two() {
            tensors.push(access("w", self.quads[1], false));
        }
        let mut fragments = vec![
            if self.subgroups {
                lib::EXCHANGE_SUBGROUP
            } else {
                lib::EXCHANGE_WORKGROUP
            },
            lib::BITS,
            lib::ERROR_FREE,
            lib::REDUCE,
            if kind.takes_two() { SECOND } else { NO_SECOND },
            ROWS,
        ];
        if kind.is_exact() {
            fragments.push(STATE_EXTREME);
        } else {
            fragments.extend([lib::ELEMENTARY, SUM, if variance { STATE_VARIANCE } else { STATE_SUM }]);
        }
        fragments.push(match self.output {
            Output::Value => TO_VALUE,
            Output::Index => TO_INDEX,
            Output::Statistics => TO_STATISTICS,
        });
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: None,
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &fragments,
            kernel: REDUCTION,
        })
    }
}

/// A tensor that is read, in a buffer or in host memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a> {
    pub dtype: DType,
    pub shape: &'a [usize],
    pub strides: &'a [usize],
    pub offset: usize,
    /// Bytes of what it lies in, whole words.
    pub bytes: u64,
}

impl<'a> From<&'a BufferView> for Operand<'a> {
    fn from(view: &'a BufferView) -> Self {
        Operand {
            dtype: view.dtype,
            shape: &view.shape,
            strides: &view.strides,
            offset: view.offset,
            bytes: view.buffer.size(),
        }
    }
}

/// Everything that a call is about, checked. `y` has the rank of `x`, with the reduced dimensions as 1.
pub(crate) struct Call<'a> {
    pub kind: ReductionKind,
    /// What `y` gets; of anything but values it is a view of f32, whose place words take.
    pub output: Output,
    pub options: &'a ReductionOptions,
    pub x: Operand<'a>,
    pub second: Option<Operand<'a>>,
    pub y: &'a BufferView,
    pub workspace: Option<(&'a wgpu::Buffer, u64)>,
    pub chunk: Option<usize>,
    /// Whether a buffer that is read is written, too.
    pub shared: bool,
}

/// Limbs of 24 bits of an exact sum: room for 2^32 elements, or products of them.
const fn exact_limbs(products: bool) -> u32 {
    if products { 25 } else { 13 }
}

/// Vectors of four words that an exact sum's record takes: its limbs and flags.
const fn exact_record(products: bool) -> u32 {
    (exact_limbs(products) + 1).div_ceil(4)
}

/// Invocations that take a chunk of an exact sum together: each should have enough to do to pay for its limbs.
fn exact_team(capabilities: &Capabilities, cutting: &Cutting, quads: usize) -> u32 {
    if cutting.columns {
        return 1;
    }
    let most = if capabilities.software {
        4
    } else {
        128.min(capabilities.max_invocations)
    };
    let busy = (quads / 16).max(1);
    // Rounded down to a power of two.
    (1u32 << busy.min(1 << 20).ilog2()).min(most)
}

/// How the rows of a call are cut.
#[derive(Clone, Debug)]
pub(crate) struct Cutting {
    layout: Layout,
    /// Reduced dimensions that number chunks, outermost first.
    outer: Vec<Dim>,
    /// The dimension that is cut, into `chunks` parts of `part` indices.
    cut: Dim,
    part: usize,
    chunks: usize,
    /// Whole dimensions inside a chunk, outermost first.
    inner: Vec<Dim>,
    /// Neighbouring invocations take neighbouring rows.
    columns: bool,
    /// Bytes of a record.
    record: u64,
}

impl Cutting {
    pub(crate) fn new(
        capabilities: &Capabilities,
        layout: Layout,
        dtype: DType,
        chunk: Option<usize>,
    ) -> Result<Cutting> {
        let (rows, len) = (layout.rows(), layout.len());
        let step = layout.reduced.last().map_or(0, |d| d.strides[0]);
        let columns = step > 1 && rows >= 32 && layout.kept.last().is_some_and(|d| d.size > 1 && d.strides[0] < step);
        let few = rows < if capabilities.software { 8 } else { 128 };
        let longest = match chunk {
            Some(elements) => elements.max(4),
            None if columns => {
                let wanted = if capabilities.software { 256 } else { 65_536 };
                (len / (wanted / rows).max(1)).clamp(64, SHORTER)
            }
            None if few => SHORTER,
            None => LONGEST,
        };
        // A chunk's span may be overstated twice, and the window adds a little at both ends.
        let room = (capabilities.max_binding / 4 / dtype.size() as u64) as usize;
        let span = |dims: &[Dim], t: usize| -> usize { dims.iter().map(|d| (d.size - 1) * d.strides[t]).sum() };
        let mut outer = layout.reduced.clone();
        let mut inner: Vec<Dim> = Vec::new();
        let single = Dim {
            size: 1,
            strides: [0; 2],
        };
        let mut below = 1usize;
        loop {
            let cut = outer.pop().unwrap_or(single);
            let whole: Vec<Dim> = std::iter::once(cut).chain(inner.iter().copied()).collect();
            let fits =
                cut.size > 0 && (0..2).all(|t| span(&whole, t) < room) && below.saturating_mul(cut.size) <= longest;
            if fits && !outer.is_empty() && inner.len() + 1 < INNER {
                below *= cut.size;
                inner.insert(0, cut);
                continue;
            }
            let mut part = (longest / below).max(1).min(cut.size.max(1));
            for t in 0..2 {
                let one = span(&inner, t);
                if one >= room {
                    return Err(Error::Limit {
                        what: "bytes between elements of a row in one storage binding",
                        need: (one as u64).saturating_mul(4 * dtype.size() as u64),
                        have: capabilities.max_binding,
                    });
                }
                if let Some(more) = (room - one).checked_div(cut.strides[t]) {
                    part = part.min(more + 1);
                }
            }
            if part < cut.size && inner.is_empty() && part >= 4 {
                part = part / 4 * 4;
            }
            return Ok(Cutting {
                chunks: cut.size.div_ceil(part).max(1),
                layout,
                outer,
                cut,
                part,
                inner,
                columns,
                record: u64::from(RECORD) * 16,
            });
        }
    }

    /// Records that a row leaves; 1 where it is done at once.
    pub(crate) fn records(&self) -> usize {
        self.outer.iter().map(|d| d.size).product::<usize>() * self.chunks
    }

    /// Records of a row after each stage but the last.
    fn stages(&self) -> Vec<usize> {
        let mut stages = Vec::new();
        let mut records = self.records();
        while records > 1 {
            stages.push(records);
            records = if records > FAN { records.div_ceil(FAN) } else { 1 };
        }
        stages
    }

    /// Bytes of workspace: the records of every stage, each stage at a multiple of 256.
    pub(crate) fn workspace(&self) -> u64 {
        let bytes = |records: usize| self.region(records).next_multiple_of(256);
        self.stages().into_iter().map(bytes).sum()
    }

    /// Whether the device's buffers and bindings hold the workspace.
    pub(crate) fn fits(&self, capabilities: &Capabilities) -> bool {
        let first = self.stages().first().map_or(0, |&records| self.region(records));
        first <= capabilities.max_binding && self.workspace() <= capabilities.max_buffer
    }

    /// Bytes of so many records of every row.
    fn region(&self, records: usize) -> u64 {
        self.layout.rows() as u64 * records as u64 * self.record
    }

    /// Elements of a whole chunk.
    fn elements(&self) -> usize {
        self.part * self.below()
    }

    fn below(&self) -> usize {
        self.inner.iter().map(|d| d.size).product()
    }

    /// Dimensions inside a chunk, outermost first.
    fn content(&self) -> Vec<Dim> {
        let cut = Dim {
            size: self.part.min(self.cut.size),
            ..self.cut
        };
        std::iter::once(cut).chain(self.inner.iter().copied()).collect()
    }

    /// The chunks of tensor `t` for the planner, whose dimensions number them.
    fn map(&self, t: usize, offset: usize) -> RowMap {
        let row = |d: &Dim| RowDim {
            size: d.size,
            stride: d.strides[t],
        };
        let kept = self.layout.kept.iter().map(row);
        let records = self.outer.iter().map(row).chain([RowDim {
            size: self.chunks,
            stride: if self.chunks > 1 {
                self.part * self.cut.strides[t]
            } else {
                0
            },
        }]);
        let dims = if self.columns {
            records.chain(kept).collect()
        } else {
            kept.chain(records).collect()
        };
        // As many elements as there are, spread over the span that they take.
        let len = self.elements().min(self.layout.len());
        let span: usize = self
            .content()
            .iter()
            .map(|d| d.size.saturating_sub(1) * d.strides[t])
            .sum();
        RowMap {
            offset,
            dims,
            len,
            len_stride: if len > 1 { span.div_ceil(len - 1) } else { 0 },
        }
    }

    /// The rows of y, as the dimensions of [`Cutting::map`] where a row is one chunk.
    fn result_map(&self, y: &BufferView, reduced: &[bool]) -> RowMap {
        let mut dims: Vec<RowDim> = (0..y.shape.len())
            .filter(|&d| !reduced[d])
            .map(|d| RowDim {
                size: y.shape[d],
                stride: y.strides[d],
            })
            .collect();
        if self.records() == 1 {
            let none = RowDim { size: 1, stride: 0 };
            let at = if self.columns { 0 } else { dims.len() };
            dims.splice(at..at, std::iter::repeat_n(none, self.outer.len() + 1));
        }
        RowMap {
            offset: y.offset,
            dims,
            len: 1,
            len_stride: 0,
        }
    }
}

/// The cutting of a call.
pub(crate) fn cutting(
    gpu: &Gpu,
    kind: ReductionKind,
    options: &ReductionOptions,
    x: Operand<'_>,
    second: Option<Operand<'_>>,
    chunk: Option<usize>,
) -> Result<Cutting> {
    let reduced = options.reduced(x.shape)?;
    let other = second.map_or(x.strides, |w| w.strides);
    let layout = Layout::new(x.shape, [x.strides, other], &reduced);
    let mut cutting = Cutting::new(gpu.capabilities(), layout, x.dtype, chunk)?;
    if options.is_reproducible(kind) {
        cutting.record = u64::from(exact_record(kind.takes_two())) * 16;
    }
    Ok(cutting)
}

/// Whether chunks can be taken four aligned elements at a time.
fn aligned(operand: &Operand<'_>, t: usize, cutting: &Cutting) -> bool {
    let quads = |n: usize| n.is_multiple_of(4);
    let content = cutting.content();
    let Some((inner, others)) = content.split_last() else {
        return false;
    };
    let whole = if others.is_empty() {
        quads(cutting.cut.size) && (cutting.chunks == 1 || quads(cutting.part))
    } else {
        quads(inner.size)
    };
    let apart = others.iter().chain(&cutting.outer).chain(&cutting.layout.kept);
    inner.strides[t] == 1
        && cutting.layout.len() > 0
        && whole
        && quads(operand.offset)
        && (others.is_empty() || quads(cutting.part * cutting.cut.strides[t]) || cutting.chunks == 1)
        && apart.into_iter().all(|d| d.size == 1 || quads(d.strides[t]))
}

/// Where a tensor lies: its bytes from `begin` on in a buffer.
pub(crate) struct Input<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub begin: u64,
}

/// Windows whose inputs are uploaded together, and which bytes of each input these are.
pub(crate) struct Piece {
    pub bytes: std::ops::Range<u64>,
    pub windows: Vec<Window>,
}

/// The dispatches of a call, wherever its inputs lie.
pub(crate) struct Plan {
    label: &'static str,
    rows: usize,
    records: usize,
    variant: Variant,
    merging: Variant,
    common: Params,
    /// Rows that one dispatch merges.
    most: usize,
    windows: Vec<Window>,
    results: Vec<Window>,
    y: wgpu::Buffer,
    workspace: Option<wgpu::Buffer>,
    /// Records of a row after each stage, and the place and size of all of them.
    regions: Vec<(usize, u64, u64)>,
}

/// Plans, builds and binds all dispatches of a call whose inputs lie in these buffers.
pub(crate) fn bind(gpu: &Gpu, call: &Call<'_>, inputs: &[Input<'_>]) -> Result<Recording> {
    let cutting = cutting(gpu, call.kind, call.options, call.x, call.second, call.chunk)?;
    if cutting.layout.rows() == 0 {
        return Ok(Recording {
            label: call.kind.name(),
            steps: Vec::new(),
        });
    }
    let plan = Plan::new(gpu, call, &cutting)?;
    plan.recording(gpu, &plan.windows, inputs, true)
}

impl Plan {
    /// Of a call with rows.
    pub(crate) fn new(gpu: &Gpu, call: &Call<'_>, cutting: &Cutting) -> Result<Plan> {
        let label = call.kind.name();
        let reduced = call.options.reduced(call.x.shape)?;
        let (rows, len, records) = (cutting.layout.rows(), cutting.layout.len(), cutting.records());
        for (what, need, have) in [
            ("elements of a row", len, u32::MAX as usize - 8),
            (
                "chunks of all rows",
                rows.saturating_mul(records),
                u32::MAX as usize / 2,
            ),
        ] {
            if need > have {
                return Err(Error::Limit {
                    what,
                    need: need as u64,
                    have: have as u64,
                });
            }
        }
        let capabilities = gpu.capabilities();

        let content = cutting.content();
        let inner_len = content.last().map_or(1, |d| d.size);
        let quads_in_chunk = cutting.elements().min(len) / inner_len.max(1) * inner_len.div_ceil(4);
        // Few widths, since each is a pipeline to be built.
        let width = match quads_in_chunk {
            0..=1 => 1,
            2..=4 => 4,
            _ => VIRTUAL,
        };
        let narrow = capabilities.narrow_team();
        let wide =
            !capabilities.software && !cutting.columns && quads_in_chunk >= 1024 && capabilities.max_invocations >= 256;
        let (team, accumulators) = if cutting.columns {
            (1, 2.min(width))
        } else if wide {
            (256, 1)
        } else {
            let team = width.min(narrow);
            (team, width / team)
        };
        let workgroup = |team: u32| {
            let usual: u32 = if capabilities.software { 64 } else { 128 };
            usual.max(team).min(capabilities.max_invocations)
        };
        // Integers add up to the same in any tree, so an exact sum is free to take whatever team is fast.
        let exact = call.options.is_reproducible(call.kind);
        let (team, accumulators) = if exact {
            (exact_team(capabilities, cutting, quads_in_chunk), 1)
        } else {
            (team, accumulators)
        };
        let variant = Variant {
            kind: call.kind,
            output: call.output,
            mode: call.options.mode,
            dtype: call.x.dtype,
            dims: content.len() as u32,
            columns: cutting.columns,
            team,
            accumulators,
            workgroup: workgroup(team),
            subgroups: !exact && capabilities.subgroup > 1 && team > 1,
            lanes: capabilities.subgroup,
            shader_f16: capabilities.shader_f16,
            unroll: !capabilities.software,
            all_read_write: call.shared,
            quads: [
                aligned(&call.x, 0, cutting),
                call.second.is_some_and(|w| aligned(&w, 1, cutting)),
            ],
        };
        let merging = Variant {
            dims: 1,
            columns: false,
            team: narrow,
            accumulators: if exact { 1 } else { VIRTUAL / narrow },
            workgroup: workgroup(narrow),
            subgroups: !exact && capabilities.subgroup > 1 && narrow > 1,
            quads: [false; 2],
            ..variant
        };
        let budget = |variant: &Variant| Budget {
            binding: capabilities.max_binding,
            alignment: capabilities.storage_alignment,
            elements: match (capabilities.software, exact) {
                (true, false) => 1 << 23,
                (true, true) => 1 << 21,
                (false, _) => 1 << 28,
            },
            rows: (u64::from(capabilities.max_workgroups).pow(2) * u64::from(variant.workgroup / variant.team))
                .min(1 << 30),
        };

        // The kernel's innermost dimension first; the cut one last, where its stride has a place of its own.
        let mut inner = [1u32; 4];
        let mut steps = [[0u32; 4]; 2];
        for (i, dim) in content.iter().rev().enumerate() {
            let slot = if i + 1 == content.len() && i > 0 { 3 } else { i };
            inner[slot] = dim.size as u32;
            for (step, &stride) in steps.iter_mut().zip(&dim.strides) {
                step[slot] = stride as u32;
            }
        }
        let divisor = len as f64 - call.options.correction;
        let common = Params {
            inner,
            x_steps: steps[0],
            w_steps: steps[1],
            count: pair(len as f64),
            divisor: pair(divisor.max(0.0)),
            kept: rows as u32,
            records: records as u32,
            chunks: cutting.chunks as u32,
            part: cutting.part as u32,
            cut: cutting.cut.size as u32,
            below: cutting.below() as u32,
            fan: FAN as u32,
            elements: len as u32,
            ..Params::default()
        };
        let nothing_read = len == 0;
        let mut readers: Vec<Placed> = std::iter::once(call.x)
            .chain(call.second)
            .enumerate()
            .map(|(t, operand)| Placed {
                map: cutting.map(t, operand.offset),
                element: operand.dtype.size() as u64,
                bytes: operand.bytes,
            })
            .collect();
        if nothing_read {
            // Neither place nor strides of what is not there may matter to the plan.
            for Placed { map, .. } in &mut readers {
                map.offset = 0;
                map.dims.iter_mut().for_each(|d| d.stride = 0);
            }
        }
        let result = Placed {
            map: cutting.result_map(call.y, &reduced),
            element: call.y.dtype.size() as u64,
            bytes: call.y.buffer.size(),
        };
        let (mut regions, mut results, mut workspace) = (Vec::new(), Vec::new(), None);
        if records == 1 {
            readers.push(result);
        } else {
            let (buffer, mut at) = match call.workspace {
                Some((buffer, offset)) => (buffer.clone(), offset),
                None => (
                    gpu.create_buffer("macheps workspace", cutting.workspace(), wgpu::BufferUsages::STORAGE)?,
                    0,
                ),
            };
            workspace = Some(buffer);
            for records in cutting.stages() {
                let size = cutting.region(records);
                if size > capabilities.max_binding {
                    return Err(Error::Limit {
                        what: "bytes of workspace in one storage binding",
                        need: size,
                        have: capabilities.max_binding,
                    });
                }
                regions.push((records, at, size));
                at += size.next_multiple_of(256);
            }
            results = windows(&[result], &budget(&merging))?;
        }
        Ok(Plan {
            label,
            rows,
            records,
            variant,
            merging,
            common,
            most: budget(&merging).rows.min(1 << 24) as usize,
            windows: windows(&readers, &budget(&variant))?,
            results,
            y: call.y.buffer.clone(),
            workspace,
            regions,
        })
    }

    /// The windows in pieces whose bytes of an input are at most `most`, for inputs of the same geometry. A window is at most a binding.
    pub(crate) fn take_pieces(&mut self, most: u64) -> Vec<Piece> {
        let mut windows = std::mem::take(&mut self.windows);
        // Each has records or results of its own, so any order will do.
        windows.sort_by_key(|w| w.parts[0].offset);
        let mut pieces: Vec<Piece> = Vec::new();
        for window in windows {
            let part = &window.parts[0];
            let (begin, end) = (part.offset, part.offset + part.size);
            match pieces.last_mut() {
                Some(piece) if end.max(piece.bytes.end) - piece.bytes.start <= most => {
                    piece.bytes.end = end.max(piece.bytes.end);
                    piece.windows.push(window);
                }
                _ => pieces.push(Piece {
                    bytes: begin..end,
                    windows: vec![window],
                }),
            }
        }
        pieces
    }

    fn region(&self, name: &'static str, &(_, offset, size): &(usize, u64, u64)) -> Option<Bind> {
        let buffer = self.workspace.clone()?;
        Some(Bind {
            name,
            buffer,
            offset,
            size,
        })
    }

    /// Dispatches over these windows and, after the last of all, those that merge records.
    pub(crate) fn recording(
        &self,
        gpu: &Gpu,
        windows: &[Window],
        inputs: &[Input<'_>],
        last: bool,
    ) -> Result<Recording> {
        let max_workgroups = gpu.capabilities().max_workgroups;
        let mut binder = Binder {
            dispatches: Dispatches::new(gpu, self.label),
            max_workgroups,
        };
        let mut places: Vec<Place<'_>> = [Role::X, Role::Second]
            .into_iter()
            .zip(inputs)
            .map(|(role, input)| (role, input.buffer, input.begin))
            .collect();
        let result = (Role::Y, &self.y, 0);
        let mut entry = "reduce_chunks";
        if self.records == 1 {
            places.push(result);
            entry = "reduce_rows";
        }
        let kernel = gpu.kernel(self.label, &self.variant.source(), entry)?;
        for window in windows {
            let partials = self.regions.first().and_then(|first| self.region("partials", first));
            binder.add(
                &kernel,
                &self.variant,
                &places,
                window,
                self.common,
                partials.into_iter().collect(),
            )?;
        }
        let Some(end) = self.regions.last().filter(|_| last) else {
            return binder.dispatches.finish();
        };
        let source = self.merging.source();
        for pair in self.regions.windows(2) {
            let kernel = gpu.kernel(self.label, &source, "merge_records")?;
            let groups = self.rows * pair[1].0;
            for first in (0..groups).step_by(self.most) {
                let window = Window {
                    first_row: first,
                    rows: self.most.min(groups - first),
                    sizes: [1; 4],
                    parts: Vec::new(),
                };
                let params = Params {
                    records: pair[0].0 as u32,
                    ..self.common
                };
                let binds = [("partials", &pair[0]), ("merged", &pair[1])];
                let binds = binds.into_iter().filter_map(|(name, region)| self.region(name, region));
                binder.add(&kernel, &self.merging, &[], &window, params, binds.collect())?;
            }
        }
        let params = Params {
            records: end.0 as u32,
            ..self.common
        };
        let kernel = gpu.kernel(self.label, &source, "merge_rows")?;
        for window in &self.results {
            let partials = self.region("partials", end).into_iter().collect();
            binder.add(&kernel, &self.merging, &[result], window, params, partials)?;
        }
        binder.dispatches.finish()
    }
}

/// A tensor's part in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    X,
    Second,
    Y,
}

/// A tensor for the planner: its rows, bytes an element takes, and bytes of what it lies in.
struct Placed {
    map: RowMap,
    element: u64,
    bytes: u64,
}

/// A tensor's buffer, and which of its bytes come first there.
type Place<'a> = (Role, &'a wgpu::Buffer, u64);

fn windows(tensors: &[Placed], budget: &Budget) -> Result<Vec<Window>> {
    let planned: Vec<Planned<'_>> = tensors
        .iter()
        .map(|tensor| Planned {
            rows: &tensor.map,
            element: tensor.element,
            buffer: tensor.bytes,
        })
        .collect();
    plan_windows(&planned, budget, false)
}

struct Binder<'a> {
    dispatches: Dispatches<'a, Params>,
    max_workgroups: u32,
}

impl Binder<'_> {
    fn add(
        &mut self,
        kernel: &Arc<Kernel>,
        variant: &Variant,
        places: &[Place<'_>],
        window: &Window,
        mut params: Params,
        mut bindings: Vec<Bind>,
    ) -> Result<()> {
        let teams = u64::from(variant.workgroup / variant.team);
        let grid = crate::gpu::grid((window.rows as u64).div_ceil(teams), self.max_workgroups)?;
        params.rows = window.rows as u32;
        params.first_row = window.first_row as u32;
        params.grid_x = grid[0];
        params.sizes = window.sizes;
        for (&(role, buffer, begin), part) in places.iter().zip(&window.parts) {
            let (name, strides) = match role {
                Role::X => ("x_data", &mut params.x_strides),
                Role::Second => ("w_data", &mut params.w_strides),
                Role::Y => ("y_data", &mut params.y_strides),
            };
            *strides = part.strides;
            params.bases[role as usize] = part.base;
            bindings.push(Bind {
                name,
                buffer: buffer.clone(),
                offset: part.offset - begin,
                size: part.size,
            });
        }
        self.dispatches.add(kernel, params, grid, bindings);
        Ok(())
    }
}

/// Every variant of the shaders that can come about, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    let widths = [
        (1, 1),
        (4, 4),
        (8, 8),
        (16, 32),
        (16, 128),
        (16, 1),
        (4, 1),
        (256, 32),
        (256, 1),
    ];
    let mut all = Vec::new();
    for kind in ReductionKind::ALL {
        for (s, (dtype, shader_f16)) in storages.into_iter().enumerate() {
            for (i, (team, lanes)) in widths.into_iter().enumerate() {
                // Options that do not interact take turns.
                let turn = i + s + kind as usize;
                if turn % 3 == 1 {
                    continue;
                }
                let columns = team == 1;
                let quads = turn.is_multiple_of(2) && !columns;
                let variant = Variant {
                    kind,
                    output: Output::of(kind),
                    mode: [SumMode::Pairwise, SumMode::Compensated][turn % 2],
                    dtype,
                    dims: 1 + turn as u32 % 4,
                    columns,
                    team,
                    accumulators: if columns { 2 } else { VIRTUAL.div_ceil(team) },
                    workgroup: team.max(64),
                    subgroups: lanes > 1 && team > 1,
                    lanes,
                    shader_f16,
                    unroll: turn % 2 == 1,
                    all_read_write: turn % 3 == 2,
                    quads: [quads; 2],
                };
                let native = if shader_f16 { "_native" } else { "" };
                all.push((format!("{kind}_{dtype}{native}_{i}"), variant.source()));
                if let Some(output) = super::gradient::output(kind) {
                    let statistics = Variant { output, ..variant };
                    all.push((format!("{kind}_statistics_{dtype}{native}_{i}"), statistics.source()));
                }
                if kind.has_mode() && !shader_f16 && (lanes == 1 || columns) && team <= 128 {
                    let exact = Variant {
                        mode: SumMode::Reproducible,
                        accumulators: 1,
                        ..variant
                    };
                    all.push((format!("{kind}_reproducible_{dtype}_{i}"), exact.source()));
                }
            }
        }
    }
    all.extend(super::gradient::shader_variants());
    all
}
