//! Device time by timestamp queries, wall-clock time where there are none.

#[cfg(not(target_arch = "wasm32"))]
use super::Gpu;
#[cfg(not(target_arch = "wasm32"))]
use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;

/// A measured duration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Seconds.
    pub seconds: f64,
    /// `timestamps` (on the device) or `wall` (submit to done).
    pub timer: &'static str,
}

#[cfg(not(target_arch = "wasm32"))]
impl Gpu {
    /// Records into one compute pass, submits it, waits and says how long the device took.
    pub fn time(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<Timing> {
        self.check_alive()?;
        let mut encoder = self.device().create_command_encoder(&Default::default());
        // A software device's timestamps are the CPU's clock: wall time says the same and includes what the caller pays.
        if !self.capabilities().timestamps || self.capabilities().software {
            record(&mut encoder.begin_compute_pass(&Default::default()));
            let commands = self.scoped(|| encoder.finish())?;
            let start = Instant::now();
            self.submit(|| commands)?;
            self.wait_idle()?;
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
        let bytes = self.read_back(encoder, &resolved, 16)?.wait()?;
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
}
