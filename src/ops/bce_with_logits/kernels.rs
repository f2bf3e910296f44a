//! Binary cross-entropy on a device: the variant of the shader and its dispatches.

use super::options::LossReduction;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, compose, lib, unsigned};
use crate::gpu::{Bind, BufferView, Dispatches, Gpu, Recording};
use crate::ops::activation::kernels::LOGISTIC;
use crate::ops::elementwise::{self, ELEMENTWISE, Operand, Params, WORKGROUP};
use crate::ops::unscale::kernels::{SIGNED_TEAM, SIGNED_WIDE, WIDE};

const KERNELS: &str = include_str!("../../../shaders/bce_with_logits.wgsl");

/// Quads that an invocation treats; with sums, so many that partials and the tree over a workgroup count for little.
const ROUNDS: u32 = 4;
const ROUNDS_OF_SUMS: u32 = 16;

/// Bytes of a partial.
const PARTIAL: u64 = 16;

/// Tensors by their slots: x, target, weight, pos_weight, upstream, loss, grad.
const NAMES: [&str; 7] = ["x", "target", "weight", "pos_weight", "upstream", "loss", "grad"];
const BINDINGS: [&str; 7] = [
    "x_data",
    "target_data",
    "weight_data",
    "pos_weight_data",
    "upstream_data",
    "loss_data",
    "grad_data",
];
const LOSS: usize = 5;

/// A variant of the shader.
#[derive(Clone, Copy, Debug)]
struct Variant {
    dtype: DType,
    target: DType,
    shader_f16: bool,
    in_place: bool,
    all_read_write: bool,
    /// Which tensors can be taken four aligned elements at a time.
    quads: [bool; 7],
}

impl Variant {
    fn source(&self) -> String {
        let slot = |name, slot: u32| (name, unsigned(slot));
        let constants = [
            ("WG", unsigned(WORKGROUP)),
            ("TEAM", unsigned(WORKGROUP)),
            ("EXCHANGE", unsigned(WORKGROUP)),
            slot("X", 0),
            slot("LABEL", 1),
            slot("WEIGHT", 2),
            slot("POS_WEIGHT", 3),
            slot("UPSTREAM", 4),
            slot("LOSS", LOSS as u32),
            slot("GRAD", 6),
        ];
        let tensors: Vec<TensorAccess> = (0..NAMES.len())
            .map(|slot| TensorAccess {
                name: NAMES[slot],
                dtype: match slot {
                    0 | 6 => self.dtype,
                    1 => self.target,
                    _ => DType::F32,
                },
                quad: self.quads[slot],
                written: slot >= LOSS,
            })
            .collect();
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: self.in_place.then_some(("x", "grad")),
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &[
                lib::EXCHANGE_WORKGROUP,
                lib::BITS,
                lib::ERROR_FREE,
                lib::REDUCE,
                WIDE,
                SIGNED_WIDE,
                SIGNED_TEAM,
                LOGISTIC,
                ELEMENTWISE,
            ],
            kernel: KERNELS,
        })
    }
}

/// A checked call. What broadcasts is stretched to the shape of x already.
pub(crate) struct Call<'a> {
    pub reduction: LossReduction,
    pub x: &'a BufferView,
    pub target: &'a BufferView,
    pub weight: Option<BufferView>,
    pub pos_weight: Option<BufferView>,
    pub upstream: Option<BufferView>,
    pub loss: Option<&'a BufferView>,
    pub grad: Option<&'a BufferView>,
    pub workspace: Option<(&'a wgpu::Buffer, u64)>,
}

impl Call<'_> {
    fn sums(&self) -> bool {
        self.loss.is_some() && self.reduction != LossReduction::None
    }

    fn rounds(&self) -> u32 {
        if self.sums() { ROUNDS_OF_SUMS } else { ROUNDS }
    }

    /// Tensors by their slots, as far as the call works on them element by element. `ones` stands for what is not given.
    fn operands<'b>(&'b self, ones: &'b BufferView) -> Vec<Operand<'b>> {
        let given = |view: &'b Option<BufferView>| Some(view.as_ref().unwrap_or(ones));
        let views = [
            Some(self.x),
            Some(self.target),
            given(&self.weight),
            given(&self.pos_weight),
            given(&self.upstream).filter(|_| self.grad.is_some()),
            self.loss.filter(|_| !self.sums()),
            self.grad,
        ];
        views
            .into_iter()
            .enumerate()
            .filter_map(|(slot, view)| {
                view.map(|view| Operand {
                    slot,
                    binding: BINDINGS[slot],
                    view,
                })
            })
            .collect()
    }

    /// Bytes of workspace: a partial for each workgroup that sums.
    pub(crate) fn workspace_size(&self, gpu: &Gpu) -> Result<u64> {
        if !self.sums() {
            return Ok(0);
        }
        let mut groups = 0;
        if !self.x.shape.contains(&0) {
            // A broadcast one touches nothing: any buffer serves to plan with.
            let ones = one_everywhere(&self.x.buffer, &self.x.shape);
            let plan = elementwise::plan(gpu, &self.operands(&ones), self.rounds())?;
            groups = plan.dispatches.iter().map(|d| u64::from(d.groups)).sum();
        }
        Ok(groups.max(1) * PARTIAL)
    }
}

