//! Whole solves: batches of iterations on a device with a look at the ledger between them, judged on the host in f64.

use super::device::{BoundConjugateGradient, CgState, CgStatus, Remembered};
use super::reference::{self, Control};
use super::{CgOptions, CgViews, Form, LinearSystem, check_rtol};
use crate::context::Context;
use crate::element::DType;
use crate::error::{Error, Result};
use crate::float::ldexp;
use crate::gpu::Instant;
use crate::gpu::{BufferView, Gpu, Readback};
use crate::solve::range::{RangedSystem, check_finite};
use crate::solve::refinement::{Correction, LIFT, RefinementOptions, lifted, refine_async, residual};
use crate::solve::vector;
use crate::solve::{
    Breakdown, CsrOperator, Identity, LinearOperator, Outcome, Preconditioner, PreconditionerForm, Report, RunFacts,
    Solution,
};
use std::sync::OnceLock;

/// How often a solve is taken up again because the f64 residual is larger than the device believed, without refinement.
const SECOND_TRIES: usize = 3;

/// What an inner solve of a refinement is asked for where it cannot be updated in f64: more would be lost in f32.
const INNER_RTOL: f64 = 1e-5;

/// The least that an updated one is asked for: squares of residuals relative to this are still normal numbers.
const SMALLEST_RTOL: f64 = 1e-15;

/// A correction that leaves more than this of the residual is no use: A rounded to f32 is then singular or indefinite, or nearly so.
const GAINED: f64 = 0.1;

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
    check_finite("b", system.b)?;
    check_finite("x0", system.x0.unwrap_or(&[]))?;
    Ok(len.checked_div(n).unwrap_or(1))
}

/// The CPU path: the reference, in f64.
fn on_cpu(system: &LinearSystem<'_>, options: &CgOptions, systems: usize) -> Result<Vec<Solution>> {
    let n = system.operator.size();
    let control = Control::new(options.rtol, options.iteration_limit(n));
    (0..systems)
        .map(|k| {
            let clock = Instant::now();
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
                seconds: clock.elapsed().as_secs_f64(),
                ..RunFacts::new(run.outcome, options.rtol, run.iterations)
            };
            let report = Report::assess(system.operator, b, &run.x, &facts, &options.report)?;
            Ok(Solution { x: run.x, report })
        })
        .collect()
}

/// One system under way on a device.
struct Progressing {
    b_norm: f64,
    /// The device solves for b and x times 2^exponent.
    exponent: i32,
    x: Vec<f64>,
    relative_residual: f64,
    history: Vec<f64>,
    alphas: Vec<f64>,
    betas: Vec<f64>,
    /// Iterations of earlier rounds.
    before: usize,
    state: CgState,
    done: bool,
}

impl Progressing {
    fn iterations(&self) -> usize {
        self.before + self.state.iterations
    }

    /// How the device says that it ended.
    fn outcome(&self) -> Outcome {
        let kind = match self.state.status {
            CgStatus::NotPositiveDefinite => Breakdown::NotPositiveDefinite,
            CgStatus::NonFinite => Breakdown::NonFinite,
            CgStatus::Stagnation => Breakdown::Stagnation,
            CgStatus::Converged => return Outcome::Converged,
            _ => return Outcome::IterationLimit,
        };
        let iteration = self.iterations();
        Outcome::Breakdown { kind, iteration }
    }
}

/// Systems bound to buffers of a device, and how far they are.
struct Machine<'a> {
    gpu: &'a Gpu,
    operator: &'a dyn LinearOperator,
    options: &'a CgOptions,
    /// Exponent of the factor of the coefficients: the device sees 2^e A, and M^-1 / 2^e only where that is a diagonal.
    factor: i32,
    bound: BoundConjugateGradient,
    b: wgpu::Buffer,
    x: wgpu::Buffer,
    systems: Vec<Progressing>,
    goal: Goal,
    round: usize,
}

/// What a solve is asked for.
#[derive(Clone, Copy)]
struct Goal {
    rtol: f64,
    max_iterations: usize,
    second_tries: usize,
    /// Rejections of the device's that end it, if not the usual number.
    patience: Option<u32>,
}

