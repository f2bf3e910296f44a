//! What the values of a tensor are, and what 16-bit storage would make of them.
//!
//! # Definition
//! One pass counts NaNs, infinities, zeros, subnormals, the binary exponents of what is left, and the values that f16 and bf16
//! would turn into an infinity, into zero or into a subnormal (rounding to nearest, ties to even); and finds the smallest and
//! largest magnitude and the first NaN or infinity. From the exponents follows the loss scale that lifts a given share of
//! gradients out of f16's underflow range ([`TensorAudit::loss_scale`]).
//!
//! # Shapes
//! Any; on a device views of any offset and strides, of less than 2^32 - 1 elements a call. An empty tensor has an empty audit.
//!
//! # Numerics
//! Exact: integers on the stored bits. The same counts on every device, whatever it does with subnormals and NaN.
//!
//! # Cost
//! One read of the tensor. 1,164 bytes of counters.
//!
//! # Source
//! Micikevicius et al., Mixed Precision Training (2018), for the histogram of gradients and the choice of a loss scale.

pub mod cases;
pub mod cpu;
mod kernels;
mod oneshot;
pub mod reference;
mod report;

#[doc(hidden)]
pub use kernels::shader_variants;
#[cfg(not(target_arch = "wasm32"))]
pub use oneshot::audit;
pub use oneshot::audit_async;
pub(crate) use report::SLOTS;
pub use report::{EXPONENTS, LOWEST_EXPONENT, LossScale, Narrowing, TensorAudit};

use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu, Recording};

/// The audit for embedding: bound to a tensor and to counters once, recorded any number of times. Every recording begins by
/// clearing the counters. [`TensorAudit::from_counts`] reads them.
///
/// ```no_run
/// # fn frame(device: &wgpu::Device, queue: &wgpu::Queue, gradients: &wgpu::Buffer, encoder: &mut wgpu::CommandEncoder) -> macheps::Result<()> {
/// # use macheps::wgpu;
/// use macheps::ops::audit::Audit;
/// use macheps::{BufferView, DType, Gpu};
/// let audit = Audit::new(&Gpu::borrow(device, queue));
/// let counts = audit.create_counts()?;
/// let bound = audit.bind(&BufferView::new(gradients, DType::F16, &[1 << 20]), &counts, 0)?;
/// bound.record(encoder); // every step; copy `counts` to a buffer that can be mapped to read it
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Audit {
    gpu: Gpu,
}

/// An audit bound to its buffers.
pub struct BoundAudit {
    recording: Recording,
}

impl BoundAudit {
    /// Records into an encoder as one compute pass.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        self.recording.record(encoder);
    }

    /// Records into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.recording.record_pass(pass);
    }
}

impl Audit {
    /// On a device.
    pub fn new(gpu: &Gpu) -> Audit {
        Audit { gpu: gpu.clone() }
    }

    /// Bytes that the counters take.
    pub const fn counts_size() -> u64 {
        kernels::COUNTS_BYTES
    }

    /// A buffer for the counters of one audit, which can be copied from.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn create_counts(&self) -> Result<wgpu::Buffer> {
        use wgpu::BufferUsages as U;
        let usage = U::STORAGE | U::COPY_SRC | U::COPY_DST;
        self.gpu.create_buffer("macheps audit", Self::counts_size(), usage)
    }

    /// Binds the audit of `x` to counters at `offset` of a buffer, a multiple of 256.
    ///
    /// # Errors
    /// [`Error::Shape`] for a view beyond its buffer and for counters that do not fit; [`Error::BufferUsage`],
    /// [`Error::Aliased`], [`Error::Limit`]; [`Error::Unsupported`] for views of too many separately strided dimensions;
    /// [`Error::DeviceLost`].
    pub fn bind(&self, x: &BufferView, counts: &wgpu::Buffer, offset: u64) -> Result<BoundAudit> {
        self.gpu.check_alive()?;
        x.check("x")?;
        if !counts.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::BufferUsage {
                what: "counts",
                needed: "STORAGE".into(),
            });
        }
        let size = Self::counts_size();
        if !offset.is_multiple_of(256) || offset.checked_add(size).is_none_or(|end| end > counts.size()) {
            return Err(Error::shape(
                "counts",
                format!("{size} bytes at an offset that is a multiple of 256"),
                format!("offset {offset} in a buffer of {} bytes", counts.size()),
            ));
        }
        if x.buffer == *counts {
            return Err(Error::Aliased {
                first: "x",
                second: "counts",
            });
        }
        Ok(BoundAudit {
            recording: kernels::bind(&self.gpu, x, counts, offset)?,
        })
    }

    pub(crate) fn into_recording(bound: BoundAudit) -> Recording {
        bound.recording
    }
}
