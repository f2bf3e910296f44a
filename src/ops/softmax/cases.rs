//! Cases of the softmax family: the shapes, values and options that tests, `verify` and `bench` share.

use super::bounds::{Accuracy, MaxError, Quantity};
use super::oneshot::{Mask, Problem, SoftmaxInput};
use super::{MaskedRows, SoftmaxKind, SoftmaxOptions, Strategy};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::job::{self, Job};
use crate::random::Random;
use crate::rows::element_count;

/// What the values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like, standard deviation 2.
    Ordinary,
    /// Evenly spread over 87 below the maximum: every magnitude that exp can have.
    Spread,
    /// Magnitudes from 1e-30 to 1e30.
    Extreme,
    /// One entry far above the others: log_softmax of it is tiny.
    Dominated,
    /// A third of the entries -inf; some rows all -inf.
    Masked,
    /// NaN, infinities, zeros of both signs, largest and smallest numbers, all equal: one kind a row.
    Special,
    /// Rising along the row, so that a running maximum is always new.
    Rising,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 7] = [
        Fill::Ordinary,
        Fill::Spread,
        Fill::Extreme,
        Fill::Dominated,
        Fill::Masked,
        Fill::Special,
        Fill::Rising,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Fill::Ordinary => "ordinary",
            Fill::Spread => "spread",
            Fill::Extreme => "extreme",
            Fill::Dominated => "dominated",
            Fill::Masked => "masked",
            Fill::Special => "special",
            Fill::Rising => "rising",
        }
    }
}

/// An additive mask of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskShape {
    /// None.
    None,
    /// The last two dimensions, broadcast over the others.
    Trailing,
    /// [B, 1, .., 1, K]: key padding.
    Padding,
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Function or gradient.
    pub quantity: Quantity,
    /// Storage type.
    pub dtype: DType,
    /// Shape of the input.
    pub shape: Vec<usize>,
    /// Options.
    pub options: SoftmaxOptions,
    /// Values.
    pub fill: Fill,
    /// Mask.
    pub mask: MaskShape,
    /// A strategy to force; the CPU path has none.
    pub strategy: Option<Strategy>,
}

/// What running a case showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The largest error.
    pub error: MaxError,
    /// The promise it was held to.
    pub accuracy: Accuracy,
}

/// Host data of a case.
#[derive(Clone, Debug)]
pub struct Data<T> {
    /// Input.
    pub x: Vec<T>,
    /// Mask values and shape.
    pub mask: Option<(Vec<T>, Vec<usize>)>,
    /// Upstream gradient, for backward cases.
    pub upstream: Option<Vec<T>>,
}

impl Case {
    /// A forward case of ordinary values with default options.
    pub fn new(kind: SoftmaxKind, dtype: DType, shape: &[usize]) -> Case {
        Case {
            quantity: Quantity::Forward(kind),
            dtype,
            shape: shape.to_vec(),
            options: SoftmaxOptions::default(),
            fill: Fill::Ordinary,
            mask: MaskShape::None,
            strategy: None,
        }
    }

    /// Which function.
    pub fn kind(&self) -> SoftmaxKind {
        match self.quantity {
            Quantity::Forward(kind) | Quantity::Backward(kind) => kind,
        }
    }

    /// Whether it is a gradient.
    pub fn is_backward(&self) -> bool {
        matches!(self.quantity, Quantity::Backward(_))
    }

