//! Dense matrices, as far as sparse ones come from them or go to them.

use super::{Coo, Csr, check_index, filled};
use crate::error::{Error, Result};
use crate::float::Float;

/// A dense matrix in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense<T> {
    rows: usize,
    cols: usize,
    values: Vec<T>,
}

impl<T: Float> Dense<T> {
    /// From values in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are rows x cols values, [`Error::Limit`] for more than 2^32 - 1 rows or columns.
    pub fn new(rows: usize, cols: usize, values: Vec<T>) -> Result<Dense<T>> {
        check_index("rows", rows as u64)?;
        check_index("columns", cols as u64)?;
        if rows.checked_mul(cols) != Some(values.len()) {
            return Err(Error::shape(
                "values of a dense matrix",
                format!("{rows} x {cols}"),
                values.len().to_string(),
            ));
        }
        Ok(Dense { rows, cols, values })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row by row.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// All values, row by row.
    pub fn into_values(self) -> Vec<T> {
        self.values
    }

    /// One row.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, row: usize) -> &[T] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// Compressed rows with every element that is not zero.
    ///
    /// # Errors
    /// [`Error::Csr`] for an element that is not finite, [`Error::Limit`] for more than 2^32 - 1 entries.
    pub fn to_csr(&self) -> Result<Csr<T>> {
        let mut coo = Coo::new(self.rows, self.cols)?;
        for row in 0..self.rows {
            for (column, &value) in self.row(row).iter().enumerate() {
                if value.widen() != 0.0 {
                    coo.push(row, column, value)?;
                }
            }
        }
        coo.to_csr()
    }
}

impl<T: Float> Csr<T> {
    /// All elements, zeros included.
    ///
    /// # Errors
    /// [`Error::Limit`] where there is no memory for rows x columns values.
    pub fn to_dense(&self) -> Result<Dense<T>> {
        let count = self.rows().checked_mul(self.cols()).ok_or(Error::Limit {
            what: "elements of a dense matrix",
            need: u64::MAX,
            have: isize::MAX as u64,
        })?;
        let mut values = filled(count, T::default())?;
        for i in 0..self.rows() {
            let (columns, row) = self.row(i);
            for (&j, &value) in columns.iter().zip(row) {
                values[i * self.cols() + j as usize] = value;
            }
        }
        Dense::new(self.rows(), self.cols(), values)
    }
}
