//! What a caller chooses, and the state that follows from it.

use crate::error::{Error, Result};

/// How the loss scale moves. The defaults are those of Micikevicius et al. (2018) as PyTorch's `GradScaler` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScalerOptions {
    /// The scale to begin with: 65,536. Powers of two lose nothing, neither when the loss is scaled nor when gradients are unscaled.
    pub initial_scale: f32,
    /// What the scale is multiplied by after enough good steps in a row: 2.
    pub growth_factor: f32,
    /// What it is multiplied by after a bad step: 0.5.
    pub backoff_factor: f32,
    /// Good steps in a row before it grows: 2,000.
    pub growth_interval: u32,
    /// Where it stops falling: the smallest normal f32, so that it never becomes 0, which PyTorch's does.
    pub min_scale: f32,
    /// It does not grow beyond this: the largest f32.
    pub max_scale: f32,
}

impl Default for LossScalerOptions {
    fn default() -> Self {
        LossScalerOptions {
            initial_scale: 65_536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            min_scale: f32::MIN_POSITIVE,
            max_scale: f32::MAX,
        }
    }
}

impl LossScalerOptions {
    /// A scale that never moves; bad steps are skipped all the same. With 1 it is the finite test alone.
    pub fn constant(scale: f32) -> LossScalerOptions {
        LossScalerOptions {
            initial_scale: scale,
            growth_factor: 1.0,
            backoff_factor: 1.0,
            ..Default::default()
        }
    }

    /// Fails for values outside their domains.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |name, expected, got: f32| {
            Err(Error::Option {
                name,
                expected,
                got: got.to_string(),
            })
        };
        check_scale("min_scale", self.min_scale)?;
        check_scale("max_scale", self.max_scale)?;
        if !(self.min_scale..=self.max_scale).contains(&self.initial_scale) {
            return wrong(
                "initial_scale",
                "a number from min_scale to max_scale",
                self.initial_scale,
            );
        }
        if !(self.growth_factor >= 1.0 && self.growth_factor.is_finite()) {
            return wrong("growth_factor", "a finite number, at least 1", self.growth_factor);
        }
        if !(self.backoff_factor > 0.0 && self.backoff_factor <= 1.0) {
            return wrong("backoff_factor", "a number above 0, at most 1", self.backoff_factor);
        }
        if self.growth_interval == 0 {
            return wrong("growth_interval", "at least 1", 0.0);
        }
        Ok(())
    }
}

/// Fails unless a scale is a positive normal number.
pub(crate) fn check_scale(name: &'static str, scale: f32) -> Result<()> {
    if scale.is_normal() && scale > 0.0 {
        return Ok(());
    }
    Err(Error::Option {
        name,
        expected: "a positive normal number",
        got: scale.to_string(),
    })
}

/// Fails unless a bound on the norm is a positive number; infinity bounds nothing.
pub(crate) fn check_max_norm(max_norm: Option<f32>) -> Result<()> {
    match max_norm {
        Some(bound) if bound.is_nan() || bound <= 0.0 => Err(Error::Option {
            name: "max_norm",
            expected: "a positive number",
            got: bound.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Clipping of gradients by their global norm.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UnscaleOptions {
    /// Gradients whose global norm is larger are multiplied by `max_norm / (norm + 1e-6)`, as
    /// `torch.nn.utils.clip_grad_norm_` does it. `None`: no clipping.
    pub max_norm: Option<f32>,
}

/// What keeps the quotient of [`UnscaleOptions::max_norm`] finite.
pub const CLIP_EPSILON: f64 = 1e-6;

/// A loss scaler's state: what a checkpoint keeps, and what a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScalerState {
    /// What the loss is multiplied by.
    pub scale: f32,
    /// Good steps in a row since the scale last changed.
    pub growth_tracker: u32,
    /// Whether a gradient of the last unscaling was NaN or an infinity.
    pub found_nonfinite: bool,
    /// Global L2 norm of the gradients of the last unscaling, unscaled and not clipped.
    pub norm: f32,
    /// What they were multiplied by to be clipped: 1 where nothing was.
    pub clip: f32,
    /// Good steps in all.
    pub steps: u32,
    /// Steps that were skipped.
    pub skipped: u32,
}

impl LossScalerState {
    /// Before the first step.
    pub fn new(options: &LossScalerOptions) -> LossScalerState {
        LossScalerState {
            scale: options.initial_scale,
            growth_tracker: 0,
            found_nonfinite: false,
            norm: 0.0,
            clip: 1.0,
            steps: 0,
            skipped: 0,
        }
    }
}

/// What unscaling gradients found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnscaleReport {
    /// Global L2 norm of the gradients, unscaled and not clipped: NaN if one of them is NaN, else infinite if one is infinite.
    pub norm: f32,
    /// Whether one of them is NaN or an infinity.
    pub found_nonfinite: bool,
    /// What they were multiplied by to be clipped: 1 where nothing was.
    pub clip: f32,
}
