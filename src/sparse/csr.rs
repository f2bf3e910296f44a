//! Compressed sparse rows.

use super::{check_index, filled, room};
use crate::error::{CsrDefect, Error, Result};
use crate::float::Float;

/// A matrix in compressed sparse rows: the entries of row i are `columns[row_ptr[i]..row_ptr[i + 1]]` with the values at the
/// same places. Valid by construction: pointers begin at 0, never fall and end at the number of entries; columns are in range
/// and strictly ascend within a row; values are finite. Stored zeros are allowed.
///
/// A GPU does not fault on an index out of range, it reads something else: that is why kernels take nothing but this type.
#[derive(Clone, Debug, PartialEq)]
pub struct Csr<T> {
    rows: usize,
    cols: usize,
    row_ptr: Vec<u32>,
    columns: Vec<u32>,
    values: Vec<T>,
}

/// What [`Csr::narrow`] does with values beyond the range of the narrower type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Narrowing {
    /// A typed error that names the first one.
    #[default]
    Refuse,
    /// They become the largest finite number of their sign, and are counted.
    Saturate,
}

/// A narrowed matrix and what narrowing cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Narrowed<T> {
    /// The matrix; every entry is still there, also those that became zero.
    pub matrix: Csr<T>,
    /// Entries whose value changed by rounding (those that overflowed or vanished included).
    pub rounded: usize,
    /// Entries beyond the largest finite number.
    pub overflowed: usize,
    /// Entries that are not zero and became zero.
    pub vanished: usize,
    /// Entries that are not zero and became subnormal: digits are lost, and a device that flushes makes them zero.
    pub subnormal: usize,
}

