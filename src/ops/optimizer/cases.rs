//! Cases of optimizers: some steps from given weights, with gradients that change, what tests, `verify` and `bench` share.

use super::bounds::{self, MaxError, Mismatch, check};
use super::reference::{self, Weight};
use super::{AdamW, AdamWOptions, AdamWViews, BoundOptimizer, HostAdamW, HostSgd, Sgd, SgdOptions, SgdViews};
use crate::context::Context;
use crate::element::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::gpu::{BufferView, Gpu, Recording};
use crate::ops::unscale::cases::verdict;
use crate::ops::unscale::{Gradient, HostLossScaler, LossScaler, LossScalerOptions};
use crate::random::Random;
use crate::verify;

/// Which optimizer, with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// [`Sgd`].
    Sgd(SgdOptions),
    /// [`AdamW`].
    AdamW(AdamWOptions),
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Optimizer.
    pub optimizer: Optimizer,
    /// Storage type of gradients and copies.
    pub dtype: DType,
    /// Number of weights.
    pub count: usize,
    /// Steps.
    pub steps: u64,
    /// A step in which the last gradient is NaN; nothing may change in it.
    pub bad_step: Option<u64>,
}

/// What the weights come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Run<T> {
    /// Master weights.
    pub weight: Vec<f32>,
    /// Momentum or first moment; empty where there is none.
    pub m: Vec<f32>,
    /// Second moment; empty where there is none.
    pub v: Vec<f32>,
    /// 16-bit copies.
    pub copy: Vec<T>,
}

/// Loss scale of every case: gradients come multiplied by it.
pub const SCALE: f32 = 256.0;

impl Case {
    /// The weights to begin with.
    pub fn weights(&self) -> Vec<f32> {
        let mut random = Random::new(7);
        (0..self.count).map(|_| random.normal() as f32).collect()
    }

    /// The scaled gradients of a step, counted from 1: of all magnitudes, some of them 0.
    pub fn gradients<T: Element>(&self, step: u64) -> Vec<T> {
        let mut random = Random::new(step.wrapping_mul(0x9e37) ^ 11);
        let mut g: Vec<T> = (0..self.count)
            .map(|i| {
                let magnitude = 10f64.powi(i as i32 % 6 - 4);
                T::from_f64(if i % 17 == 16 {
                    0.0
                } else {
                    random.normal() * magnitude * f64::from(SCALE)
                })
            })
            .collect();
        if self.bad_step == Some(step)
            && let Some(last) = g.last_mut()
        {
            *last = T::from_f32(f32::NAN);
        }
        g
    }

    /// The oracle's weights and the errors allowed.
    pub fn expected<T: Element>(&self) -> (Vec<Weight>, Vec<Weight>) {
        let mut at: Vec<Weight> = self
            .weights()
            .into_iter()
            .map(|w| Weight {
                w: f64::from(w),
                ..Weight::default()
            })
            .collect();
        let mut errors = vec![Weight::default(); at.len()];
        let mut t = 0;
        for step in 1..=self.steps {
            if self.bad_step == Some(step) {
                continue;
            }
            t += 1;
            for ((at, error), g) in at.iter_mut().zip(&mut errors).zip(self.gradients::<T>(step)) {
                // The scale is a power of two: nothing is lost in unscaling.
                let g = f64::from(g.to_f32()) / f64::from(SCALE);
                (*error, *at) = match &self.optimizer {
                    Optimizer::Sgd(o) => (bounds::sgd(o, t, *at, *error, g, 0.0), reference::sgd(o, t, *at, g)),
                    Optimizer::AdamW(o) => (bounds::adamw(o, t, *at, *error, g, 0.0), reference::adamw(o, t, *at, g)),
                };
            }
        }
        (at, errors)
    }

    /// Takes the steps on a context.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context) -> Result<Run<T>>
    where
        for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
    {
        pollster::block_on(self.compute_async(context))
    }

