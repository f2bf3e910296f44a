//! Optimizers on a device: variants of the shaders and their dispatches.

use super::options::{AdamWOptions, SgdOptions};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::source::{Composition, TensorAccess, compose, lib, unsigned};
use crate::gpu::{Bind, BufferView, Dispatches, Gpu, Recording};
use crate::ops::unscale::flat;
use crate::ops::unscale::kernels::{STATE as SCALER_STATE, WIDE};

const OPTIMIZER: &str = include_str!("../../../shaders/optimizer.wgsl");
const ADVANCE: &str = include_str!("../../../shaders/optimizer_advance.wgsl");
const STATE: &str = include_str!("../../../shaders/lib/optimizer_state.wgsl");
const COPY: &str = include_str!("../../../shaders/lib/optimizer_copy.wgsl");
const NO_COPY: &str = include_str!("../../../shaders/lib/optimizer_copy_none.wgsl");

/// Invocations of a workgroup.
const WORKGROUP: u32 = 128;
/// Quads an invocation takes.
const QUADS: u32 = 2;
/// Elements a workgroup takes.
const CHUNK: usize = (WORKGROUP * QUADS * 4) as usize;

/// Parameters as optimizer.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    zero: u32,
    grid_x: u32,
    elements: u32,
    g_base: u32,
    w_base: u32,
    m_base: u32,
    v_base: u32,
    copy_base: u32,
    a: f32,
    b: f32,
    a_complement: f32,
    b_complement: f32,
    epsilon: f32,
    nesterov: u32,
    spare: [u32; 2],
}

/// Parameters as optimizer_advance.wgsl declares them.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct AdvanceParams {
    zero: u32,
    weight_decay: f32,
    gain: f32,
    spare: u32,
    beta1: [f32; 2],
    beta2: [f32; 2],
}

/// Which optimizer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Sgd(SgdOptions),
    AdamW(AdamWOptions),
}

impl Rule {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Rule::Sgd(_) => "sgd",
            Rule::AdamW(_) => "adamw",
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn with_learning_rate(self, learning_rate: f64) -> Rule {
        match self {
            Rule::Sgd(o) => Rule::Sgd(SgdOptions { learning_rate, ..o }),
            Rule::AdamW(o) => Rule::AdamW(AdamWOptions { learning_rate, ..o }),
        }
    }

    fn entry(&self) -> &'static str {
        match self {
            Rule::Sgd(o) if o.momentum == 0.0 => "sgd",
            Rule::Sgd(_) => "sgd_momentum",
            Rule::AdamW(_) => "adamw",
        }
    }

    fn params(&self) -> Params {
        match self {
            Rule::Sgd(o) => Params {
                a: o.momentum as f32,
                b: o.weight_decay as f32,
                nesterov: u32::from(o.nesterov),
                ..Params::default()
            },
            Rule::AdamW(o) => Params {
                a: o.beta1 as f32,
                b: o.beta2 as f32,
                a_complement: (1.0 - o.beta1) as f32,
                b_complement: (1.0 - o.beta2) as f32,
                epsilon: o.epsilon as f32,
                ..Params::default()
            },
        }
    }

    fn advance_params(&self) -> AdvanceParams {
        let pair = |value: f64| [value as f32, (value - f64::from(value as f32)) as f32];
        match self {
            Rule::Sgd(o) => AdvanceParams {
                gain: (1.0 - o.dampening) as f32,
                ..AdvanceParams::default()
            },
            Rule::AdamW(o) => AdvanceParams {
                weight_decay: o.weight_decay as f32,
                beta1: pair(o.beta1),
                beta2: pair(o.beta2),
                ..AdvanceParams::default()
            },
        }
    }
}

/// A variant of optimizer.wgsl.
#[derive(Clone, Copy, Debug)]
struct Variant {
    gradient: DType,
    copy: Option<DType>,
    quad: bool,
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
        let mut tensors = vec![
            access("g", self.gradient, false),
            access("w", DType::F32, true),
            access("m", DType::F32, true),
            access("v", DType::F32, true),
        ];
        if let Some(dtype) = self.copy {
            tensors.push(access("copy", dtype, true));
        }
        compose(&Composition {
            constants: &[("WG", unsigned(WORKGROUP)), ("QUADS", unsigned(QUADS))],
            tensors: &tensors,
            alias: None,
            shader_f16: self.shader_f16,
            all_read_write: self.all_read_write,
            fragments: &[
                lib::BITS,
                lib::ERROR_FREE,
                WIDE,
                SCALER_STATE,
                STATE,
                if self.copy.is_some() { COPY } else { NO_COPY },
            ],
            kernel: OPTIMIZER,
        })
    }
}

