//! What a loss over classes works on, in host memory, and its checks.

use super::options::{CrossEntropyOptions, LossKind, LossReduction};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::rows::RowMap;
use crate::tensor::{check_len, checked_count};
use std::borrow::Cow;
use std::ops::Range;

/// Class labels in one of the integer types that they come in.
#[derive(Clone, Copy, Debug)]
pub enum Indices<'a> {
    /// 64-bit, signed.
    I64(&'a [i64]),
    /// 32-bit, signed.
    I32(&'a [i32]),
    /// 32-bit, unsigned.
    U32(&'a [u32]),
}

impl Indices<'_> {
    /// Number of labels.
    pub fn len(&self) -> usize {
        match self {
            Indices::I64(v) => v.len(),
            Indices::I32(v) => v.len(),
            Indices::U32(v) => v.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Label `i` as it was given. Panics beyond the end.
    pub fn get(&self, i: usize) -> i64 {
        match self {
            Indices::I64(v) => v[i],
            Indices::I32(v) => i64::from(v[i]),
            Indices::U32(v) => i64::from(v[i]),
        }
    }
}

macro_rules! indices_from {
    ($type:ty, $variant:ident) => {
        impl<'a> From<&'a [$type]> for Indices<'a> {
            fn from(labels: &'a [$type]) -> Self {
                Indices::$variant(labels)
            }
        }
        impl<'a> From<&'a Vec<$type>> for Indices<'a> {
            fn from(labels: &'a Vec<$type>) -> Self {
                Indices::$variant(labels)
            }
        }
        impl<'a, const N: usize> From<&'a [$type; N]> for Indices<'a> {
            fn from(labels: &'a [$type; N]) -> Self {
                Indices::$variant(labels)
            }
        }
    };
}
indices_from!(i64, I64);
indices_from!(i32, I32);
indices_from!(u32, U32);

/// What the classes should have been.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a, T> {
    /// One class a row: of the input's shape without the class axis.
    Indices(Indices<'a>),
    /// A probability for each class: of the input's shape. Used as they are, whatever their sum.
    Probabilities(&'a [T]),
}

/// Input of a loss over classes in host memory.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyInput<'a, T> {
    /// Logits, or log-probabilities for nll_loss, in C order.
    pub x: &'a [T],
    /// Shape: `[N, C, d1, ..]`, or `[C]` for a single row.
    pub shape: &'a [usize],
    /// The targets.
    pub target: Target<'a, T>,
    /// A weight for each class; finite. All 1 if there is none.
    pub weight: Option<&'a [f32]>,
}

impl<'a, T> CrossEntropyInput<'a, T> {
    /// With class labels and without weights.
    pub fn new(x: &'a [T], shape: &'a [usize], labels: impl Into<Indices<'a>>) -> Self {
        CrossEntropyInput {
            x,
            shape,
            target: Target::Indices(labels.into()),
            weight: None,
        }
    }

    /// With a probability for each class and without weights.
    pub fn soft(x: &'a [T], shape: &'a [usize], probabilities: &'a [T]) -> Self {
        CrossEntropyInput {
            x,
            shape,
            target: Target::Probabilities(probabilities),
            weight: None,
        }
    }

    /// With a weight for each class.
    pub fn with_weight(mut self, weight: &'a [f32]) -> Self {
        self.weight = Some(weight);
        self
    }
}

/// The label of a row that is ignored, where labels are checked.
pub(crate) const IGNORED: i32 = -1;

/// An input that has been found to be in order.
#[derive(Clone)]
pub(crate) struct Checked<'a, T> {
    pub kind: LossKind,
    pub options: CrossEntropyOptions,
    pub x: &'a [T],
    pub shape: Cow<'a, [usize]>,
    /// Rows of `x` along the classes.
    pub map: RowMap,
    pub classes: usize,
    pub rows: usize,
    /// Elements from a class to the next.
    pub inner: usize,
    /// Classes, or [`IGNORED`]; empty with probabilities.
    pub labels: Vec<i32>,
    pub probabilities: Option<&'a [T]>,
    pub weight: Option<&'a [f32]>,
    /// Shape of the losses of the rows.
    pub row_shape: Vec<usize>,
}

/// The axis of the classes.
pub(crate) fn class_axis(shape: &[usize]) -> Result<usize> {
    match shape.len() {
        0 => Err(Error::shape("shape of x", "[C] or [N, C, ..]", "[]")),
        1 => Ok(0),
        _ => Ok(1),
    }
}

impl<'a, T: Element> Checked<'a, T> {
    /// Checks everything that does not depend on the values of `x`.
    pub fn new(kind: LossKind, input: &CrossEntropyInput<'a, T>, options: &CrossEntropyOptions) -> Result<Self> {
        check_len("x", input.x.len(), input.shape)?;
        Checked::without_x(kind, input, options)
    }

