//! Cases of unscaling: what tests, `verify` and `bench` share.

use super::bounds::{self, MaxError, Mismatch, check};
use super::options::{LossScalerOptions, UnscaleOptions, UnscaleReport};
use super::{Gradient, LossScaler, Unscale, UnscaleViews, cpu, reference, unscale_async};
use crate::context::Context;
use crate::element::{DType, Element, bf16, f16};
use crate::error::Result;
use crate::gpu::{BufferView, Recording};
use crate::random::Random;
use crate::verify::{self, Verdict};

/// What the values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like.
    Ordinary,
    /// Near the largest number of the type: squares are beyond f32.
    Huge,
    /// Near the smallest normal number, and subnormal: squares are 0 in f32.
    Tiny,
    /// Magnitudes from one end of the range to the other.
    Spread,
    /// Ordinary, with a NaN as the last element of the last tensor.
    LastNan,
    /// Ordinary, with an infinity in the middle tensor.
    Infinity,
    /// Zeros of both signs.
    Zero,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 7] = [
        Fill::Ordinary,
        Fill::Huge,
        Fill::Tiny,
        Fill::Spread,
        Fill::LastNan,
        Fill::Infinity,
        Fill::Zero,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Fill::Ordinary => "ordinary",
            Fill::Huge => "huge",
            Fill::Tiny => "tiny",
            Fill::Spread => "spread",
            Fill::LastNan => "last NaN",
            Fill::Infinity => "infinity",
            Fill::Zero => "zero",
        }
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Storage type of all tensors.
    pub dtype: DType,
    /// Elements of each tensor.
    pub sizes: Vec<usize>,
    /// Values.
    pub fill: Fill,
    /// Loss scale.
    pub scale: f32,
    /// Norm to clip by.
    pub max_norm: Option<f32>,
}

impl Case {
    /// Ordinary values, a scale of 1,024, no clipping.
    pub fn new(dtype: DType, sizes: &[usize]) -> Case {
        Case {
            dtype,
            sizes: sizes.to_vec(),
            fill: Fill::Ordinary,
            scale: 1024.0,
            max_norm: None,
        }
    }

    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Vec<Vec<T>> {
        let mut random = Random::new(0x5ca1e ^ self.sizes.len() as u64);
        let (least, most) = (T::DTYPE.min_normal(), T::DTYPE.max_finite());
        let mut tensors: Vec<Vec<T>> = self
            .sizes
            .iter()
            .map(|&n| {
                (0..n)
                    .map(|_| {
                        let sign = if random.bits() & 1 == 0 { 1.0 } else { -1.0 };
                        T::from_f64(match self.fill {
                            Fill::Huge => sign * most * (0.25 + 0.75 * random.unit()),
                            Fill::Tiny => sign * least * 2.0 * random.unit(),
                            Fill::Spread => sign * least * (most / least).powf(random.unit()),
                            Fill::Zero => sign * 0.0,
                            _ => 64.0 * random.normal(),
                        })
                    })
                    .collect()
            })
            .collect();
        match self.fill {
            Fill::LastNan => {
                if let Some(last) = tensors.iter_mut().rev().find_map(|t| t.last_mut()) {
                    *last = T::from_f32(f32::NAN);
                }
            }
            Fill::Infinity => {
                let middle = tensors.len() / 2;
                if let Some(first) = tensors.get_mut(middle).and_then(|t| t.first_mut()) {
                    *first = T::from_f32(f32::NEG_INFINITY);
                }
            }
            _ => {}
        }
        tensors
    }

