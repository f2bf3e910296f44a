//! The CPU path: the upper 15 bits of all magnitudes are counted in parallel, which is all there is of 16-bit types; the elements
//! that agree in them with the one looked for are few, and a selection finds it among them.

use super::options::pruned_count;
use crate::element::Element;

/// Values of a parallel task.
const TASK: usize = 1 << 18;

/// Bits of a magnitude as f32: ordered as the magnitudes are, every NaN above infinity.
#[inline(always)]
fn key<T: Element>(value: &T) -> u32 {
    value.to_f32().to_bits() & 0x7fff_ffff
}

fn histogram<T: Element>(values: &[T]) -> Vec<usize> {
    let mut counts = vec![0usize; 1 << 15];
    for value in values {
        counts[(key(value) >> 16) as usize] += 1;
    }
    counts
}

fn merge(mut a: Vec<usize>, b: &[usize]) -> Vec<usize> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

/// The mask and the threshold, as a device gives them: NaN is above everything.
pub fn prune<T: Element>(x: &[T], sparsity: f64) -> (Vec<bool>, f32) {
    let k = pruned_count(sparsity, x.len());
    if k == 0 {
        return (vec![true; x.len()], f32::NEG_INFINITY);
    }
    #[cfg(not(target_arch = "wasm32"))]
    let counts = {
        use rayon::prelude::*;
        let empty = || vec![0usize; 1 << 15];
        x.par_chunks(TASK).map(histogram).reduce(empty, |a, b| merge(a, &b))
    };
    #[cfg(target_arch = "wasm32")]
    let counts = x
        .chunks(TASK)
        .map(histogram)
        .fold(vec![0; 1 << 15], |a, b| merge(a, &b));
    let mut below = 0;
    let mut top = 0u32;
    for (digit, &count) in counts.iter().enumerate() {
        if k - below <= count {
            top = digit as u32;
            break;
        }
        below += count;
    }
    let agrees = |key: &u32| key >> 16 == top;
    #[cfg(not(target_arch = "wasm32"))]
    let mut candidates: Vec<u32> = {
        use rayon::prelude::*;
        x.par_iter().with_min_len(TASK).map(key).filter(agrees).collect()
    };
    #[cfg(target_arch = "wasm32")]
    let mut candidates: Vec<u32> = x.iter().map(key).filter(agrees).collect();
    let (_, threshold, _) = candidates.select_nth_unstable(k - below - 1);
    let threshold = *threshold;
    #[cfg(not(target_arch = "wasm32"))]
    let mask = {
        use rayon::prelude::*;
        x.par_iter().with_min_len(TASK).map(|v| key(v) > threshold).collect()
    };
    #[cfg(target_arch = "wasm32")]
    let mask = x.iter().map(|v| key(v) > threshold).collect();
    (mask, f32::from_bits(threshold))
}

/// Index of the first NaN.
pub(super) fn first_nan<T: Element>(x: &[T]) -> Option<usize> {
    let nan = |v: &T| key(v) > 0x7f80_0000;
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        x.par_iter().with_min_len(TASK).position_first(nan)
    }
    #[cfg(target_arch = "wasm32")]
    x.iter().position(nan)
}