    /// As [`Checked::new`], where `x` is elsewhere.
    pub fn without_x(kind: LossKind, input: &CrossEntropyInput<'a, T>, options: &CrossEntropyOptions) -> Result<Self> {
        options.check(kind)?;
        let shape = input.shape;
        let axis = class_axis(shape)?;
        let row_shape: Vec<usize> = (0..shape.len()).filter(|&d| d != axis).map(|d| shape[d]).collect();
        // A shape with a 0 in it has no elements but may still claim any number of rows.
        let rows = checked_count("the rows of x", &row_shape)?;
        let classes = shape[axis];
        if classes == 0 && rows > 0 {
            return Err(Error::shape("shape of x", "at least one class", format!("{shape:?}")));
        }
        if classes > i32::MAX as usize {
            return Err(Error::Limit {
                what: "number of classes",
                need: classes as u64,
                have: i32::MAX as u64,
            });
        }
        if let Some(weight) = input.weight {
            check_len("weight", weight.len(), &[classes])?;
            if let Some(wrong) = weight.iter().find(|w| !w.is_finite()) {
                return Err(Error::Option {
                    name: "weight",
                    expected: "finite numbers",
                    got: wrong.to_string(),
                });
            }
        }
        let (labels, probabilities) = match input.target {
            Target::Indices(labels) => {
                check_len("target", labels.len(), &row_shape)?;
                (checked_labels(&labels, classes, options.ignore_index)?, None)
            }
            Target::Probabilities(_) if kind == LossKind::NllLoss => {
                return Err(Error::Unsupported {
                    what: "nll_loss with probabilities as targets".into(),
                    reason: "it takes class labels; cross_entropy takes both".into(),
                });
            }
            Target::Probabilities(p) => {
                check_len("target", p.len(), shape)?;
                (Vec::new(), Some(p))
            }
        };
        Ok(Checked {
            kind,
            options: *options,
            x: input.x,
            shape: Cow::Borrowed(shape),
            map: RowMap::contiguous(shape, axis),
            classes,
            rows,
            inner: shape[axis + 1..].iter().product(),
            labels,
            probabilities,
            weight: input.weight,
            row_shape,
        })
    }

    /// Indices of the first dimension, each of which is whole rows.
    pub fn batch(&self) -> usize {
        if self.shape.len() > 1 { self.shape[0] } else { 1 }
    }

    /// The rows of some indices of the first dimension as an input of their own.
    pub fn part(&self, indices: Range<usize>) -> Checked<'_, T> {
        if self.shape.len() < 2 {
            return self.clone();
        }
        let of_each = |count: usize| indices.start * count..indices.end * count;
        let elements = of_each(self.classes * self.inner);
        let (mut shape, mut row_shape) = (self.shape.to_vec(), self.row_shape.clone());
        (shape[0], row_shape[0]) = (indices.len(), indices.len());
        Checked {
            x: &self.x[elements.clone()],
            map: RowMap::contiguous(&shape, 1),
            shape: Cow::Owned(shape),
            rows: indices.len() * self.inner,
            labels: match self.labels.is_empty() {
                true => Vec::new(),
                false => self.labels[of_each(self.inner)].to_vec(),
            },
            probabilities: self.probabilities.map(|p| &p[elements]),
            row_shape,
            ..*self
        }
    }

    /// The class of a row's label; `None` for ignored rows and for probabilities.
    pub fn label(&self, row: usize) -> Option<usize> {
        self.labels.get(row).and_then(|&label| usize::try_from(label).ok())
    }

    /// Whether a row counts for nothing.
    pub fn is_ignored(&self, row: usize) -> bool {
        self.labels.get(row) == Some(&IGNORED)
    }

    /// Weight of a class.
    pub fn weight_of(&self, class: usize) -> f64 {
        self.weight.map_or(1.0, |w| f64::from(w[class]))
    }

    /// Number of losses: one a row, or one.
    pub fn losses(&self) -> usize {
        match self.options.reduction {
            LossReduction::None => self.rows,
            LossReduction::Mean | LossReduction::Sum => 1,
        }
    }

    /// Checks the upstream gradient: one value for each loss.
    pub fn check_upstream(&self, upstream: &[f32]) -> Result<()> {
        if upstream.len() == self.losses() {
            return Ok(());
        }
        Err(Error::shape(
            "length of upstream",
            self.losses().to_string(),
            upstream.len().to_string(),
        ))
    }
}

/// Labels as classes, the ignored ones replaced by [`IGNORED`].
fn checked_labels(labels: &Indices, classes: usize, ignore_index: Option<i64>) -> Result<Vec<i32>> {
    (0..labels.len())
        .map(|index| {
            let label = labels.get(index);
            if Some(label) == ignore_index {
                Ok(IGNORED)
            } else if (0..classes as i64).contains(&label) {
                Ok(label as i32)
            } else {
                Err(Error::Label {
                    index,
                    label,
                    classes,
                    ignore_index,
                })
            }
        })
        .collect()
}