impl<'a> Machine<'a> {
    fn new(
        gpu: &'a Gpu,
        operator: &'a dyn LinearOperator,
        preconditioner: &dyn Preconditioner,
        options: &'a CgOptions,
        systems: usize,
    ) -> Result<Self> {
        gpu.check_alive()?;
        let n = operator.size();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let bytes = (systems * n * 4) as u64;
        let b = gpu.create_buffer("conjugate_gradient b", bytes, usage)?;
        let x = gpu.create_buffer("conjugate_gradient x", bytes, usage)?;
        let view = |buffer| BufferView::new(buffer, DType::F32, &[systems, n]);
        let views = CgViews {
            b: &view(&b),
            x: &view(&x),
        };
        let bound = BoundConjugateGradient::bind(gpu, operator, preconditioner, &views, options)?;
        let factor = match preconditioner.form() {
            PreconditionerForm::Diagonal(_) => 0,
            _ => bound.exponent(),
        };
        Ok(Machine {
            gpu,
            operator,
            options,
            factor,
            bound,
            b,
            x,
            systems: Vec::new(),
            goal: Goal {
                rtol: options.rtol,
                max_iterations: options.iteration_limit(n),
                second_tries: 0,
                patience: None,
            },
            round: 0,
        })
    }

    /// Uploads right-hand sides and starts, each system's times a power of two that brings b near the norm of A, and x near 1 or the
    /// condition.
    fn begin(&mut self, b: &[f64], x0: Option<&[f64]>, goal: Goal) -> Result<()> {
        let n = self.operator.size();
        let mut systems = Vec::new();
        let (mut b_values, mut x_values) = (Vec::with_capacity(b.len()), vec![0.0f32; b.len()]);
        for k in 0..self.bound.systems() {
            let range = k * n..(k + 1) * n;
            let b = &b[range.clone()];
            let exponent = (-self.bound.exponent()).clamp(-64, 64) - vector::exponent(b);
            let b_norm = vector::norm(b);
            b_values.extend(narrowed(b, exponent));
            let mut first = if b_norm == 0.0 { 0.0 } else { 1.0 };
            let mut start = vec![0.0; n];
            if let Some(x0) = x0.filter(|_| b_norm > 0.0) {
                start.copy_from_slice(&x0[range.clone()]);
                x_values[range].copy_from_slice(&narrowed(&start, exponent));
                first = self.residual(b, &start) / b_norm;
            }
            // In f64 that may be good enough where it would not be as the device sees it.
            let done = b_norm > 0.0 && first <= goal.rtol;
            let mut state = CgState::default();
            if done {
                state.status = CgStatus::Converged;
                state.relative_residual = first;
            }
            // The single reduction's history begins with it.
            let history = if self.bound.form() == Form::SingleReduction {
                Vec::new()
            } else {
                vec![first]
            };
            systems.push(Progressing {
                b_norm,
                exponent,
                x: start,
                relative_residual: first,
                history,
                alphas: Vec::new(),
                betas: Vec::new(),
                before: 0,
                state,
                done,
            });
        }
        self.gpu.write(&self.b, 0, bytemuck::cast_slice(&b_values))?;
        self.gpu.write(&self.x, 0, bytemuck::cast_slice(&x_values))?;
        match goal.patience {
            Some(patience) => self.bound.set_patience(goal.rtol, goal.max_iterations, patience)?,
            None => self.bound.set_goal(goal.rtol, goal.max_iterations)?,
        }
        self.systems = systems;
        self.goal = goal;
        self.round = 0;
        Ok(())
    }

    /// ||b - A x|| in f64.
    fn residual(&self, b: &[f64], x: &[f64]) -> f64 {
        let mut r = vec![0.0; b.len()];
        self.operator.apply(x, &mut r);
        r.iter_mut().zip(b).for_each(|(r, b)| *r = b - *r);
        vector::norm(&r)
    }

