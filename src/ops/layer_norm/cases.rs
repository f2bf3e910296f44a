//! Cases of layer_norm and rms_norm: the shapes, values and options that tests, `verify` and `bench` share.

use super::bounds::{MaxError, Mismatch, Quantity, nominal};
use super::oneshot::{LayerNormInput, Outputs, Problem};
use super::{LayerNormOptions, LayerNormStrategy, NormKind};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::job::{self, Job};
use crate::random::Random;
use crate::rows::element_count;
use crate::verify::{self, Verdict, shape_text};

/// What the values of x look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like, standard deviation 2 around 0.5.
    Ordinary,
    /// A spread of 0.25 around 10^6 (with 16 bits: a few units in the last place around 100).
    Offset,
    /// Magnitudes up to the largest number of the type.
    Huge,
    /// Magnitudes near the smallest normal number of the type.
    Tiny,
    /// Magnitudes from 1e-30 to 1e30.
    Mixed,
    /// NaN, infinities, constants, zeros of both signs, one element apart: one kind a row.
    Special,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 6] = [
        Fill::Ordinary,
        Fill::Offset,
        Fill::Huge,
        Fill::Tiny,
        Fill::Mixed,
        Fill::Special,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Fill::Ordinary => "ordinary",
            Fill::Offset => "offset",
            Fill::Huge => "huge",
            Fill::Tiny => "tiny",
            Fill::Mixed => "mixed",
            Fill::Special => "special",
        }
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Function or gradients.
    pub quantity: Quantity,
    /// Storage type.
    pub dtype: DType,
    /// Shape of the input.
    pub shape: Vec<usize>,
    /// Added to the variance.
    pub eps: f64,
    /// Values.
    pub fill: Fill,
    /// Whether there is a weight, and for layer_norm a bias.
    pub affine: bool,
    /// A strategy to force; the CPU path has none.
    pub strategy: Option<LayerNormStrategy>,
}

/// Host data of a case.
#[derive(Clone, Debug)]
pub struct Data<T> {
    /// Input.
    pub x: Vec<T>,
    /// Weight.
    pub weight: Option<Vec<T>>,
    /// Bias.
    pub bias: Option<Vec<T>>,
    /// Upstream gradient, for backward cases.
    pub upstream: Option<Vec<T>>,
}

/// Value `j` of row `row` of `len`.
fn value(fill: Fill, dtype: DType, row: usize, j: usize, len: usize, random: &mut Random) -> f64 {
    let normal = random.normal();
    let unit = random.unit();
    match fill {
        Fill::Ordinary => 0.5 + 2.0 * normal,
        Fill::Offset if dtype == DType::F32 => 1e6 + (unit * 4.0).floor() * 0.0625,
        Fill::Offset => 100.0 + (unit * 4.0).floor() * dtype.ulp(100.0),
        Fill::Huge => dtype.max_finite() * (1.9 * unit - 0.9),
        Fill::Tiny => dtype.min_normal() * normal * 0.8,
        Fill::Mixed => 10f64.powf(60.0 * unit - 30.0) * normal.signum(),
        Fill::Special => {
            let at = |position: usize| j == position % len.max(1);
            match row % 9 {
                0 if at(row) => f64::NAN,
                1 if at(len / 2) => f64::INFINITY,
                2 if at(len.saturating_sub(1)) => f64::NEG_INFINITY,
                3 if at(1) => f64::INFINITY,
                3 if at(2) => f64::NEG_INFINITY,
                4 => 1234.567,
                5 if j.is_multiple_of(2) => -0.0,
                5 => 0.0,
                6 => dtype.max_finite(),
                7 if at(row) => 1.0 + dtype.ulp(1.0),
                7 => 1.0,
                _ => normal,
            }
        }
    }
}

impl Case {
    /// A case of ordinary values with weight and bias.
    pub fn new(quantity: Quantity, dtype: DType, shape: &[usize]) -> Case {
        Case {
            quantity,
            dtype,
            shape: shape.to_vec(),
            eps: quantity.kind().default_eps(),
            fill: Fill::Ordinary,
            affine: true,
            strategy: None,
        }
    }

    /// Whether it is of gradients.
    pub fn is_backward(&self) -> bool {
        matches!(self.quantity, Quantity::Backward(_))
    }

    /// The options.
    pub fn options(&self) -> LayerNormOptions {
        LayerNormOptions {
            kind: self.quantity.kind(),
            eps: self.eps,
        }
    }

    /// The case in words, shape and storage type aside.
    pub fn detail(&self) -> String {
        let mut text = self.fill.name().to_string();
        if self.eps != self.quantity.kind().default_eps() {
            text += &format!(", eps {:e}", self.eps);
        }
        if !self.affine {
            text += ", no weight";
        }
        if let Some(strategy) = self.strategy {
            text += &format!(", {strategy}");
        }
        text
    }

    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Data<T> {
        let count = element_count(&self.shape).unwrap_or(0);
        let len = self.shape.last().copied().unwrap_or(0);
        let mut random = Random::new(0x51ed_270b ^ count as u64);
        let x = (0..count)
            .map(|i| T::from_f64(value(self.fill, self.dtype, i / len, i % len, len, &mut random)))
            .collect();
        let mut normals =
            |n: usize, mean: f64| -> Vec<T> { (0..n).map(|_| T::from_f64(mean + 0.5 * random.normal())).collect() };
        let weight = self.affine.then(|| normals(len, 1.0));
        let with_bias = self.affine && self.quantity.kind() == NormKind::LayerNorm;
        Data {
            x,
            weight,
            bias: with_bias.then(|| normals(len, 0.0)),
            upstream: self.is_backward().then(|| normals(count, 0.1)),
        }
    }

