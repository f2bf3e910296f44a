//! Where a frame's time goes: timestamps around its passes, kept on the device until somebody asks.

/// The parts of a frame, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Carrying velocity and smoke along.
    Advect,
    /// Forces, and the divergence that they leave.
    Forces,
    /// The pressure solve: macheps.
    Pressure,
    /// Taking the pressure's gradient away.
    Project,
    /// Norms of the divergence before and after, by macheps.
    Measure,
    /// The picture.
    Draw,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 6] = [
        Stage::Advect,
        Stage::Forces,
        Stage::Pressure,
        Stage::Project,
        Stage::Measure,
        Stage::Draw,
    ];

    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Advect => "advect",
            Stage::Forces => "forces",
            Stage::Pressure => "pressure",
            Stage::Project => "project",
            Stage::Measure => "measure",
            Stage::Draw => "draw",
        }
    }
}

/// Queries of a frame: the beginning and the end of each stage.
const QUERIES: u32 = 2 * Stage::ALL.len() as u32;

/// Bytes of a frame's timestamps; query sets resolve to multiples of 256.
const FRAME_BYTES: u64 = 256;

/// Timestamps of as many frames as it has room for, then of the last ones. Without the feature, of none.
#[derive(Clone)]
pub(crate) struct Clock {
    queries: Option<(wgpu::QuerySet, wgpu::Buffer)>,
    /// Milliseconds of a tick.
    period: f64,
    frames: u64,
}

impl Clock {
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue, frames: usize) -> Clock {
        let frames = frames as u64;
        let available = device.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        let queries = available.then(|| {
            let set = device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("stages"),
                ty: wgpu::QueryType::Timestamp,
                count: QUERIES,
            });
            let resolved = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("stages"),
                size: FRAME_BYTES * frames,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (set, resolved)
        });
        Clock {
            queries,
            period: f64::from(queue.get_timestamp_period()) * 1e-6,
            frames,
        }
    }

    /// Opens the compute pass of a stage.
    pub(crate) fn pass<'a>(&self, encoder: &'a mut wgpu::CommandEncoder, stage: Stage) -> wgpu::ComputePass<'a> {
        let first = 2 * stage as u32;
        let timestamp_writes = self
            .queries
            .as_ref()
            .map(|(query_set, _)| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            });
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(stage.name()),
            timestamp_writes,
        })
    }

    /// As [`Clock::pass`], for the render pass.
    pub(crate) fn render_writes(&self) -> Option<wgpu::RenderPassTimestampWrites<'_>> {
        let first = 2 * Stage::Draw as u32;
        self.queries
            .as_ref()
            .map(|(query_set, _)| wgpu::RenderPassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            })
    }

    /// Keeps a frame's timestamps, all of whose stages have been recorded.
    pub(crate) fn keep(&self, encoder: &mut wgpu::CommandEncoder, frame: u64) {
        if let Some((set, resolved)) = &self.queries {
            encoder.resolve_query_set(set, 0..QUERIES, resolved, frame % self.frames * FRAME_BYTES);
        }
    }

    pub(crate) fn buffer(&self) -> Option<&wgpu::Buffer> {
        self.queries.as_ref().map(|(_, buffer)| buffer)
    }

    /// Milliseconds of each stage of a frame, from the bytes of the buffer.
    pub(crate) fn decode(&self, bytes: &[u8], frame: u64) -> Option<[f64; Stage::ALL.len()]> {
        let begin = (frame % self.frames * FRAME_BYTES) as usize;
        let ticks: Vec<u64> = bytes
            .get(begin..begin + 8 * QUERIES as usize)?
            .chunks_exact(8)
            .map(bytemuck::pod_read_unaligned)
            .collect();
        let mut stages = [0.0; Stage::ALL.len()];
        for (stage, pair) in stages.iter_mut().zip(ticks.chunks_exact(2)) {
            *stage = pair[1].saturating_sub(pair[0]) as f64 * self.period;
        }
        Some(stages)
    }
}
