//! One call of an operation from host data to host data: what every one-shot does around the operation itself. Upload, one
//! submission, readback, cross-check, and what happens when the device is lost.

use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Readback, Recording};

/// A checked call with its host data.
pub(crate) trait Job {
    /// What it gives.
    type Output;
    /// Bound to buffers of a device, with whatever judging the result needs to know about how it was computed.
    type Bound: BoundJob;

    /// Name of the operation.
    fn name(&self) -> &'static str;

    /// Computes on the CPU path.
    fn on_cpu(&self) -> Result<Self::Output>;

    /// Uploads the inputs and binds the call to buffers of its own: all of it or, where the device's largest buffer does not hold
    /// that, the first part.
    fn bind(&self, gpu: &Gpu) -> Result<Self::Bound>;

    /// Makes a part that is done the next one, in new buffers. Whether there was one.
    fn bind_next(&self, _gpu: &Gpu, _bound: &mut Self::Bound) -> Result<bool> {
        Ok(false)
    }

    /// Results of a part from the bytes of the output buffers, in the order of [`BoundJob::outputs`].
    fn decode(&self, outputs: &[&[u8]]) -> Result<Self::Output>;

    /// The result from those of the parts, in order; asked for where there are several.
    fn join(&self, parts: Vec<Self::Output>) -> Result<Self::Output> {
        let what = format!("{} in {} parts", self.name(), parts.len());
        let reason = "it is done in one".into();
        parts.into_iter().next().ok_or(Error::Unsupported { what, reason })
    }

    /// Recomputes elements of a device's result by the oracle and compares. `bound` is absent for a result of the CPU path.
    fn cross_check(&self, how: CrossCheck, output: &Self::Output, bound: Option<&Self::Bound>) -> Result<()>;
}

/// A call bound to a device.
pub(crate) trait BoundJob {
    /// Its dispatches.
    fn recording(&self) -> &Recording;
    /// The buffers to be read back, each with its length in bytes (of the values, not rounded up).
    fn outputs(&self) -> Vec<(&wgpu::Buffer, u64)>;
}

/// A recording and its outputs, where there is nothing more to know.
#[derive(Default)]
pub(crate) struct Simple {
    pub recording: Recording,
    pub outputs: Vec<(wgpu::Buffer, u64)>,
}

impl BoundJob for Simple {
    fn recording(&self) -> &Recording {
        &self.recording
    }

    fn outputs(&self) -> Vec<(&wgpu::Buffer, u64)> {
        self.outputs.iter().map(|(buffer, len)| (buffer, *len)).collect()
    }
}

/// A part of a call under way on a device.
struct Started {
    readback: Readback,
    lengths: Vec<u64>,
}

fn begin<J: Job>(job: &J, gpu: &Gpu) -> Result<J::Bound> {
    gpu.check_alive()?;
    job.bind(gpu)
}

fn start<J: Job>(job: &J, gpu: &Gpu, bound: &J::Bound) -> Result<Started> {
    let label = wgpu::CommandEncoderDescriptor {
        label: Some(job.name()),
    };
    let mut encoder = gpu.device().create_command_encoder(&label);
    bound.recording().record(&mut encoder);
    let outputs = bound.outputs();
    let lengths = outputs.iter().map(|(_, len)| *len).collect();
    let readback = gpu.read_back_all(encoder, &outputs)?;
    Ok(Started { readback, lengths })
}

fn decode<J: Job>(job: &J, bytes: &[u8], lengths: &[u64]) -> Result<J::Output> {
    let mut rest = bytes;
    let mut outputs = Vec::with_capacity(lengths.len());
    for &len in lengths {
        let (output, after) = rest.split_at(len.next_multiple_of(4) as usize);
        outputs.push(&output[..len as usize]);
        rest = after;
    }
    job.decode(&outputs)
}

/// What came of a call on a device: the results of its parts, and the last of them as it was bound.
type Outcome<J> = Result<(Vec<<J as Job>::Output>, <J as Job>::Bound)>;

