//! What a normalisation of rows is asked to do.

use crate::error::{Error, Result};

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`, with the biased variance.
    LayerNorm,
    /// `x / sqrt(mean of squares + eps) * weight`.
    RmsNorm,
}

impl NormKind {
    /// Both.
    pub const ALL: [NormKind; 2] = [NormKind::LayerNorm, NormKind::RmsNorm];

    /// Name of the operation: `layer_norm`, `rms_norm`.
    pub const fn name(self) -> &'static str {
        match self {
            NormKind::LayerNorm => "layer_norm",
            NormKind::RmsNorm => "rms_norm",
        }
    }

    /// The `eps` that goes with it: 1e-5 and 1e-6.
    pub const fn default_eps(self) -> f64 {
        match self {
            NormKind::LayerNorm => 1e-5,
            NormKind::RmsNorm => 1e-6,
        }
    }
}

/// Options of layer_norm and rms_norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormOptions {
    /// Which of the two.
    pub kind: NormKind,
    /// What is added to the variance or the mean of squares: finite, not negative. With 0 a constant row of layer_norm and a row
    /// of zeros of rms_norm are NaN.
    pub eps: f64,
}

impl LayerNormOptions {
    /// Of this kind, with its usual `eps`.
    pub const fn new(kind: NormKind) -> LayerNormOptions {
        LayerNormOptions {
            kind,
            eps: kind.default_eps(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        // Its square root has to be far inside the range of f32.
        if self.eps == 0.0 || (1e-60..=1e60).contains(&self.eps) {
            return Ok(());
        }
        Err(Error::Option {
            name: "eps",
            expected: "0 or a number from 1e-60 to 1e60",
            got: self.eps.to_string(),
        })
    }

    /// Checks the options against a shape and gives the length of a row.
    pub(crate) fn row_len(&self, shape: &[usize]) -> Result<usize> {
        self.check()?;
        shape
            .last()
            .copied()
            .ok_or_else(|| Error::shape("shape of x", "at least one dimension", "none"))
    }
}

impl Default for LayerNormOptions {
    /// layer_norm.
    fn default() -> Self {
        LayerNormOptions::new(NormKind::LayerNorm)
    }
}
