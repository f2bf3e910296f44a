//! Benchmarks: verified once, then timed, and set against the same device's own copy speed in the same run.

mod audit;
mod conjugate_gradient;
mod copy;
mod cross_entropy;
mod elementwise;
mod fused;
mod layer_norm;
mod mixed;
mod prune;
mod reduction;
mod spmv;
mod stencil;

#[cfg(not(target_arch = "wasm32"))]
pub use conjugate_gradient::iteration_cost;
pub use conjugate_gradient::{IterationCost, iteration_cost_async};

use crate::context::Context;
use crate::element::DType;
use crate::error::Result;
use crate::gpu::{Gpu, Instant, Recording, Timing};
use crate::ops;
use crate::ops::is_meant;
use crate::ops::softmax::cases::Case as SoftmaxCase;
use crate::verify::shape_text;
use futures::future::LocalBoxFuture;
use std::time::Duration;

/// Something that can be timed on a context.
pub trait Workload: Send + Sync {
    /// Name of the operation.
    fn op(&self) -> &'static str;
    /// Shape in words.
    fn shape(&self) -> String;
    /// Storage type.
    fn dtype(&self) -> DType;
    /// Least traffic in bytes: every input read once, every output written once.
    fn bytes(&self) -> u64;
    /// Uploads the data, checks one result against the oracle and makes ready to be timed.
    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a>;
    /// As [`Workload::prepare_async`], and waits for it.
    #[cfg(not(target_arch = "wasm32"))]
    fn prepare(&self, context: &Context) -> Result<Prepared> {
        pollster::block_on(self.prepare_async(context))
    }
}

/// A workload that is being prepared.
pub type Preparing<'a> = LocalBoxFuture<'a, Result<Prepared>>;

/// A call of the CPU path.
#[cfg(not(target_arch = "wasm32"))]
pub type Call = Box<dyn FnMut() + Send>;
/// A call of the CPU path.
#[cfg(target_arch = "wasm32")]
pub type Call = Box<dyn FnMut()>;

/// Records a workload into a compute pass.
#[cfg(not(target_arch = "wasm32"))]
pub type Recorder = Box<dyn Fn(&mut wgpu::ComputePass<'_>) + Send>;
/// Records a workload into a compute pass.
#[cfg(target_arch = "wasm32")]
pub type Recorder = Box<dyn Fn(&mut wgpu::ComputePass<'_>)>;

/// A workload ready to run: on a GPU a recording, on the CPU path a function.
pub enum Prepared {
    /// Dispatches on a device.
    Gpu(Gpu, Recording),
    /// Anything else that records into a pass of a device.
    Passes(Gpu, Recorder),
    /// A call of the CPU path.
    Cpu(Call),
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Prepared::Gpu(..) => "Prepared::Gpu",
            Prepared::Passes(..) => "Prepared::Passes",
            Prepared::Cpu(_) => "Prepared::Cpu",
        })
    }
}

impl Prepared {
    /// Runs `repeats` times in one submission and gives the time of one.
    async fn time(&mut self, repeats: u32) -> Result<Timing> {
        let total = match self {
            Prepared::Gpu(gpu, recording) => {
                gpu.time_async(|pass| {
                    for _ in 0..repeats {
                        recording.record_pass(pass);
                    }
                })
                .await?
            }
            Prepared::Passes(gpu, record) => {
                gpu.time_async(|pass| {
                    for _ in 0..repeats {
                        record(pass);
                    }
                })
                .await?
            }
            Prepared::Cpu(call) => {
                let start = Instant::now();
                for _ in 0..repeats {
                    call();
                }
                Timing {
                    seconds: start.elapsed().as_secs_f64(),
                    timer: "wall",
                }
            }
        };
        Ok(Timing {
            seconds: total.seconds / f64::from(repeats),
            timer: total.timer,
        })
    }

    /// Runs in a sample: enough to last 10 ms.
    async fn repeats(&mut self) -> Result<u32> {
        // The first run pays for pages and pipelines.
        let seconds = self.time(1).await?.seconds.min(self.time(1).await?.seconds);
        Ok((0.01 / seconds.max(1e-7)).clamp(1.0, 200.0) as u32)
    }
}

/// Samples of several workloads for about `budget`: seconds of one run each, sorted. They take turns, so that a machine that
/// grows slower or has other work grows slower for all of them, and ratios stay.
async fn sample<const N: usize>(mut work: [&mut Prepared; N], budget: Duration) -> Result<[Vec<f64>; N]> {
    let mut repeats = [0; N];
    for (repeats, work) in repeats.iter_mut().zip(&mut work) {
        *repeats = work.repeats().await?;
    }
    let mut samples = [const { Vec::new() }; N];
    let start = Instant::now();
    while samples[0].len() < 5 || (start.elapsed() < budget && samples[0].len() < 200) {
        for ((samples, work), &repeats) in samples.iter_mut().zip(&mut work).zip(&repeats) {
            samples.push(work.time(repeats).await?.seconds);
        }
    }
    for samples in &mut samples {
        samples.sort_by(f64::total_cmp);
    }
    Ok(samples)
}

