//! The sigmoid family on a device: the variant of the shaders and its dispatches.

use super::options::ActivationKind;
use crate::element::DType;
use crate::error::Result;
use crate::gpu::source::{Composition, TensorAccess, compose, lib, unsigned};
use crate::gpu::{BufferView, Dispatches, Gpu, Recording};
use crate::ops::elementwise::{self, ELEMENTWISE, Operand, WORKGROUP};

const FORWARD: &str = include_str!("../../../shaders/activation.wgsl");
const BACKWARD: &str = include_str!("../../../shaders/activation_backward.wgsl");
/// exp(-|x|) and what is made of it.
pub(crate) const LOGISTIC: &str = include_str!("../../../shaders/lib/logistic.wgsl");

/// Quads that an invocation treats: a workgroup has some work against the cost of starting it.
const ROUNDS: u32 = 4;

/// A variant of the shaders.
#[derive(Clone, Copy, Debug)]
struct Variant {
    kind: ActivationKind,
    backward: bool,
    dtype: DType,
    shader_f16: bool,
    in_place: bool,
    all_read_write: bool,
    /// Whether x, y and the upstream gradient can be taken four aligned elements at a time.
    quads: [bool; 3],
}

impl Variant {
    fn source(&self) -> String {
        let constants = [
            ("WG", unsigned(WORKGROUP)),
            ("SIGMOID", unsigned(ActivationKind::Sigmoid as u32)),
            ("LOG_SIGMOID", unsigned(ActivationKind::LogSigmoid as u32)),
            ("KIND", unsigned(self.kind as u32)),
            ("X", unsigned(0)),
            ("Y", unsigned(1)),
            ("UPSTREAM", unsigned(2)),
        ];
        let access = |name, quad, written| TensorAccess {
            name,
            dtype: self.dtype,
            quad,
            written,
        };
        let mut tensors = vec![access("x", self.quads[0], false), access("y", self.quads[1], true)];
        if self.backward {
            tensors.push(access("upstream", self.quads[2], false));
        }
        compose(&Composition {
            constants: &constants,
            tensors: &tensors,
            alias: self.in_place.then_some(("x", "y")),
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &[lib::BITS, lib::ERROR_FREE, LOGISTIC, ELEMENTWISE],
            kernel: if self.backward { BACKWARD } else { FORWARD },
        })
    }
}

/// Plans, builds and binds all dispatches of a checked call.
pub(crate) fn bind(
    gpu: &Gpu,
    kind: ActivationKind,
    x: &BufferView,
    upstream: Option<&BufferView>,
    y: &BufferView,
) -> Result<Recording> {
    let label = kind.name_of(upstream.is_some());
    if x.shape.contains(&0) {
        return Ok(Recording {
            label,
            steps: Vec::new(),
        });
    }
    let operands: Vec<Operand<'_>> = [(Some(x), "x_data"), (Some(y), "y_data"), (upstream, "upstream_data")]
        .into_iter()
        .enumerate()
        .filter_map(|(slot, (view, binding))| view.map(|view| Operand { slot, binding, view }))
        .collect();
    let plan = elementwise::plan(gpu, &operands, ROUNDS)?;
    let in_place = x.same_as(y);
    let variant = Variant {
        kind,
        backward: upstream.is_some(),
        dtype: x.dtype,
        shader_f16: gpu.capabilities().shader_f16,
        in_place,
        all_read_write: [Some(x).filter(|_| !in_place), upstream]
            .into_iter()
            .flatten()
            .any(|reader| reader.buffer == y.buffer),
        quads: [plan.quads[0], plan.quads[1], plan.quads.get(2) == Some(&true)],
    };
    let kernel = gpu.kernel(label, &variant.source(), "main")?;
    let mut dispatches = Dispatches::new(gpu, label);
    for dispatch in plan.dispatches {
        dispatches.add(&kernel, dispatch.params, dispatch.grid, dispatch.bindings);
    }
    dispatches.finish()
}

/// Every variant of the shaders, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    for kind in ActivationKind::ALL {
        for backward in [false, true] {
            for (dtype, shader_f16) in storages {
                for form in 0..6 {
                    let variant = Variant {
                        kind,
                        backward,
                        dtype,
                        shader_f16,
                        in_place: form % 3 == 1,
                        all_read_write: form % 3 == 2,
                        quads: [form >= 3; 3],
                    };
                    let native = if shader_f16 { "_native" } else { "" };
                    let name = format!("{}_{dtype}{native}_{form}", kind.name_of(backward));
                    all.push((name, variant.source()));
                }
            }
        }
    }
    all
}
