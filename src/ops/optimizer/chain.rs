//! Optimizers on tensors that stay where a context computes.

use super::kernels::Rule;
use super::reference::{self, Weight};
use super::{AdamW, AdamWOptions, AdamWViews, HostAdamW, HostSgd, OptimizerState, Sgd, SgdOptions, SgdViews, bounds};
use crate::accuracy::{U, check};
use crate::context::{Context, CrossCheck};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Recording};
use crate::job::checked_rows;
use crate::ops::unscale::ChainScaler;
use crate::tensor::{Chain, Tensor, TensorMut, TensorRef, elsewhere, with_tensor};

/// Elements that a cross-check takes at a time.
const CHECKED: usize = 256;

/// Stochastic gradient descent in chains: the count of steps and the learning rate, where the context computes.
#[derive(Debug)]
pub struct ChainSgd {
    place: Place<Sgd, HostSgd>,
}

/// AdamW in chains: the count of steps, the learning rate and the powers of the betas, where the context computes.
#[derive(Debug)]
pub struct ChainAdamW {
    place: Place<AdamW, HostAdamW>,
}

#[derive(Debug)]
enum Place<D, H> {
    Device { rule: D, gpu: Gpu, state: wgpu::Buffer },
    Host(H),
}

/// A tensor of weights for [`Chain::sgd`]. All of it has one shape; the gradient may be of any storage type.
#[derive(Debug)]
pub struct SgdTensors<'a> {
    /// Master weights, changed.
    pub weight: &'a mut Tensor<f32>,
    /// Gradient: as [`Chain::unscale`] had it, or as [`Chain::unscale_in_place`] left it.
    pub gradient: TensorRef<'a>,
    /// Momentum, changed: needed where the options have any.
    pub momentum: Option<&'a mut Tensor<f32>>,
    /// Gets the weights in its own storage type.
    pub copy: Option<TensorMut<'a>>,
}

/// A tensor of weights for [`Chain::adamw`]. All of it has one shape; the gradient may be of any storage type.
#[derive(Debug)]
pub struct AdamWTensors<'a> {
    /// Master weights, changed.
    pub weight: &'a mut Tensor<f32>,
    /// Gradient: as [`Chain::unscale`] had it, or as [`Chain::unscale_in_place`] left it.
    pub gradient: TensorRef<'a>,
    /// First moment, changed.
    pub first_moment: &'a mut Tensor<f32>,
    /// Second moment, changed.
    pub second_moment: &'a mut Tensor<f32>,
    /// Gets the weights in its own storage type.
    pub copy: Option<TensorMut<'a>>,
}

impl<D, H> Place<D, H> {
    fn new(context: &Context, rule: D, learning_rate: f64, host: impl FnOnce() -> Result<H>) -> Result<Place<D, H>> {
        Ok(match context.gpu() {
            Some(gpu) => Place::Device {
                rule,
                gpu: gpu.clone(),
                state: super::state_buffer(gpu, learning_rate)?,
            },
            None => Place::Host(host()?),
        })
    }

    /// On this device.
    fn on(&self, chain: &Gpu) -> Result<(&D, &wgpu::Buffer)> {
        match self {
            Place::Device { rule, gpu, state } if gpu.same_device(chain) => Ok((rule, state)),
            _ => Err(elsewhere()),
        }
    }

    fn host(&mut self) -> Result<&mut H> {
        match self {
            Place::Host(host) => Ok(host),
            Place::Device { .. } => Err(elsewhere()),
        }
    }

    fn steps(&self, host: impl FnOnce(&H) -> u64) -> Result<u64> {
        match self {
            Place::Host(h) => Ok(host(h)),
            Place::Device { gpu, state, .. } => Ok(read(gpu, state)?.steps.into()),
        }
    }

    fn set_learning_rate(&mut self, learning_rate: f64, host: impl FnOnce(&mut H)) -> Result<()> {
        super::check_learning_rate(learning_rate)?;
        match self {
            Place::Host(h) => host(h),
            Place::Device { gpu, state, .. } => gpu.write(state, 4, bytemuck::bytes_of(&(learning_rate as f32)))?,
        }
        Ok(())
    }
}

