//! Solves by relaxation, on a device and on the CPU path.

use super::super::range::{RangedSystem, check_finite};
use super::super::vector::norm;
use super::super::{Breakdown, LinearOperator, Outcome, Report, RunFacts, Solution};
use super::device::{BoundRelaxation, Jacobi, Sor, diagonal_of, inverses, matrix_of};
use super::kernels::groups;
use super::{RelaxationOptions, reference};
use crate::accuracy::U;
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::Instant;
use crate::gpu::{BufferView, Gpu};
use crate::sparse::Csr;

/// A residual that grew by this factor will not come back.
const DIVERGED: f64 = 1e6;
/// Looks at the residual in which it has to fall.
const PATIENCE: usize = 10;
/// What counts as falling.
const FALLING: f64 = 1.0 - 1e-4;
/// Multiples of u (||A|| ||x|| + ||b||) that f32 cannot be expected to get below.
const FLOOR: f64 = 16.0;

/// Which sweeps.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Jacobi,
    Sor,
}

/// Something that sweeps on A y = r from y = 0.
trait Engine {
    /// Takes a right-hand side.
    fn start(&mut self, r: &[f64]) -> Result<()>;

    /// Sweeps so often, and returns norms of residuals with the sweep, from 0, that they are of: at least that after the last one.
    /// `keep`: y as it is now is the best so far.
    async fn batch(&mut self, sweeps: usize, keep: bool) -> Result<Vec<(usize, f64)>>;

    /// y as it is, or the best.
    async fn y(&mut self, best: bool) -> Result<Vec<f64>>;

    /// Whether it computes in f32.
    fn single(&self) -> bool;
}

/// A power of two within a factor 2 of a positive number, inside the range where its reciprocal is normal.
fn power_of_two_near(value: f64) -> f64 {
    let exponent = crate::float::frexp(value).1.clamp(-1000, 1000);
    crate::float::ldexp(1.0, exponent)
}

struct OnHost<'a> {
    operator: &'a dyn LinearOperator,
    matrix: Option<&'a Csr<f64>>,
    inverse: Vec<f64>,
    omega: f64,
    b: Vec<f64>,
    y: Vec<f64>,
    q: Vec<f64>,
    best: Vec<f64>,
}

impl OnHost<'_> {
    fn residual(&mut self) -> f64 {
        self.operator.apply(&self.y, &mut self.q);
        for (q, b) in self.q.iter_mut().zip(&self.b) {
            *q = b - *q;
        }
        norm(&self.q)
    }
}

impl Engine for OnHost<'_> {
    fn start(&mut self, r: &[f64]) -> Result<()> {
        self.b = r.to_vec();
        for v in [&mut self.y, &mut self.q, &mut self.best] {
            *v = vec![0.0; r.len()];
        }
        Ok(())
    }

    async fn batch(&mut self, sweeps: usize, keep: bool) -> Result<Vec<(usize, f64)>> {
        if keep {
            self.best.copy_from_slice(&self.y);
        }
        let mut norms = Vec::new();
        for sweep in 0..sweeps {
            if let Some(a) = self.matrix {
                reference::sor_sweep(a, self.omega, &self.b, &mut self.y, 0..a.rows());
                continue;
            }
            let before = self.residual();
            norms.push((sweep, before));
            for ((y, r), inverse) in self.y.iter_mut().zip(&self.q).zip(&self.inverse) {
                *y += self.omega * inverse * r;
            }
        }
        norms.push((sweeps, self.residual()));
        Ok(norms)
    }

    async fn y(&mut self, best: bool) -> Result<Vec<f64>> {
        Ok(if best { self.best.clone() } else { self.y.clone() })
    }

    fn single(&self) -> bool {
        false
    }
}

struct OnDevice<'a> {
    gpu: &'a Gpu,
    n: usize,
    bound: BoundRelaxation,
    b: wgpu::Buffer,
    y: wgpu::Buffer,
    best: wgpu::Buffer,
}

