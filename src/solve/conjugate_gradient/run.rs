//! Whole solves: batches of iterations on a device with a look at the ledger between them, judged on the host in f64.

use super::device::{BoundConjugateGradient, CgState, CgStatus, Remembered};
use super::reference::{self, Control};
use super::{CgOptions, CgViews, Form, LinearSystem, check_rtol};
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::float::{frexp, ldexp};
use crate::gpu::{BufferView, Gpu, Readback};
use crate::solve::vector;
use crate::solve::{
    Breakdown, Outcome, Preconditioner, PreconditionerCall, PreconditionerForm, Record, Report, RunFacts, Solution,
};
#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;

/// How often a solve is taken up again because the f64 residual is larger than the device believed, without refinement.
const SECOND_TRIES: usize = 3;

/// The most corrections by refinement.
const REFINEMENTS: usize = 40;

/// What an inner solve of a refinement is asked for: more would be lost in f32.
const INNER_RTOL: f64 = 1e-5;

/// M = I.
struct NoPreconditioner(usize);

impl Preconditioner for NoPreconditioner {
    fn name(&self) -> &str {
        "none"
    }

    fn size(&self) -> usize {
        self.0
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::Identity
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        z.copy_from_slice(r);
    }

    fn bind(&self, _gpu: &Gpu, _call: &PreconditionerCall<'_>) -> Result<Box<dyn Record>> {
        Err(Error::Unsupported {
            what: "dispatches of no preconditioner".into(),
            reason: "it is fused".into(),
        })
    }
}

/// Checks a call and says how many systems it has.
fn check(system: &LinearSystem<'_>, options: &CgOptions) -> Result<usize> {
    check_rtol(options.rtol)?;
    options.checked_interval()?;
    let n = system.operator.size();
    let len = system.b.len();
    if (n == 0 && len > 0) || (n > 0 && !len.is_multiple_of(n)) {
        return Err(Error::shape("b", format!("a multiple of {n} numbers"), len.to_string()));
    }
    if let Some(x0) = system.x0.filter(|x0| x0.len() != len) {
        return Err(Error::shape(
            "x0",
            format!("{len} numbers, as b has"),
            x0.len().to_string(),
        ));
    }
    if let Some(m) = system.preconditioner.filter(|m| m.size() != n) {
        return Err(Error::shape(
            "preconditioner",
            format!("size {n}"),
            format!("size {}", m.size()),
        ));
    }
    for (what, values) in [("b", Some(system.b)), ("x0", system.x0)] {
        if let Some(i) = values.and_then(|v| v.iter().position(|x| !x.is_finite())) {
            return Err(Error::shape(
                what,
                "finite numbers",
                format!("{} at {i}", values.map_or(f64::NAN, |v| v[i])),
            ));
        }
    }
    Ok(if n == 0 { 1 } else { len / n })
}

/// Seconds since a solve began; 0 where there is no clock.
struct Clock {
    #[cfg(not(target_arch = "wasm32"))]
    begin: Instant,
}

impl Clock {
    fn start() -> Clock {
        Clock {
            #[cfg(not(target_arch = "wasm32"))]
            begin: Instant::now(),
        }
    }

    fn seconds(&self) -> f64 {
        #[cfg(not(target_arch = "wasm32"))]
        return self.begin.elapsed().as_secs_f64();
        #[cfg(target_arch = "wasm32")]
        0.0
    }
}

