//! The operations.

pub mod activation;
pub mod audit;
pub mod bce_with_logits;
pub mod cross_entropy;
pub(crate) mod elementwise;
pub mod layer_norm;
pub mod optimizer;
pub mod reduction;
pub mod softmax;
pub mod unscale;

/// Every variant of every operation's shaders, as a name and its WGSL, for the tests that validate and translate them.
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    [
        softmax::shader_variants(),
        cross_entropy::shader_variants(),
        bce_with_logits::shader_variants(),
        activation::shader_variants(),
        reduction::shader_variants(),
        layer_norm::shader_variants(),
        unscale::shader_variants(),
        optimizer::shader_variants(),
        audit::shader_variants(),
    ]
    .concat()
}

/// Whether a case of the operation `op` is meant by `name`: the operation itself or its gradient; without a name, all are.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn is_meant(op: &str, name: Option<&str>) -> bool {
    name.is_none_or(|name| op == name || op.strip_suffix("_backward") == Some(name))
}
