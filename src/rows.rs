//! Where the rows of a tensor lie: the geometry shared by every operation along one axis.

use crate::error::{Error, Result};

/// One dimension that is not the axis: its size and its stride in elements (0 where broadcast).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowDim {
    /// Number of indices.
    pub size: usize,
    /// Elements from one index to the next.
    pub stride: usize,
}

/// A tensor seen as rows along one axis: element `j` of row `r` lies at `start(r) + j * len_stride`.
/// Rows are counted in row-major order over the other dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMap {
    /// Element of the buffer or slice at which index 0 of everything lies.
    pub offset: usize,
    /// The dimensions other than the axis, outermost first.
    pub dims: Vec<RowDim>,
    /// Length of a row.
    pub len: usize,
    /// Elements from one element of a row to the next (0 where broadcast).
    pub len_stride: usize,
}

/// Strides of a C-ordered tensor, in elements.
pub fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1].saturating_mul(shape[d + 1]);
    }
    strides
}

/// Number of elements of a shape; `None` on overflow.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    // A zero anywhere wins over an overflow elsewhere.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s))
}

/// The axis as an index, counting negative ones from the end.
pub fn resolve_axis(axis: isize, rank: usize) -> Result<usize> {
    let resolved = if axis < 0 { axis + rank as isize } else { axis };
    if rank == 0 {
        return Err(Error::shape("axis", "a tensor of at least one dimension", "a scalar"));
    }
    if resolved < 0 || resolved >= rank as isize {
        return Err(Error::shape(
            "axis",
            format!("-{rank} to {} for {rank} dimensions", rank as isize - 1),
            axis.to_string(),
        ));
    }
    Ok(resolved as usize)
}

impl RowMap {
    /// Rows of a C-ordered tensor along `axis`.
    pub fn contiguous(shape: &[usize], axis: usize) -> RowMap {
        RowMap::strided(shape, &contiguous_strides(shape), 0, axis)
    }

    /// Rows of a tensor with any strides along `axis`. `shape` and `strides` have equal lengths and contain `axis`.
    pub fn strided(shape: &[usize], strides: &[usize], offset: usize, axis: usize) -> RowMap {
        let dims = shape
            .iter()
            .zip(strides)
            .enumerate()
            .filter(|&(d, _)| d != axis)
            .map(|(_, (&size, &stride))| RowDim { size, stride })
            .collect();
        RowMap {
            offset,
            dims,
            len: shape[axis],
            len_stride: strides[axis],
        }
    }

    /// Rows of a C-ordered tensor of shape `small`, broadcast to `shape` by NumPy's rules.
    pub fn broadcast(what: &str, small: &[usize], shape: &[usize], axis: usize) -> Result<RowMap> {
        let fits = small.len() <= shape.len()
            && small
                .iter()
                .rev()
                .zip(shape.iter().rev())
                .all(|(&s, &full)| s == full || s == 1);
        if !fits {
            return Err(Error::shape(
                format!("shape of {what}"),
                format!("one that broadcasts to {shape:?}"),
                format!("{small:?}"),
            ));
        }
        let own = contiguous_strides(small);
        let missing = shape.len() - small.len();
        let strides: Vec<usize> = (0..shape.len())
            .map(|d| {
                if d < missing || (small[d - missing] == 1 && shape[d] != 1) {
                    0
                } else {
                    own[d - missing]
                }
            })
            .collect();
        Ok(RowMap::strided(shape, &strides, 0, axis))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.dims.iter().map(|d| d.size).product()
    }

    /// Position of element 0 of row `row`.
    pub fn start(&self, row: usize) -> usize {
        let mut rest = row;
        let mut at = self.offset;
        for dim in self.dims.iter().rev() {
            at += (rest % dim.size) * dim.stride;
            rest /= dim.size;
        }
        at
    }

    /// The same rows in groups of consecutive ones, at most `most` (not 0) each: the first row of each group and its map. Groups
    /// depend on the sizes alone, so tensors of the same dimensions fall apart alike.
    pub(crate) fn groups(&self, most: usize) -> Vec<(usize, RowMap)> {
        let rows = self.rows();
        if rows <= most {
            return vec![(0, self.clone())];
        }
        // The outermost dimension is cut; where one index of it has too many rows, each of them is cut further.
        let Some((outer, inner)) = self.dims.split_first() else {
            return vec![(0, self.clone())];
        };
        let inside: usize = inner.iter().map(|d| d.size).product();
        let step = (most / inside).max(1);
        let mut groups = Vec::new();
        for begin in (0..outer.size).step_by(step) {
            let mut dims = self.dims.clone();
            dims[0].size = step.min(outer.size - begin);
            let part = RowMap {
                offset: self.offset + begin * outer.stride,
                dims,
                ..self.clone()
            };
            if inside <= most {
                groups.push((begin * inside, part));
            } else {
                let line = RowMap {
                    dims: inner.to_vec(),
                    ..part
                };
                // A dimension of size 1 in front keeps the number of dimensions.
                groups.extend(line.groups(most).into_iter().map(|(first, mut map)| {
                    map.dims.insert(0, RowDim { size: 1, stride: 0 });
                    (begin * inside + first, map)
                }));
            }
        }
        groups
    }

    /// One past the last element touched; `offset` if there is none.
    pub fn end(&self) -> usize {
        if self.len == 0 || self.rows() == 0 {
            return self.offset;
        }
        let last: usize = self.dims.iter().map(|d| (d.size - 1) * d.stride).sum();
        self.offset + last + (self.len - 1) * self.len_stride + 1
    }

    /// Rows follow each other without gaps and their elements too.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = self.len;
        self.len_stride == 1
            && self.dims.iter().rev().all(|d| {
                let fits = d.size == 1 || d.stride == expected;
                expected *= d.size;
                fits
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_rows_of_any_axis() {
        let map = RowMap::contiguous(&[2, 3, 4], 1);
        assert_eq!((map.rows(), map.len, map.len_stride), (8, 3, 4));
        let starts: Vec<_> = (0..8).map(|r| map.start(r)).collect();
        assert_eq!(starts, [0, 1, 2, 3, 12, 13, 14, 15]);
        assert_eq!(map.end(), 24);
        assert!(RowMap::contiguous(&[2, 3, 4], 2).is_contiguous());
        assert!(!map.is_contiguous());
    }

    #[test]
    fn groups_hold_all_rows_in_order() {
        let map = RowMap::strided(&[3, 4, 5, 6], &[1000, 100, 10, 1], 7, 3);
        for most in 1..=61 {
            let mut row = 0;
            for (first, group) in map.groups(most) {
                assert_eq!(first, row, "at most {most}");
                assert!(group.rows() <= most && group.dims.len() == map.dims.len());
                for r in 0..group.rows() {
                    assert_eq!(group.start(r), map.start(row));
                    row += 1;
                }
            }
            assert_eq!(row, 60);
        }
    }

    #[test]
    fn empty_rows_start_inside() {
        let map = RowMap::contiguous(&[3, 0], 1);
        assert_eq!((map.rows(), map.start(2), map.end()), (3, 0, 0));
        assert!(map.is_contiguous());
    }

    #[test]
    fn broadcasts_as_numpy() {
        let map = RowMap::broadcast("mask", &[2, 1, 1, 5], &[2, 3, 4, 5], 3).unwrap();
        assert_eq!(map.start(0), 0);
        assert_eq!(map.start(11), 0);
        assert_eq!(map.start(12), 5);
        assert!(RowMap::broadcast("mask", &[3], &[2, 5], 1).is_err());
    }
}
