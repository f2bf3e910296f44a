//! The CPU path: steps computed in f64 and rounded once to the f32 that is kept.

use super::options::{AdamWOptions, SgdOptions};
use super::reference::{self, Weight};
use crate::element::Element;
use crate::error::{Error, Result};

/// Stochastic gradient descent on weights in host memory: the semantics of [`Sgd`](super::Sgd).
///
/// ```
/// use macheps::{HostSgd, SgdOptions, f16};
/// let mut sgd = HostSgd::new(SgdOptions { learning_rate: 0.5, ..Default::default() })?;
/// let (mut w, mut copy) = (vec![1.0f32], vec![f16::ZERO]);
/// sgd.begin(false); // the loss scaler's verdict
/// sgd.step(&mut w, &[f16::from_f32(1024.0)], 1.0 / 1024.0, &mut [], &mut copy)?;
/// assert_eq!((w[0], copy[0].to_f32()), (0.5, 0.5));
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HostSgd {
    options: SgdOptions,
    steps: u64,
    skips: bool,
}

/// Adam with decoupled weight decay on weights in host memory: the semantics of [`AdamW`](super::AdamW).
#[derive(Clone, Debug)]
pub struct HostAdamW {
    options: AdamWOptions,
    steps: u64,
    skips: bool,
}

fn same_length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::shape(
        format!("length of {what}"),
        expected.to_string(),
        got.to_string(),
    ))
}

/// A copy may be left out.
fn write_copy<C: Element>(copy: &mut [C], weight: &[f32]) {
    for (c, &w) in copy.iter_mut().zip(weight) {
        *c = C::from_f32(w);
    }
}

impl HostSgd {
    /// Before the first step.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains.
    pub fn new(options: SgdOptions) -> Result<HostSgd> {
        options.check()?;
        Ok(HostSgd {
            options,
            steps: 0,
            skips: false,
        })
    }

    /// Begins a step, before the weights are given one tensor after the other. With a gradient that was not finite the step is
    /// none: nothing changes.
    pub fn begin(&mut self, found_nonfinite: bool) {
        self.skips = found_nonfinite;
        self.steps += u64::from(!found_nonfinite);
    }

    /// Whether steps need a momentum.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn has_momentum(&self) -> bool {
        self.options.momentum != 0.0
    }

    /// Good steps begun.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the learning rate from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.options.learning_rate = learning_rate;
    }

    /// Steps a tensor: gradients times `factor` ([`HostLossScaler::factor`](crate::HostLossScaler::factor)) change the weights. `momentum`
    /// may be empty where the options have none, and `copy`, which gets the weights rounded, where none is wanted.
    ///
    /// # Errors
    /// [`Error::Shape`] for lengths that differ.
    pub fn step<G: Element, C: Element>(
        &self,
        weight: &mut [f32],
        gradient: &[G],
        factor: f64,
        momentum: &mut [f32],
        copy: &mut [C],
    ) -> Result<()> {
        same_length("gradient", weight.len(), gradient.len())?;
        if self.options.momentum != 0.0 || !momentum.is_empty() {
            same_length("momentum", weight.len(), momentum.len())?;
        }
        if !copy.is_empty() {
            same_length("copy", weight.len(), copy.len())?;
        }
        if self.skips {
            return Ok(());
        }
        for (i, (w, g)) in weight.iter_mut().zip(gradient).enumerate() {
            let before = Weight {
                w: f64::from(*w),
                m: momentum.get(i).map_or(0.0, |&m| f64::from(m)),
                v: 0.0,
            };
            let after = reference::sgd(&self.options, self.steps, before, f64::from(g.to_f32()) * factor);
            *w = after.w as f32;
            if let Some(m) = momentum.get_mut(i) {
                *m = after.m as f32;
            }
        }
        write_copy(copy, weight);
        Ok(())
    }
}

impl HostAdamW {
    /// Before the first step.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains.
    pub fn new(options: AdamWOptions) -> Result<HostAdamW> {
        options.check()?;
        Ok(HostAdamW {
            options,
            steps: 0,
            skips: false,
        })
    }

    /// Begins a step, as [`HostSgd::begin`].
    pub fn begin(&mut self, found_nonfinite: bool) {
        self.skips = found_nonfinite;
        self.steps += u64::from(!found_nonfinite);
    }

    /// Good steps begun.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the learning rate from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.options.learning_rate = learning_rate;
    }

    /// Steps a tensor, as [`HostSgd::step`]; `first` and `second` are its moments.
    ///
    /// # Errors
    /// [`Error::Shape`] for lengths that differ.
    pub fn step<G: Element, C: Element>(
        &self,
        weight: &mut [f32],
        gradient: &[G],
        factor: f64,
        (first, second): (&mut [f32], &mut [f32]),
        copy: &mut [C],
    ) -> Result<()> {
        same_length("gradient", weight.len(), gradient.len())?;
        same_length("first moment", weight.len(), first.len())?;
        same_length("second moment", weight.len(), second.len())?;
        if !copy.is_empty() {
            same_length("copy", weight.len(), copy.len())?;
        }
        if self.skips {
            return Ok(());
        }
        // powf costs more than the rest of the step.
        let t = self.steps as f64;
        let o = &self.options;
        let size = o.learning_rate / (1.0 - o.beta1.powf(t));
        let inverse_root = 1.0 / (1.0 - o.beta2.powf(t)).sqrt();
        let fresh = self.steps == 1;
        for ((w, g), (m, v)) in weight
            .iter_mut()
            .zip(gradient)
            .zip(first.iter_mut().zip(second.iter_mut()))
        {
            let g = f64::from(g.to_f32()) * factor;
            let (m0, v0) = if fresh {
                (0.0, 0.0)
            } else {
                (f64::from(*m), f64::from(*v))
            };
            let m1 = o.beta1 * m0 + (1.0 - o.beta1) * g;
            let v1 = o.beta2 * v0 + (1.0 - o.beta2) * g * g;
            let decayed = f64::from(*w) * (1.0 - o.learning_rate * o.weight_decay);
            *w = (decayed - size * m1 / (v1.sqrt() * inverse_root + o.epsilon)) as f32;
            *m = m1 as f32;
            *v = v1 as f32;
        }
        write_copy(copy, weight);
        Ok(())
    }
}
