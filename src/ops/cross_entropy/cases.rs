//! Cases of the losses over classes: the shapes, values and options that tests, `verify` and `bench` share.

use super::input::{CrossEntropyInput, Target};
use super::oneshot::{CrossEntropyOutput, Problem, Wanted};
use super::reference;
use super::{CrossEntropyOptions, LossKind, LossReduction};
use crate::accuracy::{MaxError, Mismatch};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::job;
use crate::job::Job;
use crate::ops::softmax::cases::{Fill, value};
use crate::random::Random;
use crate::rows::element_count;

/// What the targets of a case are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// A label for every row.
    Labels,
    /// Labels, every third row ignored; those hold NaN and infinities.
    SomeIgnored,
    /// Every row ignored.
    AllIgnored,
    /// Probabilities, some of them 0.
    Probabilities,
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Which loss.
    pub kind: LossKind,
    /// Whether the gradient is made too.
    pub gradient: bool,
    /// Whether the log-probabilities are made too.
    pub log_prob: bool,
    /// Storage type.
    pub dtype: DType,
    /// Shape of the input.
    pub shape: Vec<usize>,
    /// Options.
    pub options: CrossEntropyOptions,
    /// Values.
    pub fill: Fill,
    /// Targets.
    pub targets: Targets,
    /// Whether classes have weights; some weigh nothing.
    pub weighted: bool,
    /// What the weights are multiplied by.
    pub weight_scale: f32,
}

/// Host data of a case.
#[derive(Clone, Debug)]
pub struct Data<T> {
    /// Input.
    pub x: Vec<T>,
    /// Labels; empty with probabilities.
    pub labels: Vec<i64>,
    /// Probabilities.
    pub probabilities: Option<Vec<T>>,
    /// Weights of the classes.
    pub weight: Option<Vec<f32>>,
    /// Upstream gradient.
    pub upstream: Option<Vec<f32>>,
}

/// The label that cases ignore.
const IGNORE: i64 = -100;

impl Case {
    /// Loss and gradient of ordinary values with labels and default options.
    pub fn new(kind: LossKind, dtype: DType, shape: &[usize]) -> Case {
        Case {
            kind,
            gradient: true,
            log_prob: false,
            dtype,
            shape: shape.to_vec(),
            options: CrossEntropyOptions::default(),
            fill: Fill::Ordinary,
            targets: Targets::Labels,
            weighted: false,
            weight_scale: 1.0,
        }
    }

