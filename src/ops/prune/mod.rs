//! Magnitude pruning: the smallest elements of a tensor dropped, by the exact k-th smallest magnitude.
//!
//! # Definition
//! Of n elements a sparsity s in [0, 1] asks for k = floor(s n) to be dropped ([`pruned_count`] says it exactly). The threshold t is
//! the k-th smallest |x|; kept are the elements with |x| > t. Ties with t are dropped, so that more than k may go. For k = 0
//! everything is kept and t is -inf.
//!
//! # Shapes
//! x of any shape; the mask has the same. On a device views of any offset and strides, of less than 2^32 elements.
//!
//! # Numerics
//! Exact: a radix select on the bits of the stored values. The same on every device, whatever it does with subnormals. -0 and
//! +0 are the smallest magnitude, infinities the largest. NaN has no place in the order: one-shots refuse it
//! ([`Error::NotANumber`]); on a device it counts as larger than infinity, so that it is the last to be dropped, and is counted
//! in [`PruneReport::nans`].
//!
//! # Cost
//! On a device three reads of x (two of 16-bit types) to find t, one more and a write of 4 bytes an element for the mask; 8 + w
//! dispatches in windows of w, no readback in between. On the CPU path two reads of x in parallel.
//!
//! # Errors
//! [`Error::Option`] for a sparsity outside [0, 1].

pub mod cases;
pub mod cpu;
mod kernels;
mod oneshot;
mod options;
pub mod reference;

#[doc(hidden)]
pub use kernels::shader_variants;
pub use oneshot::{Pruned, prune_async};
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::{prune, prune_checked};
pub use options::pruned_count;

use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording, check_workspace};
use crate::ops::elementwise::{check_aliases, check_read, check_shape, check_written};
use crate::rows::element_count;

/// Pruning for embedding: bound to its buffers once, recorded any number of times.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, weights: &wgpu::Buffer, mask: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::{BufferView, DType, Gpu, Prune, PruneViews};
/// let prune = Prune::new(&Gpu::borrow(device, queue), DType::F16, 0.9)?;
/// let state = prune.create_state()?;
/// let bound = prune.bind(&PruneViews {
///     x: BufferView::new(weights, DType::F16, &[1024, 768]),
///     // Words, in the place of f32: 1 where an element is kept.
///     mask: Some(BufferView::new(mask, DType::F32, &[1024, 768])),
///     state: (state, 0),
/// })?;
/// bound.record(encoder);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Prune {
    gpu: Gpu,
    dtype: DType,
    sparsity: f64,
}

/// The buffers of a pruning.
#[derive(Clone, Debug)]
pub struct PruneViews {
    /// The values.
    pub x: BufferView,
    /// 1 where an element is kept, else 0: u32 words, for which a view of f32 stands. Absent: only the threshold is found.
    pub mask: Option<BufferView>,
    /// [`Prune::state_size`] bytes at an offset that is a multiple of 256: what [`PruneReport::from_state`] reads stands first, then
    /// counters.
    pub state: (wgpu::Buffer, u64),
}

/// What is left of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PruneReport {
    /// The k-th smallest magnitude, -inf for k = 0. An element of x or -inf, so exact whatever the storage type.
    pub threshold: f32,
    /// Elements kept.
    pub kept: u32,
    /// NaNs in x.
    pub nans: u32,
}

impl PruneReport {
    /// Reads it off the first 12 bytes of the state.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than three words.
    pub fn from_state(words: &[u32]) -> Result<PruneReport> {
        match words {
            [threshold, kept, nans, ..] => Ok(PruneReport {
                threshold: f32::from_bits(*threshold),
                kept: *kept,
                nans: *nans,
            }),
            _ => Err(Error::shape(
                "state of a pruning",
                "three words",
                words.len().to_string(),
            )),
        }
    }
}

/// A pruning bound to its buffers.
pub struct BoundPrune {
    recording: Recording,
}

impl BoundPrune {
    /// Records into an encoder as one compute pass.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.recording.record(encoder);
    }

    /// Records into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.recording.record_pass(pass);
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.recording.dispatches()
    }

    pub(crate) fn into_recording(self) -> Recording {
        self.recording
    }
}

impl Prune {
    /// Of tensors of `dtype`, on a device.
    ///
    /// # Errors
    /// [`Error::Option`] for a sparsity outside [0, 1].
    pub fn new(gpu: &Gpu, dtype: DType, sparsity: f64) -> Result<Prune> {
        options::check_sparsity(sparsity)?;
        Ok(Prune {
            gpu: gpu.clone(),
            dtype,
            sparsity,
        })
    }

    /// Bytes of the state.
    pub const fn state_size() -> u64 {
        kernels::STATE_BYTES
    }

    /// A buffer for the state of one pruning, which can be copied from.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn create_state(&self) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as U;
        let usage = U::STORAGE | U::COPY_SRC | U::COPY_DST;
        self.gpu.create_buffer("macheps prune", Self::state_size(), usage)
    }

    /// Binds it.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`], [`Error::Shape`] for views beyond their buffers or of unequal shapes, [`Error::BufferUsage`],
    /// [`Error::Aliased`]; [`Error::Limit`] for 2^32 elements or more; [`Error::Unsupported`] for views of too many separately
    /// strided dimensions; [`Error::DeviceLost`].
    pub fn bind(&self, views: &PruneViews) -> Result<BoundPrune> {
        self.gpu.check_alive()?;
        let x = &views.x;
        check_read("x", x, self.dtype)?;
        let mut all = vec![("x", x)];
        if let Some(mask) = &views.mask {
            check_written("mask", mask, DType::F32)?;
            check_shape("mask", mask, x.shape())?;
            check_aliases(("mask", mask), &[("x", x)], "")?;
            all.push(("mask", mask));
        }
        let (state, offset) = &views.state;
        check_workspace(state, *offset, Self::state_size(), all)?;
        let rank = pruned_count(self.sparsity, element_count(x.shape()).unwrap_or(usize::MAX));
        Ok(BoundPrune {
            recording: kernels::bind(&self.gpu, x, views.mask.as_ref(), state, *offset, rank)?,
        })
    }
}
