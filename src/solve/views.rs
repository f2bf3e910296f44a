//! Vectors in buffers, as the solvers' kernels are given them: what is checked of them and how they are bound.

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{Bind, BufferView, Gpu};

/// A vector or several of them, each contiguous, as a kernel finds them.
pub(crate) struct Vectors {
    bind: Bind,
    /// Element of the binding at which they begin.
    pub base: u32,
    /// How many there are.
    pub count: u32,
    /// Elements from one to the next.
    pub pitch: u32,
}

impl Vectors {
    /// Checks a view of shape `[n]` or `[k, n]`.
    pub(crate) fn of(gpu: &Gpu, view: &BufferView, what: &'static str, n: usize, written: bool) -> Result<Vectors> {
        let shape = view.shape();
        let count = match shape {
            [len] if *len == n => 1,
            [count, len] if *len == n => *count,
            _ => {
                return Err(Error::shape(what, format!("[{n}] or [k, {n}]"), format!("{shape:?}")));
            }
        };
        if view.dtype() != DType::F32 {
            return Err(Error::DTypeMismatch {
                what,
                expected: DType::F32,
                got: view.dtype(),
            });
        }
        let stride = view.strides.last().copied().unwrap_or(1);
        if stride != 1 && n > 1 || view.strides.len() != shape.len() {
            return Err(Error::shape(
                format!("strides of {what}"),
                "contiguous vectors",
                format!("{:?}", view.strides),
            ));
        }
        let pitch = if count > 1 { view.strides[0] } else { n };
        let span = count.saturating_sub(1) * pitch + n;
        if written {
            view.check_writable(what)?;
        } else {
            view.check(what)?;
        }
        within("elements of the vectors", span as u64, u64::from(u32::MAX))?;
        let (bind, base) = part(gpu, what, view)?;
        Ok(Vectors {
            bind,
            base,
            count: count as u32,
            pitch: pitch as u32,
        })
    }

    /// The same, if nothing lies between them.
    pub(crate) fn side_by_side(self, what: &'static str, n: usize) -> Result<Vectors> {
        if self.pitch as usize == n {
            return Ok(self);
        }
        let got = format!("one every {}", self.pitch);
        Err(Error::shape(
            format!("vectors of {what}"),
            format!("one every {n} elements"),
            got,
        ))
    }

    /// Whether both lie in one buffer.
    pub(crate) fn shares_buffer(&self, other: &Vectors) -> bool {
        self.bind.buffer == other.bind.buffer
    }

    /// The binding under a name.
    pub(crate) fn named(&self, name: &'static str) -> Bind {
        Bind {
            name,
            ..self.bind.clone()
        }
    }
}

/// Binds the part of a buffer that a view lies in; gives the element of the binding at which it begins.
pub(crate) fn part(gpu: &Gpu, name: &'static str, view: &BufferView) -> Result<(Bind, u32)> {
    let steps = view.shape.iter().zip(&view.strides);
    let last: usize = steps.map(|(size, stride)| size.saturating_sub(1) * stride).sum();
    // Nothing is read of an empty view, but a binding has a size.
    let (begin, span) = if view.shape.contains(&0) {
        (0, 1)
    } else {
        (view.offset as u64 * 4, last as u64 + 1)
    };
    let alignment = gpu.capabilities().storage_alignment;
    let offset = begin / alignment * alignment;
    let size = begin + span * 4 - offset;
    check_binding(gpu, size)?;
    let bind = Bind {
        name,
        buffer: view.buffer.clone(),
        offset,
        size,
    };
    Ok((bind, ((begin - offset) / 4) as u32))
}

/// Checks that a device can bind so many bytes at once.
pub(crate) fn check_binding(gpu: &Gpu, bytes: u64) -> Result<()> {
    within(
        "bytes of vectors in one storage binding",
        bytes,
        gpu.capabilities().max_binding,
    )
}

/// An error where more is needed than there is.
pub(crate) fn within(what: &'static str, need: u64, have: u64) -> Result<()> {
    if need > have {
        return Err(Error::Limit { what, need, have });
    }
    Ok(())
}

/// Checks the words that say which vectors still count.
pub(crate) fn check_active(active: Option<&wgpu::Buffer>, vectors: u32) -> Result<()> {
    let Some(active) = active else { return Ok(()) };
    if !active.usage().contains(wgpu::BufferUsages::STORAGE) {
        return Err(Error::BufferUsage {
            what: "active",
            needed: "STORAGE".into(),
        });
    }
    if active.size() < u64::from(vectors) * 4 {
        return Err(Error::shape(
            "buffer of active",
            format!("at least {} bytes", u64::from(vectors) * 4),
            format!("{} bytes", active.size()),
        ));
    }
    Ok(())
}