    /// `cross_entropy`, `cross_entropy_backward` with the gradient; the same for nll_loss.
    pub fn name(&self) -> &'static str {
        match (self.kind, self.gradient) {
            (LossKind::CrossEntropy, false) => "cross_entropy",
            (LossKind::CrossEntropy, true) => "cross_entropy_backward",
            (LossKind::NllLoss, false) => "nll_loss",
            (LossKind::NllLoss, true) => "nll_loss_backward",
        }
    }

    /// The case in words, shape and storage type aside.
    pub fn detail(&self) -> String {
        let o = &self.options;
        let mut parts = vec![self.fill.name().to_string(), o.reduction.name().into()];
        let mut add = |on: bool, text: String| {
            if on {
                parts.push(text);
            }
        };
        let targets = match self.targets {
            Targets::Labels => "",
            Targets::SomeIgnored => "some ignored",
            Targets::AllIgnored => "all ignored",
            Targets::Probabilities => "probabilities",
        };
        add(!targets.is_empty(), targets.into());
        let scale = if self.weight_scale == 1.0 {
            String::new()
        } else {
            format!(" times {:e}", self.weight_scale)
        };
        add(self.weighted, format!("weights{scale}"));
        add(o.label_smoothing != 0.0, format!("smoothing {}", o.label_smoothing));
        add(o.z_loss != 0.0, format!("z_loss {}", o.z_loss));
        add(self.log_prob, "log_prob".into());
        parts.join(", ")
    }

    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Data<T> {
        let axis = usize::from(self.shape.len() > 1);
        let count = element_count(&self.shape).unwrap_or(0);
        let classes = self.shape[axis];
        let inner: usize = self.shape[axis + 1..].iter().product();
        let rows = count / classes.max(1);
        let mut random = Random::new(0x51ab_1e00 ^ count as u64);
        let ignored = |row: usize| match self.targets {
            Targets::SomeIgnored => row % 3 == 1,
            Targets::AllIgnored => true,
            Targets::Labels | Targets::Probabilities => false,
        };
        let x = (0..count)
            .map(|i| {
                let (row, j) = (i / (inner * classes) * inner + i % inner, i / inner % classes);
                let v = value(self.fill, row, j, classes, &mut random);
                let v = match row % 4 {
                    _ if !ignored(row) => v,
                    0 => f64::NAN,
                    1 if j == 0 => f64::INFINITY,
                    2 => f64::NEG_INFINITY,
                    _ => v,
                };
                T::from_f64(if self.kind == LossKind::NllLoss { -v.abs() } else { v })
            })
            .collect();
        let labels = if self.targets == Targets::Probabilities {
            Vec::new()
        } else {
            (0..rows)
                .map(|row| {
                    if ignored(row) {
                        IGNORE
                    } else {
                        random.below(classes as u64) as i64
                    }
                })
                .collect()
        };
        let probabilities = (self.targets == Targets::Probabilities).then(|| {
            (0..count)
                .map(|_| {
                    let u = random.unit();
                    T::from_f64(if u < 0.25 { 0.0 } else { u * 2.0 / classes as f64 })
                })
                .collect()
        });
        let weight = self.weighted.then(|| {
            (0..classes)
                .map(|c| {
                    if c % 5 == 3 {
                        0.0
                    } else {
                        self.weight_scale * (0.25 + 2.0 * random.unit() as f32)
                    }
                })
                .collect()
        });
        let upstream = self.gradient.then(|| {
            let count = if self.options.reduction == LossReduction::None {
                rows
            } else {
                1
            };
            (0..count).map(|_| random.normal() as f32 + 0.1).collect()
        });
        Data {
            x,
            labels,
            probabilities,
            weight,
            upstream,
        }
    }

    /// The data as an input.
    pub fn input<'a, T>(&'a self, data: &'a Data<T>) -> CrossEntropyInput<'a, T> {
        CrossEntropyInput {
            x: &data.x,
            shape: &self.shape,
            target: match &data.probabilities {
                Some(probabilities) => Target::Probabilities(probabilities),
                None => Target::Indices((&data.labels).into()),
            },
            weight: data.weight.as_deref(),
        }
    }

    fn problem<'a, T: Element>(&'a self, data: &'a Data<T>) -> Result<Problem<'a, T>> {
        let wanted = Wanted {
            log_prob: self.log_prob,
            gradient: self.gradient,
            upstream: data.upstream.as_deref(),
        };
        Problem::new(self.kind, &self.input(data), &wanted, &self.options)
    }

    /// Computes the case on a context.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context, data: &Data<T>) -> Result<CrossEntropyOutput<T>> {
        job::run(&self.problem(data)?, context)
    }

    /// Holds results of the case to the oracle.
    pub fn judge<T: Element>(
        &self,
        data: &Data<T>,
        output: &CrossEntropyOutput<T>,
    ) -> Result<std::result::Result<MaxError, Mismatch>> {
        let answer = reference::answer(self.kind, &self.input(data), data.upstream.as_deref(), &self.options)?;
        let judged = || {
            let mut worst = answer.loss.check(&output.loss)?;
            if let Some(log_prob) = &output.log_prob {
                worst = worst.merge(answer.log_prob.check(log_prob)?);
            }
            if let Some(gradient) = &output.gradient {
                worst = worst.merge(answer.gradient.check(gradient)?);
            }
            Ok(worst)
        };
        Ok(judged())
    }

    /// Computes the case on a context and holds it to the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<std::result::Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<std::result::Result<MaxError, Mismatch>> {
        match self.dtype {
            DType::F32 => self.run_as::<f32>(context).await,
            DType::F16 => self.run_as::<f16>(context).await,
            DType::Bf16 => self.run_as::<bf16>(context).await,
        }
    }

    async fn run_as<T: Element>(&self, context: &Context) -> Result<std::result::Result<MaxError, Mismatch>> {
        let data = self.data::<T>();
        let output = job::run_async(&self.problem(&data)?, context).await?;
        self.judge(&data, &output)
    }

    /// Computes the case and holds a sample of its rows to the oracle.
    pub(crate) async fn compute_checked(&self, context: &Context) -> Result<()> {
        async fn checked<T: Element>(case: &Case, context: &Context) -> Result<()> {
            let data = case.data::<T>();
            job::run_checked_async(&case.problem(&data)?, context, CrossCheck::Sampled)
                .await
                .map(|_| ())
        }
        match self.dtype {
            DType::F32 => checked::<f32>(self, context).await,
            DType::F16 => checked::<f16>(self, context).await,
            DType::Bf16 => checked::<bf16>(self, context).await,
        }
    }

    /// Uploads the case and binds it.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Recording> {
        fn record<T: Element>(case: &Case, context: &Context) -> Result<Recording> {
            let gpu = context.gpu().ok_or_else(|| Error::Unsupported {
                what: "recording".into(),
                reason: "the CPU path has no device".into(),
            })?;
            Ok(case.problem(&case.data::<T>())?.bind(gpu)?.part.recording)
        }
        match self.dtype {
            DType::F32 => record::<f32>(self, context),
            DType::F16 => record::<f16>(self, context),
            DType::Bf16 => record::<bf16>(self, context),
        }
    }

    /// The case as a call of the CPU path.
    pub(crate) fn call_on_cpu(&self) -> Box<dyn FnMut() + Send> {
        fn call<T: Element>(case: &Case) -> Box<dyn FnMut() + Send> {
            let (case, data) = (case.clone(), case.data::<T>());
            let mut gradient = vec![T::default(); if case.gradient { data.x.len() } else { 0 }];
            Box::new(move || {
                // The case was computed once before it is timed, so it is valid.
                if let Ok(problem) = case.problem(&data) {
                    let gradient = case.gradient.then_some(&mut gradient[..]);
                    std::hint::black_box(problem.write_on_cpu(gradient));
                }
                std::hint::black_box(&mut gradient);
            })
        }
        match self.dtype {
            DType::F32 => call::<f32>(self),
            DType::F16 => call::<f16>(self),
            DType::Bf16 => call::<bf16>(self),
        }
    }

    /// Bytes of the least traffic: every input read once, every output written once.
    pub fn bytes(&self) -> u64 {
        let count = element_count(&self.shape).unwrap_or(0) as u64;
        let classes = self.shape[usize::from(self.shape.len() > 1)] as u64;
        let rows = count / classes.max(1);
        let size = self.dtype.size() as u64;
        let read = match (self.kind, self.targets) {
            (LossKind::NllLoss, _) => rows * (size + 4),
            (_, Targets::Probabilities) => 2 * count * size,
            _ => count * size + rows * 4,
        };
        let losses = if self.options.reduction == LossReduction::None {
            rows
        } else {
            1
        };
        let tensors = u64::from(self.gradient) + u64::from(self.log_prob);
        let weights = if self.weighted { 4 * classes } else { 0 };
        read + weights + losses * 4 + tensors * count * size
    }
}