    /// Submits one pass and reads a buffer back after it.
    fn submit(
        &self,
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
        buffer: &wgpu::Buffer,
        bytes: u64,
    ) -> Result<Readback> {
        let label = Some("conjugate_gradient");
        let device = self.gpu.device();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        record(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label,
            timestamp_writes: None,
        }));
        self.gpu.read_back(encoder, buffer, bytes)
    }

    /// A batch of so many iterations, the first of a round or a later one, and the ledger after it.
    fn batch(&self, first: bool, iterations: usize) -> Result<Readback> {
        let (ledger, bytes) = self.bound.ledger();
        let record = |pass: &mut wgpu::ComputePass<'_>| {
            if first {
                self.bound.record_start(pass);
            }
            self.bound.record_batch(pass, iterations);
        };
        self.submit(record, ledger, bytes)
    }

    /// The end of a round, and the solutions.
    fn solutions(&self) -> Result<Readback> {
        let bytes = (self.systems.len() * self.operator.size() * 4) as u64;
        self.submit(|pass| self.bound.record_finish(pass), &self.x, bytes)
    }

    /// Whether no system wants another batch in this round.
    fn ended(&self) -> bool {
        self.systems.iter().all(|s| s.done || s.state.status.ended())
    }

    /// What the ledger says after a batch.
    fn take_ledger(&mut self, ledger: &[u32]) {
        for (k, s) in self.systems.iter_mut().enumerate().filter(|(_, s)| !s.done) {
            let from = s.state.iterations;
            s.state = self.bound.decode(ledger, k, 0);
            let bb = self.bound.norm_b(ledger, k);
            for Remembered { rr, alpha, beta } in self.bound.history(ledger, k, from, s.state.iterations) {
                s.history.push(if bb > 0.0 { (rr / bb).sqrt() } else { 0.0 });
                s.alphas.push(ldexp(alpha, self.factor));
                s.betas.push(beta);
            }
        }
        if let Some(progress) = &self.options.progress {
            let running = || self.systems.iter().filter(|s| !s.done);
            let iterations = running().map(Progressing::iterations).max().unwrap_or(0);
            progress(
                iterations,
                running().map(|s| s.state.relative_residual).fold(0.0, f64::max),
            );
        }
    }

    /// Judges the device's x in f64, and takes systems up again that the device believed to be better than they are.
    fn take_solution(&mut self, b: &[f64], solution: &[f32]) -> Result<()> {
        let n = self.operator.size();
        let goal = self.goal;
        let mut tighter = goal.rtol;
        let mut systems = std::mem::take(&mut self.systems);
        for (k, s) in systems.iter_mut().enumerate().filter(|(_, s)| !s.done) {
            let range = k * n..(k + 1) * n;
            let x: Vec<f64> = solution[range.clone()]
                .iter()
                .map(|&x| ldexp(f64::from(x), -s.exponent))
                .collect();
            let relative = match self.residual(&b[range], &x) {
                0.0 => 0.0,
                norm => norm / s.b_norm,
            };
            let better = self.round == 0 || relative < 0.5 * s.relative_residual;
            // What the device has may be worse than what it began with.
            if relative <= s.relative_residual {
                s.x = x;
                s.relative_residual = relative;
            }
            s.done = relative <= goal.rtol
                || s.state.status != CgStatus::Converged
                || self.round >= goal.second_tries
                || !better
                || s.iterations() >= goal.max_iterations;
            if !s.done {
                // The device's own residual was small enough; it has to be as much smaller as it was wrong.
                tighter = tighter.min(0.5 * goal.rtol * (goal.rtol / relative));
                s.before = s.iterations();
                s.state = CgState::default();
                if self.bound.form() != Form::SingleReduction {
                    // The blocks of the coefficients stay apart.
                    if let Some(last) = s.betas.last_mut() {
                        *last = 0.0;
                    }
                }
            }
        }
        self.systems = systems;
        if let Some(done) = self.systems.iter().filter(|s| !s.done).map(|s| s.before).max() {
            self.round += 1;
            self.bound.set_goal(tighter, goal.max_iterations.saturating_sub(done))?;
        }
        Ok(())
    }

    /// What came of it, system by system.
    fn results(&mut self) -> Vec<Progressing> {
        let mut systems = std::mem::take(&mut self.systems);
        if self.bound.form() == Form::SingleReduction {
            for s in &mut systems {
                // From what a direction kept of the one before to what an iteration leaves for the next.
                if !s.betas.is_empty() {
                    s.betas.remove(0);
                    s.betas.push(0.0);
                }
                s.history.push(s.state.relative_residual);
            }
        }
        systems
    }
}