    async fn compute_async<T: Element>(&self, context: &Context) -> Result<Run<T>>
    where
        for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
    {
        match context.gpu() {
            Some(gpu) => self.on_gpu(gpu).await,
            None => self.on_cpu(),
        }
    }

    fn on_cpu<T: Element>(&self) -> Result<Run<T>>
    where
        for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
    {
        let mut run = Run {
            weight: self.weights(),
            m: vec![0.0; self.count],
            v: vec![0.0; self.count],
            copy: vec![T::default(); self.count],
        };
        let mut scaler = HostLossScaler::new(LossScalerOptions::constant(SCALE))?;
        let mut sgd = match self.optimizer {
            Optimizer::Sgd(o) => Some(HostSgd::new(o)?),
            Optimizer::AdamW(_) => None,
        };
        let mut adamw = match self.optimizer {
            Optimizer::AdamW(o) => Some(HostAdamW::new(o)?),
            Optimizer::Sgd(_) => None,
        };
        for step in 1..=self.steps {
            let mut g = self.gradients::<T>(step);
            scaler.measure(&[Gradient::from(&mut g)], None)?;
            let (bad, factor) = (scaler.found_nonfinite(), scaler.factor());
            if let Some(sgd) = &mut sgd {
                sgd.begin(bad);
                sgd.step(&mut run.weight, &g, factor, &mut run.m, &mut run.copy)?;
            }
            if let Some(adamw) = &mut adamw {
                adamw.begin(bad);
                adamw.step(&mut run.weight, &g, factor, (&mut run.m, &mut run.v), &mut run.copy)?;
            }
            scaler.update();
        }
        Ok(run)
    }

    async fn on_gpu<T: Element>(&self, gpu: &Gpu) -> Result<Run<T>> {
        let device = self.bind::<T>(gpu)?;
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        let bytes = (self.count * T::DTYPE.size()) as u64;
        let mut uploads = Vec::new();
        for step in 1..=self.steps {
            let g = gpu.upload("macheps gradient", bytemuck::cast_slice(&self.gradients::<T>(step)))?;
            encoder.copy_buffer_to_buffer(&g, 0, &device.buffers[0], 0, bytes.next_multiple_of(4));
            uploads.push(g);
            device.unscale.record(&mut encoder);
            device.optimizer.record(&mut encoder);
            device.scaler.record_update(&mut encoder);
        }
        let f32s = (self.count * 4) as u64;
        let outputs: Vec<(&wgpu::Buffer, u64)> = device.buffers[1..].iter().zip([f32s, f32s, f32s, bytes]).collect();
        let read = gpu.read_back_all(encoder, &outputs)?.ready().await?;
        let at = |i: usize, len: u64| &read[i * f32s as usize..][..len as usize];
        Ok(Run {
            weight: bytemuck::pod_collect_to_vec(at(0, f32s)),
            m: bytemuck::pod_collect_to_vec(at(1, f32s)),
            v: bytemuck::pod_collect_to_vec(at(2, f32s)),
            copy: bytemuck::pod_collect_to_vec(at(3, bytes)),
        })
    }

