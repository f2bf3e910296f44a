//! Cases of the sigmoid family: the values that tests, `verify` and `bench` share.

use super::ActivationKind;
use super::bounds::{BACKWARD_U, FORWARD_ULPS};
use super::oneshot::{Problem, check_results};
use crate::accuracy::{MaxError, Mismatch};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::job::{self, Job};
use crate::random::Random;
use crate::verify::{self, Verdict};

/// What the values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like, standard deviation 4.
    Ordinary,
    /// Evenly over all of the range in which an exponential is neither 0 nor infinite.
    Wide,
    /// Magnitudes from 1e-40 to 1e38, of both signs, in the upstream gradient too.
    Extreme,
    /// NaN, infinities, zeros of both signs, largest and smallest numbers, also as upstream gradients.
    Special,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 4] = [Fill::Ordinary, Fill::Wide, Fill::Extreme, Fill::Special];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Fill::Ordinary => "ordinary",
            Fill::Wide => "wide",
            Fill::Extreme => "extreme",
            Fill::Special => "special",
        }
    }

    /// The next value and an upstream gradient to go with it.
    pub fn pair(self, random: &mut Random) -> (f64, f64) {
        let extreme = |random: &mut Random| {
            let magnitude = 10f64.powf(78.0 * random.unit() - 40.0);
            if random.below(2) == 0 { magnitude } else { -magnitude }
        };
        match self {
            Fill::Ordinary => (random.normal() * 4.0, random.normal()),
            Fill::Wide => (random.unit() * 220.0 - 110.0, random.normal()),
            Fill::Extreme => (extreme(random), extreme(random)),
            Fill::Special => {
                const SPECIAL: [f64; 16] = [
                    f64::NAN,
                    f64::INFINITY,
                    f64::NEG_INFINITY,
                    0.0,
                    -0.0,
                    f32::MAX as f64,
                    -(f32::MAX as f64),
                    f32::MIN_POSITIVE as f64,
                    1e-45,
                    88.7228,
                    -88.7228,
                    104.0,
                    -104.0,
                    256.5,
                    -1000.0,
                    1.0,
                ];
                let mut one = || SPECIAL[random.below(16) as usize];
                (one(), one())
            }
        }
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The function.
    pub kind: ActivationKind,
    /// Its gradient in its place.
    pub backward: bool,
    /// Storage type.
    pub dtype: DType,
    /// Elements.
    pub len: usize,
    /// Values.
    pub fill: Fill,
}

/// Host data of a case.
#[derive(Clone, Debug)]
pub struct Data<T> {
    /// Input.
    pub x: Vec<T>,
    /// Upstream gradient, for backward cases.
    pub upstream: Option<Vec<T>>,
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
    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Data<T> {
        let mut random = Random::new(0x51e_9a0d ^ self.len as u64);
        let (x, upstream): (Vec<T>, Vec<T>) = (0..self.len)
            .map(|_| {
                let (x, g) = self.fill.pair(&mut random);
                (T::from_f64(x), T::from_f64(g))
            })
            .unzip();
        Data {
            x,
            upstream: self.backward.then_some(upstream),
        }
    }

    /// Computes the case on a context.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context, data: &Data<T>) -> Result<Vec<T>> {
        job::run(&self.problem(data)?, context)
    }

    /// Holds results of the case to the oracle.
    pub fn judge<T: Element>(&self, data: &Data<T>, y: &[T]) -> Result<Result<MaxError, Mismatch>> {
        check_results(self.kind, &data.x, data.upstream.as_deref(), y)
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
        let y = job::run_async(&self.problem(&data)?, context).await?;
        self.judge(&data, &y)
    }

    fn problem<'a, T: Element>(&self, data: &'a Data<T>) -> Result<Problem<'a, T>> {
        Problem::new(self.kind, &data.x, data.upstream.as_deref())
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
        let mut y = vec![T::default(); data.x.len()];
        Box::new(move || {
            // The case was computed once before it is timed, so it is valid.
            if let Ok(problem) = case.problem(&data) {
                problem.write_on_cpu(&mut y);
            }
            std::hint::black_box(&mut y);
        })
    }

    /// Bytes of the least traffic: every input read once, the output written once.
    pub fn bytes(&self) -> u64 {
        let tensors = if self.backward { 3 } else { 2 };
        (self.len * self.dtype.size()) as u64 * tensors
    }
}

impl verify::Case for Case {
    fn op(&self) -> &'static str {
        self.kind.name_of(self.backward)
    }

    fn shape(&self) -> String {
        self.len.to_string()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn detail(&self) -> String {
        self.fill.name().into()
    }

    fn run_async<'a>(&'a self, context: &'a Context) -> verify::Judging<'a> {
        Box::pin(async move {
            let (bound, unit) = match (self.dtype, self.backward) {
                (DType::F32, false) => (FORWARD_ULPS, "ulp"),
                (DType::F32, true) => (BACKWARD_U, "u of the gradient"),
                _ => (1.0, "of the bound (half an ulp + that of f32)"),
            };
            let outcome = self.run_async(context).await?;
            let (of_bound, mismatch) = match outcome {
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

/// The cases of `verify`: every function and gradient, storage type and kind of values.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ActivationKind::ALL {
        for backward in [false, true] {
            for dtype in DType::ALL {
                let case = |len, fill| Case {
                    kind,
                    backward,
                    dtype,
                    len,
                    fill,
                };
                cases.extend(Fill::ALL.map(|fill| case(4001, fill)));
                cases.push(case(70_000, Fill::Wide));
            }
        }
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ActivationKind::ALL {
        let mut add = |backward, dtype, len| {
            cases.push(Case {
                kind,
                backward,
                dtype,
                len,
                fill: Fill::Ordinary,
            });
        };
        add(false, DType::F32, 1 << 22);
        if !quick {
            add(false, DType::F16, 1 << 22);
            add(false, DType::F32, (1 << 24) + 1);
            add(true, DType::F32, 1 << 22);
        }
    }
    cases
}
