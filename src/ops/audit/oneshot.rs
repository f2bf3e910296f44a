//! One call from host data to the audit, on a GPU or on the CPU path.

use super::{Audit, SLOTS, TensorAudit, cpu, reference};
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu};
use crate::job::{self, Job, Simple};

/// Values that go to a device at a time.
const CHUNK: usize = 1 << 26;

/// A chunk of host data.
pub(super) struct Chunk<'a, T> {
    pub values: &'a [T],
}

impl<T: Element> Job for Chunk<'_, T> {
    type Output = TensorAudit;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        "audit"
    }

    fn on_cpu(&self) -> Result<TensorAudit> {
        Ok(cpu::audit(self.values))
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        let buffer = gpu.upload("macheps audit values", bytemuck::cast_slice(self.values))?;
        let audit = Audit::new(gpu);
        let counts = audit.create_counts()?;
        let x = BufferView::new(&buffer, T::DTYPE, &[self.values.len()]);
        let bound = audit.bind(&x, &counts, 0)?;
        Ok(Simple {
            recording: Audit::into_recording(bound),
            outputs: vec![(counts, Audit::counts_size())],
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<TensorAudit> {
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(outputs[0]);
        TensorAudit::from_counts(T::DTYPE, self.values.len() as u64, &counts)
    }

    fn cross_check(&self, how: CrossCheck, got: &TensorAudit, _: Option<&Simple>) -> Result<()> {
        if how == CrossCheck::Off {
            return Ok(());
        }
        match difference(got, &reference::audit(self.values)) {
            None => Ok(()),
            Some((index, gpu, cpu)) => Err(Error::Mismatch {
                kernel: "audit",
                index,
                gpu,
                cpu,
                bound: 0.0,
            }),
        }
    }
}

/// The counters of an audit in the order of the kernel's, as far as they can differ.
fn counters(audit: &TensorAudit) -> Vec<f64> {
    let mut all: Vec<f64> = audit.exponents.iter().map(|&n| n as f64).collect();
    let sums = [
        audit.nans,
        audit.positive_infinities,
        audit.negative_infinities,
        audit.zeros,
        audit.subnormals,
        audit.f16.overflows,
        audit.f16.vanishes,
        audit.f16.subnormals,
        audit.bf16.overflows,
        audit.bf16.vanishes,
        audit.bf16.subnormals,
    ];
    all.extend(sums.map(|n| n as f64));
    all.extend([audit.max_magnitude(), audit.min_magnitude()].map(|v| v.map_or(-1.0, f64::from)));
    all.push(audit.first_bad.map_or(-1.0, |at| at as f64));
    debug_assert_eq!(all.len(), SLOTS);
    all
}

/// The first counter in which two audits differ, and its values.
pub(super) fn difference(got: &TensorAudit, want: &TensorAudit) -> Option<(usize, f64, f64)> {
    let (got, want) = (counters(got), counters(want));
    let at = got.iter().zip(&want).position(|(a, b)| a != b)?;
    Some((at, got[at], want[at]))
}

/// Values that go to the device of a context at a time: all on the CPU path.
fn chunk_len<T: Element>(context: &Context, values: &[T]) -> usize {
    match context.gpu() {
        Some(gpu) => {
            let most = gpu.device().limits().max_buffer_size / T::DTYPE.size() as u64;
            CHUNK.min((most / 4 * 4) as usize).max(4)
        }
        None => values.len().max(1),
    }
}

/// Audits host data. Blocks until the result is here. See the [module](super) for what is counted.
///
/// # Cost
/// On a device: upload and one pass, 2^26 values at a time. On the CPU path one read, in parallel.
///
/// # Errors
/// [`Error::Limit`] beyond the device's limits, [`Error::DeviceLost`], [`Error::Timeout`], and [`Error::Mismatch`] from a
/// cross-check, whose index is that of a counter.
///
/// ```
/// let audit = macheps::ops::audit::audit(&macheps::Context::cpu(), &[1.0f32, 0.0, 1e-9, 7e4, f32::NAN])?;
/// assert_eq!((audit.nans, audit.first_bad, audit.zeros), (1, Some(4), 1));
/// assert_eq!((audit.f16.overflows, audit.f16.vanishes), (1, 1));
/// // 1e-9 lies between 2^-30 and 2^-29, so it takes 2^6 to reach the smallest f16, 2^-24.
/// assert_eq!(audit.loss_scale(1.0)?.map(|s| s.exponent), Some(6));
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn audit<T: Element>(context: &Context, values: &[T]) -> Result<TensorAudit> {
    let mut all = TensorAudit::empty(T::DTYPE);
    for values in values.chunks(chunk_len(context, values)) {
        all.append(&job::run(&Chunk { values }, context)?);
    }
    Ok(all)
}

/// As `audit`, under any executor.
pub async fn audit_async<T: Element>(context: &Context, values: &[T]) -> Result<TensorAudit> {
    let mut all = TensorAudit::empty(T::DTYPE);
    for values in values.chunks(chunk_len(context, values)) {
        all.append(&job::run_async(&Chunk { values }, context).await?);
    }
    Ok(all)
}