impl<'a> OnDevice<'a> {
    fn new(gpu: &'a Gpu, problem: &Problem<'_>) -> Result<OnDevice<'a>> {
        use wgpu::BufferUsages as U;
        let n = problem.b.len();
        let buffer = |label| gpu.create_buffer(label, n as u64 * 4, U::STORAGE | U::COPY_DST | U::COPY_SRC);
        let (b, y) = (buffer("macheps relaxation b")?, buffer("macheps relaxation x")?);
        let view = |buffer| BufferView::new(buffer, DType::F32, &[n]);
        let options = problem.options;
        let bound = match problem.method {
            Method::Jacobi => {
                let method = Jacobi::new(problem.operator, options.omega)?;
                method.bind_with_slots(gpu, &view(&b), &view(&y), options.check_every)?
            }
            Method::Sor => {
                let method = Sor::new(matrix_of(problem.operator)?, options.omega)?;
                method.bind_with_residual(gpu, problem.operator, &view(&b), &view(&y))?
            }
        };
        Ok(OnDevice {
            gpu,
            n,
            bound,
            best: buffer("macheps relaxation best x")?,
            b,
            y,
        })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        let label = wgpu::CommandEncoderDescriptor {
            label: Some("macheps relaxation"),
        };
        self.gpu.device().create_command_encoder(&label)
    }
}

impl Engine for OnDevice<'_> {
    fn start(&mut self, r: &[f64]) -> Result<()> {
        let narrow: Vec<f32> = r.iter().map(|&r| r as f32).collect();
        self.gpu.write(&self.b, 0, bytemuck::cast_slice(&narrow))?;
        let zeros = vec![0u8; self.n * 4];
        self.gpu.write(&self.y, 0, &zeros)?;
        self.gpu.write(&self.best, 0, &zeros)
    }

    async fn batch(&mut self, sweeps: usize, keep: bool) -> Result<Vec<(usize, f64)>> {
        self.gpu.check_alive()?;
        let mut encoder = self.encoder();
        if keep {
            encoder.copy_buffer_to_buffer(&self.y, 0, &self.best, 0, self.n as u64 * 4);
        }
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.bound.record_pass(&mut pass, sweeps);
            self.bound.record_residual(&mut pass);
        }
        let Some(norms) = self.bound.norms() else {
            return Ok(Vec::new());
        };
        let (slots, pairs) = (self.bound.slots(), groups(self.n));
        let readback = self.gpu.read_back(encoder, norms, ((slots + 1) * pairs * 8) as u64)?;
        #[cfg(not(target_arch = "wasm32"))]
        let bytes = readback.wait()?;
        #[cfg(target_arch = "wasm32")]
        let bytes = readback.ready().await?;
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let of_slot = |slot: usize| -> f64 {
            let parts = &numbers[slot * pairs * 2..(slot + 1) * pairs * 2];
            parts.iter().map(|&p| f64::from(p)).sum::<f64>().sqrt()
        };
        let mut found: Vec<(usize, f64)> = (0..sweeps.min(slots)).map(|slot| (slot, of_slot(slot))).collect();
        found.push((sweeps, of_slot(slots)));
        Ok(found)
    }

    async fn y(&mut self, best: bool) -> Result<Vec<f64>> {
        let source = if best { &self.best } else { &self.y };
        let readback = self.gpu.read_back(self.encoder(), source, self.n as u64 * 4)?;
        #[cfg(not(target_arch = "wasm32"))]
        let bytes = readback.wait()?;
        #[cfg(target_arch = "wasm32")]
        let bytes = readback.ready().await?;
        let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        Ok(numbers.iter().map(|&v| f64::from(v)).collect())
    }

    fn single(&self) -> bool {
        true
    }
}

/// A checked call.
struct Problem<'a> {
    operator: &'a dyn LinearOperator,
    method: Method,
    b: &'a [f64],
    options: &'a RelaxationOptions,
}

