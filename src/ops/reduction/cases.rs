//! Cases of the reductions: the shapes, values and options that tests, `verify` and `bench` share.

use super::oneshot::{GradientProblem, Problem, Reduced, ReductionInput};
use super::{ReductionKind, ReductionOptions, SumMode, bounds, cpu, layout::Layout, reference};
use crate::accuracy::{MaxError, Mismatch, check};
use crate::context::{Context, CrossCheck};
use crate::element::{DType, Element, bf16, f16};
use crate::error::{Error, Result};
use crate::gpu::Recording;
use crate::job;
use crate::random::Random;
use crate::rows::element_count;

/// What the values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal-like, standard deviation 2.
    Ordinary,
    /// All positive, from 0 to 2.
    Positive,
    /// A mean far above the spread.
    Shifted,
    /// Magnitudes from 1e-30 to 1e30.
    Extreme,
    /// Near the largest numbers of f32.
    Large,
    /// Near and below the smallest normal numbers of f32.
    Tiny,
    /// Pairs that cancel, and a little.
    Cancelling,
    /// Few values, so that extremes are met many times, zeros of both signs among them.
    Ties,
    /// NaN, infinities, zeros, largest and smallest numbers, all equal: one kind a row of 61.
    Special,
}

impl Fill {
    /// All of them.
    pub const ALL: [Fill; 9] = [
        Fill::Ordinary,
        Fill::Positive,
        Fill::Shifted,
        Fill::Extreme,
        Fill::Large,
        Fill::Tiny,
        Fill::Cancelling,
        Fill::Ties,
        Fill::Special,
    ];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Fill::Ordinary => "ordinary",
            Fill::Positive => "positive",
            Fill::Shifted => "shifted",
            Fill::Extreme => "extreme",
            Fill::Large => "large",
            Fill::Tiny => "tiny",
            Fill::Cancelling => "cancelling",
            Fill::Ties => "ties",
            Fill::Special => "special",
        }
    }
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Which reduction.
    pub kind: ReductionKind,
    /// Whether its gradient is meant.
    pub backward: bool,
    /// Storage type.
    pub dtype: DType,
    /// Shape of the input.
    pub shape: Vec<usize>,
    /// Options.
    pub options: ReductionOptions,
    /// Values.
    pub fill: Fill,
    /// Elements of a chunk on devices, in place of their own choice.
    pub chunk: Option<usize>,
}

/// Host data of a case.
#[derive(Clone, Debug)]
pub struct Data<T> {
    /// Input.
    pub x: Vec<T>,
    /// Second tensor of a dot product.
    pub second: Option<Vec<T>>,
    /// Upstream gradient.
    pub upstream: Option<Vec<T>>,
}

fn value(fill: Fill, i: usize, random: &mut Random) -> f64 {
    let (ordinary, u) = (random.normal() * 2.0, random.unit());
    let signed = |magnitude: f64| if ordinary < 0.0 { -magnitude } else { magnitude };
    match fill {
        Fill::Ordinary => ordinary,
        Fill::Positive => 2.0 * u,
        Fill::Shifted => 1000.0 + ordinary,
        Fill::Extreme => signed(10f64.powf(60.0 * u - 30.0)),
        Fill::Large => signed(3.0e38 * u),
        Fill::Tiny => signed(10f64.powf(-36.0 - 9.0 * u)),
        Fill::Cancelling => match i % 3 {
            0 => 1.0e7 + (i / 3 % 50) as f64,
            1 => -1.0e7 - (i / 3 % 50) as f64,
            _ => 0.001 * u,
        },
        Fill::Ties => [1.0, -0.0, 0.0, -1.0, 1.0, 0.5, -1.0][random.below(7) as usize],
        Fill::Special => {
            let at = i % 61;
            match i / 61 % 12 {
                0 if at == 7 => f64::NAN,
                1 if at == 30 => f64::INFINITY,
                2 if at == 60 => f64::NEG_INFINITY,
                3 => f64::NEG_INFINITY,
                4 if at == 3 => f64::INFINITY,
                4 if at == 50 => f64::NEG_INFINITY,
                5 => [0.0, -0.0][at % 2],
                6 => 1.5,
                7 => [3.0e38, -3.0e38][at % 2],
                8 => 1.0e-45,
                9 if at == 0 => 3.0e38,
                9 if at == 60 => -3.0e38,
                9 if at == 20 => 1.0,
                9 => 0.0,
                10 if at == 60 || at == 59 => f64::NAN,
                _ => ordinary,
            }
        }
    }
}

impl Case {
    /// A case of ordinary values over these axes.
    pub fn new(kind: ReductionKind, dtype: DType, shape: &[usize], axes: Option<&[isize]>) -> Case {
        Case {
            kind,
            backward: false,
            dtype,
            shape: shape.to_vec(),
            options: ReductionOptions {
                axes: axes.map(<[isize]>::to_vec),
                ..Default::default()
            },
            fill: Fill::Ordinary,
            chunk: None,
        }
    }

