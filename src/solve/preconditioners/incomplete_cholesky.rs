//! Incomplete Cholesky without fill.

use super::super::colouring::levels;
use super::super::vector::{exponent_of, scaled};
use super::super::{Colouring, Preconditioner, PreconditionerCall, PreconditionerForm, Record};
use super::factored::Factored;
use super::{check_symmetric, inverse_of_positive};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::sparse::Csr;

/// In which order the rows of a matrix are factored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowOrder {
    /// As they stand where the solves then take at most twice as many levels as there are colours, one more, or levels of 8192 rows on
    /// average, which keep a device busy; else by colours.
    #[default]
    Automatic,
    /// As they stand. The best factorisation, and as many dispatches as the longest chains of rows ask for: on a grid of m x m
    /// cells 2 m - 1 levels. The right choice on the CPU path.
    Natural,
    /// By the colours of a [`Colouring`]: few dispatches, and some more iterations (Duff and Meurant 1989).
    Multicolour,
}

/// Rows of a level that take a device longer than the dispatch itself.
const WIDE_LEVEL: usize = 8192;

/// How an [`IncompleteCholesky`] is made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IncompleteCholeskyOptions {
    /// Order of the rows.
    pub order: RowOrder,
    /// alpha to begin with: A + alpha diag(A) is factored. It grows until the factorisation exists.
    pub shift: f64,
}

/// Incomplete Cholesky factorisation without fill, IC(0).
///
/// # Definition
/// A is near L D L^T, where L, unit lower triangular in the order of the rows ([`RowOrder`]), has entries only where A has
/// (Meijerink and van der Vorst 1977; Saad 2003, section 10.3); z = (L D L^T)^-1 r. For M-matrices it always exists, and where
/// Cholesky's factor has no fill it is that factor. Where a pivot is not positive (below 1e-12 of the diagonal entry), A + alpha diag(A)
/// is factored instead, alpha = 1e-3, 2e-3, 4e-3, .. until it works (Manteuffel 1980); [`IncompleteCholesky::shift`] says with which.
///
/// # Shapes
/// r and z are `[n]` or `[k, n]`, f32 on devices.
///
/// # Numerics
/// Factored on the host in f64; the factors are rounded to f32 on a device, where each row's sum is within (log2 n_i + 6) u of the sum of
/// its magnitudes. What is applied is symmetric positive definite whatever the factors' accuracy. [`Preconditioner::apply`] is the
/// same map in f64.
///
/// # Cost
/// Both triangular solves go by levels of rows that do not depend on each other: 2 levels - 1 dispatches, every entry of L read twice, 8
/// bytes each. Factoring: the sum over the entries of L of the length of the row that they point to, on one thread.
///
/// # Errors
/// [`Error::Diagonal`] for a diagonal entry that is not positive, [`Error::Unsupported`] for a matrix that is not symmetric,
/// [`Error::Option`] for a negative shift.
///
/// ```
/// use macheps::{solve::{IncompleteCholesky, Preconditioner}, sparse::Csr};
/// // Tridiagonal: no fill, so M is A.
/// let a = Csr::try_new(3, 3, vec![0, 2, 5, 7], vec![0, 1, 0, 1, 2, 1, 2], vec![2.0, -1.0, -1.0, 2.0, -1.0, -1.0, 2.0])?;
/// let m = IncompleteCholesky::new(&a)?;
/// let mut z = [0.0; 3];
/// m.apply(&[1.0, 0.0, 1.0], &mut z);
/// assert!(z.iter().all(|z| (z - 1.0f64).abs() < 1e-14));
/// assert_eq!(m.shift(), 0.0);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Debug)]
pub struct IncompleteCholesky {
    factored: Factored,
    order: RowOrder,
    shift: f64,
}

/// Smallest pivot, as a fraction of the diagonal entry.
const SMALLEST_PIVOT: f64 = 1e-12;

/// L D (without its diagonal) and D.
struct Factors {
    lower: Csr<f64>,
    pivots: Vec<f64>,
}

