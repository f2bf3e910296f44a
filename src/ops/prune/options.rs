//! How much is pruned.

use crate::error::{Error, Result};

/// Fails unless it is a number from 0 to 1.
pub(crate) fn check_sparsity(sparsity: f64) -> Result<()> {
    if (0.0..=1.0).contains(&sparsity) {
        return Ok(());
    }
    Err(Error::Option {
        name: "sparsity",
        expected: "a number from 0 to 1",
        got: sparsity.to_string(),
    })
}

/// How many of n elements a sparsity asks to be dropped: the largest k with k / n <= sparsity, the quotient rounded to f64. That
/// is floor(sparsity * n), with the sparsity standing for every number that rounds to it: 0.29 of 100 is 29, although the f64
/// nearest to 0.29 is less.
///
/// ```
/// use macheps::ops::prune::pruned_count;
/// assert_eq!((pruned_count(0.29, 100), pruned_count(0.5, 3), pruned_count(1.0, 7)), (29, 1, 7));
/// ```
pub fn pruned_count(sparsity: f64, n: usize) -> usize {
    if n == 0 || sparsity.is_nan() {
        return 0;
    }
    let reached = |k: usize| k as f64 / n as f64 <= sparsity;
    // Off by one at most.
    let mut k = ((sparsity * n as f64) as usize).min(n);
    while k < n && reached(k + 1) {
        k += 1;
    }
    while k > 0 && !reached(k) {
        k -= 1;
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_give_their_counts() {
        for n in 1..200usize {
            for k in 0..=n {
                assert_eq!(pruned_count(k as f64 / n as f64, n), k);
            }
            assert_eq!(pruned_count(0.999_999 / n as f64, n), 0);
        }
        assert_eq!(
            (pruned_count(0.9, 10), pruned_count(0.7, 10), pruned_count(0.5, 0)),
            (9, 7, 0)
        );
        assert!(check_sparsity(f64::NAN).is_err() && check_sparsity(1.0001).is_err() && check_sparsity(-0.1).is_err());
    }
}