    /// The case in words, shape and storage type aside.
    pub fn detail(&self) -> String {
        let mut parts = vec![self.fill.name().to_string()];
        let o = &self.options;
        let defaults = SoftmaxOptions::default();
        let mut add = |on: bool, text: String| {
            if on {
                parts.push(text);
            }
        };
        add(o.axis != defaults.axis, format!("axis {}", o.axis));
        add(o.scale != 1.0, format!("scale {}", o.scale));
        add(o.causal.is_some(), format!("causal {}", o.causal.unwrap_or(0)));
        add(o.masked_rows == MaskedRows::Zero, "masked rows 0".into());
        add(
            self.mask != MaskShape::None,
            format!("mask {:?}", self.mask).to_lowercase(),
        );
        if let Some(strategy) = self.strategy {
            parts.push(strategy.name().into());
        }
        parts.join(", ")
    }

    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Data<T> {
        let count = element_count(&self.shape).unwrap_or(0);
        let rank = self.shape.len();
        let axis = crate::rows::resolve_axis(self.options.axis, rank).unwrap_or(0);
        let len = self.shape[axis];
        let inner: usize = self.shape[axis + 1..].iter().product();
        let mut random = Random::new(0x9e37_79b9 ^ count as u64);
        let x = (0..count)
            .map(|i| {
                let j = i / inner.max(1) % len.max(1);
                let row = i / (inner.max(1) * len.max(1)) * inner.max(1) + i % inner.max(1);
                T::from_f64(value(self.fill, row, j, len, &mut random))
            })
            .collect();
        let mask_shape = match self.mask {
            MaskShape::None => None,
            MaskShape::Trailing => Some(self.shape[rank.saturating_sub(2)..].to_vec()),
            MaskShape::Padding => Some(
                self.shape
                    .iter()
                    .enumerate()
                    .map(|(d, &s)| if d == 0 || d + 1 == rank { s } else { 1 })
                    .collect(),
            ),
        };
        let mask = mask_shape.map(|shape| {
            let count = element_count(&shape).unwrap_or(0);
            let pick = |r: &mut Random| {
                if r.unit() < 0.25 {
                    f64::NEG_INFINITY
                } else {
                    r.unit() * 4.0 - 2.0
                }
            };
            ((0..count).map(|_| T::from_f64(pick(&mut random))).collect(), shape)
        });
        let upstream = self.is_backward().then(|| {
            let count = if self.kind().reduces() {
                count / len.max(1)
            } else {
                count
            };
            (0..count).map(|_| T::from_f64(random.normal())).collect()
        });
        Data { x, mask, upstream }
    }