/// A view that repeats the first f32 of a buffer.
fn one_everywhere(buffer: &wgpu::Buffer, shape: &[usize]) -> BufferView {
    BufferView::new(buffer, DType::F32, shape).with_strides(&vec![0; shape.len()])
}

/// Plans, builds and binds all dispatches of a checked call.
pub(crate) fn bind(gpu: &Gpu, call: &Call<'_>) -> Result<Recording> {
    let label = match (call.loss, call.grad) {
        (_, None) => "bce_with_logits",
        (None, Some(_)) => "bce_with_logits_backward",
        (Some(_), Some(_)) => "bce_with_logits_forward_backward",
    };
    let sums = call.sums();
    let mut dispatches = Dispatches::new(gpu, label);
    let count: usize = call.x.shape.iter().product();
    if count == 0 && !sums {
        return dispatches.finish();
    }
    let ones = gpu.upload("macheps one", bytemuck::bytes_of(&1f32))?;
    let ones = one_everywhere(&ones, &call.x.shape);
    let operands = call.operands(&ones);
    let plan = if count == 0 {
        elementwise::plan(gpu, &[], 1)?
    } else {
        elementwise::plan(gpu, &operands, call.rounds())?
    };
    let partials = plan.dispatches.iter().map(|d| u64::from(d.groups)).sum::<u64>();
    let workspace = match (sums, call.workspace) {
        (false, _) => None,
        (true, Some((buffer, offset))) => Some((buffer.clone(), offset)),
        (true, None) => {
            let bytes = partials.max(1) * PARTIAL;
            Some((
                gpu.create_buffer("macheps workspace", bytes, wgpu::BufferUsages::STORAGE)?,
                0,
            ))
        }
    };
    let workspace_size = partials.max(1) * PARTIAL;
    if workspace_size > gpu.capabilities().max_binding {
        return Err(Error::Limit {
            what: "bytes of workspace in one storage binding",
            need: workspace_size,
            have: gpu.capabilities().max_binding,
        });
    }
    let bind_partials = workspace.as_ref().map(|(buffer, offset)| Bind {
        name: "partials",
        buffer: buffer.clone(),
        offset: *offset,
        size: workspace_size,
    });

    let in_place = call.grad.is_some_and(|grad| grad.same_as(call.x));
    let written: Vec<&wgpu::Buffer> = [
        call.loss.map(|v| &v.buffer),
        call.grad.map(|v| &v.buffer),
        workspace.as_ref().map(|(buffer, _)| buffer),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut quads = [false; 7];
    for (operand, quad) in operands.iter().zip(&plan.quads) {
        quads[operand.slot] = *quad;
    }
    let variant = Variant {
        dtype: call.x.dtype,
        target: call.target.dtype,
        shader_f16: gpu.capabilities().shader_f16,
        in_place,
        all_read_write: operands
            .iter()
            .filter(|o| o.slot < LOSS && !(in_place && o.slot == 0))
            .any(|o| written.iter().any(|&buffer| o.view.buffer == *buffer)),
        quads,
    };
    let source = variant.source();
    let scale = match call.reduction {
        LossReduction::Mean => (1.0 / count as f64) as f32,
        _ => 1.0,
    };
    if count > 0 {
        let entry = match (call.loss.is_some(), call.grad.is_some()) {
            (true, false) if sums => "sums",
            (true, true) if sums => "sums_and_gradients",
            (true, false) => "losses",
            (true, true) => "losses_and_gradients",
            (false, _) => "gradients",
        };
        let kernel = gpu.kernel(label, &source, entry)?;
        let mut first_partial = 0;
        for dispatch in plan.dispatches {
            let params = Params {
                first_partial,
                partials: dispatch.groups,
                scale,
                ..dispatch.params
            };
            first_partial += dispatch.groups;
            let mut bindings = dispatch.bindings;
            bindings.extend(bind_partials.clone());
            dispatches.add(&kernel, params, dispatch.grid, bindings);
        }
    }
    if let (Some(loss), Some(bind_partials)) = (call.loss.filter(|_| sums), bind_partials) {
        let kernel = gpu.kernel(label, &source, "merge_partials")?;
        let operand = Operand {
            slot: LOSS,
            binding: BINDINGS[LOSS],
            view: loss,
        };
        let (params, bind_loss) = elementwise::single(gpu, &operand);
        let params = Params {
            partials: partials as u32,
            // The mean of nothing is NaN, its sum 0.
            fill: if call.reduction == LossReduction::Mean {
                0x7fc0_0000
            } else {
                0
            },
            scale,
            ..params
        };
        dispatches.add(&kernel, params, [1, 1], vec![bind_loss, bind_partials]);
    }
    dispatches.finish()
}

/// Every variant of the shader, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    for (dtype, shader_f16) in storages {
        let mut targets = vec![DType::F32, dtype];
        targets.dedup();
        for target in targets {
            for form in 0..6 {
                let variant = Variant {
                    dtype,
                    target,
                    shader_f16,
                    in_place: form % 3 == 1,
                    all_read_write: form % 3 == 2,
                    quads: [form >= 3; 7],
                };
                let native = if shader_f16 { "_native" } else { "" };
                let name = format!("bce_with_logits_{dtype}{native}_{target}_{form}");
                all.push((name, variant.source()));
            }
        }
    }
    all
}