async fn drive(machine: &mut Machine<'_>, b: &[f64], x0: Option<&[f64]>, goal: Goal) -> Result<Vec<Progressing>> {
    machine.begin(b, x0, goal)?;
    while machine.systems.iter().any(|s| !s.done) {
        let mut first = true;
        while first || !machine.ended() {
            let ledger = machine.batch(first, machine.bound.replace_every())?.ready().await?;
            machine.take_ledger(&bytemuck::pod_collect_to_vec::<u8, u32>(&ledger));
            first = false;
        }
        let solutions = machine.solutions()?.ready().await?;
        machine.take_solution(b, &bytemuck::pod_collect_to_vec::<u8, f32>(&solutions))?;
    }
    Ok(machine.results())
}

/// Tells an updated solve that gets on from one that f32 leads astray, batch by batch.
struct Watch {
    /// Of A, the largest row sum; 0 where nobody knows.
    norm: f64,
    /// The energy of x, x.Ax / 2 - b.x, which conjugate gradients make smaller with every step.
    energy: f64,
    /// Energy, residual and batch when progress was last seen.
    mark: (f64, f64, usize),
    batches: usize,
}

impl Watch {
    /// Part of the energy by which it may rise: rounding.
    const RISE: f64 = 1e-6;
    /// Part of the energy that is progress, while residuals may well grow.
    const FALL: f64 = 1e-3;
    /// Batches without progress that are never too many; beyond them half of all are.
    const IDLE: usize = 40;
    /// The same where the residual is what the rounding of x in f64 leaves.
    const IDLE_AT_FLOOR: usize = 3;

    fn new(norm: Option<f64>) -> Watch {
        Watch {
            norm: norm.unwrap_or(0.0),
            energy: 0.0,
            mark: (0.0, 1.0, 0),
            batches: 0,
        }
    }

    /// Whether to go on after a batch that led to an x with this residual.
    fn goes_on(&mut self, x: &[f64], b: &[f64], r: &[f64], relative: f64) -> bool {
        let energy = -0.5 * (vector::dot(x, b) + vector::dot(x, r));
        let rises = energy > self.energy + Self::RISE * self.energy.abs();
        self.batches += 1;
        self.energy = self.energy.min(energy);
        let (marked, best, at) = self.mark;
        if relative < 0.5 * best || energy < marked - Self::FALL * marked.abs() {
            self.mark = (energy.min(marked), relative.min(best), self.batches);
        }
        // x to half an ulp, which shows in the residual as that much of A x.
        let at_floor = vector::norm(r) <= f64::EPSILON * self.norm * vector::norm(x);
        let patience = if at_floor {
            Self::IDLE_AT_FLOOR
        } else {
            Self::IDLE.max(self.batches / 2)
        };
        relative.is_finite() && !rises && self.batches - at <= patience
    }
}

/// Iterations of an updated solve before its first update.
const FIRST_BATCH: usize = 8;

/// What the residual may fall by from one update to the next: what rounding adds in between is relative to its larger values.
const FALL: f64 = 0.05;

/// How many iterations the next batch has, the last one having multiplied the residual by `factor`. Even, and at most twice as many.
fn next_batch(batch: usize, factor: f64, most: usize) -> usize {
    let expected = if factor < 1.0 {
        batch as f64 * FALL.ln() / factor.ln()
    } else {
        f64::INFINITY
    };
    let pairs = (expected.min(2.0 * batch as f64) / 2.0) as usize;
    (2 * pairs).clamp(FIRST_BATCH.min(most), most)
}

