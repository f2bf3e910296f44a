//! Pruning on a device: a variant of the shader, and its dispatches: for each digit a count in windows and a choice, then the
//! mask in windows.

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, compose, lib, unsigned};
use crate::gpu::{Bind, BufferView, Dispatches, Gpu, Recording};
use crate::ops::elementwise::{self, ELEMENTWISE, Operand, Params, WORKGROUP};

const PRUNE: &str = include_str!("../../../shaders/prune.wgsl");
const WORDS_ANY: &str = include_str!("../../../shaders/lib/words_any.wgsl");
const WORDS_QUAD32: &str = include_str!("../../../shaders/lib/words_quad32.wgsl");
const WORDS_QUAD16: &str = include_str!("../../../shaders/lib/words_quad16.wgsl");

/// Quads that an invocation counts: enough that clearing and handing over its counters is cheap for a workgroup.
const ROUNDS: u32 = 32;

/// Bytes of the state and the counters.
pub(crate) const STATE_BYTES: u64 = (8 + 2048) * 4;

/// Words of the state that are the answer.
pub(crate) const ANSWER: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Variant {
    dtype: DType,
    quad: bool,
    all_read_write: bool,
}

impl Variant {
    fn source(&self) -> String {
        let storage = match self.dtype {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Bf16 => 2,
        };
        let words = match (self.quad, self.dtype) {
            (false, _) => WORDS_ANY,
            (true, DType::F32) => WORDS_QUAD32,
            (true, _) => WORDS_QUAD16,
        };
        let mut text = compose(&Composition {
            constants: &[
                ("WG", unsigned(WORKGROUP)),
                ("STORAGE", unsigned(storage)),
                ("X", unsigned(0)),
                ("MASK", unsigned(1)),
            ],
            tensors: &[],
            alias: None,
            shader_f16: false,
            all_read_write: self.all_read_write,
            fragments: &[lib::ROUND16, ELEMENTWISE],
            kernel: PRUNE,
        });
        text.push_str(&words.replace("tensor_", "x_"));
        text
    }
}

/// Plans, builds and binds all dispatches of a checked call. `rank` elements are to be dropped.
pub(crate) fn bind(
    gpu: &Gpu,
    x: &BufferView,
    mask: Option<&BufferView>,
    state: &wgpu::Buffer,
    offset: u64,
    rank: usize,
) -> Result<Recording> {
    let count: u64 = x.shape().iter().map(|&n| n as u64).product();
    if count > u64::from(u32::MAX) {
        return Err(Error::Limit {
            what: "elements of one pruning on a device",
            need: count,
            have: u64::from(u32::MAX),
        });
    }
    let operand = |slot, binding, view| Operand { slot, binding, view };
    let values = operand(0, "x_data", x);
    let (counting, masking) = if count == 0 {
        (None, None)
    } else {
        let masking =
            mask.map(|mask| elementwise::plan(gpu, &[operand(0, "x_data", x), operand(1, "mask_data", mask)], ROUNDS));
        (Some(elementwise::plan(gpu, &[values], ROUNDS)?), masking.transpose()?)
    };
    let variant = |plan: &Option<elementwise::Plan>| Variant {
        dtype: x.dtype(),
        quad: plan.as_ref().is_some_and(|plan| plan.quads[0]),
        all_read_write: x.buffer() == state || mask.is_some_and(|mask| x.buffer() == mask.buffer()),
    };
    let source = variant(&counting).source();
    let bound_state = || Bind {
        name: "state",
        buffer: state.clone(),
        offset,
        size: STATE_BYTES,
    };
    let whole = Params {
        len: count as u32,
        partials: rank as u32,
        ..Params::default()
    };
    let mut dispatches = Dispatches::new(gpu, "prune");
    let clear = gpu.kernel("prune", &source, "clear")?;
    dispatches.add(&clear, whole, [1, 1], vec![bound_state()]);
    let counts = gpu.kernel("prune", &source, "count")?;
    let choose = gpu.kernel("prune", &source, "choose")?;
    // 16-bit values differ in the upper 21 bits of their magnitude as f32.
    let digits = if x.dtype() == DType::F32 { 3 } else { 2 };
    for digit in 0..digits {
        for dispatch in counting.iter().flat_map(|plan| &plan.dispatches) {
            let bindings = dispatch.bindings.iter().cloned().chain([bound_state()]).collect();
            dispatches.add(&counts, dispatch.params, dispatch.grid, bindings);
        }
        let params = Params {
            first_partial: u32::from(digit + 1 == digits),
            ..whole
        };
        dispatches.add(&choose, params, [1, 1], vec![bound_state()]);
    }
    if let Some(plan) = &masking {
        let source = variant(&masking).source();
        let compare = gpu.kernel("prune", &source, "compare")?;
        for dispatch in &plan.dispatches {
            let bindings = dispatch.bindings.iter().cloned().chain([bound_state()]).collect();
            dispatches.add(&compare, dispatch.params, dispatch.grid, bindings);
        }
    }
    dispatches.finish()
}

/// Every variant of the shader, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dtype in DType::ALL {
        for form in 0..4 {
            let variant = Variant {
                dtype,
                quad: form & 1 != 0,
                all_read_write: form & 2 != 0,
            };
            all.push((format!("prune_{dtype}_{form}"), variant.source()));
        }
    }
    all
}