fn advance_source() -> String {
    compose(&Composition {
        constants: &[],
        tensors: &[],
        alias: None,
        shader_f16: false,
        all_read_write: false,
        fragments: &[lib::BITS, lib::ERROR_FREE, WIDE, SCALER_STATE, STATE],
        kernel: ADVANCE,
    })
}

/// A tensor of weights with all that belongs to it, checked.
pub(super) struct Tensors<'a> {
    pub count: usize,
    pub gradient: &'a BufferView,
    pub weight: &'a BufferView,
    pub m: Option<&'a BufferView>,
    pub v: Option<&'a BufferView>,
    pub copy: Option<&'a BufferView>,
}

/// Plans, builds and binds the dispatches of a step.
pub(super) fn bind(
    gpu: &Gpu,
    rule: &Rule,
    scaler: &wgpu::Buffer,
    state: &wgpu::Buffer,
    all: &[Tensors<'_>],
) -> Result<Recording> {
    let capabilities = gpu.capabilities();
    if WORKGROUP > capabilities.max_invocations {
        return Err(Error::Limit {
            what: "invocations a workgroup",
            need: WORKGROUP.into(),
            have: capabilities.max_invocations.into(),
        });
    }
    let label = rule.name();
    let mut advance = Dispatches::new(gpu, label);
    let kernel = gpu.kernel(label, &advance_source(), "advance")?;
    let shared = [Bind::whole("scaler", scaler), Bind::whole("state", state)];
    advance.add(&kernel, rule.advance_params(), [1, 1], shared.to_vec());

    let mut steps = Dispatches::new(gpu, label);
    for tensors in all.iter().filter(|t| t.count > 0) {
        let named: Vec<(&'static str, &BufferView)> = [
            Some(("g_data", tensors.gradient)),
            Some(("w_data", tensors.weight)),
            tensors.m.map(|m| ("m_data", m)),
            tensors.v.map(|v| ("v_data", v)),
            tensors.copy.map(|c| ("copy_data", c)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let views: Vec<&BufferView> = named.iter().map(|(_, view)| *view).collect();
        let variant = Variant {
            gradient: tensors.gradient.dtype,
            copy: tensors.copy.map(|c| c.dtype),
            quad: flat::quads(&views, tensors.count),
            shader_f16: capabilities.shader_f16,
            all_read_write: views[1..].iter().any(|v| v.buffer == tensors.gradient.buffer),
        };
        let kernel = gpu.kernel(label, &variant.source(), rule.entry())?;
        for share in flat::shares(gpu, &views, tensors.count, CHUNK)? {
            let mut params = rule.params();
            params.grid_x = share.grid[0];
            params.elements = share.elements;
            let mut bindings = shared.to_vec();
            for (t, (name, _)) in named.iter().enumerate() {
                bindings.push(share.bind(t, name));
                let base = match *name {
                    "g_data" => &mut params.g_base,
                    "w_data" => &mut params.w_base,
                    "m_data" => &mut params.m_base,
                    "v_data" => &mut params.v_base,
                    _ => &mut params.copy_base,
                };
                *base = share.base(t);
            }
            steps.add(&kernel, params, share.grid, bindings);
        }
    }
    Ok(Recording {
        label,
        steps: [advance.finish()?.steps, steps.finish()?.steps]
            .into_iter()
            .flatten()
            .collect(),
    })
}

/// Every variant of the shaders that can come about, as a name and its WGSL.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = vec![("optimizer_advance".to_string(), advance_source())];
    let storages = [
        (DType::F32, false),
        (DType::F16, true),
        (DType::F16, false),
        (DType::Bf16, false),
    ];
    for (dtype, shader_f16) in storages {
        let mut stored = vec![(dtype, None), (dtype, Some(dtype)), (DType::F32, Some(dtype))];
        stored.dedup();
        for (gradient, copy) in stored {
            for quad in [false, true] {
                let variant = Variant {
                    gradient,
                    copy,
                    quad,
                    shader_f16,
                    // Takes turns: it changes one word of the source.
                    all_read_write: quad == copy.is_some(),
                };
                let name = format!(
                    "optimizer_{gradient}{}_{}{}",
                    if shader_f16 { "_native" } else { "" },
                    copy.map_or("no", DType::name),
                    if quad { "_quad" } else { "" },
                );
                all.push((name, variant.source()));
            }
        }
    }
    all
}