/// One system from x = 0, as [`drive`] but with x summed up in f64: after every batch what the device has found is added to x, on the device
/// zeros take its place, and the residual in f64 takes that of b. The directions go on, so that no iteration is lost, and rounding is
/// relative to what a batch adds and no longer to x (reliable updates: Sleijpen and van der Vorst 1996, Clark et al. 2010).
/// Also says how many times x was updated.
async fn drive_updated(machine: &mut Machine<'_>, b: &[f64], goal: Goal) -> Result<(Progressing, usize)> {
    // Half of what is allowed is for the difference between the device's residual and this one.
    let tighter = Goal {
        rtol: 0.5 * goal.rtol,
        ..goal
    };
    machine.begin(b, None, tighter)?;
    let (mut x, mut r) = (vec![0.0; b.len()], vec![0.0; b.len()]);
    let most = machine.bound.replace_every();
    let (mut batch, mut before) = (FIRST_BATCH.min(most), 1.0);
    let mut watch = Watch::new(machine.operator.norm_inf());
    loop {
        let (ledger, step) = (machine.batch(watch.batches == 0, batch)?, machine.solutions()?);
        let (ledger, step) = (ledger.ready().await?, step.ready().await?);
        machine.take_ledger(&bytemuck::pod_collect_to_vec::<u8, u32>(&ledger));
        let ended = machine.ended();
        let s = &mut machine.systems[0];
        for (x, &step) in x.iter_mut().zip(&bytemuck::pod_collect_to_vec::<u8, f32>(&step)) {
            *x += ldexp(f64::from(step), -s.exponent);
        }
        residual(machine.operator, b, &x, &mut r);
        let relative = vector::norm(&r) / s.b_norm;
        if relative <= s.relative_residual {
            s.x.copy_from_slice(&x);
            s.relative_residual = relative;
        }
        let goes_on = watch.goes_on(&x, b, &r, relative);
        if relative <= goal.rtol {
            s.state.status = CgStatus::Converged;
        } else if !ended && !goes_on {
            s.state.status = CgStatus::Stagnation;
        }
        if ended || s.state.status.ended() {
            let updates = watch.batches;
            return Ok((machine.results().remove(0), updates));
        }
        batch = next_batch(batch, relative / before, most);
        before = relative;
        let exponent = s.exponent;
        let zeros = vec![0.0f32; b.len()];
        let residual = narrowed(&r, exponent);
        machine.gpu.write(&machine.b, 0, bytemuck::cast_slice(&residual))?;
        machine.gpu.write(&machine.x, 0, bytemuck::cast_slice(&zeros))?;
    }
}

async fn unrefined(gpu: &Gpu, system: &LinearSystem<'_>, options: &CgOptions, systems: usize) -> Result<Vec<Solution>> {
    let clock = Instant::now();
    let n = system.operator.size();
    let none = Identity::new(n);
    let mut machine = Machine::new(
        gpu,
        system.operator,
        system.preconditioner.unwrap_or(&none),
        options,
        systems,
    )?;
    let goal = Goal {
        rtol: options.rtol,
        max_iterations: options.iteration_limit(n),
        second_tries: SECOND_TRIES,
        patience: None,
    };
    let found = drive(&mut machine, system.b, system.x0, goal).await?;
    let seconds = clock.elapsed().as_secs_f64();
    found
        .into_iter()
        .zip(system.b.chunks_exact(n))
        .map(|(s, b)| {
            let facts = RunFacts {
                residual_history: s.history.clone(),
                alphas: &s.alphas,
                betas: &s.betas,
                preconditioner: system.preconditioner,
                seconds,
                ..RunFacts::new(s.outcome(), options.rtol, s.iterations())
            };
            let report = Report::assess(system.operator, b, &s.x, &facts, &options.report)?;
            Ok(Solution { x: s.x, report })
        })
        .collect()
}

