//! Loss scaling and unscaling of tensors that stay where a context computes.

use super::cpu::{self, HostLossScaler};
use super::host::Gradient;
use super::oneshot::{check_report, check_values};
use super::options::{LossScalerOptions, LossScalerState, UnscaleOptions, UnscaleReport, check_max_norm};
use super::scaler::{LossScaler, Unscale, UnscaleViews};
use crate::context::{Context, CrossCheck};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::tensor::{Chain, Tensor, TensorMut, TensorRef, elsewhere, with_tensor};

/// The loss scaler of chains: a [`LossScaler`] on the device of a context, a [`HostLossScaler`] on the CPU path. Its state stays
/// there; a step of training reads nothing back.
///
/// A step is: scale the loss by [`Chain::loss_scale`]; compute the gradients; [`Chain::unscale`]; the optimizers ([`Chain::sgd`],
/// [`Chain::adamw`]), which do nothing if a gradient was not finite; [`Chain::update_scale`].
///
/// ```
/// use macheps::ops::cross_entropy::{Labels, LossKind, TargetTensor};
/// use macheps::{
///     AdamWOptions, AdamWTensors, ChainAdamW, ChainScaler, Context, CrossEntropyOptions, LossScalerOptions, LossReduction,
///     UnscaleOptions, f16,
/// };
/// let ctx = Context::cpu();
/// // Logits that are weights themselves: the gradient of the loss is their own.
/// let mut weight = ctx.upload(&[0.5f32, -0.5, 0.0, 1.0], &[2, 2])?;
/// let mut logits = ctx.upload(&[0.5f32, -0.5, 0.0, 1.0].map(f16::from_f32), &[2, 2])?;
/// let mut moments = [ctx.upload(&[0.0f32; 4], &[2, 2])?, ctx.upload(&[0.0f32; 4], &[2, 2])?];
/// let labels = Labels::upload(&ctx, &[1i64, 1], &[2])?;
/// let mut scaler = ChainScaler::new(&ctx, LossScalerOptions::default())?;
/// let mut adamw = ChainAdamW::new(&ctx, AdamWOptions::default())?;
///
/// let mut chain = ctx.chain();
/// let scale = chain.loss_scale(&scaler)?;
/// let options = CrossEntropyOptions { reduction: LossReduction::Mean, ..Default::default() };
/// let target = TargetTensor::Labels(&labels);
/// let (_loss, gradient) =
///     chain.cross_entropy(LossKind::CrossEntropy, &logits, target, None, Some(&scale), &options)?;
/// chain.unscale(&mut scaler, &[(&gradient).into()], &UnscaleOptions { max_norm: Some(1.0) })?;
/// let [first_moment, second_moment] = &mut moments;
/// let step = AdamWTensors {
///     weight: &mut weight,
///     gradient: (&gradient).into(),
///     first_moment,
///     second_moment,
///     copy: Some((&mut logits).into()), // the f16 copy for the next forward pass
/// };
/// chain.adamw(&mut adamw, &scaler, &mut [step])?;
/// chain.update_scale(&mut scaler)?;
/// chain.submit()?;
/// let w = weight.download()?;
/// assert!(w[0] < 0.5 && w[1] > -0.5);
/// assert_eq!(logits.download()?[1], f16::from_f32(w[1]));
/// # Ok::<(), macheps::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChainScaler {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Host(HostLossScaler),
    Device(LossScaler),
}

impl ChainScaler {
    /// Before the first step.
    ///
    /// # Errors
    /// Those of [`LossScaler::new`].
    pub fn new(context: &Context, options: LossScalerOptions) -> Result<ChainScaler> {
        let place = match context.gpu() {
            Some(gpu) => Place::Device(LossScaler::new(gpu, options)?),
            None => Place::Host(HostLossScaler::new(options)?),
        };
        Ok(ChainScaler { place })
    }

    /// Reads the state; waits for the device. For logs and checkpoints: a step does not need it.
    ///
    /// # Errors
    /// Those of [`LossScaler::read`].
    pub fn read(&self) -> Result<LossScalerState> {
        match &self.place {
            Place::Host(scaler) => Ok(*scaler.state()),
            Place::Device(scaler) => scaler.read(),
        }
    }

    /// Goes on from a state kept earlier.
    ///
    /// # Errors
    /// Those of [`LossScaler::write`].
    pub fn write(&mut self, state: &LossScalerState) -> Result<()> {
        match &mut self.place {
            Place::Host(scaler) => {
                super::options::check_scale("scale", state.scale)?;
                scaler.set_state(*state);
                Ok(())
            }
            Place::Device(scaler) => scaler.write(state),
        }
    }

    /// The scaler on this device.
    pub(crate) fn on(&self, gpu: &Gpu) -> Result<&LossScaler> {
        match &self.place {
            Place::Device(scaler) if scaler.gpu().same_device(gpu) => Ok(scaler),
            _ => Err(elsewhere()),
        }
    }

    /// The scaler of the CPU path.
    pub(crate) fn host(&self) -> Result<&HostLossScaler> {
        match &self.place {
            Place::Host(scaler) => Ok(scaler),
            Place::Device(_) => Err(elsewhere()),
        }
    }

    fn host_mut(&mut self) -> Result<&mut HostLossScaler> {
        match &mut self.place {
            Place::Host(scaler) => Ok(scaler),
            Place::Device(_) => Err(elsewhere()),
        }
    }
}