/// Where a solve stands, in f64.
struct State {
    x: Vec<f64>,
    /// b - A x.
    r: Vec<f64>,
    iterations: usize,
    refinements: usize,
    history: Vec<f64>,
}

/// How sweeps on one right-hand side ended.
enum End {
    Outcome(Outcome),
    /// f32 has given what it can.
    Exhausted,
}

impl Problem<'_> {
    fn residual(&self, x: &[f64]) -> Vec<f64> {
        let mut r = vec![0.0; x.len()];
        self.operator.apply(x, &mut r);
        for (r, b) in r.iter_mut().zip(self.b) {
            *r = b - *r;
        }
        r
    }

    fn start(&self) -> State {
        let x = self.options.x0.clone().unwrap_or_else(|| vec![0.0; self.b.len()]);
        let r = if self.options.x0.is_some() {
            self.residual(&x)
        } else {
            self.b.to_vec()
        };
        State {
            x,
            r,
            iterations: 0,
            refinements: 0,
            history: Vec::new(),
        }
    }

    fn breakdown(kind: Breakdown, iteration: usize) -> End {
        End::Outcome(Outcome::Breakdown { kind, iteration })
    }

    /// What ends a solve before it begins, if anything.
    fn settled(&self, state: &mut State, norm_b: f64) -> Result<Option<Outcome>> {
        let breakdown = |kind| Outcome::Breakdown { kind, iteration: 0 };
        let diagonal = match self.method {
            Method::Jacobi => diagonal_of(self.operator)?,
            Method::Sor => matrix_of(self.operator)?.diagonal(),
        };
        if let Err(row) = inverses(&diagonal) {
            return Ok(Some(breakdown(Breakdown::ZeroDiagonal { row })));
        }
        if norm_b == 0.0 {
            state.x.fill(0.0);
            state.r.fill(0.0);
            return Ok(Some(Outcome::Converged));
        }
        if !norm(&state.r).is_finite() {
            return Ok(Some(breakdown(Breakdown::NonFinite)));
        }
        Ok((norm(&state.r) <= self.options.rtol * norm_b).then_some(Outcome::Converged))
    }

    async fn drive(&self, state: &mut State, engine: &mut impl Engine, norm_b: f64) -> Result<Outcome> {
        loop {
            let before = norm(&state.r);
            let scale = power_of_two_near(before);
            let scaled: Vec<f64> = state.r.iter().map(|r| r / scale).collect();
            engine.start(&scaled)?;
            let end = self.sweep_on(state, engine, scale, norm_b).await?;
            match end {
                End::Outcome(outcome) => return Ok(outcome),
                End::Exhausted => {
                    let stagnation = Outcome::Breakdown {
                        kind: Breakdown::Stagnation,
                        iteration: state.iterations,
                    };
                    // A round has to gain something, or none will.
                    if !self.options.refine || norm(&state.r) > 0.5 * before {
                        return Ok(stagnation);
                    }
                    state.refinements += 1;
                }
            }
        }
    }

    /// Sweeps on the residual as right-hand side, and adds the correction.
    async fn sweep_on(&self, state: &mut State, engine: &mut impl Engine, scale: f64, norm_b: f64) -> Result<End> {
        let options = self.options;
        let limit = options.iteration_limit(self.b.len());
        let origin = state.x.clone();
        let corrected = |y: &[f64]| -> Vec<f64> { origin.iter().zip(y).map(|(x, y)| x + scale * y).collect() };
        let mut goal = options.rtol;
        let begin = norm(&state.r) / norm_b;
        let (mut best, mut keep) = (begin, false);
        let (mut window, mut window_best) = (0, begin);
        let end = loop {
            let sweeps = options.check_every.min(limit - state.iterations);
            if sweeps == 0 {
                break End::Outcome(Outcome::IterationLimit);
            }
            let norms = engine.batch(sweeps, keep).await?;
            let mut last = f64::NAN;
            let mut grown = None;
            for (sweep, norm) in norms {
                last = norm * scale / norm_b;
                if sweep == 0 {
                    continue;
                }
                state.history.push(last);
                if last.is_nan() || last > DIVERGED * best {
                    grown = Some(state.iterations + sweep);
                    break;
                }
            }
            if let Some(iteration) = grown {
                state.iterations = iteration;
                keep = false;
                break Self::breakdown(Breakdown::Divergence, iteration);
            }
            state.iterations += sweeps;
            keep = last < best;
            best = best.min(last);
            if let Some(progress) = &options.progress {
                progress(state.iterations, last);
            }
            if last <= goal {
                let r = self.residual(&corrected(&engine.y(false).await?));
                if norm(&r) <= options.rtol * norm_b {
                    keep = true;
                    break End::Outcome(Outcome::Converged);
                }
                if options.refine || goal < options.rtol / 16.0 {
                    keep = true;
                    break End::Exhausted;
                }
                goal = 0.5 * goal.min(last);
            }
            window += 1;
            if window >= PATIENCE && window * options.check_every >= 100 {
                if best > FALLING * window_best
                    && self.at_the_floor(engine, best * norm_b / scale, &origin, scale).await?
                {
                    break End::Exhausted;
                }
                if best >= window_best {
                    break End::Exhausted;
                }
                (window, window_best) = (0, best);
            }
        };
        // y as it is where it is the best; else the copy of the best, which is 0 if nothing was better.
        state.x = corrected(&engine.y(!keep).await?);
        state.r = self.residual(&state.x);
        Ok(end)
    }

    /// Whether a residual (of the scaled system) is as small as its working precision lets it be, as far as the norm of A is known.
    async fn at_the_floor(&self, engine: &mut impl Engine, residual: f64, origin: &[f64], scale: f64) -> Result<bool> {
        let Some(norm_a) = self.operator.norm_inf() else {
            return Ok(true);
        };
        let y = engine.y(false).await?;
        let unit = if engine.single() { U } else { f64::EPSILON };
        // In f64 the whole of x is computed with once it is put together; in f32 only the correction is.
        let size = if engine.single() {
            norm(&y)
        } else {
            norm(&y) + norm(origin) / scale
        };
        Ok(residual <= FLOOR * unit * (norm_a * size + 1.0))
    }

    fn report(&self, state: State, outcome: Outcome, single: bool, seconds: f64) -> Result<Solution> {
        let facts = RunFacts {
            residual_history: state.history,
            unit_roundoff: if single { U } else { f64::EPSILON / 2.0 },
            refinements: state.refinements,
            seconds,
            ..RunFacts::new(outcome, self.options.rtol, state.iterations)
        };
        Ok(Solution {
            report: Report::assess(self.operator, self.b, &state.x, &facts, &self.options.report)?,
            x: state.x,
        })
    }

    fn on_host(&self) -> Result<OnHost<'_>> {
        let (matrix, inverse) = match self.method {
            Method::Jacobi => (None, diagonal_of(self.operator)?.iter().map(|d| 1.0 / d).collect()),
            Method::Sor => (Some(matrix_of(self.operator)?), Vec::new()),
        };
        Ok(OnHost {
            operator: self.operator,
            matrix,
            inverse,
            omega: self.options.omega,
            b: Vec::new(),
            y: Vec::new(),
            q: Vec::new(),
            best: Vec::new(),
        })
    }

    async fn solve(&self, context: &Context) -> Result<Solution> {
        let n = self.operator.size();
        if self.b.len() != n {
            return Err(Error::shape("b", format!("{n} elements"), self.b.len().to_string()));
        }
        self.options.check(n)?;
        check_finite("b", self.b)?;
        let x0 = self.options.x0.as_deref();
        check_finite("x0", x0.unwrap_or(&[]))?;
        let ranged = RangedSystem::new(self.operator, None, self.b, x0, context.gpu().is_some());
        let options = RelaxationOptions {
            x0: ranged.x0.as_deref().map(<[f64]>::to_vec),
            ..self.options.clone()
        };
        let problem = Problem {
            operator: ranged.operator(),
            method: self.method,
            b: &ranged.b,
            options: &options,
        };
        let solution = problem.solve_in_range(context).await?;
        let mut restored = ranged.restore(vec![solution], options.rtol)?;
        restored.pop().ok_or_else(|| Error::shape("b", "one system", "none"))
    }

    async fn solve_in_range(&self, context: &Context) -> Result<Solution> {
        let clock = Instant::now();
        let norm_b = norm(self.b);
        let fresh = || -> Result<(State, Option<Outcome>)> {
            let mut state = self.start();
            let settled = self.settled(&mut state, norm_b)?;
            let relative = if norm_b == 0.0 { 0.0 } else { norm(&state.r) / norm_b };
            state.history.push(relative);
            Ok((state, settled))
        };
        let (mut state, settled) = fresh()?;
        let outcome = match (settled, context.gpu()) {
            (Some(outcome), _) => outcome,
            (None, None) => self.drive(&mut state, &mut self.on_host()?, norm_b).await?,
            (None, Some(gpu)) => {
                let on_device = async {
                    gpu.check_alive()?;
                    let mut engine = OnDevice::new(gpu, self)?;
                    self.drive(&mut state, &mut engine, norm_b).await
                };
                match on_device.await {
                    Err(Error::DeviceLost { reason }) if context.finishes_on_cpu() => {
                        log::warn!("relaxation: the device was lost ({reason}); solving on the CPU");
                        state = fresh()?.0;
                        self.drive(&mut state, &mut self.on_host()?, norm_b).await?
                    }
                    other => other?,
                }
            }
        };
        self.report(state, outcome, context.gpu().is_some(), clock.elapsed().as_secs_f64())
    }
}

