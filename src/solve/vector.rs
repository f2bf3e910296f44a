//! Vectors on the host. The same bits at any number of threads: sums go by chunks of a fixed size.

use crate::float::{Pairwise, frexp, ldexp};

/// Elements of a chunk.
const CHUNK: usize = 1 << 13;

/// From this length on, work is shared among threads.
#[cfg(not(target_arch = "wasm32"))]
const PARALLEL: usize = 1 << 15;

/// Dot product of a chunk, in eight running sums.
fn dot_of_chunk(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (xs, ys) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    for (x, y) in xs.0.iter().zip(ys.0) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in xs.1.iter().zip(ys.1).enumerate() {
        sums[lane] += x * y;
    }
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

/// x.y
pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    debug_assert_eq!(x.len(), y.len());
    let mut sum = Pairwise::default();
    #[cfg(not(target_arch = "wasm32"))]
    if x.len() >= PARALLEL {
        use rayon::prelude::*;
        let parts: Vec<f64> = x
            .par_chunks(CHUNK)
            .zip(y.par_chunks(CHUNK))
            .map(|(x, y)| dot_of_chunk(x, y))
            .collect();
        sum.extend(parts);
        return sum.value();
    }
    sum.extend(x.chunks(CHUNK).zip(y.chunks(CHUNK)).map(|(x, y)| dot_of_chunk(x, y)));
    sum.value()
}

/// Does something to every pair of chunks of y and x.
fn zip_chunks(y: &mut [f64], x: &[f64], each: impl Fn(&mut f64, f64) + Sync) {
    debug_assert_eq!(x.len(), y.len());
    #[cfg(not(target_arch = "wasm32"))]
    if x.len() >= PARALLEL {
        use rayon::prelude::*;
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, &x)| each(y, x)));
        return;
    }
    y.iter_mut().zip(x).for_each(|(y, &x)| each(y, x));
}

/// y <- y + alpha x
pub(crate) fn add_scaled(y: &mut [f64], alpha: f64, x: &[f64]) {
    zip_chunks(y, x, |y, x| *y += alpha * x);
}

/// y <- x + beta y
pub(crate) fn scale_and_add(y: &mut [f64], beta: f64, x: &[f64]) {
    zip_chunks(y, x, |y, x| *y = x + beta * *y);
}

/// Largest magnitude; NaN if there is one, 0 for nothing.
pub(crate) fn norm_inf(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m: f64, v| {
        if v.is_nan() || m.is_nan() {
            f64::NAN
        } else {
            m.max(v.abs())
        }
    })
}

/// Euclidean norm that neither overflows nor vanishes where the norm itself does not.
pub(crate) fn norm(x: &[f64]) -> f64 {
    let square = dot(x, x);
    // Squares in this range have lost nothing that counts.
    if (1e-200..1e300).contains(&square) {
        square.sqrt()
    } else {
        crate::float::norm(x)
    }
}

/// e such that values times 2^-e are at most 1 and the largest is at least a half; 0 for zeros.
pub(crate) fn exponent(x: &[f64]) -> i32 {
    exponent_of(norm_inf(x))
}

/// The same of a largest magnitude.
pub(crate) fn exponent_of(largest: f64) -> i32 {
    if largest > 0.0 && largest.is_finite() {
        frexp(largest).1
    } else {
        0
    }
}

/// x 2^exponent
pub(crate) fn scaled(x: &[f64], exponent: i32) -> Vec<f64> {
    if exponent == 0 {
        return x.to_vec();
    }
    // One multiplication where the power is a normal number: it rounds as ldexp does.
    if (-1022..=1023).contains(&exponent) {
        let factor = ldexp(1.0, exponent);
        return x.iter().map(|v| v * factor).collect();
    }
    x.iter().map(|&v| ldexp(v, exponent)).collect()
}

/// Whether every element is finite.
pub(crate) fn is_finite(x: &[f64]) -> bool {
    x.iter().all(|v| v.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_threads() {
        for n in [0, 1, 7, 8, 9, CHUNK - 1, CHUNK + 1, 5 * CHUNK + 13] {
            let x: Vec<f64> = (0..n).map(|i| (i % 17) as f64 - 8.0).collect();
            let want: f64 = x.iter().map(|v| v * v).sum();
            assert_eq!(dot(&x, &x), want, "{n}");
            let mut y = x.clone();
            add_scaled(&mut y, 2.0, &x);
            scale_and_add(&mut y, -1.0, &x);
            assert!(y.iter().zip(&x).all(|(y, x)| *y == -2.0 * x), "{n}");
        }
    }

    #[test]
    fn extremes_are_scaled() {
        // As exact as `float::norm`.
        for (got, want) in [(norm(&[3e200, 4e200]), 5e200), (norm(&[3e-200, 4e-200]), 5e-200)] {
            assert!((got / want - 1.0).abs() <= 2.0 * f64::EPSILON, "{got:e}");
        }
        assert!(norm_inf(&[1.0, f64::NAN, 3.0]).is_nan());
        assert_eq!((norm_inf(&[]), exponent(&[0.0]), exponent(&[-3.0, 1.0])), (0.0, 0, 2));
        assert_eq!(scaled(&[1.0, -2.0], -1074), [5e-324, -1e-323]);
    }
}