fn read(gpu: &Gpu, state: &wgpu::Buffer) -> Result<OptimizerState> {
    gpu.check_alive()?;
    let encoder = gpu.device().create_command_encoder(&Default::default());
    let bytes = gpu.read_back(encoder, state, std::mem::size_of::<OptimizerState>() as u64)?;
    Ok(bytemuck::pod_read_unaligned(&bytes.wait()?))
}

impl ChainSgd {
    /// Before the first step.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains, [`Error::DeviceLost`].
    pub fn new(context: &Context, options: SgdOptions) -> Result<ChainSgd> {
        let place = Place::new(context, Sgd::new(options)?, options.learning_rate, || {
            HostSgd::new(options)
        })?;
        Ok(ChainSgd { place })
    }

    /// Good steps so far; waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Timeout`].
    pub fn steps(&self) -> Result<u64> {
        self.place.steps(HostSgd::steps)
    }

    /// Sets the learning rate, ahead of the next submission.
    ///
    /// # Errors
    /// [`Error::Option`] for one that is negative or not finite, [`Error::DeviceLost`].
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.place
            .set_learning_rate(learning_rate, |host| host.set_learning_rate(learning_rate))
    }
}

impl ChainAdamW {
    /// Before the first step.
    ///
    /// # Errors
    /// [`Error::Option`] for options outside their domains, [`Error::DeviceLost`].
    pub fn new(context: &Context, options: AdamWOptions) -> Result<ChainAdamW> {
        let rule = AdamW::new(options)?;
        let place = Place::new(context, rule, options.learning_rate, || HostAdamW::new(options))?;
        Ok(ChainAdamW { place })
    }

    /// Good steps so far; waits for the device.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Timeout`].
    pub fn steps(&self) -> Result<u64> {
        self.place.steps(HostAdamW::steps)
    }

    /// Sets the learning rate, ahead of the next submission.
    ///
    /// # Errors
    /// [`Error::Option`] for one that is negative or not finite, [`Error::DeviceLost`].
    pub fn set_learning_rate(&mut self, learning_rate: f64) -> Result<()> {
        self.place
            .set_learning_rate(learning_rate, |host| host.set_learning_rate(learning_rate))
    }
}

/// What a step works on, whichever optimizer it is.
struct Stepped<'t, 'a> {
    weight: &'t mut Tensor<f32>,
    gradient: TensorRef<'a>,
    m: Option<&'t mut Tensor<f32>>,
    v: Option<&'t mut Tensor<f32>>,
    copy: Option<&'t mut TensorMut<'a>>,
}

impl Stepped<'_, '_> {
    fn check(&self) -> Result<()> {
        let others = [
            ("gradient", Some(self.gradient.shape())),
            ("momentum or first moment", self.m.as_ref().map(|t| t.shape())),
            ("second moment", self.v.as_ref().map(|t| t.shape())),
            ("copy", self.copy.as_ref().map(|t| t.shape())),
        ];
        for (what, shape) in others {
            if shape.is_some_and(|shape| shape != self.weight.shape()) {
                return Err(Error::shape(
                    format!("shape of {what}"),
                    format!("{:?}", self.weight.shape()),
                    format!("{:?}", shape.unwrap_or_default()),
                ));
            }
        }
        Ok(())
    }

    fn is_on_host(&self) -> bool {
        fn here<T: Element>(t: &Tensor<T>) -> bool {
            t.host().is_some()
        }
        let mut moments = [&self.m, &self.v].into_iter().flatten();
        here(self.weight)
            && with_tensor!(TensorRef, self.gradient, t => here(t))
            && moments.all(|t| here(t))
            && (self.copy.as_ref()).is_none_or(|c| with_tensor!(TensorRef, c.borrow(), t => here(t)))
    }