/// Factors with rows in the order given, `place` being its inverse; `None` where a pivot is too small.
///
/// Row i of the product L D at column j is `c_ij = a_ij - sum over k before j of c_ik c_jk / d_k`, and `d_i = a_ii - sum of c_ik^2 / d_k`.
fn factor(a: &Csr<f64>, pattern: &Lower, place: &[u32], diagonal: &[f64], shift: f64) -> Option<(Vec<f64>, Vec<f64>)> {
    let n = a.rows();
    let mut values = vec![0.0; pattern.columns.len()];
    let mut pivots = vec![0.0; n];
    // c_ik at k for the row under way; only columns of its pattern are ever set.
    let mut work = vec![0.0; n];
    for &i in &pattern.order {
        let i = i as usize;
        let row = &pattern.columns[pattern.range(i)];
        for &j in row {
            work[j as usize] = a.get(i, j as usize).unwrap_or(0.0);
        }
        let mut pivot = diagonal[i] * (1.0 + shift);
        for &j in row {
            let j = j as usize;
            let other = pattern.range(j);
            let (columns, known) = (&pattern.columns[other.clone()], &values[other]);
            let mut sum = 0.0;
            if columns.len() > 16 * row.len() {
                // A long row against a short one: look its columns up. Those are in the order of places.
                for &k in row.iter().take_while(|&&k| place[k as usize] < place[j]) {
                    let found = columns.binary_search_by_key(&place[k as usize], |&c| place[c as usize]);
                    if let Ok(at) = found {
                        sum += work[k as usize] * known[at] / pivots[k as usize];
                    }
                }
            } else {
                for (&k, &c) in columns.iter().zip(known) {
                    sum += work[k as usize] * c / pivots[k as usize];
                }
            }
            work[j] -= sum;
            pivot -= work[j] * work[j] / pivots[j];
        }
        for (at, &j) in pattern.range(i).zip(row) {
            values[at] = std::mem::take(&mut work[j as usize]);
        }
        if pivot.is_nan()
            || pivot <= SMALLEST_PIVOT * diagonal[i]
            || values[pattern.range(i)].iter().any(|v| !v.is_finite())
        {
            return None;
        }
        pivots[i] = pivot;
    }
    Some((values, pivots))
}

/// Each row's columns that come before it, in the order of their places.
struct Lower {
    order: Vec<u32>,
    start: Vec<u32>,
    columns: Vec<u32>,
}

impl Lower {
    fn new(a: &Csr<f64>, order: Vec<u32>, place: &[u32]) -> Lower {
        let mut start = vec![0u32];
        let mut columns = Vec::with_capacity(a.entries() / 2);
        for i in 0..a.rows() {
            let from = columns.len();
            columns.extend(a.row(i).0.iter().copied().filter(|&j| place[j as usize] < place[i]));
            columns[from..].sort_unstable_by_key(|&j| place[j as usize]);
            start.push(columns.len() as u32);
        }
        Lower { order, start, columns }
    }

    fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.start[i] as usize..self.start[i + 1] as usize
    }

    fn levels(&self) -> Result<Vec<Vec<u32>>> {
        levels(&self.order, |i| &self.columns[self.range(i)])
    }

    /// As a matrix, whose columns ascend.
    fn matrix(&self, values: &[f64]) -> Result<Csr<f64>> {
        let n = self.start.len() - 1;
        let mut columns = Vec::with_capacity(self.columns.len());
        let mut sorted = Vec::with_capacity(values.len());
        let mut row: Vec<(u32, f64)> = Vec::new();
        for i in 0..n {
            let range = self.range(i);
            row.clear();
            row.extend(
                self.columns[range.clone()]
                    .iter()
                    .copied()
                    .zip(values[range].iter().copied()),
            );
            row.sort_unstable_by_key(|&(j, _)| j);
            columns.extend(row.iter().map(|&(j, _)| j));
            sorted.extend(row.iter().map(|&(_, v)| v));
        }
        Csr::try_new(n, n, self.start.clone(), columns, sorted)
    }
}

fn place_of(order: &[u32]) -> Vec<u32> {
    let mut place = vec![0u32; order.len()];
    for (at, &i) in order.iter().enumerate() {
        place[i as usize] = at as u32;
    }
    place
}

impl IncompleteCholesky {
    /// Of a matrix, with default options.
    ///
    /// # Errors
    /// Those of [`IncompleteCholesky`].
    pub fn new(a: &Csr<f64>) -> Result<IncompleteCholesky> {
        IncompleteCholesky::with_options(a, &IncompleteCholeskyOptions::default())
    }