impl<T: Float> Csr<T> {
    /// Checks and takes the parts of a matrix.
    ///
    /// # Errors
    /// [`Error::Csr`] with the row and the [`CsrDefect`]; [`Error::Limit`] for more than 2^32 - 1 rows, columns or entries.
    ///
    /// ```
    /// use macheps::{Error, error::CsrDefect, sparse::Csr};
    /// let a = Csr::try_new(2, 2, vec![0, 1, 2], vec![0, 1], vec![4.0f32, 9.0])?;
    /// assert_eq!(a.diagonal(), [4.0, 9.0]);
    /// let bad = Csr::try_new(2, 2, vec![0, 1, 2], vec![0, 2], vec![4.0f32, 9.0]);
    /// assert!(matches!(bad, Err(Error::Csr { row: 1, defect: CsrDefect::ColumnOutOfRange { column: 2, cols: 2 } })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn try_new(rows: usize, cols: usize, row_ptr: Vec<u32>, columns: Vec<u32>, values: Vec<T>) -> Result<Csr<T>> {
        check_index("rows", rows as u64)?;
        check_index("columns", cols as u64)?;
        check_index("entries", columns.len() as u64)?;
        let defect = |row: usize, defect: CsrDefect| Err(Error::Csr { row, defect });
        if row_ptr.len() != rows + 1 {
            return defect(
                rows.min(row_ptr.len()),
                CsrDefect::RowPtrLength {
                    expected: rows + 1,
                    got: row_ptr.len(),
                },
            );
        }
        if values.len() != columns.len() {
            return defect(
                0,
                CsrDefect::ValuesLength {
                    columns: columns.len(),
                    values: values.len(),
                },
            );
        }
        if row_ptr[0] != 0 {
            return defect(0, CsrDefect::RowPtrStart { got: row_ptr[0] });
        }
        for row in 0..rows {
            if row_ptr[row + 1] < row_ptr[row] {
                let (this, next) = (row_ptr[row], row_ptr[row + 1]);
                return defect(row, CsrDefect::RowPtrOrder { this, next });
            }
            if row_ptr[row + 1] as usize > columns.len() {
                return defect(
                    row,
                    CsrDefect::RowPtrEnd {
                        entries: columns.len(),
                        got: row_ptr[row + 1],
                    },
                );
            }
        }
        if row_ptr[rows] as usize != columns.len() {
            return defect(
                rows.saturating_sub(1),
                CsrDefect::RowPtrEnd {
                    entries: columns.len(),
                    got: row_ptr[rows],
                },
            );
        }
        for row in 0..rows {
            let range = row_ptr[row] as usize..row_ptr[row + 1] as usize;
            let mut before = None;
            for (&column, value) in columns[range.clone()].iter().zip(&values[range]) {
                let place = column as usize;
                if place >= cols {
                    return defect(row, CsrDefect::ColumnOutOfRange { column: place, cols });
                }
                match before {
                    Some(b) if b == column => return defect(row, CsrDefect::Duplicate { column: place }),
                    Some(b) if b > column => {
                        return defect(
                            row,
                            CsrDefect::Unsorted {
                                column: place,
                                after: b as usize,
                            },
                        );
                    }
                    _ => (),
                }
                before = Some(column);
                if !value.widen().is_finite() {
                    return defect(
                        row,
                        CsrDefect::NonFinite {
                            column: place,
                            value: value.widen(),
                        },
                    );
                }
            }
        }
        Ok(Csr {
            rows,
            cols,
            row_ptr,
            columns,
            values,
        })
    }

    /// Takes the parts of a matrix without looking at them.
    ///
    /// # Safety
    /// The parts must be such that [`Csr::try_new`] would take them. This crate's CPU code checks its indices, so a defect panics
    /// there; on a GPU it reads and writes other elements of the same buffers without a word. Other code may rely on the
    /// invariants for memory safety.
    // SAFETY: a promise asked of the caller; nothing here needs it for memory safety.
    #[allow(unsafe_code)]
    pub unsafe fn new_unchecked(
        rows: usize,
        cols: usize,
        row_ptr: Vec<u32>,
        columns: Vec<u32>,
        values: Vec<T>,
    ) -> Csr<T> {
        Csr {
            rows,
            cols,
            row_ptr,
            columns,
            values,
        }
    }

    /// Parts that are valid because of how this room made them.
    pub(super) fn valid(rows: usize, cols: usize, row_ptr: Vec<u32>, columns: Vec<u32>, values: Vec<T>) -> Csr<T> {
        debug_assert!(Csr::try_new(rows, cols, row_ptr.clone(), columns.clone(), values.clone()).is_ok());
        Csr {
            rows,
            cols,
            row_ptr,
            columns,
            values,
        }
    }

    /// The identity matrix of size n.
    ///
    /// # Errors
    /// [`Error::Limit`] for n beyond 2^32 - 1.
    pub fn identity(n: usize) -> Result<Csr<T>> {
        check_index("rows", n as u64)?;
        Ok(Csr::valid(
            n,
            n,
            (0..=n as u32).collect(),
            (0..n as u32).collect(),
            filled(n, T::rounded(1.0))?,
        ))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of stored entries, stored zeros included.
    pub fn entries(&self) -> usize {
        self.columns.len()
    }

    /// Where each row begins, and at last where the last one ends: rows + 1 numbers.
    pub fn row_ptr(&self) -> &[u32] {
        &self.row_ptr
    }

    /// Columns of the entries.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Values of the entries.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// Columns and values of a row.
    ///
    /// # Panics
    /// Where there is no such row.
    #[inline]
    pub fn row(&self, row: usize) -> (&[u32], &[T]) {
        let range = self.row_ptr[row] as usize..self.row_ptr[row + 1] as usize;
        (&self.columns[range.clone()], &self.values[range])
    }

    /// The stored value at a place, if there is one. Binary search in the row.
    pub fn get(&self, row: usize, column: usize) -> Option<T> {
        if row >= self.rows {
            return None;
        }
        let (columns, values) = self.row(row);
        let column = u32::try_from(column).ok()?;
        columns.binary_search(&column).ok().map(|k| values[k])
    }

    /// The stored entries row by row.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, T)> + '_ {
        (0..self.rows).flat_map(move |i| {
            let (columns, values) = self.row(i);
            columns.iter().zip(values).map(move |(&j, &v)| (i, j as usize, v))
        })
    }

    /// The same places with other values.
    ///
    /// # Errors
    /// [`Error::Csr`] unless there is one finite value for each entry.
    pub fn with_values<U: Float>(&self, values: Vec<U>) -> Result<Csr<U>> {
        if values.len() != self.entries() {
            return Err(Error::Csr {
                row: 0,
                defect: CsrDefect::ValuesLength {
                    columns: self.entries(),
                    values: values.len(),
                },
            });
        }
        if let Some(k) = values.iter().position(|v| !v.widen().is_finite()) {
            return Err(Error::Csr {
                row: self.row_ptr.partition_point(|&p| p as usize <= k) - 1,
                defect: CsrDefect::NonFinite {
                    column: self.columns[k] as usize,
                    value: values[k].widen(),
                },
            });
        }
        Ok(Csr::valid(
            self.rows,
            self.cols,
            self.row_ptr.clone(),
            self.columns.clone(),
            values,
        ))
    }

    /// The transpose. O(entries + rows + columns).
    ///
    /// # Errors
    /// [`Error::Limit`] without memory.
    pub fn transpose(&self) -> Result<Csr<T>> {
        let mut row_ptr = filled(self.cols + 1, 0u32)?;
        for &j in &self.columns {
            row_ptr[j as usize + 1] += 1;
        }
        for j in 0..self.cols {
            row_ptr[j + 1] += row_ptr[j];
        }
        let mut next: Vec<u32> = room(self.cols)?;
        next.extend_from_slice(&row_ptr[..self.cols]);
        let mut columns = filled(self.entries(), 0u32)?;
        let mut values = filled(self.entries(), T::default())?;
        for i in 0..self.rows {
            let (row, row_values) = self.row(i);
            for (&j, &v) in row.iter().zip(row_values) {
                let place = next[j as usize] as usize;
                columns[place] = i as u32;
                values[place] = v;
                next[j as usize] += 1;
            }
        }
        Ok(Csr::valid(self.cols, self.rows, row_ptr, columns, values))
    }

    /// In f64; exact.
    pub fn widen(&self) -> Csr<f64> {
        Csr::valid(
            self.rows,
            self.cols,
            self.row_ptr.clone(),
            self.columns.clone(),
            self.values.iter().map(|v| v.widen()).collect(),
        )
    }

    /// In another type, rounded to nearest even, with a count of what was lost.
    ///
    /// # Errors
    /// [`Error::Csr`] with [`CsrDefect::Overflow`] for a value beyond the range, unless `how` allows it.
    pub fn narrow<U: Float>(&self, how: Narrowing) -> Result<Narrowed<U>> {
        let format = U::FORMAT;
        let (mut rounded, mut overflowed, mut vanished, mut subnormal) = (0, 0, 0, 0);
        let mut values = room(self.entries())?;
        for (k, value) in self.values.iter().enumerate() {
            let wide = value.widen();
            let mut narrow = U::rounded(wide);
            if !narrow.widen().is_finite() {
                if how == Narrowing::Refuse {
                    return Err(Error::Csr {
                        row: self.row_ptr.partition_point(|&p| p as usize <= k) - 1,
                        defect: CsrDefect::Overflow {
                            column: self.columns[k] as usize,
                            value: wide,
                            largest: format.max_finite(),
                        },
                    });
                }
                overflowed += 1;
                narrow = U::rounded(format.max_finite().copysign(wide));
            }
            let back = narrow.widen();
            rounded += usize::from(back != wide);
            vanished += usize::from(back == 0.0 && wide != 0.0);
            subnormal += usize::from(back != 0.0 && back.abs() < format.min_normal());
            values.push(narrow);
        }
        Ok(Narrowed {
            matrix: Csr::valid(self.rows, self.cols, self.row_ptr.clone(), self.columns.clone(), values),
            rounded,
            overflowed,
            vanished,
            subnormal,
        })
    }

    /// `self + lambda I` with lambda >= 0, the Tikhonov shift that makes a symmetric matrix better conditioned. As
    /// [`Csr::shifted`] otherwise.
    ///
    /// # Errors
    /// [`Error::Option`] for a lambda that is negative or not finite; those of [`Csr::shifted`].
    ///
    /// ```
    /// use macheps::{Error, sparse::Csr};
    /// let a = Csr::<f64>::identity(2)?;
    /// assert_eq!(a.regularized(0.5)?.diagonal(), [1.5, 1.5]);
    /// assert!(matches!(a.regularized(-0.5), Err(Error::Option { name: "shift", .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn regularized(&self, lambda: f64) -> Result<Csr<T>> {
        if !(lambda.is_finite() && lambda >= 0.0) {
            return Err(Error::Option {
                name: "shift",
                expected: "a finite number that is not negative",
                got: lambda.to_string(),
            });
        }
        self.shifted(lambda)
    }

    /// `self + lambda I` for any lambda. Diagonal entries that are not stored appear. Sums are made in f64 and rounded once.
    ///
    /// # Errors
    /// [`Error::Shape`] for a matrix that is not square; [`Error::Csr`] where a sum is not finite.
    pub fn shifted(&self, lambda: f64) -> Result<Csr<T>> {
        self.check_square()?;
        let mut row_ptr = room(self.rows + 1)?;
        let mut columns: Vec<u32> = room(self.entries() + self.rows)?;
        let mut values: Vec<T> = room(self.entries() + self.rows)?;
        row_ptr.push(0u32);
        for i in 0..self.rows {
            let (row, row_values) = self.row(i);
            let place = row.partition_point(|&j| (j as usize) < i);
            let stored = row.get(place).is_some_and(|&j| j as usize == i);
            let old = if stored { row_values[place].widen() } else { 0.0 };
            let sum = T::rounded(old + lambda);
            if !sum.widen().is_finite() {
                return Err(Error::Csr {
                    row: i,
                    defect: CsrDefect::NonFinite {
                        column: i,
                        value: sum.widen(),
                    },
                });
            }
            columns.extend_from_slice(&row[..place]);
            values.extend_from_slice(&row_values[..place]);
            columns.push(i as u32);
            values.push(sum);
            let rest = place + usize::from(stored);
            columns.extend_from_slice(&row[rest..]);
            values.extend_from_slice(&row_values[rest..]);
            check_index("entries", columns.len() as u64)?;
            row_ptr.push(columns.len() as u32);
        }
        Ok(Csr::valid(self.rows, self.cols, row_ptr, columns, values))
    }

    pub(crate) fn check_square(&self) -> Result<()> {
        if self.rows == self.cols {
            return Ok(());
        }
        Err(Error::shape(
            "matrix",
            "as many rows as columns",
            format!("{} x {}", self.rows, self.cols),
        ))
    }
}