/// Solves A x = b by Jacobi's method, weighted by [`RelaxationOptions::omega`], on any operator with a diagonal. See the [module](super).
///
/// The report's history has the residual of every sweep.
///
/// # Errors
/// [`Error::Shape`] for lengths, [`Error::NonFinite`] for b and x0, [`Error::Option`] for options, [`Error::Unsupported`] for an operator without diagonal; what keeps the operator
/// from running on the device. A zero on the diagonal, divergence and stagnation are outcomes of the report.
///
/// ```
/// use macheps::{Context, Gpu, solve::{LinearOperator, OperatorCall, Record}};
/// use macheps::solve::relaxation::{RelaxationOptions, jacobi};
/// // [4 1; 1 3], never stored.
/// struct A;
/// impl LinearOperator for A {
///     fn size(&self) -> usize { 2 }
///     fn apply(&self, x: &[f64], y: &mut [f64]) { (y[0], y[1]) = (4.0 * x[0] + x[1], x[0] + 3.0 * x[1]) }
///     fn diagonal(&self) -> Option<Vec<f64>> { Some(vec![4.0, 3.0]) }
///     fn bind(&self, _: &Gpu, _: &OperatorCall<'_>) -> macheps::Result<Box<dyn Record>> { unreachable!("no device here") }
/// }
/// let options = RelaxationOptions { rtol: 1e-12, ..Default::default() };
/// let solution = jacobi(&Context::cpu(), &A, &[1.0, 2.0], &options)?;
/// assert!(solution.report.converged());
/// assert!((solution.x[0] - 1.0 / 11.0).abs() < 1e-11 && (solution.x[1] - 7.0 / 11.0).abs() < 1e-11);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn jacobi(
    context: &Context,
    operator: &dyn LinearOperator,
    b: &[f64],
    options: &RelaxationOptions,
) -> Result<Solution> {
    pollster::block_on(jacobi_async(context, operator, b, options))
}

