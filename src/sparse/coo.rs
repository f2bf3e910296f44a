//! Entries by coordinates, in any order, with repetitions.

use super::{Csr, check_index, filled, room};
use crate::error::{CsrDefect, Error, Result};
use crate::float::Float;

/// A matrix as a list of entries (row, column, value) in any order. Repeated ones add up when it becomes a [`Csr`].
#[derive(Clone, Debug, PartialEq)]
pub struct Coo<T> {
    rows: usize,
    cols: usize,
    row: Vec<u32>,
    column: Vec<u32>,
    values: Vec<T>,
}

impl<T: Float> Coo<T> {
    /// A matrix without entries.
    ///
    /// # Errors
    /// [`Error::Limit`] for more than 2^32 - 1 rows or columns.
    pub fn new(rows: usize, cols: usize) -> Result<Coo<T>> {
        check_index("rows", rows as u64)?;
        check_index("columns", cols as u64)?;
        Ok(Coo {
            rows,
            cols,
            row: Vec::new(),
            column: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Makes room for more entries, if there is memory; only a hint.
    pub fn reserve(&mut self, entries: usize) {
        self.row.reserve(entries);
        self.column.reserve(entries);
        self.values.reserve(entries);
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Error::Shape`] for an index outside the matrix; [`Error::Limit`] beyond 2^32 - 1 entries. Whether values are finite is
    /// asked when they have been added up, by [`Coo::to_csr`].
    pub fn push(&mut self, row: usize, column: usize, value: T) -> Result<()> {
        let outside = |what: &str, n: usize, got: usize| Error::shape(what, format!("below {n}"), got.to_string());
        if row >= self.rows {
            return Err(outside("row index", self.rows, row));
        }
        if column >= self.cols {
            return Err(outside("column index", self.cols, column));
        }
        check_index("entries", self.values.len() as u64 + 1)?;
        self.row.push(row as u32);
        self.column.push(column as u32);
        self.values.push(value);
        Ok(())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of entries, repetitions counted.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The entries in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, usize, T)> + '_ {
        (0..self.len()).map(|k| (self.row[k] as usize, self.column[k] as usize, self.values[k]))
    }

    /// Compressed rows, columns in order. Entries of one place are added up in f64 in the order in which they came and rounded once; a sum of 0
    /// stays as a stored zero.
    ///
    /// # Cost
    /// O(entries + rows + columns): two counting sorts.
    ///
    /// # Errors
    /// [`Error::Csr`] for a value, or a sum of repeated ones, that is not finite; [`Error::Limit`] without memory.
    pub fn to_csr(&self) -> Result<Csr<T>> {
        // Sorted by column first and then, stably, by row.
        let by_column = counting_sort(&self.column, self.cols, (0..self.len() as u32).collect())?;
        let order = counting_sort(&self.row, self.rows, by_column)?;
        let mut row_ptr = filled(self.rows + 1, 0u32)?;
        let mut columns: Vec<u32> = room(self.len())?;
        let mut values: Vec<T> = room(self.len())?;
        let mut k = 0;
        while k < order.len() {
            let first = order[k] as usize;
            let (row, column) = (self.row[first], self.column[first]);
            let mut sum = self.values[first].widen();
            k += 1;
            while k < order.len() && self.row[order[k] as usize] == row && self.column[order[k] as usize] == column {
                sum += self.values[order[k] as usize].widen();
                k += 1;
            }
            let value = T::rounded(sum);
            if !value.widen().is_finite() {
                return Err(Error::Csr {
                    row: row as usize,
                    defect: CsrDefect::NonFinite {
                        column: column as usize,
                        value: value.widen(),
                    },
                });
            }
            row_ptr[row as usize + 1] += 1;
            columns.push(column);
            values.push(value);
        }
        for row in 0..self.rows {
            row_ptr[row + 1] += row_ptr[row];
        }
        Ok(Csr::valid(self.rows, self.cols, row_ptr, columns, values))
    }
}

/// Puts `order` (indices into `keys`) into the order of the keys, stably.
fn counting_sort(keys: &[u32], count: usize, order: Vec<u32>) -> Result<Vec<u32>> {
    // With many more keys than entries a table of counts would be the larger cost.
    if count / 8 > keys.len() {
        let mut order = order;
        order.sort_by_key(|&k| keys[k as usize]);
        return Ok(order);
    }
    let mut next = filled(count + 1, 0u32)?;
    for &key in keys {
        next[key as usize + 1] += 1;
    }
    for key in 0..count {
        next[key + 1] += next[key];
    }
    let mut sorted = filled(order.len(), 0u32)?;
    for k in order {
        let place = &mut next[keys[k as usize] as usize];
        sorted[*place as usize] = k;
        *place += 1;
    }
    Ok(sorted)
}

impl<T: Float> From<&Csr<T>> for Coo<T> {
    fn from(a: &Csr<T>) -> Coo<T> {
        Coo {
            rows: a.rows(),
            cols: a.cols(),
            row: (0..a.rows())
                .flat_map(|i| std::iter::repeat_n(i as u32, a.row(i).0.len()))
                .collect(),
            column: a.columns().to_vec(),
            values: a.values().to_vec(),
        }
    }
}
