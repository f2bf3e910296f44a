//! The operations.

pub mod activation;
pub mod audit;
pub mod bce_with_logits;
pub mod cross_entropy;
pub(crate) mod elementwise;
pub mod layer_norm;
pub mod optimizer;
pub mod prune;
pub mod reduction;
pub mod softmax;
pub mod spmv;
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
        prune::shader_variants(),
        audit::shader_variants(),
        spmv::shader_variants(),
    ]
    .concat()
}

/// Whether a case of the operation `op` is meant by `name`: the operation itself, its gradient, the two ways to one result that
/// `bench` compares, the norms by any order; without a name, all are.
pub(crate) fn is_meant(op: &str, name: Option<&str>) -> bool {
    let Some(name) = name else { return true };
    let Some(rest) = op.strip_prefix(name) else {
        return false;
    };
    let rest = rest.strip_suffix("_backward").unwrap_or(rest);
    matches!(rest, "" | "_fused" | "_unfused") || (name == "norm" && matches!(rest, "_l1" | "_l2" | "_max"))
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn names_mean_their_gradients_too() {
        for (op, name, meant) in [
            ("softmax", "softmax", true),
            ("softmax_backward", "softmax", true),
            ("log_softmax", "softmax", false),
            ("cross_entropy_unfused", "cross_entropy", true),
            ("norm_l2_backward", "norm", true),
            ("norm_l2", "norm_l2", true),
            ("sum_square", "sum", false),
            ("softmax", "softmax_backward", false),
        ] {
            assert_eq!(is_meant(op, Some(name)), meant, "{op} {name}");
        }
        assert!(is_meant("sum", None));
    }
}
