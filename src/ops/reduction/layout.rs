//! Geometry of a reduction on the host: the dimensions that stay and those that go.

use super::options::ReductionOptions;
use crate::error::Result;
use crate::rows::contiguous_strides;

/// A dimension: its size, and the strides of x and of the second tensor along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dim {
    pub size: usize,
    pub strides: [usize; 2],
}

/// Which elements go into which result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Dimensions that stay, outermost first.
    pub kept: Vec<Dim>,
    /// Dimensions that are reduced, outermost first, without those of size 1, evenly strided neighbours merged.
    pub reduced: Vec<Dim>,
}

impl Layout {
    /// Of tensors with these strides.
    pub(crate) fn new(shape: &[usize], strides: [&[usize]; 2], reduced: &[bool]) -> Layout {
        let dim = |d: usize| Dim {
            size: shape[d],
            strides: [strides[0][d], strides[1][d]],
        };
        let kept = (0..shape.len()).filter(|&d| !reduced[d]).map(dim).collect();
        let gone: Vec<Dim> = (0..shape.len()).filter(|&d| reduced[d]).map(dim).collect();
        Layout {
            kept,
            reduced: merge(&gone),
        }
    }

    /// Of C-ordered tensors.
    pub(crate) fn contiguous(shape: &[usize], options: &ReductionOptions) -> Result<Layout> {
        let strides = contiguous_strides(shape);
        Ok(Layout::new(shape, [&strides, &strides], &options.reduced(shape)?))
    }

    /// Number of results.
    pub(crate) fn rows(&self) -> usize {
        count(&self.kept)
    }

    /// Elements that go into each.
    pub(crate) fn len(&self) -> usize {
        count(&self.reduced)
    }

    /// Where row `row` begins in both tensors.
    pub(crate) fn start(&self, row: usize) -> [usize; 2] {
        place(&self.kept, row)
    }

    /// Where element `index` of a row lies from its beginning.
    pub(crate) fn element(&self, index: usize) -> [usize; 2] {
        place(&self.reduced, index)
    }

    /// Calls `run(place, step, count, first)` for the evenly strided runs that elements `begin..end` of a row consist of.
    pub(crate) fn runs(&self, begin: usize, end: usize, mut run: impl FnMut([usize; 2], [usize; 2], usize, usize)) {
        let (inner, outer) = match self.reduced.split_last() {
            Some((inner, outer)) => (*inner, outer),
            None => (
                Dim {
                    size: 1,
                    strides: [0; 2],
                },
                &[][..],
            ),
        };
        let mut at = begin;
        while at < end {
            let (o, i) = (at / inner.size, at % inner.size);
            let count = (inner.size - i).min(end - at);
            let base = place(outer, o);
            let start = [base[0] + i * inner.strides[0], base[1] + i * inner.strides[1]];
            run(start, inner.strides, count, at);
            at += count;
        }
    }
}

/// A 0 anywhere wins over an overflow elsewhere.
fn count(dims: &[Dim]) -> usize {
    if dims.iter().any(|d| d.size == 0) {
        return 0;
    }
    dims.iter().fold(1, |n, d| n.saturating_mul(d.size))
}

fn place(dims: &[Dim], index: usize) -> [usize; 2] {
    let mut rest = index;
    let mut at = [0; 2];
    for dim in dims.iter().rev() {
        let i = rest % dim.size;
        at[0] += i * dim.strides[0];
        at[1] += i * dim.strides[1];
        rest /= dim.size;
    }
    at
}

/// Drops dimensions of size 1 and merges neighbours that all tensors step through evenly. A dimension of size 0 leaves
/// nothing else.
fn merge(dims: &[Dim]) -> Vec<Dim> {
    if dims.iter().any(|d| d.size == 0) {
        return vec![Dim {
            size: 0,
            strides: [0; 2],
        }];
    }
    let mut merged: Vec<Dim> = Vec::new();
    for &dim in dims.iter().filter(|d| d.size != 1) {
        match merged.last_mut() {
            Some(outer) if (0..2).all(|t| outer.strides[t] == dim.strides[t] * dim.size) => {
                *outer = Dim {
                    size: outer.size * dim.size,
                    strides: dim.strides,
                };
            }
            _ => merged.push(dim),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_what_is_even() {
        let layout = |axes: &[isize]| Layout::contiguous(&[2, 3, 4, 5], &ReductionOptions::over(axes)).unwrap();
        assert_eq!(layout(&[1, 2, 3]).reduced.len(), 1);
        assert_eq!(layout(&[0, 1]).reduced[0].strides, [20, 20]);
        let apart = layout(&[0, 2]);
        assert_eq!((apart.reduced.len(), apart.rows(), apart.len()), (2, 15, 8));
        let mut seen = Vec::new();
        apart.runs(2, 7, |place, step, count, first| {
            seen.push((place[0], step[0], count, first))
        });
        assert_eq!(seen, [(10, 5, 2, 2), (60, 5, 3, 4)]);
        assert_eq!(apart.element(5), [65, 65]);
        assert_eq!(layout(&[0, 1, 2, 3]).rows(), 1);
    }
}