    /// The case in words, shape and storage type aside.
    pub fn detail(&self) -> String {
        let mut text = self.fill.name().to_string();
        if let Some(axes) = &self.options.axes {
            text.push_str(&format!(", axes {axes:?}"));
        }
        if self.kind.has_mode() {
            text.push_str(&format!(", {}", self.options.mode));
        }
        if let Some(chunk) = self.chunk {
            text.push_str(&format!(", chunks of {chunk}"));
        }
        text
    }

    /// The case's values; the same for every device.
    pub fn data<T: Element>(&self) -> Data<T> {
        let count = element_count(&self.shape).unwrap_or(0);
        let mut random = Random::new(0x7ed0_ce11 ^ count as u64);
        let mut fill =
            |fill, count| -> Vec<T> { (0..count).map(|i| T::from_f64(value(fill, i, &mut random))).collect() };
        let x = fill(self.fill, count);
        let second = self.kind.takes_two().then(|| fill(self.fill, count));
        let rows = self.options.output_shape(&self.shape).map_or(0, |s| s.iter().product());
        let upstream = self.backward.then(|| fill(Fill::Ordinary, rows));
        Data { x, second, upstream }
    }

    fn input<'a, T>(&'a self, data: &'a Data<T>) -> ReductionInput<'a, T> {
        ReductionInput {
            x: &data.x,
            shape: &self.shape,
            second: data.second.as_deref(),
        }
    }

    /// Computes the case on a context and holds it to the oracle: the largest error as a fraction of its bound.
    ///
    /// # Errors
    /// What the computation refuses; inside, the first element that is wrong.
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
        self.run_on_async(context, &data).await
    }

    /// As [`Case::run`], of data that is not the case's own.
    ///
    /// # Errors
    /// Those of [`Case::run`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run_on<T: Element>(
        &self,
        context: &Context,
        data: &Data<T>,
    ) -> Result<std::result::Result<MaxError, Mismatch>> {
        pollster::block_on(self.run_on_async(context, data))
    }

    async fn run_on_async<T: Element>(
        &self,
        context: &Context,
        data: &Data<T>,
    ) -> Result<std::result::Result<MaxError, Mismatch>> {
        let input = self.input(data);
        if let Some(upstream) = &data.upstream {
            let problem = GradientProblem::new(self.kind, &input, upstream, &self.options)?.with_chunk(self.chunk);
            let dx = job::run_async(&problem, context).await?;
            return match problem.compare(CrossCheck::Full, &dx) {
                Ok(worst) => Ok(Ok(worst)),
                Err(e) => Ok(Err(mismatch(e)?)),
            };
        }
        let problem = Problem::new(self.kind, &input, &self.options)?.with_chunk(self.chunk);
        let rows: Vec<reference::Row> = (0..problem.rows()).map(|row| problem.expected_row(row)).collect();
        let want: Vec<f64> = rows.iter().map(|r| r.value).collect();
        Ok(match job::run_async(&problem, context).await? {
            Reduced::Values(y) => {
                let bounds: Vec<f64> = rows.iter().map(|r| problem.bound(r)).collect();
                check(&y, &want, &bounds)
            }
            Reduced::Indices(y) => match y.iter().zip(&want).position(|(&got, &want)| got as f64 != want) {
                None => Ok(MaxError::default()),
                Some(index) => Err(Mismatch {
                    index,
                    got: y[index] as f64,
                    want: want[index],
                    bound: 0.0,
                }),
            },
        })
    }

    /// Values of the case on a context, with the case's own cutting.
    ///
    /// # Errors
    /// Those of [`super::reduce`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compute<T: Element>(&self, context: &Context, data: &Data<T>) -> Result<Vec<T>> {
        let input = self.input(data);
        let problem = Problem::new(self.kind, &input, &self.options)?.with_chunk(self.chunk);
        match job::run(&problem, context)? {
            Reduced::Values(y) => Ok(y),
            Reduced::Indices(_) => Ok(Vec::new()),
        }
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
        let input = self.input(&data);
        if let Some(upstream) = &data.upstream {
            let problem = GradientProblem::new(self.kind, &input, upstream, &self.options)?;
            return job::run_checked_async(&problem, context, CrossCheck::Sampled)
                .await
                .map(drop);
        }
        job::run_checked_async(
            &Problem::new(self.kind, &input, &self.options)?,
            context,
            CrossCheck::Sampled,
        )
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
        let data = self.data::<T>();
        let input = self.input(&data);
        match &data.upstream {
            Some(upstream) => GradientProblem::new(self.kind, &input, upstream, &self.options)?.record(gpu),
            None => Problem::new(self.kind, &input, &self.options)?.record(gpu),
        }
    }

    /// The case as a call of the CPU path.
    pub(crate) fn call_on_cpu(&self) -> Result<Box<dyn FnMut() + Send>> {
        match self.dtype {
            DType::F32 => self.call_as::<f32>(),
            DType::F16 => self.call_as::<f16>(),
            DType::Bf16 => self.call_as::<bf16>(),
        }
    }

    fn call_as<T: Element>(&self) -> Result<Box<dyn FnMut() + Send>> {
        let (case, data) = (self.clone(), self.data::<T>());
        let layout = Layout::contiguous(&self.shape, &self.options)?;
        if let Some(upstream) = data.upstream {
            let mut dx = vec![T::default(); data.x.len()];
            return Ok(Box::new(move || {
                let second = data.second.as_deref();
                cpu::backward(case.kind, &data.x, second, &upstream, &layout, &case.options, &mut dx);
                std::hint::black_box(&mut dx);
            }));
        }
        let mut y = vec![T::default(); layout.rows()];
        Ok(Box::new(move || {
            let second = data.second.as_deref();
            if case.kind.is_arg() {
                std::hint::black_box(cpu::indices(case.kind, &data.x, &layout));
            } else {
                cpu::forward(case.kind, &data.x, second, &layout, &case.options, &mut y);
            }
            std::hint::black_box(&mut y);
        }))
    }

    /// Bytes of the least traffic: every input that matters read once, the output written once.
    pub fn bytes(&self) -> u64 {
        let count = element_count(&self.shape).unwrap_or(0) as u64;
        let rows: u64 = self
            .options
            .output_shape(&self.shape)
            .map_or(0, |s| s.iter().map(|&n| n as u64).product());
        if self.backward {
            use ReductionKind as K;
            // What the gradient depends on, itself, and the upstream gradient.
            let read = match self.kind {
                K::Sum | K::Mean => 0,
                _ => count,
            };
            return (read + count + rows) * self.dtype.size() as u64;
        }
        let inputs = if self.kind.takes_two() { 2 * count } else { count };
        let one = if self.kind.is_arg() {
            4
        } else {
            self.dtype.size() as u64
        };
        inputs * self.dtype.size() as u64 + rows * one
    }
}