/// `jacobi`, for any executor.
///
/// # Errors
/// As there.
pub async fn jacobi_async(
    context: &Context,
    operator: &dyn LinearOperator,
    b: &[f64],
    options: &RelaxationOptions,
) -> Result<Solution> {
    let problem = Problem {
        operator,
        method: Method::Jacobi,
        b,
        options,
    };
    problem.solve(context).await
}

/// Solves A x = b by successive over-relaxation, for operators with entries ([`LinearOperator::matrix`]). See the [module](super).
///
/// The report's history has the residual at the start and at every look at it, [`RelaxationOptions::check_every`] sweeps apart, as sweeps leave none.
///
/// # Errors
/// [`Error::Shape`] for lengths, [`Error::NonFinite`] for b and x0, [`Error::Option`] for options, [`Error::Unsupported`] for an operator without entries; what keeps operator or
/// matrix from running on the device. A zero on the diagonal, divergence and stagnation are outcomes of the report.
///
/// ```
/// use macheps::{Context, Gpu, solve::{LinearOperator, OperatorCall, Record}, sparse::Csr};
/// use macheps::solve::relaxation::{RelaxationOptions, sor};
/// struct A(Csr<f64>);
/// impl LinearOperator for A {
///     fn size(&self) -> usize { self.0.rows() }
///     fn apply(&self, x: &[f64], y: &mut [f64]) {
///         for i in 0..y.len() {
///             y[i] = self.0.row(i).0.iter().zip(self.0.row(i).1).map(|(&j, v)| v * x[j as usize]).sum();
///         }
///     }
///     fn matrix(&self) -> Option<&Csr<f64>> { Some(&self.0) }
///     fn bind(&self, _: &Gpu, _: &OperatorCall<'_>) -> macheps::Result<Box<dyn Record>> { unreachable!("no device here") }
/// }
/// let a = A(Csr::try_new(2, 2, vec![0, 2, 4], vec![0, 1, 0, 1], vec![4.0, 1.0, 1.0, 3.0])?);
/// let options = RelaxationOptions { omega: 1.05, rtol: 1e-12, ..Default::default() };
/// let solution = sor(&Context::cpu(), &a, &[1.0, 2.0], &options)?;
/// assert!(solution.report.converged() && (solution.x[0] - 1.0 / 11.0).abs() < 1e-11);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn sor(
    context: &Context,
    operator: &dyn LinearOperator,
    b: &[f64],
    options: &RelaxationOptions,
) -> Result<Solution> {
    pollster::block_on(sor_async(context, operator, b, options))
}

/// `sor`, for any executor.
///
/// # Errors
/// As there.
pub async fn sor_async(
    context: &Context,
    operator: &dyn LinearOperator,
    b: &[f64],
    options: &RelaxationOptions,
) -> Result<Solution> {
    let problem = Problem {
        operator,
        method: Method::Sor,
        b,
        options,
    };
    problem.solve(context).await
}

/// Solves A x = b by the method of Gauss and Seidel: `sor` with w = 1, whatever the options say.
///
/// # Errors
/// As there.
#[cfg(not(target_arch = "wasm32"))]
pub fn gauss_seidel(
    context: &Context,
    operator: &dyn LinearOperator,
    b: &[f64],
    options: &RelaxationOptions,
) -> Result<Solution> {
    pollster::block_on(gauss_seidel_async(context, operator, b, options))
}

/// `gauss_seidel`, for any executor.
///
/// # Errors
/// As there.
pub async fn gauss_seidel_async(
    context: &Context,
    operator: &dyn LinearOperator,
    b: &[f64],
    options: &RelaxationOptions,
) -> Result<Solution> {
    let options = RelaxationOptions {
        omega: 1.0,
        ..options.clone()
    };
    sor_async(context, operator, b, &options).await
}
