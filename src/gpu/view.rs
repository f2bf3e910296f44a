//! Typed views into buffers: an element offset, a shape and strides.

use crate::element::DType;
use crate::error::{Error, Result};
use crate::rows::{RowMap, contiguous_strides, element_count};

/// A tensor inside a buffer. Offsets and strides count elements, so disjoint slices of one pool buffer are views too.
///
/// Nothing is checked before a view is bound: then it has to lie within its buffer, and a view that is written has to have an
/// element of its own for every index.
///
/// ```no_run
/// # fn views(pool: &macheps::wgpu::Buffer) {
/// use macheps::{BufferView, DType};
/// // The second 16 by 100 matrix of a pool of f32, whose rows are 128 elements apart, and its transpose.
/// let matrix = BufferView::new(pool, DType::F32, &[16, 100]).at(16 * 128).with_strides(&[128, 1]);
/// let transpose = BufferView::new(pool, DType::F32, &[100, 16]).at(16 * 128).with_strides(&[1, 128]);
/// # let _ = (matrix, transpose);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BufferView {
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) dtype: DType,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl BufferView {
    /// A C-ordered tensor at the start of `buffer`. The buffer needs `STORAGE` usage.
    pub fn new(buffer: &wgpu::Buffer, dtype: DType, shape: &[usize]) -> BufferView {
        BufferView {
            buffer: buffer.clone(),
            dtype,
            offset: 0,
            shape: shape.to_vec(),
            strides: contiguous_strides(shape),
        }
    }

    /// The same shape and strides, beginning at element `offset` of the buffer.
    pub fn at(mut self, offset: usize) -> BufferView {
        self.offset = offset;
        self
    }

    /// The same shape with other strides, in elements, one a dimension; 0 repeats along it.
    pub fn with_strides(mut self, strides: &[usize]) -> BufferView {
        self.strides = strides.to_vec();
        self
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Strides, in elements, one a dimension.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Element of the buffer at which it begins.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The buffer that it lies in.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// One past the last element touched.
    fn end(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(self.offset);
        }
        self.shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset.checked_add(1)?, |end, (&size, &stride)| {
                end.checked_add((size - 1).checked_mul(stride)?)
            })
    }

    /// Checks that the view lies within its buffer and that the buffer may be bound as storage.
    pub(crate) fn check(&self, what: &'static str) -> Result<()> {
        if self.strides.len() != self.shape.len() {
            return Err(Error::shape(
                format!("strides of {what}"),
                format!("{} of them", self.shape.len()),
                format!("{:?}", self.strides),
            ));
        }
        if !self.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::BufferUsage {
                what,
                needed: "STORAGE".into(),
            });
        }
        // Storage bindings are made of whole 32-bit words.
        let need = self
            .end()
            .and_then(|end| end.checked_mul(self.dtype.size()))
            .map(|bytes| (bytes as u64).next_multiple_of(4));
        match need {
            Some(need) if need <= self.buffer.size() => Ok(()),
            _ => Err(Error::shape(
                format!("buffer of {what}"),
                format!(
                    "at least {} bytes for shape {:?}, strides {:?} at element {}",
                    need.unwrap_or(u64::MAX),
                    self.shape,
                    self.strides,
                    self.offset
                ),
                format!("{} bytes", self.buffer.size()),
            )),
        }
    }

    /// A written view must map each index to an element of its own.
    pub(crate) fn check_writable(&self, what: &'static str) -> Result<()> {
        self.check(what)?;
        if element_count(&self.shape) == Some(0) {
            return Ok(());
        }
        // Sorted by stride, every dimension must step over all that the smaller ones reach.
        let mut dims: Vec<_> = self
            .shape
            .iter()
            .zip(&self.strides)
            .filter(|&(&size, _)| size > 1)
            .collect();
        dims.sort_by_key(|&(_, stride)| *stride);
        let mut reach = 1;
        for (&size, &stride) in dims {
            if stride < reach {
                return Err(Error::shape(
                    format!("strides of {what}"),
                    "every index at an element of its own",
                    format!("{:?} for shape {:?}", self.strides, self.shape),
                ));
            }
            reach += stride * (size - 1);
        }
        Ok(())
    }

    /// Byte range touched.
    fn bytes(&self) -> std::ops::Range<u64> {
        let size = self.dtype.size() as u64;
        self.offset as u64 * size..self.end().unwrap_or(usize::MAX) as u64 * size
    }

    /// Whether two views share bytes. Interleaved slices of one buffer count as overlapping only if their ranges do.
    pub(crate) fn overlaps(&self, other: &BufferView) -> bool {
        self.shares_bytes(&other.buffer, other.bytes())
    }

    /// Whether it shares bytes with a range of a buffer.
    pub(crate) fn shares_bytes(&self, buffer: &wgpu::Buffer, range: std::ops::Range<u64>) -> bool {
        let own = self.bytes();
        self.buffer == *buffer && own.start < range.end && range.start < own.end
    }

    /// Whether two views are the very same elements in the same order.
    pub(crate) fn same_as(&self, other: &BufferView) -> bool {
        self.buffer == other.buffer
            && self.dtype == other.dtype
            && self.offset == other.offset
            && self.shape == other.shape
            && self.strides == other.strides
    }

    /// Whether the rows of `map`, which are those of this view, can be taken four aligned elements at a time.
    pub(crate) fn by_quads(&self, map: &RowMap) -> bool {
        let quads = |n: usize| n.is_multiple_of(4);
        map.len_stride == 1
            && quads(map.len)
            && quads(self.offset)
            && map.dims.iter().all(|d| d.size == 1 || quads(d.stride))
    }

    /// Rows along `axis`.
    pub(crate) fn rows(&self, axis: usize) -> RowMap {
        RowMap::strided(&self.shape, &self.strides, self.offset, axis)
    }
}

/// Checks that a workspace may be bound as storage, holds `need` bytes at an aligned offset and shares none of them with the views of
/// the call.
pub(crate) fn check_workspace<'a>(
    buffer: &wgpu::Buffer,
    offset: u64,
    need: u64,
    views: impl IntoIterator<Item = (&'static str, &'a BufferView)>,
) -> Result<()> {
    if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        return Err(Error::BufferUsage {
            what: "workspace",
            needed: "STORAGE".into(),
        });
    }
    if !offset.is_multiple_of(256) || offset.checked_add(need).is_none_or(|end| end > buffer.size()) {
        return Err(Error::shape(
            "workspace",
            format!("{need} bytes at an offset that is a multiple of 256"),
            format!("offset {offset} in a buffer of {} bytes", buffer.size()),
        ));
    }
    let shared = |(_, view): &(&str, &BufferView)| view.shares_bytes(buffer, offset..offset + need);
    match views.into_iter().find(shared) {
        Some((first, _)) => Err(Error::Aliased {
            first,
            second: "workspace",
        }),
        None => Ok(()),
    }
}
