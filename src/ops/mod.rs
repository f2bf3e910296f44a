//! The operations.

pub mod audit;
pub mod cross_entropy;
pub mod layer_norm;
pub mod softmax;

/// Every variant of every operation's shaders, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    [
        softmax::shader_variants(),
        layer_norm::shader_variants(),
        cross_entropy::shader_variants(),
        audit::shader_variants(),
    ]
    .concat()
}

/// Whether a case of the operation `op` is meant by `name`: the operation itself or its gradient; without a name, all are.
pub(crate) fn is_meant(op: &str, name: Option<&str>) -> bool {
    name.is_none_or(|name| op == name || op.strip_suffix("_backward") == Some(name))
}