fn mismatch(error: Error) -> Result<Mismatch> {
    match error {
        Error::Mismatch {
            index, gpu, cpu, bound, ..
        } => Ok(Mismatch {
            index,
            got: gpu,
            want: cpu,
            bound,
        }),
        other => Err(other),
    }
}

impl crate::verify::Case for Case {
    fn op(&self) -> &'static str {
        if self.backward {
            self.kind.backward_name()
        } else {
            self.kind.name()
        }
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
                Ok(error) => (error.of_bound, None),
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

/// Whether the bound of a case says anything: log_sum near a sum of 0 may be anything.
fn sensible(kind: ReductionKind, fill: Fill) -> bool {
    kind != ReductionKind::LogSum
        || !matches!(
            fill,
            Fill::Cancelling | Fill::Extreme | Fill::Large | Fill::Tiny | Fill::Special
        )
}

/// The cases of `verify`: every reduction, storage type and kind of values, rows whole and cut, several axes, columns.
pub fn verify_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ReductionKind::ALL {
        for dtype in DType::ALL {
            let base = |shape: &[usize], axes: Option<&[isize]>, fill| Case {
                fill,
                ..Case::new(kind, dtype, shape, axes)
            };
            if !kind.is_arg() {
                cases.extend(gradient_cases(kind, dtype));
            }
            // What 16-bit storage adds is the same for all kinds of values, so it takes fewer.
            let few = dtype != DType::F32;
            let fills = Fill::ALL.into_iter().filter(|&f| sensible(kind, f));
            for fill in fills.filter(|f| !few || matches!(f, Fill::Ordinary | Fill::Special | Fill::Large)) {
                cases.push(base(&[24, 61], Some(&[1]), fill));
            }
            if few
                && !matches!(
                    kind,
                    ReductionKind::Sum | ReductionKind::Variance | ReductionKind::ArgMax
                )
            {
                continue;
            }
            let positive = if kind == ReductionKind::LogSum {
                Fill::Positive
            } else {
                Fill::Ordinary
            };
            cases.push(base(&[3, 40_001], Some(&[-1]), positive));
            cases.push(base(&[50_003], None, Fill::Shifted));
            cases.push(base(&[61, 47], Some(&[0]), positive));
            cases.push(base(&[5, 6, 7, 9], Some(&[0, 2]), positive));
            if kind.has_mode() {
                for fill in [Fill::Cancelling, Fill::Extreme, Fill::Ordinary] {
                    let mut case = base(&[7, 1000], Some(&[1]), fill);
                    case.options.mode = SumMode::Compensated;
                    cases.push(case);
                }
                for (shape, axis, fill) in [
                    (&[24, 61], 1, Fill::Special),
                    (&[24, 61], 1, Fill::Large),
                    (&[24, 61], 1, Fill::Tiny),
                    (&[61, 47], 0, Fill::Ordinary),
                    (&[3, 40_001], 1, Fill::Extreme),
                    (&[3, 40_001], 1, Fill::Cancelling),
                ] {
                    let mut case = base(shape, Some(&[axis]), fill);
                    case.options.mode = SumMode::Reproducible;
                    cases.push(case);
                }
            }
        }
    }
    cases
}