/// The CPU path: the reference, in f64.
fn on_cpu(system: &LinearSystem<'_>, options: &CgOptions, systems: usize) -> Result<Vec<Solution>> {
    let n = system.operator.size();
    let control = Control::new(options.rtol, options.iteration_limit(n));
    (0..systems)
        .map(|k| {
            let clock = Clock::start();
            let range = k * n..(k + 1) * n;
            let b = &system.b[range.clone()];
            let x0 = system.x0.map(|x0| &x0[range]);
            let mut product = |x: &[f64], y: &mut [f64]| system.operator.apply(x, y);
            let mut apply = |r: &[f64], z: &mut [f64]| {
                if let Some(m) = system.preconditioner {
                    m.apply(r, z);
                }
            };
            let precondition: Option<&mut reference::Map<'_>> = if system.preconditioner.is_some() {
                Some(&mut apply)
            } else {
                None
            };
            let run = reference::conjugate_gradient(&mut product, precondition, b, x0, &control)?;
            if let Some(progress) = &options.progress {
                progress(run.iterations, run.relative_residual);
            }
            let facts = RunFacts {
                residual_history: run.residual_history,
                alphas: &run.alphas,
                betas: &run.betas,
                preconditioner: system.preconditioner,
                unit_roundoff: f64::EPSILON / 2.0,
                seconds: clock.seconds(),
                ..RunFacts::new(run.outcome, options.rtol, run.iterations)
            };
            let report = Report::assess(system.operator, b, &run.x, &facts, &options.report)?;
            Ok(Solution { x: run.x, report })
        })
        .collect()
}

/// One system under way on a device.
struct Progressing {
    /// What is wanted, and the exponent of what the device solves for now: its right-hand side is that times 2^exponent.
    b_norm: f64,
    exponent: i32,
    /// What the device adds to: 0 where it holds x itself.
    base: Vec<f64>,
    x: Vec<f64>,
    relative_residual: f64,
    best: f64,
    history: Vec<f64>,
    alphas: Vec<f64>,
    betas: Vec<f64>,
    /// Iterations of earlier rounds.
    before: usize,
    state: CgState,
    /// ||b|| of this round relative to the system's.
    scale: f64,
    refinements: usize,
    done: bool,
}

/// What the host does next.
enum Next {
    /// Wait for bytes, then [`Machine::take`] them.
    Wait(Readback),
    Done,
}

enum Stage {
    /// The ledger after a batch.
    Ledger,
    /// The solution.
    Solution,
}

/// A solve on a device, as a machine that is driven by whoever can wait.
struct Machine<'a> {
    gpu: &'a Gpu,
    system: &'a LinearSystem<'a>,
    options: &'a CgOptions,
    preconditioner: &'a dyn Preconditioner,
    bound: BoundConjugateGradient,
    b: wgpu::Buffer,
    x: wgpu::Buffer,
    clock: Clock,
    systems: Vec<Progressing>,
    stage: Stage,
    /// Iterations recorded in this round.
    recorded: usize,
    round: usize,
}

impl<'a> Machine<'a> {
    fn new(
        gpu: &'a Gpu,
        system: &'a LinearSystem<'a>,
        preconditioner: &'a dyn Preconditioner,
        options: &'a CgOptions,
        systems: usize,
    ) -> Result<Self> {
        let clock = Clock::start();
        gpu.check_alive()?;
        let n = system.operator.size();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let bytes = (systems * n * 4) as u64;
        let b = gpu.create_buffer("conjugate_gradient b", bytes, usage)?;
        let x = gpu.create_buffer("conjugate_gradient x", bytes, usage)?;
        let (b_view, x_view) = (
            BufferView::new(&b, DType::F32, &[systems, n]),
            BufferView::new(&x, DType::F32, &[systems, n]),
        );
        let views = CgViews { b: &b_view, x: &x_view };
        let bound = BoundConjugateGradient::bind(gpu, system.operator, preconditioner, &views, options)?;
        let systems = (0..systems)
            .map(|k| {
                let b = &system.b[k * n..(k + 1) * n];
                Progressing {
                    b_norm: vector::norm(b),
                    exponent: 0,
                    base: vec![0.0; n],
                    x: vec![0.0; n],
                    relative_residual: f64::INFINITY,
                    best: f64::INFINITY,
                    history: Vec::new(),
                    alphas: Vec::new(),
                    betas: Vec::new(),
                    before: 0,
                    state: CgState::default(),
                    scale: 1.0,
                    refinements: 0,
                    done: false,
                }
            })
            .collect();
        let mut machine = Machine {
            gpu,
            system,
            options,
            preconditioner,
            bound,
            b,
            x,
            clock,
            systems,
            stage: Stage::Ledger,
            recorded: 0,
            round: 0,
        };
        machine.first_round()?;
        Ok(machine)
    }

