//! What a caller chooses.

use crate::error::{Error, Result};

/// Stochastic gradient descent, as `torch.optim.SGD`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdOptions {
    /// Learning rate: 0.001.
    pub learning_rate: f64,
    /// Momentum: 0.
    pub momentum: f64,
    /// What a gradient loses on its way into the momentum: 0. The first step takes it whole.
    pub dampening: f64,
    /// L2 penalty: 0.
    pub weight_decay: f64,
    /// Nesterov's momentum; needs momentum and no dampening.
    pub nesterov: bool,
}

impl Default for SgdOptions {
    fn default() -> Self {
        SgdOptions {
            learning_rate: 1e-3,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
        }
    }
}

/// Adam with decoupled weight decay, as `torch.optim.AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWOptions {
    /// Learning rate: 0.001.
    pub learning_rate: f64,
    /// Decay of the first moment: 0.9.
    pub beta1: f64,
    /// Decay of the second moment: 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment: 1e-8.
    pub epsilon: f64,
    /// Decay of the weights, beside the gradient: 0.01.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        AdamWOptions {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

/// Fails unless a value is finite, not negative, and below `below`.
fn domain(name: &'static str, value: f64, below: f64) -> Result<()> {
    if value >= 0.0 && value < below && (value as f32).is_finite() {
        return Ok(());
    }
    Err(Error::Option {
        name,
        expected: if below == 1.0 {
            "a number from 0, below 1"
        } else {
            "a finite number, not negative"
        },
        got: value.to_string(),
    })
}

impl SgdOptions {
    /// Fails for values outside their domains.
    pub(crate) fn check(&self) -> Result<()> {
        domain("learning_rate", self.learning_rate, f64::INFINITY)?;
        domain("momentum", self.momentum, f64::INFINITY)?;
        domain("weight_decay", self.weight_decay, f64::INFINITY)?;
        if !self.dampening.is_finite() {
            return Err(Error::Option {
                name: "dampening",
                expected: "a finite number",
                got: self.dampening.to_string(),
            });
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::Option {
                name: "nesterov",
                expected: "false without momentum or with dampening",
                got: "true".into(),
            });
        }
        Ok(())
    }
}

impl AdamWOptions {
    /// Fails for values outside their domains.
    pub(crate) fn check(&self) -> Result<()> {
        domain("learning_rate", self.learning_rate, f64::INFINITY)?;
        domain("beta1", self.beta1, 1.0)?;
        domain("beta2", self.beta2, 1.0)?;
        domain("epsilon", self.epsilon, f64::INFINITY)?;
        domain("weight_decay", self.weight_decay, f64::INFINITY)
    }
}
