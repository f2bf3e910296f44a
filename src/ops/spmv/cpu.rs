//! The CPU path.

use crate::sparse::Csr;

/// `y = A x` in f64.
pub fn apply(a: &Csr<f64>, x: &[f64], y: &mut [f64]) {
    for (i, y) in y.iter_mut().enumerate() {
        *y = super::reference::row(a, i, |j| x[j]);
    }
}