/// One system after the other, each corrected by solves for its f64 residual.
async fn refined(gpu: &Gpu, system: &LinearSystem<'_>, options: &CgOptions, systems: usize) -> Result<Vec<Solution>> {
    let n = system.operator.size();
    let none = Identity::new(n);
    let m = system.preconditioner.unwrap_or(&none);
    let lift: OnceLock<CsrOperator> = OnceLock::new();
    let mut machine = Machine::new(gpu, system.operator, m, options, 1)?;
    // With a little more on the diagonal, from the first round on that gained next to nothing.
    let mut beyond: Option<Machine<'_>> = None;
    let limit = options.iteration_limit(n);
    let mut solutions = Vec::new();
    for k in 0..systems {
        let clock = Instant::now();
        let range = k * n..(k + 1) * n;
        let b = &system.b[range.clone()];
        let x0 = system.x0.map(|x0| &x0[range]);
        // Each with the number of corrections before it.
        let mut rounds: Vec<(usize, Progressing)> = Vec::new();
        let (mut corrections, mut updates) = (0, 0);
        let mut used = 0;
        let mut broken = None;
        // Of b, as far as the inner solves tell.
        let mut remaining = match (vector::norm(b), x0) {
            (b_norm, Some(x0)) if b_norm > 0.0 => machine.residual(b, x0) / b_norm,
            _ => 1.0,
        };
        let inner = async |r: &[f64]| {
            loop {
                if broken.is_some() || used >= limit {
                    // Nothing to add, which ends the refinement.
                    return Ok(Correction::new(vec![0.0; n], 0));
                }
                let goal = Goal {
                    rtol: INNER_RTOL.max(0.1 * options.rtol),
                    max_iterations: limit - used,
                    second_tries: 0,
                    patience: None,
                };
                let lifts = beyond.is_some();
                let mut found = match &mut beyond {
                    None => {
                        let rtol = (0.9 * options.rtol / remaining).clamp(SMALLEST_RTOL, 0.5);
                        let (found, more) = drive_updated(&mut machine, r, Goal { rtol, ..goal }).await?;
                        updates += more;
                        found
                    }
                    // What it solves is not quite the system, and no residual of that would become small.
                    Some(lifted) => {
                        updates += 1;
                        // The next correction starts from a better residual than the device has.
                        let patience = Some(0);
                        drive(lifted, r, None, Goal { patience, ..goal }).await?.remove(0)
                    }
                };
                remaining *= found.relative_residual;
                used += found.iterations();
                let broke = match found.outcome() {
                    Outcome::Breakdown { kind, .. } if kind != Breakdown::Stagnation => Some(kind),
                    _ => None,
                };
                let poor = broke.is_some() || found.relative_residual.is_nan() || found.relative_residual > GAINED;
                if let (true, false, Some(a)) = (poor, lifts, system.operator.matrix()) {
                    if lift.get().is_none() {
                        // A second thread cannot have come first; if it had, its matrix is the same.
                        let _ = lift.set(CsrOperator::new(lifted(a, LIFT)?)?);
                    }
                    if let Some(operator) = lift.get() {
                        beyond = Some(Machine::new(gpu, operator, m, options, 1)?);
                        rounds.push((corrections, found));
                        continue;
                    }
                }
                broken = broke;
                let correction = Correction::new(std::mem::take(&mut found.x), found.iterations());
                rounds.push((corrections, found));
                corrections += 1;
                return Ok(correction);
            }
        };
        let found = refine_async(system.operator, b, x0, &RefinementOptions::new(options.rtol), inner).await?;
        let outcome = match (found.outcome, broken) {
            (Outcome::Converged, _) => Outcome::Converged,
            (_, Some(kind)) => Outcome::Breakdown { kind, iteration: used },
            _ if used >= limit => Outcome::IterationLimit,
            (outcome, None) => outcome,
        };
        let (mut alphas, mut betas, mut residual_history) = (Vec::new(), Vec::new(), Vec::new());
        residual_history.extend(found.residual_history.first());
        for (corrections, round) in &rounds {
            let before = found.residual_history.get(*corrections).copied().unwrap_or(0.0);
            residual_history.extend(round.history.iter().skip(1).map(|h| h * before));
            alphas.extend_from_slice(&round.alphas);
            betas.extend_from_slice(&round.betas);
            // The blocks of the coefficients stay apart.
            if let Some(last) = betas.last_mut() {
                *last = 0.0;
            }
        }
        let facts = RunFacts {
            residual_history,
            alphas: &alphas,
            betas: &betas,
            preconditioner: system.preconditioner,
            unit_roundoff: f64::EPSILON / 2.0,
            refinements: updates,
            seconds: clock.elapsed().as_secs_f64(),
            ..RunFacts::new(outcome, options.rtol, used)
        };
        let report = Report::assess(system.operator, b, &found.x, &facts, &options.report)?;
        solutions.push(Solution { x: found.x, report });
    }
    Ok(solutions)
}

fn narrowed(v: &[f64], exponent: i32) -> Vec<f32> {
    v.iter().map(|&v| ldexp(v, exponent) as f32).collect()
}

