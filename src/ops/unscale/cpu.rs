//! The CPU path: sums of squares in f64, which holds the square of every f32, chunk by chunk in a fixed order.

use super::host::{Gradient, with_slice};
use super::options::{CLIP_EPSILON, LossScalerOptions, LossScalerState, UnscaleReport, check_max_norm};
use super::reference;
use crate::element::Element;
use crate::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;

/// Elements whose squares are summed one after the other. The order of a sum depends on this alone.
const CHUNK: usize = 4096;
/// Below this, threads cost more than they bring.
#[cfg(not(target_arch = "wasm32"))]
const PARALLEL: usize = 1 << 16;

/// A sum of squares and the worst class met: 0 all finite, 1 an infinity, 2 a NaN.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Squares {
    sum: f64,
    worst: u8,
}

impl Squares {
    fn merge(self, other: Squares) -> Squares {
        Squares {
            sum: self.sum + other.sum,
            worst: self.worst.max(other.worst),
        }
    }
}

fn chunk_squares<T: Element>(chunk: &[T]) -> Squares {
    // Sixteen sums side by side fill vector registers; the bits of the magnitudes say whether anything is not finite.
    let mut sums = [0f64; 16];
    let mut largest = [0u32; 16];
    let mut groups = chunk.chunks_exact(16);
    for group in &mut groups {
        for ((sum, top), value) in sums.iter_mut().zip(&mut largest).zip(group) {
            let value = value.to_f32();
            *top = (*top).max(value.to_bits() & 0x7fff_ffff);
            *sum += f64::from(value) * f64::from(value);
        }
    }
    for ((sum, top), value) in sums.iter_mut().zip(&mut largest).zip(groups.remainder()) {
        let value = value.to_f32();
        *top = (*top).max(value.to_bits() & 0x7fff_ffff);
        *sum += f64::from(value) * f64::from(value);
    }
    let top = largest.into_iter().max().unwrap_or(0);
    Squares {
        sum: sums.iter().sum(),
        worst: u8::from(top >= 0x7f80_0000) + u8::from(top > 0x7f80_0000),
    }
}

/// Sum of squares and worst class of a tensor.
pub(crate) fn squares<T: Element>(values: &[T]) -> Squares {
    #[cfg(not(target_arch = "wasm32"))]
    if values.len() >= PARALLEL {
        let parts: Vec<Squares> = values.par_chunks(CHUNK).map(chunk_squares).collect();
        return parts.into_iter().fold(Squares::default(), Squares::merge);
    }
    values
        .chunks(CHUNK)
        .map(chunk_squares)
        .fold(Squares::default(), Squares::merge)
}

fn scale_by<T: Element>(values: &mut [T], factor: f64) {
    let scale = |part: &mut [T]| {
        for value in part {
            let v = value.to_f32();
            *value = if v.is_nan() {
                T::from_f32(f32::from_bits(0x7fc0_0000))
            } else {
                T::from_f64(f64::from(v) * factor)
            };
        }
    };
    #[cfg(not(target_arch = "wasm32"))]
    if values.len() >= PARALLEL {
        values.par_chunks_mut(CHUNK).for_each(scale);
        return;
    }
    scale(values);
}