impl crate::verify::Case for Case {
    fn op(&self) -> &'static str {
        self.name()
    }

    fn shape(&self) -> String {
        crate::verify::shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        Case::detail(self)
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> crate::verify::Judging<'a> {
        Box::pin(async move {
            let (max_error, mismatch) = match self.run_async(context).await? {
                Ok(worst) => (worst.of_bound, None),
                Err(m) => ((m.got - m.want).abs() / m.bound, Some(m.to_string())),
            };
            Ok(crate::verify::Verdict {
                max_error,
                bound: 1.0,
                unit: "of the bound",
                mismatch,
            })
        })
    }
}

/// The cases of `verify`.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let none = CrossEntropyOptions {
        reduction: LossReduction::None,
        ..Default::default()
    };
    let sum = CrossEntropyOptions {
        reduction: LossReduction::Sum,
        ..Default::default()
    };
    for dtype in DType::ALL {
        let base = |shape: &[usize]| Case::new(LossKind::CrossEntropy, dtype, shape);
        // Every kind of row, loss by loss.
        for fill in Fill::ALL {
            cases.push(Case {
                fill,
                options: none,
                ..base(&[24, 61])
            });
        }
        for (options, targets, weighted) in [
            (CrossEntropyOptions::default(), Targets::SomeIgnored, true),
            (CrossEntropyOptions::default(), Targets::AllIgnored, false),
            (sum, Targets::AllIgnored, true),
            (
                CrossEntropyOptions {
                    label_smoothing: 0.1,
                    ..Default::default()
                },
                Targets::SomeIgnored,
                true,
            ),
            (
                CrossEntropyOptions {
                    z_loss: 1e-3,
                    label_smoothing: 0.25,
                    ..sum
                },
                Targets::SomeIgnored,
                false,
            ),
            (
                CrossEntropyOptions {
                    z_loss: 0.01,
                    ..Default::default()
                },
                Targets::SomeIgnored,
                true,
            ),
            (CrossEntropyOptions::default(), Targets::Probabilities, true),
            (
                CrossEntropyOptions {
                    label_smoothing: 0.1,
                    z_loss: 1e-3,
                    ..none
                },
                Targets::Probabilities,
                false,
            ),
        ] {
            cases.push(Case {
                options,
                targets,
                weighted,
                ..base(&[37, 19])
            });
        }
        // Weights whose sums and products with shares leave the range of f32.
        for (weight_scale, label_smoothing, targets) in [
            (1e38, 0.0, Targets::SomeIgnored),
            (1e38, 0.1, Targets::Labels),
            (5e-38, 0.1, Targets::SomeIgnored),
            (5e-38, 0.0, Targets::Labels),
        ] {
            cases.push(Case {
                options: CrossEntropyOptions {
                    label_smoothing,
                    ..Default::default()
                },
                targets,
                weighted: true,
                weight_scale,
                ..base(&[37, 19])
            });
        }
        // A probability of 0 meets a logit of -inf.
        cases.push(Case {
            options: none,
            targets: Targets::Probabilities,
            fill: Fill::Masked,
            ..base(&[12, 33])
        });
        for (shape, fill) in [
            (&[9usize, 1][..], Fill::Ordinary),
            (&[77], Fill::Spread),
            (&[5, 1000], Fill::Spread),
            (&[2, 20_001], Fill::Ordinary),
            (&[2, 128_256], Fill::Dominated),
        ] {
            cases.push(Case { fill, ..base(shape) });
        }
        for shape in [&[2usize, 7, 3][..], &[2, 33, 4, 5]] {
            cases.push(Case {
                options: none,
                fill: Fill::Special,
                targets: Targets::SomeIgnored,
                weighted: true,
                ..base(shape)
            });
            cases.push(Case {
                options: CrossEntropyOptions {
                    label_smoothing: 0.2,
                    z_loss: 1e-4,
                    ..Default::default()
                },
                targets: Targets::SomeIgnored,
                ..base(shape)
            });
        }
        cases.push(Case {
            targets: Targets::Probabilities,
            weighted: true,
            ..base(&[2, 33, 4, 5])
        });
        // Losses alone, and with log-probabilities.
        for log_prob in [false, true] {
            cases.push(Case {
                gradient: false,
                log_prob,
                targets: Targets::SomeIgnored,
                weighted: true,
                ..base(&[24, 61])
            });
            cases.push(Case {
                gradient: false,
                log_prob,
                ..base(&[3, 17, 6])
            });
        }
        let nll = |shape: &[usize]| Case::new(LossKind::NllLoss, dtype, shape);
        for (gradient, targets, weighted, options) in [
            (false, Targets::Labels, false, none),
            (true, Targets::SomeIgnored, true, none),
            (true, Targets::SomeIgnored, true, CrossEntropyOptions::default()),
            (true, Targets::AllIgnored, false, CrossEntropyOptions::default()),
            (true, Targets::Labels, true, sum),
        ] {
            cases.push(Case {
                gradient,
                targets,
                weighted,
                options,
                ..nll(&[37, 19])
            });
        }
        cases.push(Case {
            options: none,
            fill: Fill::Special,
            ..nll(&[3, 7, 4, 2])
        });
    }
    cases
}

/// The cases of `bench`: loss and gradient, and the loss alone.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let shapes: &[&[usize]] = if quick {
        &[&[4096, 1024]]
    } else {
        &[&[4096, 1024], &[64, 128_256], &[65536, 64], &[8, 21, 256, 256]]
    };
    let mut cases = Vec::new();
    for shape in shapes {
        for dtype in DType::ALL {
            let case = Case::new(LossKind::CrossEntropy, dtype, shape);
            if dtype == DType::F32 || !quick {
                cases.push(case.clone());
            }
            if dtype == DType::F32 {
                cases.push(Case {
                    gradient: false,
                    ..case
                });
            }
        }
    }
    let gradient = Case::new(LossKind::NllLoss, DType::F32, &[4096, 1024]);
    cases.push(Case {
        gradient: false,
        ..gradient.clone()
    });
    cases.push(gradient);
    cases
}