    /// Computes the case on a context.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context, data: &Data<T>) -> Result<Vec<T>> {
        job::run(&self.problem(data)?, context)
    }

    /// Computes the case on a context and holds it to the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<Result<Outcome, super::bounds::Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<Result<Outcome, super::bounds::Mismatch>> {
        match self.dtype {
            DType::F32 => self.run_as::<f32>(context).await,
            DType::F16 => self.run_as::<f16>(context).await,
            DType::Bf16 => self.run_as::<bf16>(context).await,
        }
    }

    async fn run_as<T: Element>(&self, context: &Context) -> Result<Result<Outcome, super::bounds::Mismatch>> {
        let data = self.data::<T>();
        let y = job::run_async(&self.problem(&data)?, context).await?;
        let accuracy = self.accuracy(context)?;
        Ok(self
            .judge(&data, &y, accuracy)?
            .map(|error| Outcome { error, accuracy }))
    }

    /// Which promise the strategy that a context takes for this case makes.
    pub fn accuracy(&self, context: &Context) -> Result<Accuracy> {
        let Some(gpu) = context.gpu() else {
            return Ok(Accuracy::Standard);
        };
        let axis = self.options.check(&self.shape)?;
        let rows = crate::rows::RowMap::contiguous(&self.shape, axis);
        let (strategy, _) = super::kernels::strategy_for(gpu, &rows, self.strategy, self.is_backward())?;
        Ok(if strategy.rescales() {
            Accuracy::Relaxed
        } else {
            Accuracy::Standard
        })
    }

    /// Holds results of the case to the oracle.
    pub fn judge<T: Element>(
        &self,
        data: &Data<T>,
        y: &[T],
        accuracy: Accuracy,
    ) -> Result<Result<MaxError, super::bounds::Mismatch>> {
        Ok(self.problem(data)?.expected().check(y, self.quantity, accuracy))
    }

    fn problem<'a, T: Element>(&'a self, data: &'a Data<T>) -> Result<Problem<'a, T>> {
        let mask = data.mask.as_ref().map(|(values, shape)| Mask {
            values: values.as_slice(),
            shape: shape.as_slice(),
        });
        let input = SoftmaxInput {
            x: data.x.as_slice(),
            shape: &self.shape,
            mask,
        };
        Problem::new(self.kind(), &input, data.upstream.as_deref(), &self.options)
            .map(|p| p.with_strategy(self.strategy))
    }

    /// Computes the case and holds a sample of its rows to the oracle.
    pub(crate) async fn compute_checked(&self, context: &Context) -> Result<()> {
        match self.dtype {
            DType::F32 => self.compute_checked_as::<f32>(context).await,
            DType::F16 => self.compute_checked_as::<f16>(context).await,
            DType::Bf16 => self.compute_checked_as::<bf16>(context).await,
        }
    }

    async fn compute_checked_as<T: Element>(&self, context: &Context) -> Result<()> {
        let data = self.data::<T>();
        job::run_checked_async(&self.problem(&data)?, context, CrossCheck::Sampled)
            .await
            .map(|_| ())
    }

    /// Uploads the case and binds it.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Recording> {
        match self.dtype {
            DType::F32 => self.record_as::<f32>(context),
            DType::F16 => self.record_as::<f16>(context),
            DType::Bf16 => self.record_as::<bf16>(context),
        }
    }

    fn record_as<T: Element>(&self, context: &Context) -> Result<Recording> {
        let Some(gpu) = context.gpu() else {
            return Err(Error::Unsupported {
                what: "recording".into(),
                reason: "the CPU path has no device".into(),
            });
        };
        Ok(self.problem(&self.data::<T>())?.bind(gpu)?.bound.into_recording())
    }

    /// The case as a call of the CPU path.
    pub(crate) fn call_on_cpu(&self) -> Box<dyn FnMut() + Send> {
        match self.dtype {
            DType::F32 => self.call_as::<f32>(),
            DType::F16 => self.call_as::<f16>(),
            DType::Bf16 => self.call_as::<bf16>(),
        }
    }

    fn call_as<T: Element>(&self) -> Box<dyn FnMut() + Send> {
        let (case, data) = (self.clone(), self.data::<T>());
        let mut y = vec![
            T::default();
            if self.is_backward() || !self.kind().reduces() {
                data.x.len()
            } else {
                data.x.len() / self.row_len().max(1)
            }
        ];
        Box::new(move || {
            // The case was computed once before it is timed, so it is valid.
            if let Ok(problem) = case.problem(&data) {
                problem.write_on_cpu(&mut y);
            }
            std::hint::black_box(&mut y);
        })
    }

    fn row_len(&self) -> usize {
        let axis = crate::rows::resolve_axis(self.options.axis, self.shape.len()).unwrap_or(0);
        self.shape[axis]
    }

    /// Bytes of the least traffic: every input read once, the output written once.
    pub fn bytes(&self) -> u64 {
        let count = element_count(&self.shape).unwrap_or(0) as u64;
        let rows = count / (self.row_len() as u64).max(1);
        let one = if self.kind().reduces() { rows } else { count };
        let elements = if self.is_backward() {
            count + one + count
        } else {
            count + one
        };
        elements * self.dtype.size() as u64
    }
}

/// The bound in the unit that reports give: ulp of the type, or u times the sum of magnitudes for gradients.
pub fn nominal_bound(quantity: Quantity, dtype: DType, accuracy: Accuracy) -> (f64, &'static str) {
    let (bound, unit) = match (quantity, accuracy) {
        (Quantity::Forward(SoftmaxKind::LogSumExp), _) => (3.0, "ulp of max(|max|, log S)"),
        (Quantity::Forward(_), Accuracy::Standard) => (2.0, "ulp"),
        (Quantity::Forward(_), Accuracy::Relaxed) => (4.0, "ulp"),
        (Quantity::Backward(_), _) => (8.0, "u * sum |terms|"),
    };
    match dtype {
        DType::F32 => (bound, unit),
        _ => (1.0, "of the bound (half an ulp + that of f32)"),
    }
}

