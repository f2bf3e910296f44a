//! What a matrix says about itself before anything is computed with it.

use super::Csr;
use crate::float::Float;

/// Lengths of the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowStatistics {
    /// Entries of the shortest row; 0 without rows.
    pub min: usize,
    /// Entries of the longest row.
    pub max: usize,
    /// Entries of a row on average; 0 without rows.
    pub mean: f64,
    /// Standard deviation of the rows' lengths (of all rows: divided by their number).
    pub std: f64,
    /// Rows without entries.
    pub empty: usize,
}

/// How far a matrix is symmetric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Symmetry {
    /// Square, and every entry has a stored partner across the diagonal.
    pub pattern: bool,
    /// Square and equal to its transpose; a stored zero equals one that is not stored.
    pub exact: bool,
    /// Largest `|a_ij - a_ji|` divided by the largest magnitude of the matrix; 0 for a matrix of zeros, infinite for one that is
    /// not square.
    pub largest_difference: f64,
}

/// How far the diagonal outweighs the rest of its row. Sums are rounded upward, so that what is called strict is strict.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiagonalDominance {
    /// `|a_ii| > sum of |a_ij|` in every row: Jacobi and Gauss-Seidel converge from any start.
    pub strict: bool,
    /// `|a_ii| >= sum of |a_ij|` in every row.
    pub weak: bool,
    /// Largest `sum of |a_ij| / |a_ii|`, a bound on the spectral radius of Jacobi's iteration; infinite where a diagonal element is 0
    /// and its row is not, 0 without rows.
    pub largest_ratio: f64,
    /// The row that has it.
    pub row: usize,
}

impl<T: Float> Csr<T> {
    /// The diagonal, as long as the shorter side; 0 where nothing is stored.
    pub fn diagonal(&self) -> Vec<T> {
        (0..self.rows().min(self.cols()))
            .map(|i| self.get(i, i).unwrap_or_default())
            .collect()
    }

    /// Lengths of the rows.
    pub fn row_statistics(&self) -> RowStatistics {
        let lengths = || self.row_ptr().windows(2).map(|p| (p[1] - p[0]) as usize);
        let rows = self.rows().max(1) as f64;
        let mean = self.entries() as f64 / rows;
        RowStatistics {
            min: lengths().min().unwrap_or(0),
            max: lengths().max().unwrap_or(0),
            mean,
            std: (lengths().map(|n| (n as f64 - mean).powi(2)).sum::<f64>() / rows).sqrt(),
            empty: lengths().filter(|&n| n == 0).count(),
        }
    }

    /// Whether the matrix equals its transpose, and by how much it does not. O(entries log of the longest row).
    pub fn symmetry(&self) -> Symmetry {
        if self.rows() != self.cols() {
            return Symmetry {
                pattern: false,
                exact: false,
                largest_difference: f64::INFINITY,
            };
        }
        let (mut pattern, mut difference, mut largest) = (true, 0f64, 0f64);
        for (i, j, value) in self.iter() {
            let partner = self.get(j, i);
            pattern &= partner.is_some();
            let (value, partner) = (value.widen(), partner.unwrap_or_default().widen());
            largest = largest.max(value.abs());
            // Halved, as the difference itself may overflow.
            difference = difference.max((0.5 * value - 0.5 * partner).abs());
        }
        Symmetry {
            pattern,
            exact: difference == 0.0,
            largest_difference: if difference == 0.0 {
                0.0
            } else {
                difference / largest * 2.0
            },
        }
    }

    /// Whether the diagonal dominates its rows.
    pub fn diagonal_dominance(&self) -> DiagonalDominance {
        let mut found = DiagonalDominance {
            strict: true,
            weak: true,
            largest_ratio: 0.0,
            row: 0,
        };
        for i in 0..self.rows() {
            let (columns, values) = self.row(i);
            let (mut diagonal, mut rest) = (0.0, 0.0);
            for (&j, value) in columns.iter().zip(values) {
                let magnitude = value.widen().abs();
                if j as usize == i {
                    diagonal = magnitude;
                } else if magnitude > 0.0 {
                    rest = add_upward(rest, magnitude);
                }
            }
            found.strict &= diagonal > rest;
            found.weak &= diagonal >= rest;
            // 0 / 0: a row of zeros bounds nothing, but its iteration has no diagonal to divide by.
            let ratio = if diagonal == 0.0 {
                f64::INFINITY
            } else {
                rest / diagonal
            };
            if ratio > found.largest_ratio {
                found.largest_ratio = ratio;
                found.row = i;
            }
        }
        found
    }

    /// Largest sum of magnitudes of a row, the norm that the maximum norm of vectors induces. In f64, each row's sum within one
    /// rounding an entry.
    pub fn norm_inf(&self) -> f64 {
        (0..self.rows())
            .map(|i| self.row(i).1.iter().map(|v| v.widen().abs()).sum::<f64>())
            .fold(0.0, f64::max)
    }

    /// Root of the sum of the squares, without overflow or underflow on the way.
    pub fn norm_frobenius(&self) -> f64 {
        let largest = self.largest();
        if largest == 0.0 {
            return 0.0;
        }
        // A power of two near the largest magnitude: scaling by it rounds nothing that counts.
        let scale = crate::float::ldexp(1.0, -crate::float::frexp(largest).1.clamp(-1022, 1022));
        let sum: f64 = self.values().iter().map(|v| (v.widen() * scale).powi(2)).sum();
        sum.sqrt() / scale
    }

    /// Largest magnitude of an entry; 0 without entries.
    pub fn largest(&self) -> f64 {
        self.values().iter().map(|v| v.widen().abs()).fold(0.0, f64::max)
    }
}

/// a + b for numbers that are not negative, rounded upward where it is not exact.
fn add_upward(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    if sum - large < small { sum.next_up() } else { sum }
}
