//! Cases of binary cross-entropy: the values that tests, `verify` and `bench` share.

use super::bounds::{ELEMENT_U, REDUCED_U};
use super::oneshot::Problem;
use super::{BceInput, BceOptions, BceOutput, LossReduction, Weights};
use crate::accuracy::{MaxError, Mismatch, check};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::job::{self, Job};
use crate::random::Random;
use crate::rows::element_count;
use crate::verify::{self, Verdict, shape_text};

pub use crate::ops::activation::cases::Fill;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The loss.
    Loss,
    /// The gradient.
    Gradient,
    /// Both in one reading.
    Both,
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What is computed.
    pub wanted: Wanted,
    /// LossReduction.
    pub reduction: LossReduction,
    /// Storage type of the logits.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// Logits.
    pub fill: Fill,
    /// Targets between 0 and 1 in place of 0 or 1.
    pub soft: bool,
    /// A weight for each row and a pos_weight for each column.
    pub weighted: bool,
}

/// Host data of a case.
#[derive(Clone, Debug)]
pub struct Data<T> {
    /// Logits.
    pub x: Vec<T>,
    /// Targets.
    pub target: Vec<f32>,
    /// Weights and their shape.
    pub weight: Option<(Vec<f32>, Vec<usize>)>,
    /// Weights of positives and their shape.
    pub pos_weight: Option<(Vec<f32>, Vec<usize>)>,
    /// Upstream gradient.
    pub upstream: Vec<f32>,
}

macro_rules! by_type {
    ($self:ident.$method:ident($($arg:expr),*) $($await:tt)*) => {
        match $self.dtype {
            DType::F32 => $self.$method::<f32>($($arg),*) $($await)*,
            DType::F16 => $self.$method::<f16>($($arg),*) $($await)*,
            DType::Bf16 => $self.$method::<bf16>($($arg),*) $($await)*,
        }
    };
}

impl Case {
    /// Loss and gradient of ordinary logits, averaged.
    pub fn new(dtype: DType, shape: &[usize]) -> Case {
        Case {
            wanted: Wanted::Both,
            reduction: LossReduction::Mean,
            dtype,
            shape: shape.to_vec(),
            fill: Fill::Ordinary,
            soft: false,
            weighted: false,
        }
    }

    fn asks(&self) -> (bool, bool) {
        (self.wanted != Wanted::Gradient, self.wanted != Wanted::Loss)
    }

    fn options(&self) -> BceOptions {
        BceOptions {
            reduction: self.reduction,
        }
    }

    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Data<T> {
        let count = element_count(&self.shape).unwrap_or(0);
        let mut random = Random::new(0xbce ^ count as u64);
        let x = (0..count).map(|_| T::from_f64(self.fill.pair(&mut random).0)).collect();
        let target = (0..count)
            .map(|_| {
                let u = random.unit();
                if self.soft { u as f32 } else { u.round() as f32 }
            })
            .collect();
        let mut weights = |shape: Vec<usize>| {
            let count = element_count(&shape).unwrap_or(0);
            ((0..count).map(|_| (0.25 + 3.0 * random.unit()) as f32).collect(), shape)
        };
        let rank = self.shape.len();
        let mut rows = self.shape.clone();
        if let Some(last) = rows.last_mut() {
            *last = 1;
        }
        let weight = self.weighted.then(|| weights(rows));
        let pos_weight = self
            .weighted
            .then(|| weights(self.shape[rank.saturating_sub(1)..].to_vec()));
        let losses = if self.reduction == LossReduction::None {
            count
        } else {
            1
        };
        Data {
            x,
            target,
            weight,
            pos_weight,
            upstream: (0..losses).map(|_| (random.normal() + 2.5) as f32).collect(),
        }
    }