/// Solves A x = b where the context computes: on a device in f32 with the residual judged in f64, on the CPU path in f64.
///
/// # Shapes
/// `b` (and `x0`) of n numbers.
///
/// # Numerics, cost
/// See [`super`]. A and b are scaled by powers of two where they are far from 1, so that any magnitude of them will do; on a device that
/// asks of A that the operator can be had scaled ([`LinearOperator::scaled`], as [`CsrOperator`] can). A start whose residual is beyond
/// 2^24 times b on a device, 2^53 on the CPU path, has no digit to offer and is left aside for zeros, which the report says.
///
/// # Errors
/// [`Error::Shape`] for lengths that do not fit, [`Error::NonFinite`] for b and x0, [`Error::Option`], what a device has against
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
    pollster::block_on(conjugate_gradient_many_async(context, system, options))
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
    let gpu = context.gpu().filter(|_| system.operator.size() > 0 && systems > 0);
    let ranged = RangedSystem::new(
        system.operator,
        system.preconditioner,
        system.b,
        system.x0,
        gpu.is_some(),
    );
    let system = LinearSystem {
        operator: ranged.operator(),
        preconditioner: ranged.preconditioner(),
        b: &ranged.b,
        x0: ranged.x0.as_deref(),
    };
    ranged.restore(solve(context, gpu, &system, options, systems).await?, options.rtol)
}

async fn solve(
    context: &Context,
    gpu: Option<&Gpu>,
    system: &LinearSystem<'_>,
    options: &CgOptions,
    systems: usize,
) -> Result<Vec<Solution>> {
    let Some(gpu) = gpu else {
        return on_cpu(system, options, systems);
    };
    let outcome = if options.refine {
        refined(gpu, system, options, systems).await
    } else {
        unrefined(gpu, system, options, systems).await
    };
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

#[cfg(test)]
mod tests {
    use super::{FALL, FIRST_BATCH, Watch, next_batch};

    #[test]
    fn batches_follow_the_residual() {
        // A tenth every ten iterations: as many as lead to FALL.
        let next = next_batch(10, 0.1, 50);
        assert!(next.is_multiple_of(2) && (0.1f64.powf(next as f64 / 10.0) / FALL).log10().abs() < 0.2);
        // Slow, or growing: twice as many, up to the most.
        assert_eq!(
            [next_batch(8, 0.99, 50), next_batch(8, 3.0, 50), next_batch(40, 1.0, 50)],
            [16, 16, 50]
        );
        // Faster than a batch could be short.
        assert_eq!(next_batch(8, 1e-9, 50), FIRST_BATCH);
        assert_eq!(
            [
                next_batch(2, 1e-9, 4),
                next_batch(2, 0.0, 2),
                next_batch(2, f64::NAN, 4)
            ],
            [4, 2, 4]
        );
    }

    /// Of A = diag(1, 1e-4), b = (1, 1).
    fn after(watch: &mut Watch, x: [f64; 2]) -> bool {
        let b = [1.0, 1.0];
        let r = [1.0 - x[0], 1.0 - 1e-4 * x[1]];
        watch.goes_on(&x, &b, &r, (r[0] * r[0] + r[1] * r[1]).sqrt() / 2f64.sqrt())
    }

    #[test]
    fn an_energy_that_rises_ends_a_solve() {
        let mut watch = Watch::new(Some(1.0));
        assert!(after(&mut watch, [0.9, 0.9]));
        assert!(after(&mut watch, [1.0, 100.0]));
        assert!(!after(&mut watch, [2.5, 100.0]));
        assert!(!after(&mut Watch::new(None), [f64::NAN, 0.0]));
    }

    #[test]
    fn no_progress_ends_a_solve() {
        let mut watch = Watch::new(None);
        assert_eq!(
            (0..100).take_while(|_| after(&mut watch, [1.0, 100.0])).count(),
            Watch::IDLE + 1
        );
        // Progress below what residuals show: the energy falls.
        let mut watch = Watch::new(None);
        assert!((1..200).all(|k| after(&mut watch, [1.0, 40.0 * f64::from(k)])));
        // Nothing is left to be gained.
        let mut watch = Watch::new(Some(1.0));
        assert_eq!(
            (0..100).take_while(|_| after(&mut watch, [1.0, 1e4])).count(),
            Watch::IDLE_AT_FLOOR + 1
        );
    }
}
