//! The one place that waits for a device.

use super::Gpu;
#[cfg(not(target_arch = "wasm32"))]
use crate::error::Error;
use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc;
#[cfg(not(target_arch = "wasm32"))]
use std::time::{Duration, Instant};

/// One slice of waiting; between slices a lost device is noticed.
#[cfg(not(target_arch = "wasm32"))]
const SLICE: Duration = Duration::from_millis(50);

/// How long after a panic of wgpu's poll the answer may still come before the device counts as lost.
#[cfg(not(target_arch = "wasm32"))]
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes on their way from the device to the host.
pub struct Readback {
    gpu: Gpu,
    staging: wgpu::Buffer,
    len: u64,
    #[cfg_attr(
        target_arch = "wasm32",
        expect(dead_code, reason = "in a browser the event loop does the waiting")
    )]
    submission: wgpu::SubmissionIndex,
}

impl Readback {
    /// Blocks until the bytes are here.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self) -> Result<Vec<u8>> {
        let (sender, receiver) = mpsc::channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
            // The receiver is gone only if the wait was given up.
            let _ = sender.send(outcome);
        });
        let mut outcome = None;
        self.gpu.wait_until(Some(self.submission.clone()), || {
            outcome = receiver.try_recv().ok();
            outcome.is_some()
        })?;
        self.finish(outcome.is_some_and(|o| o.is_ok()))
    }

    /// Completes when the bytes are here, under any executor: natively a thread of its own does the waiting, in a
    /// browser the event loop.
    pub async fn ready(self) -> Result<Vec<u8>> {
        #[cfg(not(target_arch = "wasm32"))]
        {
            let gpu = self.gpu.clone();
            let (sender, receiver) = futures::channel::oneshot::channel();
            let spawned = std::thread::Builder::new().name("macheps wait".into()).spawn(move || {
                let _ = sender.send(self.wait());
            });
            if let Err(e) = spawned {
                return Err(Error::Unsupported {
                    what: "waiting in the background".into(),
                    reason: e.to_string(),
                });
            }
            receiver.await.unwrap_or_else(|_| Err(gpu.lost_error()))
        }
        #[cfg(target_arch = "wasm32")]
        {
            self.gpu.counters().waits.count();
            let (sender, receiver) = futures::channel::oneshot::channel();
            self.staging.map_async(wgpu::MapMode::Read, .., move |outcome| {
                let _ = sender.send(outcome);
            });
            let mapped = receiver.await.is_ok_and(|o| o.is_ok());
            self.finish(mapped)
        }
    }

    fn finish(self, mapped: bool) -> Result<Vec<u8>> {
        if !mapped {
            return Err(self.gpu.lost_error());
        }
        let view = self
            .staging
            .get_mapped_range(..)
            .map_err(|e| self.gpu.refused(e.to_string()))?;
        let bytes = view[..self.len as usize].to_vec();
        drop(view);
        self.staging.unmap();
        match self.gpu.take_error() {
            Some(message) => Err(self.gpu.refused(message)),
            None => Ok(bytes),
        }
    }
}

impl Gpu {
    /// Submits `encoder` with a copy of `len` bytes of `source` at its end and starts reading them back.
    /// `len` is a multiple of 4.
    pub fn read_back(&self, encoder: wgpu::CommandEncoder, source: &wgpu::Buffer, len: u64) -> Result<Readback> {
        self.read_back_all(encoder, &[(source, len)])
    }

    /// The same for several buffers, one after the other, each from its beginning and rounded up to a multiple of 4 bytes.
    pub fn read_back_all(
        &self,
        mut encoder: wgpu::CommandEncoder,
        sources: &[(&wgpu::Buffer, u64)],
    ) -> Result<Readback> {
        self.counters().readbacks.count();
        let len = sources.iter().map(|(_, len)| len.next_multiple_of(4)).sum::<u64>();
        let staging = self.create_buffer(
            "macheps staging",
            len.max(4),
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        )?;
        let mut at = 0;
        for (source, len) in sources {
            let len = len.next_multiple_of(4);
            encoder.copy_buffer_to_buffer(source, 0, &staging, at, len);
            at += len;
        }
        let submission = self.submit(|| encoder.finish())?;
        Ok(Readback {
            gpu: self.clone(),
            staging,
            len,
            submission,
        })
    }

    /// Blocks until everything submitted so far is done.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait_idle(&self) -> Result<()> {
        self.check_alive()?;
        let (sender, receiver) = mpsc::channel();
        self.queue().on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        self.wait_until(None, || receiver.try_recv().is_ok())
    }

    /// Completes when everything submitted so far is done.
    #[cfg(target_arch = "wasm32")]
    pub(super) async fn idle_async(&self) -> Result<()> {
        self.counters().waits.count();
        let (sender, receiver) = futures::channel::oneshot::channel();
        self.queue().on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        receiver.await.map_err(|_| self.lost_error())
    }

    /// Polls in slices until `done` says so, the device is lost or the time is up.
    #[cfg(not(target_arch = "wasm32"))]
    fn wait_until(&self, submission: Option<wgpu::SubmissionIndex>, mut done: impl FnMut() -> bool) -> Result<()> {
        self.counters().waits.count();
        let start = Instant::now();
        let timeout = self.timeout();
        // When polling first failed by a panic with nothing good since.
        let mut trouble: Option<Instant> = None;
        loop {
            let wait = wgpu::PollType::Wait {
                submission_index: submission.clone(),
                timeout: Some(SLICE),
            };
            // wgpu panics when the device is lost during the wait; that must not reach the caller. It also panics when
            // another thread finishes the queue between two steps of a poll that has timed out, which means nothing.
            let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.device().poll(wait)));
            if done() {
                return Ok(());
            }
            if polled.is_err() {
                trouble.get_or_insert_with(Instant::now);
            }
            if self.is_lost() || trouble.is_some_and(|since| since.elapsed() > PATIENCE) {
                return Err(self.lost_error());
            }
            match polled {
                Ok(Err(wgpu::PollError::Timeout)) => trouble = None,
                Ok(Err(_)) => return Err(self.lost_error()),
                // Finished, but the callback has not come: give its thread a moment.
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
            if start.elapsed() > timeout {
                return Err(Error::Timeout {
                    seconds: timeout.as_secs_f64(),
                });
            }
        }
    }
}