    /// Computes the case on a context.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context, data: &Data<T>) -> Result<BceOutput<T>> {
        job::run(&self.problem(data)?, context)
    }

    /// Holds results of the case to the oracle.
    pub fn judge<T: Element>(&self, data: &Data<T>, output: &BceOutput<T>) -> Result<Result<MaxError, Mismatch>> {
        let problem = self.problem(data)?;
        let (loss, grad) = self.asks();
        let mut worst = MaxError::default();
        if loss {
            let (want, bounds) = problem.expected_losses();
            match check(&output.loss, &want, &bounds) {
                Ok(error) => worst = worst.merge(error),
                Err(m) => return Ok(Err(m)),
            }
        }
        if grad {
            let (want, bounds) = problem.expected_gradients(0..data.x.len());
            match check(&output.grad, &want, &bounds) {
                Ok(error) => worst = worst.merge(error),
                Err(m) => return Ok(Err(m)),
            }
        }
        Ok(Ok(worst))
    }

    /// Computes the case on a context and holds it to the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        by_type!(self.run_as(context).await)
    }

    async fn run_as<T: Element>(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        let data = self.data::<T>();
        let output = job::run_async(&self.problem(&data)?, context).await?;
        self.judge(&data, &output)
    }

    fn problem<'a, T: Element>(&'a self, data: &'a Data<T>) -> Result<Problem<'a, T>> {
        let weights =
            |w: &'a Option<(Vec<f32>, Vec<usize>)>| w.as_ref().map(|(values, shape)| Weights { values, shape });
        let input = BceInput {
            x: &data.x,
            target: &data.target,
            shape: &self.shape,
            weight: weights(&data.weight),
            pos_weight: weights(&data.pos_weight),
        };
        Problem::new(&input, Some(&data.upstream), &self.options(), self.asks())
    }

    /// Computes the case and holds a sample of it to the oracle.
    pub(crate) async fn compute_checked(&self, context: &Context) -> Result<()> {
        by_type!(self.compute_checked_as(context).await)
    }

    async fn compute_checked_as<T: Element>(&self, context: &Context) -> Result<()> {
        let data = self.data::<T>();
        job::run_checked_async(&self.problem(&data)?, context, CrossCheck::Sampled)
            .await
            .map(|_| ())
    }

    /// Uploads the case and binds it.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Recording> {
        by_type!(self.record_as(context))
    }

    fn record_as<T: Element>(&self, context: &Context) -> Result<Recording> {
        let gpu = context.gpu().ok_or_else(|| Error::Unsupported {
            what: "recording".into(),
            reason: "the CPU path has no device".into(),
        })?;
        Ok(self.problem(&self.data::<T>())?.bind(gpu)?.recording)
    }

    /// The case as a call of the CPU path.
    pub(crate) fn call_on_cpu(&self) -> Box<dyn FnMut() + Send> {
        by_type!(self.call_as())
    }

    fn call_as<T: Element>(&self) -> Box<dyn FnMut() + Send> {
        let (case, data) = (self.clone(), self.data::<T>());
        let (loss, grad) = self.asks();
        let mut losses = vec![0.0; if loss { data.upstream.len() } else { 0 }];
        let mut grads = vec![T::default(); if grad { data.x.len() } else { 0 }];
        Box::new(move || {
            // The case was computed once before it is timed, so it is valid.
            if let Ok(problem) = case.problem(&data) {
                problem.write_on_cpu(&mut losses, &mut grads);
            }
            std::hint::black_box((&mut losses, &mut grads));
        })
    }

    /// Bytes of the least traffic: every input read once, every output written once.
    pub fn bytes(&self) -> u64 {
        let count = element_count(&self.shape).unwrap_or(0) as u64;
        let (loss, grad) = self.asks();
        let size = self.dtype.size() as u64;
        let each = self.reduction == LossReduction::None;
        let losses = if loss && each { 4 } else { 0 };
        let gradients = if grad { size + if each { 4 } else { 0 } } else { 0 };
        count * (size + 4 + losses + gradients)
    }
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        match self.wanted {
            Wanted::Gradient => "bce_with_logits_backward",
            _ => "bce_with_logits",
        }
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        let mut text = format!("{}, {}", self.fill.name(), self.reduction.name());
        for (on, word) in [
            (self.wanted == Wanted::Both, ", with gradient"),
            (self.soft, ", soft targets"),
            (self.weighted, ", weighted"),
        ] {
            if on {
                text.push_str(word);
            }
        }
        text
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let (bound, unit) = match (self.wanted, self.dtype) {
                (Wanted::Loss, _) if self.reduction == LossReduction::None => (ELEMENT_U, "u * sum |terms|"),
                (Wanted::Loss, _) => (REDUCED_U, "u * sum |terms|"),
                (Wanted::Gradient, DType::F32) => (ELEMENT_U, "u * sum |terms|"),
                _ => (1.0, "of the bound"),
            };
            let (of_bound, mismatch) = match self.run_async(context).await? {
                Ok(error) => (error.of_bound, None),
                Err(m) => ((m.got - m.want).abs() / m.bound, Some(m.to_string())),
            };
            Ok(Verdict {
                max_error: of_bound * bound,
                bound,
                unit,
                mismatch,
            })
        })
    }
}

/// The cases of `verify`: outputs, reductions, storage types, weights, kinds of logits and targets.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        for reduction in LossReduction::ALL {
            for wanted in [Wanted::Loss, Wanted::Gradient, Wanted::Both] {
                let base = Case {
                    wanted,
                    reduction,
                    ..Case::new(dtype, &[61, 37])
                };
                cases.push(base.clone());
                cases.push(Case {
                    soft: true,
                    weighted: true,
                    fill: Fill::Wide,
                    ..base.clone()
                });
                if reduction == LossReduction::None {
                    cases.push(Case {
                        soft: true,
                        fill: Fill::Special,
                        ..base.clone()
                    });
                } else {
                    cases.push(Case {
                        shape: vec![0, 5],
                        ..base.clone()
                    });
                    cases.push(Case {
                        shape: vec![30_001],
                        ..base
                    });
                }
            }
        }
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let mut cases = vec![Case::new(DType::F32, &[4096, 1024])];
    if !quick {
        cases.push(Case::new(DType::F16, &[4096, 1024]));
        for wanted in [Wanted::Loss, Wanted::Gradient] {
            cases.push(Case {
                wanted,
                ..Case::new(DType::F32, &[4096, 1024])
            });
        }
        cases.push(Case {
            reduction: LossReduction::None,
            ..Case::new(DType::F32, &[4096, 1024])
        });
        cases.push(Case {
            weighted: true,
            ..Case::new(DType::F32, &[4096, 1001])
        });
    }
    cases
}
