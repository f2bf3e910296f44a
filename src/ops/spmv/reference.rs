//! The oracle: `y = alpha A x + beta y0` row by row in f64, the sum of a row with its rounding errors carried along.

use crate::float::{Float, Neumaier};
use crate::sparse::Csr;

/// The sum of one row, `sum_j a_ij x_j`.
pub fn row<T: Float>(a: &Csr<T>, i: usize, x: impl Fn(usize) -> f64) -> f64 {
    let (columns, values) = a.row(i);
    let mut sum = Neumaier::default();
    for (&j, &v) in columns.iter().zip(values) {
        sum.add_product(v.widen(), x(j as usize));
    }
    sum.value()
}

/// One element of the result. With `beta` = 0, `y0` does not count, not even a NaN.
pub fn element(alpha: f64, sum: f64, beta: f64, y0: f64) -> f64 {
    if beta == 0.0 {
        alpha * sum
    } else {
        alpha * sum + beta * y0
    }
}

/// The result for one vector.
pub fn spmv<T: Float>(a: &Csr<T>, x: &[f64], alpha: f64, beta: f64, y0: &[f64]) -> Vec<f64> {
    (0..a.rows())
        .map(|i| {
            let sum = row(a, i, |j| x[j]);
            element(alpha, sum, beta, y0.get(i).copied().unwrap_or(0.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_written_values() {
        // [1 0 2; 0 0 0; -3 4 0]
        let a = Csr::try_new(3, 3, vec![0, 2, 2, 4], vec![0, 2, 0, 1], vec![1.0f64, 2.0, -3.0, 4.0]).unwrap();
        let x = [10.0, 100.0, 1000.0];
        assert_eq!(spmv(&a, &x, 1.0, 0.0, &[f64::NAN; 3]), [2010.0, 0.0, 370.0]);
        assert_eq!(spmv(&a, &x, 2.0, -1.0, &[1.0, 2.0, 3.0]), [4019.0, -2.0, 737.0]);
        // What plain f64 would lose.
        let b = Csr::try_new(1, 3, vec![0, 3], vec![0, 1, 2], vec![1e200f64, 1.0, -1e200]).unwrap();
        assert_eq!(spmv(&b, &[1.0; 3], 1.0, 0.0, &[]), [1.0]);
    }
}