    /// Runs a step of the CPU path.
    fn on_host(&mut self, step: &mut impl HostStep) -> Result<()> {
        fn with_gradient<G: Element>(
            step: &mut impl HostStep,
            gradient: &Tensor<G>,
            copy: Option<&mut TensorMut<'_>>,
            w: &mut [f32],
            m: &mut [f32],
            v: &mut [f32],
        ) -> Result<()> {
            let g = gradient.host().ok_or_else(elsewhere)?;
            match copy {
                None => step.step::<G, f32>(w, g, m, v, &mut []),
                Some(copy) => {
                    with_tensor!(TensorMut, copy, c => step.step(w, g, m, v, c.host_mut().ok_or_else(elsewhere)?))
                }
            }
        }
        let copy = self.copy.as_deref_mut();
        let w = self.weight.host_mut().ok_or_else(elsewhere)?;
        let m = self.m.as_deref_mut().and_then(Tensor::host_mut);
        let v = self.v.as_deref_mut().and_then(Tensor::host_mut);
        let (m, v) = (m.map_or(&mut [][..], |m| m), v.map_or(&mut [][..], |v| v));
        with_tensor!(TensorRef, self.gradient, g => with_gradient(step, g, copy, w, m, v))
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let moment = |t: &Option<&mut Tensor<f32>>| t.as_ref().map(|t| t.download()).transpose();
        Ok(Snapshot {
            w: self.weight.download()?,
            g: self.gradient.widened()?,
            m: moment(&self.m)?.unwrap_or_default(),
            v: moment(&self.v)?.unwrap_or_default(),
            copy: self.copy.as_ref().map(|c| c.borrow().widened()).transpose()?,
        })
    }
}

/// A step of the CPU path on one tensor.
trait HostStep {
    fn step<G: Element, C: Element>(
        &mut self,
        w: &mut [f32],
        g: &[G],
        m: &mut [f32],
        v: &mut [f32],
        copy: &mut [C],
    ) -> Result<()>;
}

impl HostStep for (&HostSgd, f64) {
    fn step<G: Element, C: Element>(
        &mut self,
        w: &mut [f32],
        g: &[G],
        m: &mut [f32],
        _: &mut [f32],
        copy: &mut [C],
    ) -> Result<()> {
        self.0.step(w, g, self.1, m, copy)
    }
}

impl HostStep for (&HostAdamW, f64) {
    fn step<G: Element, C: Element>(
        &mut self,
        w: &mut [f32],
        g: &[G],
        m: &mut [f32],
        v: &mut [f32],
        copy: &mut [C],
    ) -> Result<()> {
        self.0.step(w, g, self.1, (m, v), copy)
    }
}

/// Values of a tensor of weights and what belongs to it.
struct Snapshot {
    w: Vec<f32>,
    g: Vec<f64>,
    m: Vec<f32>,
    v: Vec<f32>,
    copy: Option<Vec<f64>>,
}

/// Holds a step on a device to the oracle.
fn compare(
    how: CrossCheck,
    rule: &Rule,
    t: u64,
    (skipped, factor): (bool, f64),
    before: &Snapshot,
    after: &Snapshot,
    round: impl Fn(f32) -> f64,
) -> Result<()> {
    let mismatch = |index: usize, gpu: f64, cpu: f64, bound: f64| Error::Mismatch {
        kernel: rule.name(),
        index,
        gpu,
        cpu,
        bound,
    };
    let at = |values: &[f32], i: usize| values.get(i).map_or(0.0, |&v| f64::from(v));
    for part in checked_rows(how, before.w.len().div_ceil(CHECKED)) {
        for i in part * CHECKED..((part + 1) * CHECKED).min(before.w.len()) {
            let old = Weight {
                w: at(&before.w, i),
                m: at(&before.m, i),
                v: at(&before.v, i),
            };
            let g = before.g[i] * factor;
            let exact = Weight::default();
            let (want, error) = match rule {
                _ if skipped => (old, exact),
                Rule::Sgd(o) => (
                    reference::sgd(o, t, old, g),
                    bounds::sgd(o, t, old, exact, g, 2.0 * U * g.abs()),
                ),
                Rule::AdamW(o) => (
                    reference::adamw(o, t, old, g),
                    bounds::adamw(o, t, old, exact, g, 2.0 * U * g.abs()),
                ),
            };
            for (values, want, error) in [
                (&after.w, want.w, error.w),
                (&after.m, want.m, error.m),
                (&after.v, want.v, error.v),
            ] {
                if let Some(&got) = values.get(i) {
                    check(&[got], &[want], &[error]).map_err(|m| mismatch(i, m.got, m.want, m.bound))?;
                }
            }
            if let Some(copy) = &after.copy {
                let want = match &before.copy {
                    Some(copy) if skipped => copy[i],
                    _ => round(after.w[i]),
                };
                if copy[i] != want && !(copy[i].is_nan() && want.is_nan()) {
                    return Err(mismatch(i, copy[i], want, 0.0));
                }
            }
        }
    }
    Ok(())
}