impl Chain<'_> {
    /// The scale that a loss is to be multiplied by, as it is when the chain gets there: a tensor of shape `[]`, which is the upstream
    /// gradient of a reduced loss.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a scaler of another context, [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn loss_scale(&mut self, scaler: &ChainScaler) -> Result<Tensor<f32>> {
        let Some(gpu) = self.context().gpu().cloned() else {
            return Ok(Tensor::on_cpu(vec![scaler.host()?.scale()], &[]));
        };
        let state = scaler.on(&gpu)?.state_buffer();
        let scale = Tensor::on_gpu(&gpu, &[])?;
        // The first word of the state.
        self.copy(state, scale.view_on(&gpu)?.buffer(), 4);
        Ok(scale)
    }

    /// Finds norm and verdict of gradients, which stay as they are: the optimizers of the chain unscale and clip them on the way, in f32,
    /// which loses nothing of 16-bit gradients and saves the traffic. For the contract on numbers see
    /// [`unscale`](crate::ops::unscale).
    ///
    /// On a device it is recorded and runs with [`Chain::submit`]; with cross-check on, it is submitted and compared at once.
    ///
    /// # Errors
    /// Those of [`Unscale::bind`]; [`Error::Unsupported`](crate::Error::Unsupported) for tensors and scalers of another context.
    pub fn unscale(
        &mut self,
        scaler: &mut ChainScaler,
        gradients: &[TensorRef<'_>],
        options: &UnscaleOptions,
    ) -> Result<()> {
        check_max_norm(options.max_norm)?;
        let Some(gpu) = self.context().gpu().cloned() else {
            let scaler = scaler.host_mut()?;
            let squares = gradients
                .iter()
                .map(|g| with_tensor!(TensorRef, g, t => t.host().map(cpu::squares).ok_or_else(elsewhere)))
                .collect::<Result<Vec<_>>>()?;
            let (report, factor) = cpu::judge(squares, scaler.scale(), options.max_norm);
            scaler.note(report, factor);
            return Ok(());
        };
        let scaler = scaler.on(&gpu)?;
        let views = gradients.iter().map(|g| g.view_on(&gpu)).collect::<Result<Vec<_>>>()?;
        let bound = Unscale::new(scaler, *options)?.bind(&UnscaleViews::new(&views))?;
        self.record(&bound.into_recording());
        if self.context().cross_check() != CrossCheck::Off {
            self.flush()?;
            let inputs = gradients.iter().map(TensorRef::widened).collect::<Result<Vec<_>>>()?;
            let state = scaler.read()?;
            check_report(&inputs, state.scale, options.max_norm, &report_of(&state))?;
        }
        Ok(())
    }

    /// As [`Chain::unscale`], and writes the gradients unscaled and clipped, in place. Optimizers then take them as they are.
    ///
    /// # Errors
    /// Those of [`Chain::unscale`].
    ///
    /// ```
    /// use macheps::{ChainScaler, Context, LossScalerOptions, UnscaleOptions};
    /// let ctx = Context::cpu();
    /// let mut scaler = ChainScaler::new(&ctx, LossScalerOptions::constant(1024.0))?;
    /// let mut g = ctx.upload(&[3072.0f32, -4096.0], &[2])?;
    /// let mut chain = ctx.chain();
    /// chain.unscale_in_place(&mut scaler, &mut [(&mut g).into()], &UnscaleOptions::default())?;
    /// chain.submit()?;
    /// assert_eq!((g.download()?, scaler.read()?.norm), (vec![3.0, -4.0], 5.0));
    /// # Ok::<(), macheps::Error>(())
    /// ```
    pub fn unscale_in_place(
        &mut self,
        scaler: &mut ChainScaler,
        gradients: &mut [TensorMut<'_>],
        options: &UnscaleOptions,
    ) -> Result<()> {
        check_max_norm(options.max_norm)?;
        let Some(gpu) = self.context().gpu().cloned() else {
            let scaler = scaler.host_mut()?;
            let mut values = gradients
                .iter_mut()
                .map(|g| with_tensor!(TensorMut, g, t => t.host_mut().map(Gradient::from).ok_or_else(elsewhere)))
                .collect::<Result<Vec<_>>>()?;
            return scaler.unscale(&mut values, options.max_norm).map(drop);
        };
        let scaler = scaler.on(&gpu)?;
        let checks = self.context().cross_check() != CrossCheck::Off;
        let mut before = Vec::new();
        if checks {
            self.flush()?;
            before = gradients
                .iter()
                .map(|g| g.borrow().widened())
                .collect::<Result<Vec<_>>>()?;
        }
        let views = gradients
            .iter_mut()
            .map(|g| self.writable_any(&gpu, g))
            .collect::<Result<Vec<_>>>()?;
        let bound = Unscale::new(scaler, *options)?.bind(&UnscaleViews::in_place(&views))?;
        self.record(&bound.into_recording());
        if checks {
            self.flush()?;
            let state = scaler.read()?;
            let want = check_report(&before, state.scale, options.max_norm, &report_of(&state))?;
            let mut first = 0;
            for (gradient, values) in gradients.iter().zip(&want.values) {
                let clipped = want.clip != 1.0;
                with_tensor!(TensorMut, gradient, t => check_values(&t.download()?, values, state.scale, clipped, first))?;
                first += values.len();
            }
        }
        Ok(())
    }

    /// Ends a step: moves the scale and counts, after the optimizers. See [`LossScaler::record_update`].
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a scaler of another context.
    pub fn update_scale(&mut self, scaler: &mut ChainScaler) -> Result<()> {
        match self.context().gpu().cloned() {
            Some(gpu) => {
                let update = scaler.on(&gpu)?.update();
                self.record(&update);
            }
            None => scaler.host_mut()?.update(),
        }
        Ok(())
    }
}

fn report_of(state: &LossScalerState) -> UnscaleReport {
    UnscaleReport {
        norm: state.norm,
        found_nonfinite: state.found_nonfinite,
        clip: state.clip,
    }
}
