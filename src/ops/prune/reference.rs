//! The oracle: magnitudes in f64, sorted.

use super::options::pruned_count;
use crate::element::Element;

/// The mask and the threshold of values without NaN: with k = [`pruned_count`], the k-th smallest magnitude, -inf for k = 0.
pub fn prune<T: Element>(x: &[T], sparsity: f64) -> (Vec<bool>, f64) {
    let magnitude = |v: &T| f64::from(v.to_f32()).abs();
    let mut sorted: Vec<f64> = x.iter().map(magnitude).collect();
    sorted.sort_by(f64::total_cmp);
    let threshold = match pruned_count(sparsity, x.len()) {
        0 => f64::NEG_INFINITY,
        k => sorted[k - 1],
    };
    (x.iter().map(|v| magnitude(v) > threshold).collect(), threshold)
}
