//! Counts of what is asked of a device, kept where it is asked: nothing outside this room submits, writes or waits.

use super::Gpu;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What the crate has asked of a device so far, through one [`Gpu`] and its clones. The difference between two of them is what happened
/// in between: a renderer sees with it that its frames record and do nothing else.
///
/// ```no_run
/// # fn frame(gpu: &macheps::Gpu, solve: &macheps::solve::conjugate_gradient::BoundConjugateGradient,
/// #     encoder: &mut macheps::wgpu::CommandEncoder) {
/// let before = gpu.statistics();
/// solve.record(encoder, 20);
/// assert_eq!(gpu.statistics(), before);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Calls that make an object, write a buffer or submit commands.
    pub calls: u64,
    /// Submissions to the queue.
    pub submissions: u64,
    /// Copies to the host that were begun.
    pub readbacks: u64,
    /// Waits for the device, in the calling thread or for it.
    pub waits: u64,
}

/// The numbers of [`Statistics`], as threads count them.
#[derive(Default)]
pub(super) struct Counters {
    pub calls: Counter,
    pub submissions: Counter,
    pub readbacks: Counter,
    pub waits: Counter,
}

/// A number that only grows. It orders nothing, so relaxed accesses do.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gpu {
    /// What has been asked of the device so far.
    pub fn statistics(&self) -> Statistics {
        let counters = self.counters();
        Statistics {
            calls: counters.calls.read(),
            submissions: counters.submissions.read(),
            readbacks: counters.readbacks.read(),
            waits: counters.waits.read(),
        }
    }
}
