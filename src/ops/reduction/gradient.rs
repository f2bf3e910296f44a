//! Gradients of reductions on a device: what the forward pass leaves of every row, and one pass over the elements.

use super::kernels::{self, Output};
use super::options::{ReductionKind, ReductionOptions};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, boolean, compose, lib, unsigned};
use crate::gpu::{BufferView, Dispatches, Gpu, Recording};
use crate::ops::elementwise::{self, ELEMENTWISE, Operand, Plan, WORKGROUP};
use crate::ops::unscale::kernels::WIDE;
use crate::rows::contiguous_strides;

const GRADIENT: &str = include_str!("../../../shaders/reduction_gradient.wgsl");
const VALUES: &str = include_str!("../../../shaders/lib/reduction_gradient_x.wgsl");
const NO_VALUES: &str = include_str!("../../../shaders/lib/reduction_gradient_x_none.wgsl");
const STATISTICS: &str = include_str!("../../../shaders/lib/reduction_gradient_statistics.wgsl");
const PLAIN: &str = include_str!("../../../shaders/lib/reduction_gradient_plain.wgsl");
const OF_SUM: &str = include_str!("../../../shaders/lib/reduction_gradient_sum.wgsl");
const OF_VARIANCE: &str = include_str!("../../../shaders/lib/reduction_gradient_variance.wgsl");
const OF_EXTREME: &str = include_str!("../../../shaders/lib/reduction_gradient_extreme.wgsl");

/// Quads that an invocation treats: a workgroup has some work against the cost of starting it.
const ROUNDS: u32 = 4;
/// Slices that a call may be cut into where a tensor has more dimensions than a kernel tells apart.
const MOST_SLICES: usize = 256;

/// What the forward pass has to leave of a row, if anything.
pub(super) fn output(kind: ReductionKind) -> Option<Output> {
    use ReductionKind as K;
    match kind {
        K::NormL2 | K::LogSum | K::Variance | K::Std => Some(Output::Statistics),
        K::NormMax | K::Min | K::Max => Some(Output::Index),
        K::Sum | K::Mean | K::NormL1 | K::Dot | K::SumSquare | K::ArgMin | K::ArgMax => None,
    }
}

/// Words that it leaves.
fn words(kind: ReductionKind) -> usize {
    match output(kind) {
        None | Some(Output::Value) => 0,
        Some(Output::Index) => 1,
        Some(Output::Statistics) => 4,
    }
}

/// Whether the gradient of an element depends on its value, or on that of the second tensor.
fn takes_values(kind: ReductionKind) -> bool {
    use ReductionKind as K;
    !matches!(kind, K::Sum | K::Mean | K::LogSum | K::Min | K::Max)
}

/// A variant of the shader.
#[derive(Clone, Copy, Debug)]
struct Variant {
    kind: ReductionKind,
    dtype: DType,
    shader_f16: bool,
    all_read_write: bool,
    /// Whether the values, the gradient and the upstream gradient can be taken four aligned elements at a time.
    quads: [bool; 3],
}

/// Slots of the tensors in the parameters.
const X: usize = 0;
const Y: usize = 1;
const UPSTREAM: usize = 2;
const STATISTIC: usize = 3;
const INDEX: usize = 4;

impl Variant {
    fn source(&self) -> String {
        use ReductionKind as K;
        let number = |k: K| unsigned(k as u32);
        let constants = [
            ("WG", unsigned(WORKGROUP)),
            ("KIND", number(self.kind)),
            ("SUM_SQUARE", number(K::SumSquare)),
            ("NORM_L1", number(K::NormL1)),
            ("NORM_L2", number(K::NormL2)),
            ("NORM_MAX", number(K::NormMax)),
            ("VARIANCE_OF", number(K::Variance)),
            (
                "DIVIDES",
                boolean(matches!(
                    self.kind,
                    K::Mean | K::Variance | K::Std | K::NormL2 | K::LogSum
                )),
            ),
            ("X", unsigned(X as u32)),
            ("Y", unsigned(Y as u32)),
            ("UPSTREAM", unsigned(UPSTREAM as u32)),
            ("STATISTICS", unsigned(STATISTIC as u32)),
            ("INDEX", unsigned(INDEX as u32)),
        ];
        let access = |name, slot: usize, written| TensorAccess {
            name,
            dtype: self.dtype,
            quad: self.quads[slot],
            written,
        };
        let mut tensors = vec![access("y", Y, true), access("upstream", UPSTREAM, false)];
        let mut fragments = vec![lib::BITS, lib::ERROR_FREE, WIDE, ELEMENTWISE];
        if takes_values(self.kind) {
            tensors.push(access("x", X, false));
            fragments.push(VALUES);
        } else {
            fragments.push(NO_VALUES);
        }
        fragments.extend(match self.kind {
            K::NormL2 | K::LogSum => &[STATISTICS, OF_SUM][..],
            K::Variance | K::Std => &[STATISTICS, OF_VARIANCE],
            K::NormMax | K::Min | K::Max => &[STATISTICS, OF_EXTREME],
            _ => &[PLAIN],
        });
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: None,
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &fragments,
            kernel: GRADIENT,
        })
    }
}