/// How a workload did.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct BenchReport {
    /// Name of the operation.
    pub op: String,
    /// Shape.
    pub shape: String,
    /// Storage type.
    pub dtype: DType,
    /// Fastest sample.
    pub seconds_min: f64,
    /// Median of the samples.
    pub seconds_median: f64,
    /// 95th percentile of the samples.
    pub seconds_p95: f64,
    /// Least traffic in bytes.
    pub bytes: u64,
    /// Whether the result was compared with the oracle and is within its bound.
    pub verified: bool,
    /// `timestamps` or `wall`.
    pub timer: &'static str,
    /// Speed of a copy of the same traffic on the same device in the same run, in GB/s of reads and writes.
    pub copy_gbps: f64,
}

impl BenchReport {
    /// GB/s of the least traffic, from the median.
    pub fn gbps(&self) -> f64 {
        self.bytes as f64 / self.seconds_median * 1e-9
    }

    /// Fraction of the device's copy speed.
    pub fn fraction_of_copy(&self) -> f64 {
        self.gbps() / self.copy_gbps
    }
}

/// The workloads of all operations, or of the one named (with its gradient). The quick ones are few; an operation that is not among
/// them has its first workload when it is asked for.
pub fn cases(quick: bool, op: Option<&str>) -> Vec<Box<dyn Workload>> {
    fn boxed<W: Workload + 'static>(workloads: Vec<W>) -> impl Iterator<Item = Box<dyn Workload>> {
        workloads.into_iter().map(|w| Box::new(w) as Box<dyn Workload>)
    }
    let mut all: Vec<Box<dyn Workload>> = Vec::new();
    all.extend(boxed(ops::softmax::cases::bench_cases(quick)));
    all.extend(boxed(ops::cross_entropy::cases::bench_cases(quick)));
    all.extend(boxed(fused::cases(quick)));
    all.extend(boxed(ops::bce_with_logits::cases::bench_cases(quick)));
    all.extend(boxed(ops::activation::cases::bench_cases(quick)));
    all.extend(boxed(ops::reduction::cases::bench_cases(quick)));
    all.extend(boxed(ops::layer_norm::cases::bench_cases(quick)));
    all.extend(boxed(ops::unscale::cases::bench_cases(quick)));
    all.extend(boxed(ops::optimizer::cases::bench_cases(quick)));
    all.extend(boxed(ops::audit::cases::bench_cases(quick)));
    all.extend(boxed(ops::prune::cases::bench_cases(quick)));
    all.extend(boxed(crate::solve::stencil::cases::bench_cases(quick)));
    all.extend(boxed(ops::spmv::cases::bench_cases(quick)));
    all.extend(boxed(crate::solve::conjugate_gradient::cases::bench_cases(quick)));
    all.retain(|c| is_meant(c.op(), op));
    if quick && op.is_some() && all.is_empty() {
        let mut named = Vec::new();
        all = cases(false, op);
        all.retain(|c| {
            let first = !named.contains(&c.op());
            named.push(c.op());
            first
        });
    }
    all
}

/// Checks and times a workload and a copy of the same traffic, for about `budget` together.
#[cfg(not(target_arch = "wasm32"))]
pub fn run(context: &Context, case: &dyn Workload, budget: Duration) -> Result<BenchReport> {
    pollster::block_on(run_async(context, case, budget))
}

/// As `run`, for browsers. Elsewhere the times are taken in the calling thread, which they block.
pub async fn run_async(context: &Context, case: &dyn Workload, budget: Duration) -> Result<BenchReport> {
    let mut prepared = case.prepare_async(context).await?;
    let mut copy = copy::prepare(context, case.bytes())?;
    let timer = prepared.time(1).await?.timer;
    let [samples, copies] = sample([&mut prepared, &mut copy], budget).await?;
    Ok(BenchReport {
        op: case.op().into(),
        shape: case.shape(),
        dtype: case.dtype(),
        seconds_min: samples[0],
        seconds_median: percentile(&samples, 0.5),
        seconds_p95: percentile(&samples, 0.95),
        bytes: case.bytes(),
        verified: true,
        timer,
        copy_gbps: case.bytes() as f64 / percentile(&copies, 0.5) * 1e-9,
    })
}

/// Speed of copying so that `bytes` are read and written together, in GB/s.
#[cfg(not(target_arch = "wasm32"))]
pub fn copy_speed(context: &Context, bytes: u64, budget: Duration) -> Result<f64> {
    let mut copy = copy::prepare(context, bytes)?;
    let [samples] = pollster::block_on(sample([&mut copy], budget))?;
    Ok(bytes as f64 / percentile(&samples, 0.5) * 1e-9)
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * p).round() as usize]
}

impl Workload for SoftmaxCase {
    fn op(&self) -> &'static str {
        self.quantity.name()
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn bytes(&self) -> u64 {
        SoftmaxCase::bytes(self)
    }

    fn prepare_async<'a>(&'a self, context: &'a Context) -> Preparing<'a> {
        Box::pin(async move {
            // One result is compared with the oracle, row by row on a sample of rows.
            self.compute_checked(context).await?;
            match context.gpu() {
                Some(gpu) => Ok(Prepared::Gpu(gpu.clone(), self.record_on(context)?)),
                None => Ok(Prepared::Cpu(self.call_on_cpu())),
            }
        })
    }
}