    fn bind<T: Element>(&self, gpu: &Gpu) -> Result<OnDevice> {
        let zeros = vec![0f32; self.count];
        let buffers = [
            gpu.upload("macheps gradient", bytemuck::cast_slice(&self.gradients::<T>(1)))?,
            gpu.upload("macheps weight", bytemuck::cast_slice(&self.weights()))?,
            gpu.upload("macheps moment", bytemuck::cast_slice(&zeros))?,
            gpu.upload("macheps moment", bytemuck::cast_slice(&zeros))?,
            gpu.upload("macheps copy", bytemuck::cast_slice(&vec![T::default(); self.count]))?,
        ];
        let view = |i: usize, dtype| BufferView::new(&buffers[i], dtype, &[self.count]);
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(SCALE))?;
        let (gradient, weight) = (view(0, T::DTYPE), view(1, DType::F32));
        let unscale = scaler.bind(std::slice::from_ref(&gradient))?;
        let copy = Some(view(4, T::DTYPE));
        let optimizer = match self.optimizer {
            Optimizer::Sgd(o) => Sgd::new(o)?.bind(
                &scaler,
                &[SgdViews {
                    weight,
                    gradient,
                    momentum: Some(view(2, DType::F32)),
                    copy,
                }],
            )?,
            Optimizer::AdamW(o) => AdamW::new(o)?.bind(
                &scaler,
                &[AdamWViews {
                    weight,
                    gradient,
                    first_moment: view(2, DType::F32),
                    second_moment: view(3, DType::F32),
                    copy,
                }],
            )?,
        };
        Ok(OnDevice {
            scaler,
            unscale,
            optimizer,
            buffers,
        })
    }

    /// Computes on a context and compares with the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        match self.dtype {
            DType::F32 => Ok(self.judge(&self.compute_async::<f32>(context).await?)),
            DType::F16 => Ok(self.judge(&self.compute_async::<f16>(context).await?)),
            DType::Bf16 => Ok(self.judge(&self.compute_async::<bf16>(context).await?)),
        }
    }

    /// Compares with the oracle: weights, then momentum or moments, then copies, counted on.
    pub fn judge<T: Element>(&self, run: &Run<T>) -> Result<MaxError, Mismatch> {
        let (want, errors) = self.expected::<T>();
        let mut worst = MaxError::default();
        type Part = fn(&Weight) -> f64;
        let parts: [(&[f32], Part); 3] = [(&run.weight, |w| w.w), (&run.m, |w| w.m), (&run.v, |w| w.v)];
        for (i, (got, part)) in parts.into_iter().enumerate() {
            let values: Vec<f64> = want.iter().map(part).collect();
            let allowed: Vec<f64> = errors.iter().map(part).collect();
            let found = check(got, &values, &allowed).map_err(|m| Mismatch {
                index: i * self.count + m.index,
                ..m
            })?;
            worst = worst.merge(found);
        }
        // A copy is the master weight, rounded.
        let good_steps = self.steps - u64::from(self.bad_step.is_some_and(|s| (1..=self.steps).contains(&s)));
        if good_steps > 0 {
            for (i, (c, w)) in run.copy.iter().zip(&run.weight).enumerate() {
                let rounded = T::from_f32(*w);
                if *c != rounded {
                    return Err(Mismatch {
                        index: 3 * self.count + i,
                        got: f64::from(c.to_f32()),
                        want: f64::from(rounded.to_f32()),
                        bound: 0.0,
                    });
                }
            }
        }
        Ok(worst)
    }

    /// Least traffic of a step: gradient, weight and moments read, weight, moments and copy written.
    pub fn bytes(&self) -> u64 {
        let moments = match self.optimizer {
            Optimizer::Sgd(o) if o.momentum == 0.0 => 0,
            Optimizer::Sgd(_) => 1,
            Optimizer::AdamW(_) => 2,
        };
        (self.count * (2 * self.dtype.size() + 8 + 8 * moments)) as u64
    }

    /// On a GPU: the recording of a step.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Option<Recording>> {
        let Some(gpu) = context.gpu() else {
            return Ok(None);
        };
        let bound = match self.dtype {
            DType::F32 => self.bind::<f32>(gpu)?,
            DType::F16 => self.bind::<f16>(gpu)?,
            DType::Bf16 => self.bind::<bf16>(gpu)?,
        };
        Ok(Some(bound.optimizer.into_recording()))
    }

    /// On the CPU path: a step as a function.
    pub(crate) fn call_on_cpu(&self) -> Result<Box<dyn FnMut() + Send>> {
        fn call<T: Element>(case: &Case) -> Result<Box<dyn FnMut() + Send>> {
            let n = case.count;
            let (mut w, mut m, mut v) = (case.weights(), vec![0f32; n], vec![0f32; n]);
            let (g, mut copy) = (case.gradients::<T>(1), vec![T::default(); n]);
            let factor = 1.0 / f64::from(SCALE);
            // Lengths agree, so a step does not fail.
            Ok(match case.optimizer {
                Optimizer::Sgd(o) => {
                    let mut sgd = HostSgd::new(o)?;
                    Box::new(move || {
                        sgd.begin(false);
                        let _ = std::hint::black_box(sgd.step(&mut w, &g, factor, &mut m, &mut copy));
                    })
                }
                Optimizer::AdamW(o) => {
                    let mut adamw = HostAdamW::new(o)?;
                    Box::new(move || {
                        adamw.begin(false);
                        let _ = std::hint::black_box(adamw.step(&mut w, &g, factor, (&mut m, &mut v), &mut copy));
                    })
                }
            })
        }
        match self.dtype {
            DType::F32 => call::<f32>(self),
            DType::F16 => call::<f16>(self),
            DType::Bf16 => call::<bf16>(self),
        }
    }
}

