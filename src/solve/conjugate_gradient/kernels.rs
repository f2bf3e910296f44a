//! Conjugate gradients on a device: the variants of the shader, and where things lie in the ledger.

use super::Form;
use crate::gpu::Gpu;
use crate::gpu::source::{Composition, boolean, compose, lib, unsigned};
use crate::solve::PreconditionerForm;

const KERNEL: &str = include_str!("../../../shaders/conjugate_gradient.wgsl");
const LEDGER: &str = include_str!("../../../shaders/lib/conjugate_gradient_ledger.wgsl");
const IDENTITY: &str = include_str!("../../../shaders/lib/conjugate_gradient_identity.wgsl");
const DIAGONAL: &str = include_str!("../../../shaders/lib/conjugate_gradient_diagonal.wgsl");
const GENERAL: &str = include_str!("../../../shaders/lib/conjugate_gradient_general.wgsl");
const KEEP: &str = include_str!("../../../shaders/lib/conjugate_gradient_keep.wgsl");
const KEEP_NONE: &str = include_str!("../../../shaders/lib/conjugate_gradient_keep_none.wgsl");

/// Words of a state, of a workgroup's parts, sets of those, and words of an iteration in the history; the shader's numbers.
pub(super) const STATE_WORDS: usize = 32;
pub(super) const PART_WORDS: usize = 8;
pub(super) const PART_SETS: usize = 3;
pub(super) const HISTORY_WORDS: usize = 4;

/// `struct Params` of `conjugate_gradient_ledger.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub zero: u32,
    pub n: u32,
    pub quads: u32,
    pub pitch_quads: u32,
    pub chunk: u32,
    pub groups: u32,
    pub operator_parts: u32,
    pub operator_base: u32,
    pub operator_pitch: u32,
    pub active_words: u32,
    pub system_words: u32,
    pub capacity: u32,
    pub x_base: u32,
    pub x_pitch: u32,
    pub b_base: u32,
    pub b_pitch: u32,
    pub parity: u32,
    pub first: u32,
    pub exponent: i32,
    pub power: f32,
}

/// How M^-1 reaches the vector updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fusion {
    Identity,
    Diagonal,
    General,
}

impl Fusion {
    pub(super) fn of(form: &PreconditionerForm) -> Fusion {
        match form {
            PreconditionerForm::Identity => Fusion::Identity,
            PreconditionerForm::Diagonal(_) => Fusion::Diagonal,
            PreconditionerForm::General => Fusion::General,
        }
    }
}

/// A variant of the shader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    pub workgroup: u32,
    pub form: Form,
    pub fusion: Fusion,
    /// Whether the operator leaves the parts of its dot product itself.
    pub fused_dot: bool,
}

impl Variant {
    pub(super) fn source(&self) -> String {
        let single = self.form == Form::SingleReduction;
        let constants = [
            ("WG", unsigned(self.workgroup)),
            ("FUSED", boolean(self.fused_dot)),
            ("SINGLE", boolean(single)),
        ];
        let preconditioner = match self.fusion {
            Fusion::Identity => IDENTITY,
            Fusion::Diagonal => DIAGONAL,
            Fusion::General => GENERAL,
        };
        let keep = if single && self.fusion == Fusion::Diagonal {
            KEEP
        } else {
            KEEP_NONE
        };
        compose(&Composition {
            constants: &constants,
            tensors: &[],
            alias: None,
            shader_f16: false,
            all_read_write: false,
            fragments: &[lib::BITS, lib::ERROR_FREE, LEDGER, preconditioner, keep],
            kernel: KERNEL,
        })
    }
}

/// Invocations of a workgroup, and workgroups a system, for vectors of this many quads. Every workgroup sums up the parts of all, so
/// there are no more of them than keep the device busy; on software a barrier is dear and few cores work.
pub(super) fn layout(gpu: &Gpu, quads: usize) -> (u32, u32) {
    let capabilities = gpu.capabilities();
    let (workgroup, most) = if capabilities.software { (32, 16) } else { (256, 512) };
    let workgroup = workgroup.min(capabilities.max_invocations);
    let most = most.min(capabilities.max_workgroups);
    (workgroup, (quads.div_ceil(workgroup as usize).max(1) as u32).min(most))
}

/// Every variant of the shader, as a name and its WGSL, for the tests that validate and translate them.
pub(crate) fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for form in [Form::Standard, Form::SingleReduction] {
        for fusion in [Fusion::Identity, Fusion::Diagonal, Fusion::General] {
            for fused_dot in [false, true] {
                for workgroup in [32, 256] {
                    let variant = Variant {
                        workgroup,
                        form,
                        fusion,
                        fused_dot,
                    };
                    let name = format!("conjugate_gradient_{form:?}_{fusion:?}_{fused_dot}_{workgroup}").to_lowercase();
                    all.push((name, variant.source()));
                }
            }
        }
    }
    all
}