/// How weights become copies.
fn rounding(copy: Option<TensorRef<'_>>) -> fn(f32) -> f64 {
    fn round<T: Element>(_: &Tensor<T>) -> fn(f32) -> f64 {
        |w| f64::from(T::from_f32(w).to_f32())
    }
    match copy {
        None => f64::from,
        Some(copy) => with_tensor!(TensorRef, copy, t => round(t)),
    }
}

impl Chain<'_> {
    /// A step of stochastic gradient descent on tensors: weights, momentum and copies change in place. Gradients count as the last
    /// unscaling by `scaler` says; if one was not finite nothing changes. For the contract on numbers see
    /// [`optimizer`](crate::ops::optimizer).
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, it is submitted and compared at once. A tensor
    /// of which there are clones is copied first, and the clones keep the old values.
    ///
    /// # Errors
    /// Those of [`Sgd::bind`]; [`Error::Unsupported`] for tensors, scalers and optimizers of another context.
    ///
    /// ```
    /// use macheps::{ChainScaler, ChainSgd, Context, LossScalerOptions, SgdOptions, SgdTensors, UnscaleOptions};
    /// let ctx = Context::cpu();
    /// let mut scaler = ChainScaler::new(&ctx, LossScalerOptions::constant(1024.0))?;
    /// let mut sgd = ChainSgd::new(&ctx, SgdOptions { learning_rate: 0.5, ..Default::default() })?;
    /// let (mut w, g) = (ctx.upload(&[1.0f32], &[1])?, ctx.upload(&[1024.0f32], &[1])?);
    /// let mut chain = ctx.chain();
    /// chain.unscale(&mut scaler, &[(&g).into()], &UnscaleOptions::default())?;
    /// let step = SgdTensors { weight: &mut w, gradient: (&g).into(), momentum: None, copy: None };
    /// chain.sgd(&mut sgd, &scaler, &mut [step])?;
    /// chain.submit()?;
    /// assert_eq!(w.download()?, [0.5]);
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn sgd(&mut self, sgd: &mut ChainSgd, scaler: &ChainScaler, tensors: &mut [SgdTensors<'_>]) -> Result<()> {
        let mut all: Vec<Stepped<'_, '_>> = tensors
            .iter_mut()
            .map(|t| Stepped {
                weight: t.weight,
                gradient: t.gradient,
                m: t.momentum.as_deref_mut(),
                v: None,
                copy: t.copy.as_mut(),
            })
            .collect();
        let Some(gpu) = self.context().gpu().cloned() else {
            let host = sgd.place.host()?;
            for t in &all {
                if host.has_momentum() && t.m.is_none() {
                    return Err(super::no_momentum());
                }
            }
            return on_host(&mut all, scaler, |bad, factor, all| {
                host.begin(bad);
                all.iter_mut().try_for_each(|t| t.on_host(&mut (&*host, factor)))
            });
        };
        let (rule, state) = sgd.place.on(&gpu)?;
        self.step(&gpu, Rule::Sgd(rule.options), state, scaler, &mut all, |chain, all| {
            let views = all
                .iter_mut()
                .map(|t| {
                    Ok(SgdViews {
                        weight: chain.writable(&gpu, t.weight)?,
                        gradient: t.gradient.view_on(&gpu)?,
                        momentum: t.m.as_deref_mut().map(|m| chain.writable(&gpu, m)).transpose()?,
                        copy: t.copy.as_deref_mut().map(|c| chain.writable_any(&gpu, c)).transpose()?,
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            rule.bind_with(scaler.on(&gpu)?, &views, state.clone())
                .map(super::BoundOptimizer::into_recording)
        })
    }

    /// A step of AdamW on tensors: weights, moments and copies change in place. Else as [`Chain::sgd`]; [`ChainScaler`] shows a whole
    /// step of training.
    ///
    /// # Errors
    /// Those of [`Chain::sgd`].
    pub fn adamw(
        &mut self,
        adamw: &mut ChainAdamW,
        scaler: &ChainScaler,
        tensors: &mut [AdamWTensors<'_>],
    ) -> Result<()> {
        let mut all: Vec<Stepped<'_, '_>> = tensors
            .iter_mut()
            .map(|t| Stepped {
                weight: t.weight,
                gradient: t.gradient,
                m: Some(t.first_moment),
                v: Some(t.second_moment),
                copy: t.copy.as_mut(),
            })
            .collect();
        let Some(gpu) = self.context().gpu().cloned() else {
            let host = adamw.place.host()?;
            return on_host(&mut all, scaler, |bad, factor, all| {
                host.begin(bad);
                all.iter_mut().try_for_each(|t| t.on_host(&mut (&*host, factor)))
            });
        };
        let (rule, state) = adamw.place.on(&gpu)?;
        self.step(
            &gpu,
            Rule::AdamW(rule.options),
            state,
            scaler,
            &mut all,
            |chain, all| {
                let views = all
                    .iter_mut()
                    .map(|t| {
                        let (Some(m), Some(v)) = (t.m.as_deref_mut(), t.v.as_deref_mut()) else {
                            return Err(elsewhere());
                        };
                        Ok(AdamWViews {
                            weight: chain.writable(&gpu, t.weight)?,
                            gradient: t.gradient.view_on(&gpu)?,
                            first_moment: chain.writable(&gpu, m)?,
                            second_moment: chain.writable(&gpu, v)?,
                            copy: t.copy.as_deref_mut().map(|c| chain.writable_any(&gpu, c)).transpose()?,
                        })
                    })
                    .collect::<Result<Vec<_>>>()?;
                rule.bind_with(scaler.on(&gpu)?, &views, state.clone())
                    .map(super::BoundOptimizer::into_recording)
            },
        )
    }

    /// Records a step on a device and, with cross-check on, compares it.
    fn step<'t, 'a>(
        &mut self,
        gpu: &Gpu,
        rule: Rule,
        state: &wgpu::Buffer,
        scaler: &ChainScaler,
        all: &mut [Stepped<'t, 'a>],
        bind: impl FnOnce(&mut Self, &mut [Stepped<'t, 'a>]) -> Result<Recording>,
    ) -> Result<()> {
        let how = self.context().cross_check();
        let mut before = Vec::new();
        if how != CrossCheck::Off {
            self.flush()?;
            before = all.iter().map(Stepped::snapshot).collect::<Result<_>>()?;
        }
        let recording = bind(self, all)?;
        self.record(&recording);
        if how != CrossCheck::Off {
            self.flush()?;
            let state = read(gpu, state)?;
            let rule = rule.with_learning_rate(state.learning_rate.into());
            let verdict = scaler.on(gpu)?.verdict()?;
            for (t, before) in all.iter().zip(&before) {
                let round = rounding(t.copy.as_ref().map(|c| c.borrow()));
                compare(how, &rule, state.steps.into(), verdict, before, &t.snapshot()?, round)?;
            }
        }
        Ok(())
    }
}

/// A step of the CPU path, once everything fits.
fn on_host<'t, 'a>(
    all: &mut [Stepped<'t, 'a>],
    scaler: &ChainScaler,
    step: impl FnOnce(bool, f64, &mut [Stepped<'t, 'a>]) -> Result<()>,
) -> Result<()> {
    let scaler = scaler.host()?;
    for t in all.iter() {
        t.check()?;
        if !t.is_on_host() {
            return Err(elsewhere());
        }
    }
    step(scaler.found_nonfinite(), scaler.factor(), all)
}
