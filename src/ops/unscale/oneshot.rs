//! One call on gradients in host memory, on a GPU or on the CPU path.

use super::bounds;
use super::host::{Gradient, Values};
use super::options::{LossScalerState, UnscaleOptions, UnscaleReport, check_max_norm, check_scale};
use super::scaler::{LossScaler, STATE_BYTES, Unscale, UnscaleViews, Words};
use super::{cpu, reference};
use crate::accuracy::check;
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{BufferView, Gpu};
use crate::job::{self, Job, Simple};
use crate::ops::unscale::LossScalerOptions;

/// A checked call.
struct Problem<'p, 'a> {
    gradients: &'p [Gradient<'a>],
    scale: f32,
    max_norm: Option<f32>,
}

/// The gradients and the report.
struct Unscaled {
    values: Vec<Values>,
    report: UnscaleReport,
}

impl Job for Problem<'_, '_> {
    type Output = Unscaled;
    type Bound = Simple;

    fn name(&self) -> &'static str {
        "unscale"
    }

    fn on_cpu(&self) -> Result<Unscaled> {
        let mut values: Vec<Values> = self
            .gradients
            .iter()
            .map(|g| Values::of(g.dtype(), g.bytes()))
            .collect();
        let mut copies: Vec<Gradient<'_>> = values.iter_mut().map(Values::gradient).collect();
        let report = cpu::unscale(&mut copies, self.scale, self.max_norm);
        Ok(Unscaled { values, report })
    }

    fn bind(&self, gpu: &Gpu) -> Result<Simple> {
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(self.scale))?;
        let mut views = Vec::new();
        let mut outputs = vec![(scaler.state_buffer().clone(), STATE_BYTES)];
        for gradient in self.gradients {
            let buffer = gpu.upload("macheps gradient", gradient.bytes())?;
            views.push(BufferView::new(&buffer, gradient.dtype(), &[gradient.len()]));
            outputs.push((buffer, gradient.bytes().len() as u64));
        }
        let options = UnscaleOptions {
            max_norm: self.max_norm,
        };
        let bound = Unscale::new(&scaler, options)?.bind(&UnscaleViews::in_place(&views))?;
        Ok(Simple {
            recording: bound.into_recording(),
            outputs,
        })
    }

    fn decode(&self, outputs: &[&[u8]]) -> Result<Unscaled> {
        let state: LossScalerState = Words::state(outputs[0]);
        Ok(Unscaled {
            values: self
                .gradients
                .iter()
                .zip(&outputs[1..])
                .map(|(g, bytes)| Values::of(g.dtype(), bytes))
                .collect(),
            report: UnscaleReport {
                norm: state.norm,
                found_nonfinite: state.found_nonfinite,
                clip: state.clip,
            },
        })
    }

    fn cross_check(&self, how: CrossCheck, output: &Unscaled, _: Option<&Simple>) -> Result<()> {
        if how == CrossCheck::Off {
            return Ok(());
        }
        let inputs: Vec<Vec<f64>> = self.gradients.iter().map(Gradient::values).collect();
        let want = check_report(&inputs, self.scale, self.max_norm, &output.report)?;
        let clipped = want.clip != 1.0;
        let mut first = 0;
        for (got, values) in output.values.iter().zip(&want.values) {
            match got {
                Values::F32(got) => check_values(got, values, self.scale, clipped, first),
                Values::F16(got) => check_values(got, values, self.scale, clipped, first),
                Values::Bf16(got) => check_values(got, values, self.scale, clipped, first),
            }?;
            first += values.len();
        }
        Ok(())
    }
}

fn mismatch(index: usize, got: f64, want: f64, bound: f64) -> Error {
    Error::Mismatch {
        kernel: "unscale",
        index,
        gpu: got,
        cpu: want,
        bound,
    }
}

/// Holds a report to the oracle, and gives what that says of the gradients.
pub(super) fn check_report(
    inputs: &[Vec<f64>],
    scale: f32,
    max_norm: Option<f32>,
    report: &UnscaleReport,
) -> Result<reference::Expected> {
    let want = reference::unscale(inputs, scale.into(), max_norm.map(f64::from));
    let judge = |got: f32, want: f64, bound: f64| {
        check(&[got], &[want], &[bound])
            .map(drop)
            .map_err(|m| mismatch(0, m.got, m.want, m.bound))
    };
    judge(report.norm, want.norm, bounds::norm(want.norm))?;
    judge(report.clip, want.clip, bounds::clip(want.clip))?;
    if report.found_nonfinite != want.found_nonfinite {
        let flag = |found: bool| f64::from(u8::from(found));
        return Err(mismatch(
            0,
            flag(report.found_nonfinite),
            flag(want.found_nonfinite),
            0.0,
        ));
    }
    Ok(want)
}