/// Everything that a call is about, checked. `upstream` and `dx` have the shape of `x`: strides of 0 spread the former.
pub(super) struct Call<'a> {
    pub kind: ReductionKind,
    pub options: &'a ReductionOptions,
    pub x: &'a BufferView,
    pub second: Option<&'a BufferView>,
    pub upstream: &'a BufferView,
    pub dx: &'a BufferView,
    pub workspace: Option<(&'a wgpu::Buffer, u64)>,
    pub chunk: Option<usize>,
}

/// Rows and elements of a row.
fn counts(x: &BufferView, reduced: &[bool]) -> (usize, usize) {
    let product = |gone: bool| {
        let sizes = x.shape.iter().zip(reduced).filter(|&(_, &r)| r == gone);
        sizes.fold(1usize, |n, (&size, _)| n.saturating_mul(size))
    };
    (product(false), product(true))
}

/// Bytes that the statistics of all rows take, rounded up to where the forward pass's own workspace begins.
fn statistics_bytes(kind: ReductionKind, rows: usize) -> u64 {
    (rows as u64 * words(kind) as u64 * 4).next_multiple_of(256)
}

/// Bytes of workspace: the statistics, and what computing them takes.
pub(super) fn workspace(
    gpu: &Gpu,
    kind: ReductionKind,
    options: &ReductionOptions,
    x: &BufferView,
    chunk: Option<usize>,
) -> Result<u64> {
    if output(kind).is_none() || x.shape.contains(&0) {
        return Ok(0);
    }
    let (rows, _) = counts(x, &options.reduced(&x.shape)?);
    let forward = kernels::cutting(gpu, kind, options, x.into(), None, chunk)?;
    Ok(statistics_bytes(kind, rows) + forward.workspace())
}

/// Plans, builds and binds all dispatches of a call.
pub(super) fn bind(gpu: &Gpu, call: &Call<'_>) -> Result<Recording> {
    let kind = call.kind;
    let label = kind.backward_name();
    if call.x.shape.contains(&0) {
        return Ok(Recording {
            label,
            steps: Vec::new(),
        });
    }
    let reduced = call.options.reduced(&call.x.shape)?;
    let (_, len) = counts(call.x, &reduced);
    let divisor = match kind {
        ReductionKind::Mean => len as f64,
        ReductionKind::Variance => (len as f64 - call.options.correction) / 2.0,
        ReductionKind::Std => len as f64 - call.options.correction,
        _ => 1.0,
    };
    let undefined = divisor <= 0.0;
    let mut steps = Vec::new();
    let mut operands = vec![
        operand(Y, "y_data", call.dx),
        operand(UPSTREAM, "upstream_data", call.upstream),
    ];
    if takes_values(kind) {
        operands.push(operand(X, "x_data", call.second.unwrap_or(call.x)));
    }
    if output(kind).is_some() {
        let (recording, statistics) = statistics(gpu, call, &reduced)?;
        if !undefined {
            steps.extend(recording.steps);
        }
        operands.push(operand(STATISTIC, "statistics", &statistics));
    }
    if output(kind) == Some(Output::Index) {
        operands.push(operand(INDEX, "index", &numbering(call.dx, &reduced)));
    }
    let readers = operands.iter().filter(|o| o.slot != Y && o.slot != INDEX);
    let all_read_write = readers.clone().any(|o| o.view.buffer == call.dx.buffer);
    let plans = plans(gpu, &operands)?;
    let quad = |slot: usize| {
        let at = operands.iter().position(|o| o.slot == slot);
        at.is_some_and(|at| plans.iter().all(|plan| plan.quads[at]))
    };
    let variant = Variant {
        kind,
        dtype: call.x.dtype,
        shader_f16: gpu.capabilities().shader_f16,
        all_read_write,
        quads: [quad(X), quad(Y), quad(UPSTREAM)],
    };
    let kernel = gpu.kernel(label, &variant.source(), "main")?;
    let mut dispatches = Dispatches::new(gpu, label);
    for dispatch in plans.into_iter().flat_map(|plan| plan.dispatches) {
        let mut params = dispatch.params;
        params.scale = if undefined { 1.0 } else { divisor as f32 };
        params.fill = u32::from(undefined);
        if let Some(index) = dispatch.bindings.iter().find(|b| b.name == "index") {
            // Nothing is bound there, so what a binding's offset would take off belongs to the number.
            params.bases[INDEX] += (index.offset / call.dx.dtype.size() as u64) as u32;
        }
        dispatches.add(&kernel, params, dispatch.grid, dispatch.bindings);
    }
    steps.extend(dispatches.finish()?.steps);
    Ok(Recording { label, steps })
}