/// Norm, verdict and clip factor of gradients, and what to multiply them by: `clip / scale`.
pub fn measure(gradients: &[Gradient<'_>], scale: f32, max_norm: Option<f32>) -> (UnscaleReport, f64) {
    let parts = gradients.iter().map(|g| with_slice!(g, values => squares(values)));
    judge(parts, scale, max_norm)
}

/// As [`measure`], from the squares of every tensor.
pub(crate) fn judge(
    parts: impl IntoIterator<Item = Squares>,
    scale: f32,
    max_norm: Option<f32>,
) -> (UnscaleReport, f64) {
    let total = parts.into_iter().fold(Squares::default(), Squares::merge);
    let scale = f64::from(scale);
    let found_nonfinite = total.worst > 0;
    let norm = match total.worst {
        0 => total.sum.sqrt() / scale,
        1 => f64::INFINITY,
        _ => f64::NAN,
    };
    let clip = match max_norm {
        Some(bound) if !found_nonfinite => (f64::from(bound) / (norm + CLIP_EPSILON)).min(1.0),
        _ => 1.0,
    };
    let report = UnscaleReport {
        norm: norm as f32,
        found_nonfinite,
        clip: clip as f32,
    };
    (report, clip / scale)
}

/// Divides gradients by the scale and clips them by their norm, in place.
pub fn unscale(gradients: &mut [Gradient<'_>], scale: f32, max_norm: Option<f32>) -> UnscaleReport {
    let (report, factor) = measure(gradients, scale, max_norm);
    for gradient in gradients {
        with_slice!(gradient, values => scale_by(values, factor));
    }
    report
}

/// The loss scaler of the CPU path: the semantics of [`LossScaler`](super::LossScaler), on gradients in host memory.
///
/// ```
/// use macheps::{Gradient, HostLossScaler, LossScalerOptions};
/// let mut scaler = HostLossScaler::new(LossScalerOptions::default())?;
/// let mut g = vec![2.0f32 * scaler.scale(), 0.0];
/// let report = scaler.unscale(&mut [Gradient::from(&mut g)], None)?;
/// assert_eq!((g[0], report.norm, report.found_nonfinite), (2.0, 2.0, false));
/// scaler.update(); // after the optimizers' steps
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HostLossScaler {
    options: LossScalerOptions,
    state: LossScalerState,
    factor: f64,
}

impl HostLossScaler {
    /// Before the first step.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for options outside their domains.
    pub fn new(options: LossScalerOptions) -> Result<HostLossScaler> {
        options.check()?;
        Ok(HostLossScaler {
            options,
            state: LossScalerState::new(&options),
            factor: 1.0 / f64::from(options.initial_scale),
        })
    }

    /// What the loss, and with it the gradients, is to be multiplied by.
    pub fn scale(&self) -> f32 {
        self.state.scale
    }

    /// The state.
    pub fn state(&self) -> &LossScalerState {
        &self.state
    }

    /// Goes on from a state kept earlier.
    pub fn set_state(&mut self, state: LossScalerState) {
        self.state = state;
        self.factor = f64::from(state.clip) / f64::from(state.scale);
    }

    /// Whether a gradient of the last unscaling was not finite: optimizers then leave everything as it is.
    pub fn found_nonfinite(&self) -> bool {
        self.state.found_nonfinite
    }

    /// What an optimizer multiplies the gradients by that [`HostLossScaler::measure`] has left scaled: `clip / scale`.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    pub(crate) fn note(&mut self, report: UnscaleReport, factor: f64) -> UnscaleReport {
        self.state.found_nonfinite = report.found_nonfinite;
        self.state.norm = report.norm;
        self.state.clip = report.clip;
        self.factor = factor;
        report
    }

    /// Divides gradients by the scale and clips them, in place. Optimizers then take a factor of 1.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for a norm to clip by that is not positive.
    pub fn unscale(&mut self, gradients: &mut [Gradient<'_>], max_norm: Option<f32>) -> Result<UnscaleReport> {
        check_max_norm(max_norm)?;
        let report = unscale(gradients, self.state.scale, max_norm);
        Ok(self.note(report, 1.0))
    }

    /// Finds norm and verdict and leaves the gradients as they are: 16-bit gradients keep what unscaling would lose.
    ///
    /// # Errors
    /// Those of [`HostLossScaler::unscale`].
    pub fn measure(&mut self, gradients: &[Gradient<'_>], max_norm: Option<f32>) -> Result<UnscaleReport> {
        check_max_norm(max_norm)?;
        let (report, factor) = measure(gradients, self.state.scale, max_norm);
        Ok(self.note(report, factor))
    }

    /// Ends a step: moves the scale and counts.
    pub fn update(&mut self) {
        reference::update(&mut self.state, &self.options);
    }
}