/// Value `j` of row `row` of `len`.
pub(crate) fn value(fill: Fill, row: usize, j: usize, len: usize, random: &mut Random) -> f64 {
    let inf = f64::INFINITY;
    let ordinary = random.normal() * 2.0;
    let u = random.unit();
    match fill {
        Fill::Ordinary => ordinary,
        Fill::Spread => (row % 5) as f64 - 87.0 * u,
        Fill::Extreme => {
            let magnitude = 10f64.powf(60.0 * u - 30.0);
            if ordinary < 0.0 { -magnitude } else { magnitude }
        }
        Fill::Dominated => {
            let above = 10.0 + (row % 9) as f64 * 10.0;
            if j == row * 7 % len.max(1) {
                above
            } else {
                ordinary * 0.3
            }
        }
        Fill::Masked if row % 4 == 3 || u < 0.33 => -inf,
        Fill::Masked => ordinary,
        Fill::Special => {
            let at = |position: usize| j == position % len.max(1);
            match row % 12 {
                0 if at(row) => f64::NAN,
                1 if at(len / 2) => inf,
                2 if at(len.saturating_sub(1)) => -inf,
                3 => -inf,
                4 => inf,
                5 if j.is_multiple_of(2) => inf,
                5 => -inf,
                6 if at(row) => ordinary,
                6 => -inf,
                7 if at(1) => f64::NAN,
                7 if at(2) => inf,
                8 if j.is_multiple_of(2) => -0.0,
                8 => 0.0,
                9 if j.is_multiple_of(2) => 3.4e38,
                9 => -3.4e38,
                10 => 1.5,
                _ if j.is_multiple_of(3) => 1e-45,
                _ => ordinary * 1e-38,
            }
        }
        Fill::Rising => j as f64 / (len.max(2) - 1) as f64 * 100.0 - 30.0 + 0.01 * u,
    }
}

/// The cases of `verify`: every function and gradient, storage type, strategy, axis, mask and kind of row, at shapes that a
/// software driver does in a moment.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let quantities = SoftmaxKind::ALL
        .into_iter()
        .flat_map(|k| [Quantity::Forward(k), Quantity::Backward(k)]);
    for quantity in quantities {
        let kind = match quantity {
            Quantity::Forward(k) | Quantity::Backward(k) => k,
        };
        let base = |dtype, shape: &[usize], fill| Case {
            quantity,
            fill,
            ..Case::new(kind, dtype, shape)
        };
        for dtype in DType::ALL {
            for fill in Fill::ALL {
                cases.push(base(dtype, &[24, 61], fill));
            }
            cases.push(base(dtype, &[13, 1000], Fill::Spread));
            cases.push(base(dtype, &[3, 20_001], Fill::Ordinary));
            let axis = SoftmaxOptions {
                axis: 1,
                ..Default::default()
            };
            cases.push(Case {
                options: axis,
                ..base(dtype, &[3, 33, 7], Fill::Special)
            });
            let attention = SoftmaxOptions {
                scale: 0.125,
                causal: Some(0),
                masked_rows: MaskedRows::Zero,
                ..Default::default()
            };
            cases.push(Case {
                options: attention,
                mask: MaskShape::Padding,
                ..base(dtype, &[2, 3, 17, 17], Fill::Ordinary)
            });
            let scaled = SoftmaxOptions {
                scale: 0.3,
                ..Default::default()
            };
            cases.push(Case {
                options: scaled,
                mask: MaskShape::Trailing,
                ..base(dtype, &[4, 5, 100], Fill::Masked)
            });
        }
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let shapes: &[&[usize]] = if quick {
        &[&[4096, 1024], &[65536, 64]]
    } else {
        &[
            &[4096, 1024],
            &[128, 131_072],
            &[65536, 64],
            &[1, 4_194_304],
            &[4096, 77],
            &[32768, 1024],
        ]
    };
    let mut cases = Vec::new();
    for kind in SoftmaxKind::ALL {
        for shape in shapes {
            cases.push(Case::new(kind, DType::F32, shape));
        }
    }
    for shape in shapes {
        cases.push(Case::new(SoftmaxKind::Softmax, DType::F16, shape));
        if !quick {
            cases.push(Case::new(SoftmaxKind::Softmax, DType::Bf16, shape));
            for kind in SoftmaxKind::ALL {
                cases.push(Case {
                    quantity: Quantity::Backward(kind),
                    ..Case::new(kind, DType::F32, shape)
                });
            }
        }
    }
    cases
}