/// The forward pass that leaves the statistics, and those as a tensor of the shape of x, repeated along what is reduced.
fn statistics(gpu: &Gpu, call: &Call<'_>, reduced: &[bool]) -> Result<(Recording, BufferView)> {
    use ReductionKind as K;
    let (rows, _) = counts(call.x, reduced);
    let own = statistics_bytes(call.kind, rows);
    let owned;
    let (buffer, offset) = match call.workspace {
        Some((buffer, offset)) => (buffer, offset),
        None => {
            let bytes = workspace(gpu, call.kind, call.options, call.x, call.chunk)?;
            owned = gpu.create_buffer("macheps workspace", bytes, wgpu::BufferUsages::STORAGE)?;
            (&owned, 0)
        }
    };
    let shape: Vec<usize> = (call.x.shape.iter().zip(reduced))
        .map(|(&size, &gone)| if gone { 1 } else { size })
        .collect();
    let words = words(call.kind);
    let y = BufferView {
        buffer: buffer.clone(),
        dtype: DType::F32,
        offset: (offset / 4) as usize,
        strides: contiguous_strides(&shape).iter().map(|s| s * words).collect(),
        shape,
    };
    let recording = kernels::bind(
        gpu,
        &kernels::Call {
            // Where an extreme is, argmin and argmax tell.
            kind: match call.kind {
                K::Min => K::ArgMin,
                K::Max => K::ArgMax,
                kind => kind,
            },
            output: output(call.kind).unwrap_or(Output::Value),
            options: call.options,
            x: call.x.into(),
            second: None,
            y: &y,
            workspace: Some((buffer, offset + own)),
            chunk: call.chunk,
            shared: call.x.buffer == *buffer,
        },
        &[kernels::Input {
            buffer: &call.x.buffer,
            begin: 0,
        }],
    )?;
    Ok((recording, spread(&y, reduced, &call.x.shape)))
}

/// A result's view, of the rank of `shape`, repeated along the reduced dimensions.
pub(super) fn spread(y: &BufferView, reduced: &[bool], shape: &[usize]) -> BufferView {
    BufferView {
        shape: shape.to_vec(),
        strides: (y.strides.iter().zip(reduced))
            .map(|(&stride, &gone)| if gone { 0 } else { stride })
            .collect(),
        ..y.clone()
    }
}

/// For every element its number among those of its row, as a view that nothing is bound to: the place of an element is its
/// number. It takes the buffer and the type of `dx`, which reaches at least as far.
fn numbering(dx: &BufferView, reduced: &[bool]) -> BufferView {
    let mut strides = vec![0; dx.shape.len()];
    let mut stride = 1;
    for d in (0..dx.shape.len()).rev().filter(|&d| reduced[d]) {
        strides[d] = stride;
        stride *= dx.shape[d];
    }
    BufferView {
        offset: 0,
        strides,
        ..dx.clone()
    }
}

/// A tensor's part in the elementwise pass.
#[derive(Clone)]
struct Placed {
    slot: usize,
    binding: &'static str,
    view: BufferView,
}

fn operand(slot: usize, binding: &'static str, view: &BufferView) -> Placed {
    Placed {
        slot,
        binding,
        view: view.clone(),
    }
}

/// Plans of the whole, or of slices of it where a kernel cannot tell all dimensions apart.
fn plans(gpu: &Gpu, operands: &[Placed]) -> Result<Vec<Plan>> {
    let mut done = Vec::new();
    let mut pending = vec![operands.to_vec()];
    while let Some(part) = pending.pop() {
        let borrowed: Vec<Operand<'_>> = part
            .iter()
            .map(|p| Operand {
                slot: p.slot,
                binding: p.binding,
                view: &p.view,
            })
            .collect();
        let error = match elementwise::plan(gpu, &borrowed, ROUNDS) {
            Ok(plan) => {
                done.push(plan);
                continue;
            }
            Err(error @ Error::Unsupported { .. }) => error,
            Err(error) => return Err(error),
        };
        let shape = &part[0].view.shape;
        let smallest = (0..shape.len()).filter(|&d| shape[d] > 1).min_by_key(|&d| shape[d]);
        let Some(d) = smallest.filter(|&d| shape[d] + pending.len() + done.len() <= MOST_SLICES) else {
            return Err(error);
        };
        for i in 0..shape[d] {
            let mut slice = part.clone();
            for p in &mut slice {
                p.view.offset += i * p.view.strides[d];
                p.view.shape[d] = 1;
            }
            pending.push(slice);
        }
    }
    Ok(done)
}

/// Every variant of the shader, as a name and its WGSL.
pub(super) fn shader_variants() -> Vec<(String, String)> {
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    let mut all = Vec::new();
    for kind in ReductionKind::ALL.into_iter().filter(|k| !k.is_arg()) {
        for (dtype, shader_f16) in storages {
            for form in 0..4 {
                let variant = Variant {
                    kind,
                    dtype,
                    shader_f16,
                    all_read_write: form % 2 == 1,
                    quads: [form >= 2, form >= 2, form == 3],
                };
                let native = if shader_f16 { "_native" } else { "" };
                let name = format!("{}_{dtype}{native}_{form}", kind.backward_name());
                all.push((name, variant.source()));
            }
        }
    }
    all
}