/// The gradients of a kind: rows whole and cut, several axes, columns, and every kind of values.
fn gradient_cases(kind: ReductionKind, dtype: DType) -> Vec<Case> {
    let positive = if kind == ReductionKind::LogSum {
        Fill::Positive
    } else {
        Fill::Ordinary
    };
    let base = |shape: &[usize], axes: &[isize], fill| Case {
        fill,
        backward: true,
        ..Case::new(kind, dtype, shape, Some(axes))
    };
    let mut cases = vec![
        base(&[5, 33], &[1], positive),
        base(
            &[24, 61],
            &[1],
            if kind == ReductionKind::LogSum {
                positive
            } else {
                Fill::Special
            },
        ),
    ];
    if dtype != DType::F32 {
        return cases;
    }
    let fills = Fill::ALL
        .into_iter()
        .filter(|&f| sensible(kind, f) && f != Fill::Special);
    cases.extend(fills.map(|fill| base(&[9, 61], &[1], fill)));
    cases.push(base(&[5, 64], &[1], positive));
    cases.push(base(&[61, 47], &[0], positive));
    cases.push(base(&[5, 6, 7, 9], &[0, 2], positive));
    cases.push(base(&[2, 3, 2, 3, 2, 3, 2], &[0, 2, 4, 6], positive));
    cases.push(Case {
        chunk: Some(64),
        ..base(&[3, 1001], &[1], positive)
    });
    if matches!(
        kind,
        ReductionKind::Variance | ReductionKind::NormL2 | ReductionKind::Max
    ) {
        cases.push(base(&[2, 70_001], &[1], Fill::Shifted));
    }
    cases
}

/// The cases of `bench`.
pub fn bench_cases(quick: bool) -> Vec<Case> {
    use ReductionKind as K;
    let mut cases = Vec::new();
    let last: Option<&[isize]> = Some(&[-1]);
    let first: Option<&[isize]> = Some(&[0]);
    let kinds: &[K] = if quick {
        &[K::Sum, K::Variance, K::ArgMax]
    } else {
        &[K::Sum, K::Mean, K::Variance, K::NormL2, K::Dot, K::Max, K::ArgMax]
    };
    for &kind in kinds {
        cases.push(Case::new(kind, DType::F32, &[4096, 1024], last));
        if !quick {
            cases.push(Case::new(kind, DType::F32, &[16_777_216], None));
            cases.push(Case::new(kind, DType::F32, &[4096, 4096], first));
        }
    }
    for kind in [K::Sum, K::Variance, K::Max] {
        if !quick || kind == K::Variance {
            cases.push(Case {
                backward: true,
                ..Case::new(kind, DType::F32, &[4096, 1024], last)
            });
        }
    }
    if !quick {
        let rest = K::ALL.into_iter().filter(|kind| !kinds.contains(kind));
        cases.extend(rest.map(|kind| Case::new(kind, DType::F32, &[4096, 1024], last)));
        cases.push(Case::new(K::Sum, DType::F16, &[4096, 4096], last));
        cases.push(Case::new(K::Sum, DType::Bf16, &[4096, 4096], last));
        cases.push(Case::new(K::Sum, DType::F32, &[65_536, 64], last));
        let mut compensated = Case::new(K::Sum, DType::F32, &[4096, 1024], last);
        compensated.options.mode = SumMode::Compensated;
        cases.push(compensated);
        for (kind, shape, axes) in [
            (K::Sum, &[4096, 1024][..], last),
            (K::Sum, &[16_777_216], None),
            (K::Sum, &[4096, 4096], first),
            (K::Dot, &[16_777_216], None),
        ] {
            let mut reproducible = Case::new(kind, DType::F32, shape, axes);
            reproducible.options.mode = SumMode::Reproducible;
            cases.push(reproducible);
        }
    }
    cases
}

/// Bound on the error of a row, for tests that work out their own expectations.
pub fn bound_of(case: &Case, row: &reference::Row) -> f64 {
    bounds::bound(case.kind, case.options.mode, case.dtype, row)
}
