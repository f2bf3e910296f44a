//! Device time by timestamp queries, wall-clock time where there are none.

use super::{Gpu, Readback};
use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use std::time::Instant;
#[cfg(target_arch = "wasm32")]
pub(crate) use web_time::Instant;

/// A measured duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Seconds.
    pub seconds: f64,
    /// `timestamps` (on the device) or `wall` (submit to done).
    pub timer: &'static str,
}

impl Gpu {
    /// Records into one compute pass, submits it, waits and says how long the device took.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn time(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<Timing> {
        pollster::block_on(self.time_async(record))
    }

    /// As `time`, for browsers. Elsewhere it blocks: a thread that waits in the background would be in the measurement.
    pub async fn time_async(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<Timing> {
        self.check_alive()?;
        let mut encoder = self.device().create_command_encoder(&Default::default());
        // A software device's timestamps are the CPU's clock: wall time says the same and includes what the caller pays.
        if !self.capabilities().timestamps || self.capabilities().software {
            record(&mut encoder.begin_compute_pass(&Default::default()));
            let commands = self.scoped(|| encoder.finish())?;
            let start = Instant::now();
            self.submit(|| commands)?;
            self.idle().await?;
            return Ok(Timing {
                seconds: start.elapsed().as_secs_f64(),
                timer: "wall",
            });
        }
        let queries = self.scoped(|| {
            self.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("macheps timing"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            })
        })?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.create_buffer("macheps timing", 16, usage)?;
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("macheps timed"),
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                }),
            });
            record(&mut pass);
        }
        encoder.resolve_query_set(&queries, 0..2, &resolved, 0);
        let bytes = bytes(self.read_back(encoder, &resolved, 16)?).await?;
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let (Some(&begin), Some(&end)) = (ticks.first(), ticks.get(1)) else {
            return Err(Error::Wgpu("timestamp queries came back empty".into()));
        };
        let seconds = end.saturating_sub(begin) as f64 * f64::from(self.queue().get_timestamp_period()) * 1e-9;
        Ok(Timing {
            seconds,
            timer: "timestamps",
        })
    }

    async fn idle(&self) -> Result<()> {
        #[cfg(not(target_arch = "wasm32"))]
        return self.wait_idle();
        #[cfg(target_arch = "wasm32")]
        return self.idle_async().await;
    }
}

async fn bytes(readback: Readback) -> Result<Vec<u8>> {
    #[cfg(not(target_arch = "wasm32"))]
    return readback.wait();
    #[cfg(target_arch = "wasm32")]
    return readback.ready().await;
}