    fn n(&self) -> usize {
        self.system.operator.size()
    }

    /// Uploads b and x0, each system's times a power of two that brings b near 1.
    fn first_round(&mut self) -> Result<()> {
        let n = self.n();
        for k in 0..self.systems.len() {
            let range = k * n..(k + 1) * n;
            let b = &self.system.b[range.clone()];
            let exponent = exponent_of(b);
            self.systems[k].exponent = exponent;
            if self.bound.form() != Form::SingleReduction {
                // The device tells what comes after each iteration; this comes before.
                let first = self.relative_residual(k);
                self.systems[k].history.push(first);
            }
            self.upload(k, false, &narrowed(b, exponent))?;
            let x0: Vec<f32> = match self.system.x0 {
                Some(x0) => narrowed(&x0[range], exponent),
                None => vec![0.0; n],
            };
            self.upload(k, true, &x0)?;
        }
        self.bound.set_goal(self.options.rtol, self.options.iteration_limit(n))
    }

    /// ||b - A x0|| / ||b|| of a system.
    fn relative_residual(&self, k: usize) -> f64 {
        let n = self.n();
        let range = k * n..(k + 1) * n;
        let (b, b_norm) = (&self.system.b[range.clone()], self.systems[k].b_norm);
        match self.system.x0 {
            _ if b_norm == 0.0 => 0.0,
            None => 1.0,
            Some(x0) => {
                let mut r = vec![0.0; n];
                self.system.operator.apply(&x0[range], &mut r);
                for (r, b) in r.iter_mut().zip(b) {
                    *r = b - *r;
                }
                vector::norm(&r) / b_norm
            }
        }
    }

    fn upload(&self, k: usize, into_x: bool, values: &[f32]) -> Result<()> {
        let target = if into_x { &self.x } else { &self.b };
        let offset = (k * self.n() * 4) as u64;
        self.gpu.write(target, offset, bytemuck::cast_slice(values))
    }