/// A case bound to a device: gradient, weight, momentum or moments, copy.
struct OnDevice {
    scaler: LossScaler,
    unscale: crate::ops::unscale::BoundUnscale,
    optimizer: BoundOptimizer,
    buffers: [wgpu::Buffer; 5],
}

/// SGD with momentum after Nesterov and weight decay.
pub fn nesterov() -> SgdOptions {
    SgdOptions {
        learning_rate: 0.05,
        momentum: 0.9,
        weight_decay: 0.01,
        nesterov: true,
        ..SgdOptions::default()
    }
}

/// What `macheps verify` tries.
pub fn verify_cases() -> Vec<Case> {
    let dampened = SgdOptions {
        dampening: 0.5,
        nesterov: false,
        ..nesterov()
    };
    let plain = SgdOptions {
        learning_rate: 0.1,
        ..SgdOptions::default()
    };
    let mut all = Vec::new();
    for dtype in DType::ALL {
        for (optimizer, count, bad_step) in [
            (Optimizer::Sgd(plain), 64, None),
            (Optimizer::Sgd(nesterov()), 1025, Some(2)),
            (Optimizer::Sgd(dampened), 64, Some(1)),
            (Optimizer::AdamW(AdamWOptions::default()), 1025, Some(2)),
            (Optimizer::AdamW(AdamWOptions::default()), 64, None),
        ] {
            all.push(Case {
                optimizer,
                dtype,
                count,
                steps: 5,
                bad_step,
            });
        }
    }
    all
}

/// What `macheps bench` times: a step with copies in the gradients' type.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let case = |optimizer, dtype, count| Case {
        optimizer,
        dtype,
        count,
        steps: 1,
        bad_step: None,
    };
    let adamw = Optimizer::AdamW(AdamWOptions::default());
    let mut all = vec![
        case(adamw, DType::F16, 1 << 20),
        case(Optimizer::Sgd(nesterov()), DType::Bf16, 1 << 20),
    ];
    if !quick {
        all.push(case(adamw, DType::F32, 1 << 22));
    }
    all
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        match self.optimizer {
            Optimizer::Sgd(_) => "sgd",
            Optimizer::AdamW(_) => "adamw",
        }
    }

    fn shape(&self) -> String {
        self.count.to_string()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        let bad = self.bad_step.map_or(String::new(), |s| format!(", NaN in step {s}"));
        let momentum = match self.optimizer {
            Optimizer::Sgd(o) if o.momentum != 0.0 && o.nesterov => ", nesterov",
            Optimizer::Sgd(o) if o.momentum != 0.0 => ", momentum",
            _ => "",
        };
        format!("{} steps{momentum}{bad}", self.steps)
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move { Ok(verdict(self.run_async(context).await?)) })
    }
}