    /// Computes on a context and compares with the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        match self.dtype {
            DType::F32 => self.run_as::<f32>(context).await,
            DType::F16 => self.run_as::<f16>(context).await,
            DType::Bf16 => self.run_as::<bf16>(context).await,
        }
    }

    async fn run_as<T: Element>(&self, context: &Context) -> Result<Result<MaxError, Mismatch>>
    where
        for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
    {
        let mut data = self.data::<T>();
        let inputs: Vec<Vec<f64>> = data
            .iter()
            .map(|t| t.iter().map(|v| f64::from(v.to_f32())).collect())
            .collect();
        let report = {
            let mut gradients: Vec<Gradient<'_>> = data.iter_mut().map(Gradient::from).collect();
            unscale_async(context, &mut gradients, self.scale, self.max_norm).await?
        };
        let want = reference::unscale(&inputs, self.scale.into(), self.max_norm.map(f64::from));
        Ok(self.judge(&data, &report, &want))
    }

    /// Compares with the oracle. The norm counts as the element after the last, the verdict as the one after that.
    pub fn judge<T: Element>(
        &self,
        got: &[Vec<T>],
        report: &UnscaleReport,
        want: &reference::Expected,
    ) -> Result<MaxError, Mismatch> {
        let elements: usize = self.sizes.iter().sum();
        let at = |index: usize| {
            move |m: Mismatch| Mismatch {
                index: index + m.index,
                ..m
            }
        };
        let flag = |found: bool| f32::from(u8::from(found));
        let mut worst = check(&[report.norm], &[want.norm], &[bounds::norm(want.norm)]).map_err(at(elements))?;
        check(
            &[flag(report.found_nonfinite)],
            &[flag(want.found_nonfinite).into()],
            &[0.0],
        )
        .map_err(at(elements + 1))?;
        worst = worst.merge(check(&[report.clip], &[want.clip], &[bounds::clip(want.clip)]).map_err(at(elements + 2))?);
        let mut first = 0;
        for (got, want_values) in got.iter().zip(&want.values) {
            let allowed: Vec<f64> = want_values
                .iter()
                .map(|&v| bounds::gradient(T::DTYPE, v, self.scale, want.clip != 1.0))
                .collect();
            worst = worst.merge(check(got, want_values, &allowed).map_err(at(first))?);
            first += got.len();
        }
        Ok(worst)
    }

    /// Least traffic of the norm and the finite test: one read.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&n| (n * self.dtype.size()) as u64).sum()
    }

    /// On a GPU: the recording that finds norm and verdict and leaves the gradients.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Option<Recording>> {
        let Some(gpu) = context.gpu() else {
            return Ok(None);
        };
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(self.scale))?;
        let mut views = Vec::new();
        let mut add = |bytes: &[u8]| -> Result<()> {
            let buffer = gpu.upload("macheps gradient", bytes)?;
            let count = bytes.len() / self.dtype.size();
            views.push(BufferView::new(&buffer, self.dtype, &[count]));
            Ok(())
        };
        match self.dtype {
            DType::F32 => self
                .data::<f32>()
                .iter()
                .try_for_each(|t| add(bytemuck::cast_slice(t)))?,
            DType::F16 => self
                .data::<f16>()
                .iter()
                .try_for_each(|t| add(bytemuck::cast_slice(t)))?,
            DType::Bf16 => self
                .data::<bf16>()
                .iter()
                .try_for_each(|t| add(bytemuck::cast_slice(t)))?,
        }
        let options = UnscaleOptions {
            max_norm: self.max_norm,
        };
        let bound = Unscale::new(&scaler, options)?.bind(&UnscaleViews::new(&views))?;
        Ok(Some(bound.into_recording()))
    }

    /// On the CPU path: the same as a function.
    pub(crate) fn call_on_cpu(&self) -> Box<dyn FnMut() + Send> {
        fn call<T: Element>(mut data: Vec<Vec<T>>, scale: f32, max_norm: Option<f32>) -> Box<dyn FnMut() + Send>
        where
            for<'a> Gradient<'a>: From<&'a mut Vec<T>>,
        {
            Box::new(move || {
                let gradients: Vec<Gradient<'_>> = data.iter_mut().map(Gradient::from).collect();
                std::hint::black_box(cpu::measure(&gradients, scale, max_norm));
            })
        }
        match self.dtype {
            DType::F32 => call(self.data::<f32>(), self.scale, self.max_norm),
            DType::F16 => call(self.data::<f16>(), self.scale, self.max_norm),
            DType::Bf16 => call(self.data::<bf16>(), self.scale, self.max_norm),
        }
    }
}

/// What `macheps verify` tries.
pub fn verify_cases() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in DType::ALL {
        for (i, fill) in Fill::ALL.into_iter().enumerate() {
            // Sizes that end within a quad, within a chunk and beyond one.
            let sizes: &[usize] = if i.is_multiple_of(2) {
                &[1, 8192 + 61, 0, 64]
            } else {
                &[64, 5]
            };
            all.push(Case {
                fill,
                ..Case::new(dtype, sizes)
            });
        }
        all.push(Case {
            scale: 1000.0,
            max_norm: Some(0.125),
            ..Case::new(dtype, &[300, 1, 17])
        });
        all.push(Case {
            scale: 3.0,
            ..Case::new(dtype, &[300, 1, 17])
        });
    }
    all.push(Case {
        fill: Fill::Huge,
        scale: 0.5,
        max_norm: Some(1e-3),
        ..Case::new(DType::F32, &[40, 40])
    });
    all.push(Case::new(DType::F32, &[]));
    all
}

/// What `macheps bench` times: the norm and the finite test, gradients left as they are.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let mut all = vec![Case::new(DType::F32, &[1 << 22]), Case::new(DType::F16, &[1 << 18; 16])];
    if !quick {
        all.push(Case::new(DType::Bf16, &[1 << 22]));
        all.push(Case::new(DType::F32, &[1 << 14; 64]));
    }
    all
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        "unscale"
    }

    fn shape(&self) -> String {
        match &self.sizes[..] {
            [] => "0 tensors".into(),
            [n] => n.to_string(),
            many => format!("{} tensors, {} elements", many.len(), many.iter().sum::<usize>()),
        }
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        let clip = self.max_norm.map_or(String::new(), |m| format!(", max_norm {m}"));
        format!("{}, scale {}{clip}", self.fill.name(), self.scale)
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move { Ok(verdict(self.run_async(context).await?)) })
    }
}

/// A comparison as `verify` reports it: as a fraction of the bound.
pub(crate) fn verdict(outcome: Result<MaxError, Mismatch>) -> Verdict {
    let (max_error, mismatch) = match outcome {
        Ok(error) => (error.of_bound, None),
        Err(m) => ((m.got - m.want).abs() / m.bound, Some(m.to_string())),
    };
    Verdict {
        max_error,
        bound: 1.0,
        unit: "of the bound",
        mismatch,
    }
}