    /// Submits what comes next.
    fn advance(&mut self) -> Result<Next> {
        let n = self.n();
        if n == 0 || self.systems.iter().all(|s| s.done) {
            return Ok(Next::Done);
        }
        let mut encoder = self
            .gpu
            .device()
            .create_command_encoder(&wgpu::CommandEncoderDescriptor {
                label: Some("conjugate_gradient"),
            });
        match self.stage {
            Stage::Ledger => {
                let batch = self.bound.replace_every();
                {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some("conjugate_gradient"),
                        timestamp_writes: None,
                    });
                    if self.recorded == 0 {
                        self.bound.record_start(&mut pass);
                    }
                    self.bound.record_iterations(&mut pass, batch);
                }
                self.recorded += batch;
                let (ledger, bytes) = self.bound.ledger();
                Ok(Next::Wait(self.gpu.read_back(encoder, ledger, bytes)?))
            }
            Stage::Solution => {
                {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: Some("conjugate_gradient"),
                        timestamp_writes: None,
                    });
                    self.bound.record_finish(&mut pass);
                }
                let bytes = (self.systems.len() * n * 4) as u64;
                Ok(Next::Wait(self.gpu.read_back(encoder, &self.x, bytes)?))
            }
        }
    }

    /// Takes the bytes that [`Machine::advance`] asked to wait for.
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        match self.stage {
            Stage::Ledger => {
                self.take_ledger(&bytemuck::pod_collect_to_vec::<u8, u32>(bytes));
                Ok(())
            }
            Stage::Solution => self.take_solution(&bytemuck::pod_collect_to_vec::<u8, f32>(bytes)),
        }
    }

    fn take_ledger(&mut self, ledger: &[u32]) {
        // Coefficients of 2^e A where M^-1 is not scaled with it.
        let factor = match self.preconditioner.form() {
            PreconditionerForm::Diagonal(_) => 0,
            _ => self.bound.exponent(),
        };
        for (k, s) in self.systems.iter_mut().enumerate().filter(|(_, s)| !s.done) {
            let from = s.state.iterations;
            s.state = self.bound.decode(ledger, k, 0);
            let bb = self.bound.norm_b(ledger, k);
            let relative = |rr: f64| s.scale * if bb > 0.0 { (rr / bb).sqrt() } else { 0.0 };
            let entries = self.bound.history(ledger, k, from, s.state.iterations);
            for Remembered { rr, alpha, beta } in entries {
                // The single reduction says what stood before the iteration, and what its direction kept of the one before that.
                s.history.push(relative(rr));
                s.alphas.push(ldexp(alpha, factor));
                s.betas.push(beta);
            }
        }
        let farthest = self
            .systems
            .iter()
            .map(|s| s.scale * s.state.relative_residual)
            .fold(0.0, f64::max);
        if let Some(progress) = &self.options.progress {
            let iterations = self
                .systems
                .iter()
                .map(|s| s.before + s.state.iterations)
                .max()
                .unwrap_or(0);
            progress(iterations, farthest);
        }
        if self.systems.iter().all(|s| s.done || s.state.status.ended()) {
            self.stage = Stage::Solution;
        }
    }

    /// Judges the device's x in f64, and takes systems up again that should do better.
    fn take_solution(&mut self, solution: &[f32]) -> Result<()> {
        let n = self.n();
        let limit = self.options.iteration_limit(n);
        let (mut again, mut inner) = (false, 0.0f64);
        let mut uploads = Vec::new();
        for (k, s) in self.systems.iter_mut().enumerate().filter(|(_, s)| !s.done) {
            let b = &self.system.b[k * n..(k + 1) * n];
            let x: Vec<f64> = solution[k * n..(k + 1) * n]
                .iter()
                .zip(&s.base)
                .map(|(&x, base)| base + ldexp(f64::from(x), -s.exponent))
                .collect();
            let mut r = vec![0.0; n];
            self.system.operator.apply(&x, &mut r);
            for (r, b) in r.iter_mut().zip(b) {
                *r = b - *r;
            }
            let norm = vector::norm(&r);
            let relative = if norm == 0.0 { 0.0 } else { norm / s.b_norm };
            let better = relative < 0.5 * s.best;
            if relative <= s.best || s.x.is_empty() || s.best.is_infinite() {
                s.x = x;
                s.relative_residual = relative;
                s.best = relative;
            }
            let before = s.before + s.state.iterations;
            let worth = relative.is_finite() && relative > self.options.rtol && before < limit;
            let broken = matches!(s.state.status, CgStatus::NotPositiveDefinite | CgStatus::NonFinite);
            let refine = self.options.refine && self.round < REFINEMENTS && better && !broken;
            // Without refinement only what the device took for converged, or stopped at, is tried again from where it is.
            let retry = !self.options.refine
                && self.round < SECOND_TRIES
                && s.state.status == CgStatus::Converged
                && (self.round == 0 || better);
            if !(worth && (refine || retry)) {
                s.done = true;
                continue;
            }
            again = true;
            s.before = before;
            s.state = CgState::default();
            // The blocks of the coefficients stay apart.
            if let Some(last) = s
                .betas
                .last_mut()
                .filter(|_| self.bound.form() != Form::SingleReduction)
            {
                *last = 0.0;
            }
            if refine {
                s.refinements += 1;
                s.base.clone_from(&s.x);
                s.exponent = exponent_of(&r);
                s.scale = relative;
                inner = inner.max(INNER_RTOL.max(0.5 * self.options.rtol / relative).min(0.5));
                uploads.push((k, false, narrowed(&r, s.exponent)));
                uploads.push((k, true, vec![0.0; n]));
            } else {
                // The device's own residual was small enough: it has to be as much smaller as it was wrong.
                inner = inner.max((self.options.rtol * self.options.rtol / relative * 0.5).min(self.options.rtol));
            }
        }
        for (k, into_x, values) in uploads {
            self.upload(k, into_x, &values)?;
        }
        if again {
            self.round += 1;
            self.recorded = 0;
            self.stage = Stage::Ledger;
            let done = self
                .systems
                .iter()
                .filter(|s| !s.done)
                .map(|s| s.before)
                .max()
                .unwrap_or(0);
            self.bound.set_goal(inner, limit.saturating_sub(done))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Solution>> {
        let n = self.n();
        let seconds = self.clock.seconds();
        let single = self.bound.form() == Form::SingleReduction;
        let mut solutions = Vec::new();
        for (k, mut s) in self.systems.into_iter().enumerate() {
            let iterations = s.before + s.state.iterations;
            let outcome = match s.state.status {
                CgStatus::NotPositiveDefinite => Some(Breakdown::NotPositiveDefinite),
                CgStatus::NonFinite => Some(Breakdown::NonFinite),
                CgStatus::Stagnation => Some(Breakdown::Stagnation),
                _ => None,
            }
            .map_or(
                if s.state.status == CgStatus::Limit {
                    Outcome::IterationLimit
                } else {
                    Outcome::Converged
                },
                |kind| Outcome::Breakdown {
                    kind,
                    iteration: iterations,
                },
            );
            if single {
                // To what each iteration keeps for the next one.
                if !s.betas.is_empty() {
                    s.betas.remove(0);
                    s.betas.push(0.0);
                }
                s.history.push(s.scale * s.state.relative_residual);
            }
            let facts = RunFacts {
                residual_history: s.history,
                alphas: &s.alphas,
                betas: &s.betas,
                preconditioner: self.system.preconditioner,
                refinements: s.refinements,
                seconds,
                ..RunFacts::new(outcome, self.options.rtol, iterations)
            };
            let b = &self.system.b[k * n..(k + 1) * n];
            let report = Report::assess(self.system.operator, b, &s.x, &facts, &self.options.report)?;
            solutions.push(Solution { x: s.x, report });
        }
        Ok(solutions)
    }
}

/// The exponent e for which 2^e v has its largest element between 1/2 and 1.
fn exponent_of(v: &[f64]) -> i32 {
    match vector::norm_inf(v) {
        largest if largest > 0.0 && largest.is_finite() => -frexp(largest).1,
        _ => 0,
    }
}

fn narrowed(v: &[f64], exponent: i32) -> Vec<f32> {
    v.iter().map(|&v| ldexp(v, exponent) as f32).collect()
}

#[cfg(not(target_arch = "wasm32"))]
fn drive(mut machine: Machine<'_>) -> Result<Vec<Solution>> {
    while let Next::Wait(readback) = machine.advance()? {
        machine.take(&readback.wait()?)?;
    }
    machine.finish()
}

async fn drive_async(mut machine: Machine<'_>) -> Result<Vec<Solution>> {
    while let Next::Wait(readback) = machine.advance()? {
        machine.take(&readback.ready().await?)?;
    }
    machine.finish()
}

/// Solves A x = b where the context computes: on a device in f32 with the residual judged in f64, on the CPU path in f64.
///
/// # Shapes
/// `b` (and `x0`) of n numbers.
///
/// # Numerics, cost
/// See [`super`]. b is scaled by a power of two, so that any magnitude of it will do.
///
/// # Errors
/// [`Error::Shape`] for lengths that do not fit or numbers that are not finite, [`Error::Option`], what a device has against
/// it. Systems that cannot be solved are reported, not refused: x is the best there is.
///
/// ```
/// use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
/// # use macheps::solve::{LinearOperator, OperatorCall, Record};
/// # struct Matrix;
/// # impl LinearOperator for Matrix {
/// #     fn size(&self) -> usize { 2 }
/// #     fn apply(&self, x: &[f64], y: &mut [f64]) { (y[0], y[1]) = (4.0 * x[0] + x[1], x[0] + 3.0 * x[1]) }
/// #     fn bind(&self, _: &macheps::Gpu, _: &OperatorCall<'_>) -> macheps::Result<Box<dyn Record>> { unreachable!() }
/// # }
/// let ctx = macheps::Context::cpu();
/// // [4 1; 1 3] x = [1; 2]
/// let solution = conjugate_gradient(&ctx, &LinearSystem::new(&Matrix, &[1.0, 2.0]), &CgOptions::default())?;
/// assert!(solution.report.converged());
/// assert!((solution.x[0] - 1.0 / 11.0).abs() < 1e-6);
/// # Ok::<(), macheps::Error>(())
/// ```
#[cfg(not(target_arch = "wasm32"))]
pub fn conjugate_gradient(context: &Context, system: &LinearSystem<'_>, options: &CgOptions) -> Result<Solution> {
    one(system)?;
    first(conjugate_gradient_many(context, system, options)?)
}

/// As [`conjugate_gradient`], under any executor.
///
/// # Errors
/// As there.
pub async fn conjugate_gradient_async(
    context: &Context,
    system: &LinearSystem<'_>,
    options: &CgOptions,
) -> Result<Solution> {
    one(system)?;
    first(conjugate_gradient_many_async(context, system, options).await?)
}

/// Solves k systems with one operator, side by side: `b` has k n numbers, system after system. A system that has ended costs
/// nothing more while the others go on.
///
/// # Errors
/// As [`conjugate_gradient`].
#[cfg(not(target_arch = "wasm32"))]
pub fn conjugate_gradient_many(
    context: &Context,
    system: &LinearSystem<'_>,
    options: &CgOptions,
) -> Result<Vec<Solution>> {
    let systems = check(system, options)?;
    let Some(gpu) = context.gpu().filter(|_| system.operator.size() > 0 && systems > 0) else {
        return on_cpu(system, options, systems);
    };
    let none = NoPreconditioner(system.operator.size());
    let outcome = Machine::new(gpu, system, system.preconditioner.unwrap_or(&none), options, systems).and_then(drive);
    rescued(outcome, context, system, options, systems)
}

/// As [`conjugate_gradient_many`], under any executor.
///
/// # Errors
/// As there.
pub async fn conjugate_gradient_many_async(
    context: &Context,
    system: &LinearSystem<'_>,
    options: &CgOptions,
) -> Result<Vec<Solution>> {
    let systems = check(system, options)?;
    let Some(gpu) = context.gpu().filter(|_| system.operator.size() > 0 && systems > 0) else {
        return on_cpu(system, options, systems);
    };
    let none = NoPreconditioner(system.operator.size());
    let outcome = match Machine::new(gpu, system, system.preconditioner.unwrap_or(&none), options, systems) {
        Ok(machine) => drive_async(machine).await,
        Err(e) => Err(e),
    };
    rescued(outcome, context, system, options, systems)
}

/// Finishes on the CPU what a lost device left, where the context says so.
fn rescued(
    outcome: Result<Vec<Solution>>,
    context: &Context,
    system: &LinearSystem<'_>,
    options: &CgOptions,
    systems: usize,
) -> Result<Vec<Solution>> {
    match outcome {
        Err(Error::DeviceLost { reason }) if context.finishes_on_cpu() => {
            log::warn!("conjugate_gradient: the device was lost ({reason}); solving on the CPU");
            on_cpu(system, options, systems)
        }
        other => other,
    }
}

fn one(system: &LinearSystem<'_>) -> Result<()> {
    let (n, len) = (system.operator.size(), system.b.len());
    if n == len {
        return Ok(());
    }
    Err(Error::shape("b", format!("{n} numbers"), len.to_string()))
}

fn first(solutions: Vec<Solution>) -> Result<Solution> {
    let none = || Error::shape("b", "one system", "none");
    solutions.into_iter().next().ok_or_else(none)
}