fn finish<J: Job>(job: &J, context: &Context, outcome: Outcome<J>) -> Result<J::Output> {
    match outcome {
        Ok((mut parts, bound)) => {
            let output = match parts.pop() {
                Some(only) if parts.is_empty() => only,
                last => {
                    parts.extend(last);
                    job.join(parts)?
                }
            };
            job.cross_check(context.cross_check(), &output, Some(&bound))?;
            Ok(output)
        }
        Err(Error::DeviceLost { reason }) if context.finishes_on_cpu() => {
            log::warn!("{}: the device was lost ({reason}); finishing on the CPU", job.name());
            job.on_cpu()
        }
        Err(e) => Err(e),
    }
}

/// Runs a call where the context computes and blocks until its result is here.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn run<J: Job>(job: &J, context: &Context) -> Result<J::Output> {
    let Some(gpu) = context.gpu() else {
        return job.on_cpu();
    };
    let on_device = || {
        let mut bound = begin(job, gpu)?;
        let mut parts = Vec::new();
        loop {
            let started = start(job, gpu, &bound)?;
            parts.push(decode(job, &started.readback.wait()?, &started.lengths)?);
            if !job.bind_next(gpu, &mut bound)? {
                return Ok((parts, bound));
            }
        }
    };
    finish(job, context, on_device())
}

/// As [`run`], under any executor.
pub(crate) async fn run_async<J: Job>(job: &J, context: &Context) -> Result<J::Output> {
    let Some(gpu) = context.gpu() else {
        return job.on_cpu();
    };
    let on_device = async {
        let mut bound = begin(job, gpu)?;
        let mut parts = Vec::new();
        loop {
            let started = start(job, gpu, &bound)?;
            parts.push(decode(job, &started.readback.ready().await?, &started.lengths)?);
            if !job.bind_next(gpu, &mut bound)? {
                return Ok((parts, bound));
            }
        }
    };
    finish(job, context, on_device.await)
}

/// Runs a call and holds the result to the oracle, on the CPU path too.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn run_checked<J: Job>(job: &J, context: &Context, how: CrossCheck) -> Result<J::Output> {
    let output = run(job, &context.clone().with_cross_check(how))?;
    check_cpu(job, context, how, output)
}

/// As [`run_checked`], under any executor.
pub(crate) async fn run_checked_async<J: Job>(job: &J, context: &Context, how: CrossCheck) -> Result<J::Output> {
    let output = run_async(job, &context.clone().with_cross_check(how)).await?;
    check_cpu(job, context, how, output)
}

/// A device's result was checked on the way.
fn check_cpu<J: Job>(job: &J, context: &Context, how: CrossCheck, output: J::Output) -> Result<J::Output> {
    if context.gpu().is_none() {
        job.cross_check(how, &output, None)?;
    }
    Ok(output)
}

/// The elements of a readback.
pub(crate) fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec::<u8, T>(bytes)
}

/// Appends a part of a result that has `total` elements in the end.
pub(crate) fn append<T>(all: &mut Vec<T>, part: Vec<T>, total: usize) -> Result<()> {
    all.try_reserve_exact(total.saturating_sub(all.len()))
        .map_err(|_| no_memory::<T>(total))?;
    all.extend(part);
    Ok(())
}

fn no_memory<T>(count: usize) -> Error {
    Error::Limit {
        what: "bytes of the result in host memory",
        need: (count as u64).saturating_mul(std::mem::size_of::<T>() as u64),
        have: isize::MAX as u64,
    }
}

/// A vector of default elements, or a typed error where host memory does not suffice.
pub(crate) fn allocate<T: Clone + Default>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| no_memory::<T>(count))?;
    values.resize(count, T::default());
    Ok(values)
}

/// Rows that a cross-check looks at: all of them, or 63 at even steps and the last one.
pub(crate) fn checked_rows(how: CrossCheck, rows: usize) -> impl Iterator<Item = usize> {
    let step = match how {
        CrossCheck::Off => usize::MAX,
        CrossCheck::Sampled if rows > 64 => rows.div_ceil(63),
        CrossCheck::Sampled | CrossCheck::Full => 1,
    };
    let rows = if how == CrossCheck::Off { 0 } else { rows };
    let last = rows.saturating_sub(1);
    (0..rows)
        .step_by(step)
        .chain((rows > 0 && !last.is_multiple_of(step)).then_some(last))
}
