//! WGSL sources by plain concatenation. There are two axes of variation: numbers, which become `const` declarations at the
//! top (private arrays cannot be sized by an `override`, and drivers unroll loops only over constants), and storage, which
//! is a fragment a tensor. A tensor's fragment is written for a tensor called `tensor` and takes on the tensor's name.

use crate::element::DType;

/// How a tensor of a kernel is stored and reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorAccess {
    /// Its name in the kernel: the kernel declares `NAME_data` as an array of `NAME_unit`.
    pub name: &'static str,
    pub dtype: DType,
    /// Every row starts at a multiple of four elements, has a multiple of four and no stride.
    pub quad: bool,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// What a source is made of.
pub(crate) struct Composition<'a> {
    /// Constants, as name and WGSL value with its type's suffix.
    pub constants: &'a [(&'static str, String)],
    pub tensors: &'a [TensorAccess],
    /// A tensor that is not bound but read from another: the in-place form.
    pub alias: Option<(&'static str, &'static str)>,
    /// Whether 16-bit floats are stored natively.
    pub shader_f16: bool,
    /// Declare every tensor read_write: WebGPU refuses `read` beside `read_write` on one buffer, even on disjoint ranges.
    pub all_read_write: bool,
    pub fragments: &'a [&'static str],
    pub kernel: &'static str,
}

/// Fragments that several kernels use.
pub(crate) mod lib {
    pub const BITS: &str = include_str!("../../shaders/lib/bits.wgsl");
    pub const ERROR_FREE: &str = include_str!("../../shaders/lib/error_free.wgsl");
    pub const ROUND16: &str = include_str!("../../shaders/lib/round16.wgsl");
    pub const ELEMENTARY: &str = include_str!("../../shaders/lib/elementary.wgsl");
    pub const REDUCE: &str = include_str!("../../shaders/lib/reduce.wgsl");
    pub const SOFTMAX_MATH: &str = include_str!("../../shaders/lib/softmax_math.wgsl");
    pub const SOFTMAX_QUADS: &str = include_str!("../../shaders/lib/softmax_quads.wgsl");
    pub const SOFTMAX_RUNNING: &str = include_str!("../../shaders/lib/softmax_running.wgsl");
    pub const EXCHANGE_SUBGROUP: &str = include_str!("../../shaders/lib/exchange_subgroup.wgsl");
    pub const EXCHANGE_WORKGROUP: &str = include_str!("../../shaders/lib/exchange_workgroup.wgsl");
}

const CODEC_F16: &str = include_str!("../../shaders/lib/codec_f16.wgsl");
const CODEC_BF16: &str = include_str!("../../shaders/lib/codec_bf16.wgsl");
const F32: &str = include_str!("../../shaders/lib/tensor_f32.wgsl");
const F32_QUAD: &str = include_str!("../../shaders/lib/tensor_f32_quad.wgsl");
const F16: &str = include_str!("../../shaders/lib/tensor_f16.wgsl");
const F16_QUAD: &str = include_str!("../../shaders/lib/tensor_f16_quad.wgsl");
const PACKED: &str = include_str!("../../shaders/lib/tensor_packed.wgsl");
const PACKED_QUAD: &str = include_str!("../../shaders/lib/tensor_packed_quad.wgsl");
const ANY4: &str = include_str!("../../shaders/lib/tensor_any4.wgsl");
const PACKED_ANY4: &str = include_str!("../../shaders/lib/tensor_packed_any4.wgsl");

/// A WGSL boolean.
pub(crate) fn boolean(value: bool) -> String {
    value.to_string()
}

/// A WGSL u32.
pub(crate) fn unsigned(value: u32) -> String {
    format!("{value}u")
}

/// The part of a fragment before its sections and the section of this name.
fn section(fragment: &str, name: &str) -> String {
    let mut parts = fragment.split("//: ");
    let mut text = parts.next().unwrap_or_default().to_string();
    for part in parts {
        if let Some(body) = part.strip_prefix(name) {
            text.push_str(body.trim_start_matches('\n'));
        }
    }
    text
}

impl TensorAccess {
    fn fragment(&self, native: bool) -> String {
        let layers: &[&str] = match (self.dtype, self.quad) {
            (DType::F32, true) => &[F32_QUAD],
            (DType::F32, false) => &[F32, ANY4],
            (DType::F16, true) if native => &[F16_QUAD],
            (DType::F16, false) if native => &[F16, ANY4],
            (_, true) => &[PACKED_QUAD],
            (_, false) => &[PACKED, PACKED_ANY4],
        };
        let name = if self.written { "store" } else { "load" };
        let text: String = layers.iter().map(|l| section(l, name)).collect();
        text.replace("tensor_", &format!("{}_", self.name))
    }
}

/// Puts a kernel together.
pub(crate) fn compose(parts: &Composition<'_>) -> String {
    let mut text = String::new();
    let half = parts.tensors.iter().any(|t| t.dtype == DType::F16);
    if half && parts.shader_f16 {
        text.push_str("enable f16;\n");
    }
    for (name, value) in parts.constants {
        let ty = if value.ends_with('u') { "u32" } else { "bool" };
        text.push_str(&format!("const {name}: {ty} = {value};\n"));
    }
    for fragment in parts.fragments {
        text.push_str(fragment);
    }
    if let Some(sixteen) = parts.tensors.iter().map(|t| t.dtype).find(|&d| d != DType::F32) {
        text.push_str(lib::ROUND16);
        text.push_str(if sixteen == DType::F16 { CODEC_F16 } else { CODEC_BF16 });
    }
    for tensor in parts.tensors {
        match parts.alias {
            Some((alias, target)) if alias == tensor.name => text.push_str(&format!(
                "// In place: {alias} is {target}.\nfn {alias}_load4(e: u32, stride: u32, n: u32) -> vec4<f32> {{\n    return {target}_load4(e, stride, n);\n}}\n"
            )),
            _ => text.push_str(&tensor.fragment(parts.shader_f16)),
        }
    }
    let mut kernel = parts.kernel.to_string();
    if let Some((alias, _)) = parts.alias {
        let declared = format!(" {alias}_data:");
        kernel = kernel
            .lines()
            .filter(|line| !line.contains(&declared))
            .map(|line| format!("{line}\n"))
            .collect();
    }
    text.push_str(&kernel);
    if parts.all_read_write {
        text = text.replace("var<storage, read>", "var<storage, read_write>");
    }
    text
}