/// Holds unscaled gradients to the oracle; elements are counted from `first`.
pub(super) fn check_values<T: Element>(got: &[T], want: &[f64], scale: f32, clipped: bool, first: usize) -> Result<()> {
    let allowed: Vec<f64> = want
        .iter()
        .map(|&v| bounds::gradient(T::DTYPE, v, scale, clipped))
        .collect();
    check(got, want, &allowed)
        .map(drop)
        .map_err(|m| mismatch(first + m.index, m.got, m.want, m.bound))
}

fn problem<'p, 'a>(gradients: &'p [Gradient<'a>], scale: f32, max_norm: Option<f32>) -> Result<Problem<'p, 'a>> {
    check_scale("scale", scale)?;
    check_max_norm(max_norm)?;
    Ok(Problem {
        gradients,
        scale,
        max_norm,
    })
}

fn deliver(gradients: &mut [Gradient<'_>], output: Unscaled) -> UnscaleReport {
    for (gradient, values) in gradients.iter_mut().zip(&output.values) {
        gradient.bytes_mut().copy_from_slice(values.bytes());
    }
    output.report
}

/// Divides gradients by a loss scale, in place; finds their global norm and whether one is not finite; and, with `max_norm`,
/// clips them by that norm. For the contract on numbers see the [module](super).
///
/// Blocks until the result is here. Where a gradient is not finite all are unscaled and none is clipped. Tensors may have
/// different storage types; those of 16 bits round once more, so that what is below their range vanishes: a
/// training loop leaves such gradients scaled, see [`UnscaleViews::unscaled`].
///
/// # Cost
/// One read and one write of the gradients, with `max_norm` two reads and one write. On a GPU upload and readback come on top.
///
/// # Errors
/// [`Error::Option`] for a scale that is not a positive normal number or a `max_norm` that is not positive; [`Error::Limit`] beyond the
/// device's limits, [`Error::DeviceLost`], [`Error::Timeout`], and [`Error::Mismatch`] from a cross-check.
///
/// ```
/// use macheps::{Context, Gradient};
/// let (mut a, mut b) = (vec![3072.0f32, -4096.0], vec![12288.0f32]);
/// let report = macheps::unscale(
///     &Context::cpu(),
///     &mut [Gradient::from(&mut a), Gradient::from(&mut b)],
///     1024.0,
///     Some(6.5),
/// )?;
/// assert_eq!(report.norm, 13.0);
/// assert!((a[0] - 1.5).abs() < 1e-6 && (b[0] - 6.0).abs() < 1e-6);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn unscale(
    context: &Context,
    gradients: &mut [Gradient<'_>],
    scale: f32,
    max_norm: Option<f32>,
) -> Result<UnscaleReport> {
    let output = job::run(&problem(gradients, scale, max_norm)?, context)?;
    Ok(deliver(gradients, output))
}

/// As [`unscale`], and holds the result to the oracle within the stated bound, on the CPU path too.
///
/// # Errors
/// Those of [`unscale`]; [`Error::Mismatch`] where the bound is missed: the gradients are then as they were.
#[cfg(not(target_arch = "wasm32"))]
pub fn unscale_checked(
    context: &Context,
    gradients: &mut [Gradient<'_>],
    scale: f32,
    max_norm: Option<f32>,
) -> Result<UnscaleReport> {
    let output = job::run_checked(&problem(gradients, scale, max_norm)?, context, CrossCheck::Full)?;
    Ok(deliver(gradients, output))
}

/// As [`unscale`], under any executor.
///
/// # Errors
/// Those of [`unscale`].
pub async fn unscale_async(
    context: &Context,
    gradients: &mut [Gradient<'_>],
    scale: f32,
    max_norm: Option<f32>,
) -> Result<UnscaleReport> {
    let output = job::run_async(&problem(gradients, scale, max_norm)?, context).await?;
    Ok(deliver(gradients, output))
}