    /// Of a matrix.
    ///
    /// # Errors
    /// Those of [`IncompleteCholesky`].
    pub fn with_options(a: &Csr<f64>, options: &IncompleteCholeskyOptions) -> Result<IncompleteCholesky> {
        if !(options.shift >= 0.0 && options.shift.is_finite()) {
            return Err(Error::Option {
                name: "shift",
                expected: "a number that is not negative",
                got: options.shift.to_string(),
            });
        }
        check_symmetric(a, "IC(0)")?;
        inverse_of_positive(&a.diagonal())?;
        // Squares of entries have to be within the range of numbers.
        let exponent = match exponent_of(a.largest()) {
            e if e.abs() <= 256 => 0,
            e => e,
        };
        let near;
        let a = if exponent == 0 {
            a
        } else {
            near = a.with_values(scaled(a.values(), -exponent))?;
            &near
        };
        let diagonal = a.diagonal();
        let natural = || -> Result<_> {
            let order: Vec<u32> = (0..a.rows() as u32).collect();
            let place = order.clone();
            let pattern = Lower::new(a, order, &place);
            let groups = pattern.levels()?;
            Ok((RowOrder::Natural, pattern, place, groups))
        };
        let by_colours = || -> Result<_> {
            let order = Colouring::greedy(a)?.into_groups().concat();
            let place = place_of(&order);
            let pattern = Lower::new(a, order, &place);
            let groups = pattern.levels()?;
            Ok((RowOrder::Multicolour, pattern, place, groups))
        };
        let (order, pattern, place, groups) = match options.order {
            RowOrder::Natural => natural()?,
            RowOrder::Multicolour => by_colours()?,
            RowOrder::Automatic => {
                // The natural order halves the iterations, about.
                let (first, second) = (natural()?, by_colours()?);
                let (levels, colours) = (first.3.len(), second.3.len());
                if levels <= 2 * colours + 1 || a.rows() >= levels * WIDE_LEVEL {
                    first
                } else {
                    second
                }
            }
        };
        let mut shift = options.shift;
        // At twice the largest ratio of a row's sum to its diagonal the shifted matrix is diagonally dominant and the factorisation exists,
        // so this ends long before.
        let factors = loop {
            if let Some((values, pivots)) = factor(a, &pattern, &place, &diagonal, shift) {
                let lower = pattern.matrix(&values)?;
                break Factors { lower, pivots };
            }
            shift = if shift == 0.0 { 1e-3 } else { 2.0 * shift };
            if shift > 1e12 {
                return Err(Error::Unsupported {
                    what: "IC(0) of this matrix".into(),
                    reason: "its off-diagonal entries outweigh the diagonal by twelve orders of magnitude; scale it"
                        .into(),
                });
            }
        };
        let inverse = inverse_of_positive(&factors.pivots)?;
        let factored = Factored::new("incomplete cholesky", groups, factors.lower, inverse, 1.0)?;
        let out_of_range = || Error::Unsupported {
            what: "IC(0) of this matrix".into(),
            reason: "its factors are beyond the range of f64; scale it".into(),
        };
        Ok(IncompleteCholesky {
            factored: match exponent {
                0 => factored,
                e => factored.scaled(e).ok_or_else(out_of_range)?,
            },
            order,
            shift,
        })
    }

    /// alpha of the matrix A + alpha diag(A) that was factored; 0 where A itself could be.
    pub fn shift(&self) -> f64 {
        self.shift
    }

    /// The order that was taken.
    pub fn order(&self) -> RowOrder {
        self.order
    }

    /// Levels of a triangular solve; a device spends two dispatches each, less one.
    pub fn levels(&self) -> usize {
        self.factored.groups()
    }

    /// [`Preconditioner::apply`] with a bound on what a device's result may differ from it.
    #[doc(hidden)]
    pub fn apply_with_bound(&self, r: &[f64], z: &mut [f64], bound: &mut [f64]) {
        self.factored.apply_with_bound(r, z, bound);
    }
}

impl Preconditioner for IncompleteCholesky {
    fn name(&self) -> &str {
        "ic0"
    }

    fn size(&self) -> usize {
        self.factored.size()
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::General
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        self.factored.apply(r, z);
    }

    fn bind(&self, gpu: &Gpu, call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        self.factored.bind(gpu, call)
    }

    fn scaled(&self, exponent: i32) -> Option<Box<dyn Preconditioner>> {
        Some(Box::new(IncompleteCholesky {
            factored: self.factored.scaled(exponent)?,
            ..*self
        }))
    }
}
