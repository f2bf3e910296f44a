//! Colours for rows, so that rows of one colour do not read each other.

use crate::error::{Error, Result};
use crate::float::Float;
use crate::sparse::Csr;

/// A colouring of the rows of a square matrix: rows of one colour have no entry at each other's columns, in either direction, so they can
/// be relaxed at once and in any order.
///
/// # Definition
/// Greedy in the order of the rows: a row gets the first colour that none of its neighbours has yet. Neighbours are those of the
/// symmetrised graph, where i and j are joined if `a_ij` or `a_ji` is stored. There are at most one colour more than the largest number
/// of neighbours; a five-point grid takes 2, a nine-point grid 4. The same matrix always gets the same colours (Saad, Iterative
/// Methods for Sparse Linear Systems, 2nd edition, 2003, section 3.3.3).
///
/// # Cost
/// O(entries + rows), on the host.
///
/// ```
/// use macheps::{solve::Colouring, sparse::Csr};
/// // A tridiagonal matrix: even rows, then odd ones.
/// let a = Csr::try_new(3, 3, vec![0, 2, 5, 7], vec![0, 1, 0, 1, 2, 1, 2], vec![2.0, -1.0, -1.0, 2.0, -1.0, -1.0, 2.0])?;
/// let colouring = Colouring::greedy(&a)?;
/// assert_eq!(colouring.groups(), [vec![0, 2], vec![1]]);
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Colouring {
    groups: Vec<Vec<u32>>,
}

impl Colouring {
    /// Colours the rows.
    ///
    /// # Errors
    /// [`Error::Shape`] for a matrix that is not square, [`Error::Limit`] without memory.
    pub fn greedy<T: Float>(a: &Csr<T>) -> Result<Colouring> {
        a.check_square()?;
        let n = a.rows();
        let transpose = a.transpose()?;
        const NONE: u32 = u32::MAX;
        let mut colour = vec![NONE; n];
        // The last row that found this colour taken.
        let mut taken: Vec<u32> = Vec::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for i in 0..n {
            for &j in a.row(i).0.iter().chain(transpose.row(i).0) {
                let neighbour = colour[j as usize];
                if neighbour != NONE {
                    taken[neighbour as usize] = i as u32;
                }
            }
            // A row is no neighbour of itself here: it has no colour yet. Row 0 finds no colour at all.
            let free = (0..groups.len())
                .find(|&c| taken[c] != i as u32)
                .unwrap_or(groups.len());
            if free == groups.len() {
                groups.push(Vec::new());
                taken.push(NONE);
            }
            colour[i] = free as u32;
            groups[free].push(i as u32);
        }
        Ok(Colouring { groups })
    }

    /// The rows of each colour, ascending.
    pub fn groups(&self) -> &[Vec<u32>] {
        &self.groups
    }

    /// Number of colours; 0 without rows.
    pub fn colours(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn into_groups(self) -> Vec<Vec<u32>> {
        self.groups
    }
}

/// Groups of rows of a triangular solve that depend on earlier groups only: `depends(i)` are the rows that row i reads, all of which
/// stand before it in `order`.
pub(crate) fn levels<'a>(order: &[u32], depends: impl Fn(usize) -> &'a [u32]) -> Result<Vec<Vec<u32>>> {
    let mut level = vec![0u32; order.len()];
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for &i in order {
        let own = depends(i as usize)
            .iter()
            .map(|&j| level[j as usize] + 1)
            .max()
            .unwrap_or(0);
        level[i as usize] = own;
        if own as usize == groups.len() {
            groups.push(Vec::new());
        }
        let group = groups
            .get_mut(own as usize)
            .ok_or_else(|| Error::shape("order of rows", "every row after those it reads", format!("row {i}")))?;
        group.push(i);
    }
    Ok(groups)
}