    fn problem<'a, T: Element>(&'a self, data: &'a Data<T>) -> Result<Problem<'a, T>> {
        let input = LayerNormInput {
            x: data.x.as_slice(),
            shape: &self.shape,
            weight: data.weight.as_deref(),
            bias: data.bias.as_deref(),
        };
        Problem::new(&input, data.upstream.as_deref(), &self.options()).map(|p| p.with_strategy(self.strategy))
    }

    /// Computes the case: the result or the gradient of x, then the gradients of weight and bias.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context, data: &Data<T>) -> Result<Outputs<T>> {
        job::run(&self.problem(data)?, context)
    }

    /// Holds results to the oracle.
    pub fn judge<T: Element>(&self, data: &Data<T>, outputs: &Outputs<T>) -> Result<Result<MaxError, Mismatch>> {
        Ok(self.problem(data)?.judge(outputs))
    }

    /// Computes the case on a context and holds it to the oracle.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_async(context))
    }

    /// As `run`, under any executor.
    pub async fn run_async(&self, context: &Context) -> Result<Result<MaxError, Mismatch>> {
        async fn go<T: Element>(case: &Case, context: &Context) -> Result<Result<MaxError, Mismatch>> {
            let data = case.data::<T>();
            case.judge(&data, &job::run_async(&case.problem(&data)?, context).await?)
        }
        match self.dtype {
            DType::F32 => go::<f32>(self, context).await,
            DType::F16 => go::<f16>(self, context).await,
            DType::Bf16 => go::<bf16>(self, context).await,
        }
    }

    /// Computes the case and holds a sample of its rows to the oracle.
    pub(crate) async fn compute_checked(&self, context: &Context) -> Result<()> {
        async fn go<T: Element>(case: &Case, context: &Context) -> Result<()> {
            let data = case.data::<T>();
            job::run_checked_async(&case.problem(&data)?, context, CrossCheck::Sampled)
                .await
                .map(|_| ())
        }
        match self.dtype {
            DType::F32 => go::<f32>(self, context).await,
            DType::F16 => go::<f16>(self, context).await,
            DType::Bf16 => go::<bf16>(self, context).await,
        }
    }

    /// Uploads the case and binds it.
    pub(crate) fn record_on(&self, context: &Context) -> Result<Recording> {
        fn go<T: Element>(case: &Case, context: &Context) -> Result<Recording> {
            let gpu = context.gpu().ok_or_else(|| Error::Unsupported {
                what: "recording".into(),
                reason: "the CPU path has no device".into(),
            })?;
            Ok(case.problem(&case.data::<T>())?.bind(gpu)?.recording)
        }
        match self.dtype {
            DType::F32 => go::<f32>(self, context),
            DType::F16 => go::<f16>(self, context),
            DType::Bf16 => go::<bf16>(self, context),
        }
    }

    /// The case as a call of the CPU path.
    pub(crate) fn call_on_cpu(&self) -> Box<dyn FnMut() + Send> {
        fn go<T: Element>(case: Case) -> Box<dyn FnMut() + Send> {
            let data = case.data::<T>();
            let mut y = vec![T::default(); data.x.len()];
            Box::new(move || {
                // The case was computed once before it is timed, so it is valid.
                if let Ok(problem) = case.problem(&data) {
                    problem.write_on_cpu(&mut y);
                    std::hint::black_box(problem.sums_on_cpu());
                }
                std::hint::black_box(&mut y);
            })
        }
        match self.dtype {
            DType::F32 => go::<f32>(self.clone()),
            DType::F16 => go::<f16>(self.clone()),
            DType::Bf16 => go::<bf16>(self.clone()),
        }
    }

    /// Bytes of the least traffic: every input read once, every output written once. Weight and bias are small beside them.
    pub fn bytes(&self) -> u64 {
        let count = element_count(&self.shape).unwrap_or(0) as u64;
        count * if self.is_backward() { 3 } else { 2 } * self.dtype.size() as u64
    }
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        self.quantity.name()
    }

    fn shape(&self) -> String {
        shape_text(&self.shape)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        Case::detail(self)
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let (bound, unit) = nominal(self.quantity, self.dtype);
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

/// The cases of `verify`: both functions and their gradients, storage types, strategies and kinds of rows, at shapes that a
/// software driver does in a moment.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let quantities = NormKind::ALL
        .into_iter()
        .flat_map(|k| [Quantity::Forward(k), Quantity::Backward(k)]);
    for quantity in quantities {
        for dtype in DType::ALL {
            let base = |shape: &[usize], fill| Case {
                fill,
                ..Case::new(quantity, dtype, shape)
            };
            for fill in Fill::ALL {
                cases.push(base(&[27, 61], fill));
            }
            cases.push(base(&[13, 1000], Fill::Offset));
            cases.push(base(&[3, 20_001], Fill::Ordinary));
            cases.push(base(&[100, 3, 64], Fill::Ordinary));
            cases.push(Case {
                affine: false,
                eps: 1e-12,
                ..base(&[18, 64], Fill::Tiny)
            });
        }
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let shapes: &[&[usize]] = if quick {
        &[&[4096, 1024]]
    } else {
        &[&[4096, 1024], &[65_536, 64], &[2048, 8192], &[8, 1_048_576]]
    };
    let mut cases = Vec::new();
    for shape in shapes {
        for kind in NormKind::ALL {
            cases.push(Case::new(Quantity::Forward(kind), DType::F32, shape));
            cases.push(Case::new(Quantity::Backward(kind), DType::F32, shape));
        }
        cases.push(Case::new(Quantity::Forward(NormKind::LayerNorm), DType::F16, shape));
    }
    cases
}
