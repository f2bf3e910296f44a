//! Relaxation and incomplete factorisation as the textbooks write them, in f64.

use crate::sparse::Csr;

/// b_i - sum of a_ij x_j over the columns other than i, and a_ii.
fn rest(a: &Csr<f64>, b: &[f64], x: &[f64], i: usize) -> (f64, f64) {
    let (columns, values) = a.row(i);
    let (mut rest, mut diagonal) = (b[i], 0.0);
    for (&j, &value) in columns.iter().zip(values) {
        if j as usize == i {
            diagonal = value;
        } else {
            rest -= value * x[j as usize];
        }
    }
    (rest, diagonal)
}

/// A sweep of Jacobi's method: every row from the old x.
pub fn jacobi_sweep(a: &Csr<f64>, omega: f64, b: &[f64], x: &mut [f64]) {
    let old = x.to_vec();
    for i in 0..a.rows() {
        let (rest, diagonal) = rest(a, b, &old, i);
        x[i] = (1.0 - omega) * old[i] + omega * rest / diagonal;
    }
}

/// A sweep of SOR through the rows in this order, each from the newest x; Gauss-Seidel for omega = 1.
pub fn sor_sweep(a: &Csr<f64>, omega: f64, b: &[f64], x: &mut [f64], order: impl IntoIterator<Item = usize>) {
    for i in order {
        let (rest, diagonal) = rest(a, b, x, i);
        x[i] = (1.0 - omega) * x[i] + omega * rest / diagonal;
    }
}

/// A sweep of SOR through the rows and one back.
pub fn ssor_sweep(a: &Csr<f64>, omega: f64, b: &[f64], x: &mut [f64], order: &[usize]) {
    sor_sweep(a, omega, b, x, order.iter().copied());
    sor_sweep(a, omega, b, x, order.iter().rev().copied());
}

/// The factor L of IC(0), A near L L^T, as its entries (row, column, value) in rows; `None` where a pivot is not positive.
pub fn incomplete_cholesky(a: &Csr<f64>) -> Option<Vec<(usize, usize, f64)>> {
    let mut l: Vec<Vec<(usize, f64)>> = Vec::new();
    let entry = |l: &[Vec<(usize, f64)>], i: usize, k: usize| -> f64 {
        l[i].iter()
            .find(|&&(column, _)| column == k)
            .map_or(0.0, |&(_, value)| value)
    };
    for i in 0..a.rows() {
        l.push(Vec::new());
        for (&j, &value) in a.row(i).0.iter().zip(a.row(i).1) {
            let j = j as usize;
            if j <= i {
                let sum: f64 = (0..j).map(|k| entry(&l, i, k) * entry(&l, j, k)).sum();
                let value = if j < i {
                    (value - sum) / entry(&l, j, j)
                } else {
                    (value - sum).sqrt()
                };
                if value.is_nan() || (j == i && value <= 0.0) {
                    return None;
                }
                l[i].push((j, value));
            }
        }
    }
    let rows = l.into_iter().enumerate();
    Some(
        rows.flat_map(|(i, row)| row.into_iter().map(move |(j, value)| (i, j, value)))
            .collect(),
    )
}
