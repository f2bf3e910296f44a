//! Conjugate gradients bound to buffers of a device.

use super::kernels::{Fusion, HISTORY_WORDS, PART_SETS, PART_WORDS, Params, STATE_WORDS, Variant, layout};
use super::{CgOptions, CgViews, Form};
use crate::element::DType;
use crate::error::{Error, Result};
use crate::gpu::{Bind, BufferView, Dispatches, Gpu};
use crate::solve::vector::exponent_of;
use crate::solve::views::{Vectors, check_binding};
use crate::solve::{LinearOperator, OperatorCall, Preconditioner, PreconditionerCall, PreconditionerForm, Record};

const LABEL: &str = "conjugate_gradient";

/// Times in a row that the recurrence may promise what the true residual does not keep.
const PATIENCE: u32 = 2;

/// Work in the order of its execution.
type Work = Vec<Box<dyn Record>>;

fn record_all(work: &Work, pass: &mut wgpu::ComputePass<'_>) {
    for piece in work {
        piece.record(pass);
    }
}

fn dispatches(work: &Work) -> usize {
    work.iter().map(|piece| piece.dispatches()).sum()
}

/// A solve bound to its buffers: recorded any number of times, each time from the x that is there.
///
/// Recording creates no wgpu object, submits nothing, waits for nothing and reads nothing back; scalars, and the decision that a
/// system has converged or broken down, stay on the device. Made by [`super::ConjugateGradient::bind`].
pub struct BoundConjugateGradient {
    gpu: Gpu,
    form: Form,
    systems: usize,
    replace_every: usize,
    start: Work,
    /// With the parity of the iteration, for the form that needs it.
    iteration: [Work; 2],
    /// Replaces the recurrence's residual by the true one and judges it, between the two halves of an iteration of the standard
    /// form or between two iterations of the other.
    replace: Work,
    /// The standard form's second half, which the replacement comes before.
    second_half: Work,
    finish: Work,
    ledger: wgpu::Buffer,
    active_words: usize,
    system_words: usize,
    history_word: usize,
    exponent: i32,
}

/// What the device says of a system.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CgState {
    /// How it stands.
    pub status: CgStatus,
    /// Iterations done.
    pub iterations: usize,
    /// ||r|| / ||b|| by the recurrence; infinity for b = 0.
    pub relative_residual: f64,
}

/// How a system stands on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CgStatus {
    /// Not there yet.
    #[default]
    Running,
    /// The recurrence's residual is small enough; the true one has not been looked at.
    Candidate,
    /// The residual recomputed on the device is at most the tolerance.
    Converged,
    /// p.Ap <= 0 or r.M^-1 r <= 0.
    NotPositiveDefinite,
    /// An infinity or NaN.
    NonFinite,
    /// The residual is made of rounding errors.
    Stagnation,
    /// The iterations that were allowed are used up.
    Limit,
}

impl CgStatus {
    fn decode(word: u32) -> CgStatus {
        match word {
            0 => CgStatus::Running,
            1 => CgStatus::Candidate,
            2 => CgStatus::Converged,
            3 => CgStatus::NotPositiveDefinite,
            4 => CgStatus::NonFinite,
            5 => CgStatus::Stagnation,
            _ => CgStatus::Limit,
        }
    }

    /// Whether further iterations can change anything.
    pub fn ended(self) -> bool {
        !matches!(self, CgStatus::Running | CgStatus::Candidate)
    }
}

/// An iteration as the history has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Remembered {
    /// Squared and scaled residual: after the iteration in the standard form, before it in the other.
    pub rr: f64,
    pub alpha: f64,
    pub beta: f64,
}

/// Where the numbers of all systems lie, and the kernels with them.
struct Builder<'a> {
    gpu: &'a Gpu,
    source: String,
    params: Params,
    grid: [u32; 2],
    bindings: Vec<Bind>,
}

impl Builder<'_> {
    fn work(&self, entry: &'static str, parity: u32, first: bool) -> Result<Box<dyn Record>> {
        let kernel = self.gpu.kernel(LABEL, &self.source, entry)?;
        let grid = if entry == "judge" { [1, self.grid[1]] } else { self.grid };
        let params = Params {
            parity,
            first: u32::from(first),
            ..self.params
        };
        let mut dispatches = Dispatches::new(self.gpu, entry);
        dispatches.add(&kernel, params, grid, self.bindings.clone());
        Ok(Box::new(dispatches.finish()?) as Box<dyn Record>)
    }

    fn bind(&mut self, name: &'static str, buffer: &wgpu::Buffer) {
        self.bindings.push(Bind::whole(name, buffer));
    }
}

/// Vectors of a solve: `[n]` for one system, `[k, n]` with padded rows for several.
fn vectors(buffer: &wgpu::Buffer, systems: usize, n: usize, pitch: usize) -> BufferView {
    if systems == 1 {
        BufferView::new(buffer, DType::F32, &[n])
    } else {
        BufferView::new(buffer, DType::F32, &[systems, n]).with_strides(&[pitch, 1])
    }
}

impl BoundConjugateGradient {
    pub(super) fn bind(
        gpu: &Gpu,
        operator: &dyn LinearOperator,
        preconditioner: &dyn Preconditioner,
        views: &CgViews<'_>,
        options: &CgOptions,
    ) -> Result<Self> {
        let n = operator.size();
        let b = Vectors::of(gpu, views.b, "b", n, false)?;
        let x = Vectors::of(gpu, views.x, "x", n, true)?;
        let systems = b.count as usize;
        if b.count != x.count {
            return Err(Error::shape(
                "x",
                format!("{systems} vectors, as b has"),
                format!("{}", x.count),
            ));
        }
        if views.b.overlaps(views.x) {
            return Err(Error::Aliased {
                first: "b",
                second: "x",
            });
        }
        if preconditioner.size() != n {
            return Err(Error::shape(
                "preconditioner",
                format!("size {n}"),
                format!("size {}", preconditioner.size()),
            ));
        }
        let replace_every = options.checked_interval()?;
        let form = options.form_for(gpu, operator, &preconditioner.form())?;
        let mut bound = BoundConjugateGradient {
            gpu: gpu.clone(),
            form,
            systems,
            replace_every,
            start: Work::new(),
            iteration: [Work::new(), Work::new()],
            replace: Work::new(),
            second_half: Work::new(),
            finish: Work::new(),
            ledger: gpu.create_buffer(LABEL, 16, wgpu::BufferUsages::COPY_SRC)?,
            active_words: 0,
            system_words: 0,
            history_word: 0,
            exponent: 0,
        };
        if n == 0 || systems == 0 {
            return Ok(bound);
        }
        bound.build(operator, preconditioner, views, &b, &x)?;
        Ok(bound)
    }

    fn build(
        &mut self,
        operator: &dyn LinearOperator,
        preconditioner: &dyn Preconditioner,
        views: &CgViews<'_>,
        b: &Vectors,
        x: &Vectors,
    ) -> Result<()> {
        let gpu = self.gpu.clone();
        let (n, systems) = (operator.size(), self.systems);
        let quads = n.div_ceil(4);
        // Whole 256 bytes, so that each vector could be a binding of its own.
        let pitch = n.next_multiple_of(64);
        let (workgroup, groups) = layout(&gpu, quads);
        let chunk = (quads as u32).div_ceil(groups);
        let parts = operator.dot_partials(&gpu);
        let form = preconditioner.form();
        let fusion = Fusion::of(&form);
        let single = self.form == Form::SingleReduction;

        self.active_words = systems.next_multiple_of(64);
        self.history_word = 2 * STATE_WORDS + PART_SETS * groups as usize * PART_WORDS;
        self.system_words = (self.history_word + self.replace_every * HISTORY_WORDS).next_multiple_of(64);
        let storage = wgpu::BufferUsages::STORAGE;
        let vector = |label: &str, extra: usize| {
            let bytes = (systems * pitch + extra) as u64 * 4;
            check_binding(&gpu, bytes)?;
            gpu.create_buffer(label, bytes, storage)
        };
        let ledger_bytes = (self.active_words + systems * self.system_words) as u64 * 4;
        check_binding(&gpu, ledger_bytes)?;
        self.ledger = gpu.create_buffer(
            "conjugate_gradient ledger",
            ledger_bytes,
            storage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        )?;
        // Behind the products lie the operator's parts, two numbers each, every system's at a multiple of four.
        let parts_pitch = (2 * parts.unwrap_or(0)).next_multiple_of(4);
        let product = vector("conjugate_gradient product", systems * parts_pitch)?;
        let (d, r, p) = (
            vector("conjugate_gradient d", 0)?,
            vector("conjugate_gradient r", 0)?,
            vector("conjugate_gradient p", 0)?,
        );
        // 2^exponent A has a norm between 1/2 and 1.
        self.exponent = operator.norm_inf().map_or(0, |norm| -exponent_of(norm));

        let mut builder = Builder {
            gpu: &gpu,
            source: Variant {
                workgroup,
                form: self.form,
                fusion,
                fused_dot: parts.is_some(),
            }
            .source(),
            params: Params {
                n: n as u32,
                quads: quads as u32,
                pitch_quads: pitch as u32 / 4,
                chunk,
                groups,
                operator_parts: parts.unwrap_or(0) as u32,
                operator_base: (systems * pitch / 4) as u32,
                operator_pitch: parts_pitch as u32 / 4,
                active_words: self.active_words as u32,
                system_words: self.system_words as u32,
                capacity: self.replace_every as u32,
                x_base: x.base,
                x_pitch: x.pitch,
                b_base: b.base,
                b_pitch: b.pitch,
                exponent: self.exponent,
                power: 2f32.powi(self.exponent),
                ..Params::default()
            },
            grid: [groups, systems as u32],
            bindings: Vec::new(),
        };
        for (name, buffer) in [
            ("ledger", &self.ledger),
            ("product_data", &product),
            ("d_data", &d),
            ("r_data", &r),
            ("p_data", &p),
        ] {
            builder.bind(name, buffer);
        }
        builder.bindings.extend([x.named("x_data"), b.named("b_data")]);
        let mut input = if single { r.clone() } else { p.clone() };
        if single {
            let s = vector("conjugate_gradient s", 0)?;
            builder.bind("s_data", &s);
        }
        let mut z = None;
        match &form {
            PreconditionerForm::Identity => (),
            PreconditionerForm::Diagonal(inverse) => {
                if inverse.len() != n {
                    let got = format!("{} numbers", inverse.len());
                    return Err(Error::shape(
                        "diagonal of the preconditioner",
                        format!("{n} numbers"),
                        got,
                    ));
                }
                // Of 2^exponent A, as the rest.
                let mut values: Vec<f32> = inverse
                    .iter()
                    .map(|&v| crate::float::ldexp(v, -self.exponent) as f32)
                    .collect();
                values.resize(pitch, 0.0);
                let inverse = gpu.upload("conjugate_gradient inverse diagonal", bytemuck::cast_slice(&values))?;
                builder.bind("inverse_data", &inverse);
                if single {
                    let u = vector("conjugate_gradient u", 0)?;
                    builder.bind("u_data", &u);
                    input = u;
                }
            }
            PreconditionerForm::General => {
                let buffer = vector("conjugate_gradient z", 0)?;
                builder.bind("z_data", &buffer);
                z = Some(vectors(&buffer, systems, n, pitch));
            }
        }

        let views_of = |buffer: &wgpu::Buffer| vectors(buffer, systems, n, pitch);
        let (product_view, input_view, r_view) = (views_of(&product), views_of(&input), views_of(&r));
        let dot = parts.map(|parts| {
            BufferView::new(&product, DType::F32, &[systems, parts, 2])
                .at(systems * pitch)
                .with_strides(&[parts_pitch, 2, 1])
        });
        let x_view = vectors(&views.x.buffer, systems, n, x.pitch as usize).at(views.x.offset);
        // A x of the residual is wanted whatever the state; A p only while the system runs.
        let multiply_x = || operator.bind(&gpu, &OperatorCall::new(&x_view, &product_view));
        let multiply = || -> Result<Work> {
            let mut work = vec![operator.bind(
                &gpu,
                &OperatorCall {
                    x: &input_view,
                    y: &product_view,
                    dot: dot.as_ref(),
                    active: Some(&self.ledger),
                },
            )?];
            if parts.is_none() {
                work.push(builder.work("dot_operator", 0, false)?);
            }
            Ok(work)
        };
        let precondition = |side: u32, always: bool| -> Result<Work> {
            let Some(z) = &z else {
                return Ok(Work::new());
            };
            let call = PreconditionerCall {
                r: &r_view,
                z,
                active: (!always).then_some(&self.ledger),
            };
            Ok(vec![
                preconditioner.bind(&gpu, &call)?,
                builder.work("dot_preconditioned", side, false)?,
            ])
        };
        // The state that a solve begins with and that replacements judge: in the standard form they come between the halves.
        let side = u32::from(!single);

        let mut start = vec![
            multiply_x()?,
            builder.work("measure", side, true)?,
            builder.work("residual", side, true)?,
        ];
        start.extend(precondition(side, true)?);
        start.push(builder.work("judge", side, true)?);
        let mut replace = vec![
            builder.work("fold", 0, false)?,
            multiply_x()?,
            builder.work("drift", side, false)?,
            builder.work("judge", side, false)?,
            builder.work("adopt", side, false)?,
        ];
        replace.extend(precondition(side, true)?);
        let iteration = if single {
            let mut even = multiply()?;
            even.push(builder.work("step", 0, false)?);
            let mut odd = multiply()?;
            odd.push(builder.work("step", 1, false)?);
            [even, odd]
        } else {
            start.push(builder.work("direction", 0, true)?);
            let mut first_half = multiply()?;
            first_half.push(builder.work("update", 0, false)?);
            let mut rest = precondition(1, false)?;
            rest.push(builder.work("direction", 0, false)?);
            self.second_half = rest;
            [first_half, Work::new()]
        };
        let finish = vec![builder.work("fold", 0, false)?];
        self.start = start;
        self.iteration = iteration;
        self.replace = replace;
        self.finish = finish;
        Ok(())
    }

    /// Records a whole solve of at most `iterations` iterations into a command encoder, as one compute pass: it begins from the x
    /// that is there and leaves the best x in its place. Systems that converge or break down before stop there.
    ///
    /// For a frame's fixed budget. The device remembers how it went: [`Self::state`].
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, iterations: usize) {
        if self.start.is_empty() {
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some(LABEL),
            timestamp_writes: None,
        });
        self.record_pass(&mut pass, iterations);
    }

    /// As [`Self::record`], into an open compute pass.
    pub fn record_pass(&self, pass: &mut wgpu::ComputePass<'_>, iterations: usize) {
        self.record_start(pass);
        self.record_iterations(pass, iterations);
        self.record_finish(pass);
    }

    pub(super) fn record_start(&self, pass: &mut wgpu::ComputePass<'_>) {
        record_all(&self.start, pass);
    }

    /// Iterations after a start or a replacement; every `replace_every`th one comes with a replacement of the residual.
    pub(super) fn record_iterations(&self, pass: &mut wgpu::ComputePass<'_>, iterations: usize) {
        self.each_of_iterations(iterations, self.replace_every, |piece| piece.record(pass));
    }

    /// Iterations after a start or a replacement, with a replacement at their end: an even number, at most [`Self::replace_every`].
    pub(super) fn record_batch(&self, pass: &mut wgpu::ComputePass<'_>, iterations: usize) {
        self.each_of_iterations(iterations, iterations, |piece| piece.record(pass));
    }

    fn each_of_iterations(&self, iterations: usize, every: usize, mut visit: impl FnMut(&dyn Record)) {
        let mut visit_all = |work: &[Box<dyn Record>]| work.iter().for_each(|piece| visit(piece.as_ref()));
        for i in 0..iterations {
            let replaces = (i + 1) % every == 0;
            match self.form {
                Form::SingleReduction => {
                    visit_all(&self.iteration[i % every % 2]);
                    if replaces {
                        visit_all(&self.replace);
                    }
                }
                _ => {
                    visit_all(&self.iteration[0]);
                    if replaces {
                        visit_all(&self.replace);
                    }
                    // What comes before the direction is part of a replacement.
                    let before = self.second_half.len().saturating_sub(1);
                    visit_all(&self.second_half[if replaces { before } else { 0 }..]);
                }
            }
        }
    }

    pub(super) fn record_finish(&self, pass: &mut wgpu::ComputePass<'_>) {
        record_all(&self.finish, pass);
    }

    /// The form that is used: [`Form::Auto`] has been decided.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Dispatches of an iteration without replacement.
    pub fn dispatches_per_iteration(&self) -> usize {
        dispatches(&self.iteration[0]) + dispatches(&self.second_half)
    }

    /// Dispatches that [`Self::record`] records for so many iterations: with start, replacements of the residual and finish.
    pub fn dispatches(&self, iterations: usize) -> usize {
        let mut count = dispatches(&self.start) + dispatches(&self.finish);
        self.each_of_iterations(iterations, self.replace_every, |piece| count += piece.dispatches());
        count
    }

    /// The most iterations that a frame's budget of dispatches pays for; 0 where it pays for none.
    pub fn iterations_within(&self, dispatches: usize) -> usize {
        // Without start, replacements and finish there would be so many.
        let most = dispatches / self.dispatches_per_iteration().max(1);
        let too_many = |n: &usize| self.dispatches(*n) > dispatches;
        most - (0..most).take_while(|saved| too_many(&(most - saved))).count()
    }

    /// Number of systems.
    pub fn systems(&self) -> usize {
        self.systems
    }

    /// Iterations between two replacements of the residual.
    pub fn replace_every(&self) -> usize {
        self.replace_every
    }

    /// Sets the tolerance and the largest number of iterations of the solves that are submitted from now on.
    ///
    /// # Errors
    /// [`Error::Option`] for a tolerance that is negative or not finite; a lost device.
    pub fn set_goal(&self, rtol: f64, max_iterations: usize) -> Result<()> {
        self.set_patience(rtol, max_iterations, PATIENCE)
    }

    /// With the number of rejections in a row after which a system has stagnated; with 0, the first one ends it.
    pub(super) fn set_patience(&self, rtol: f64, max_iterations: usize, patience: u32) -> Result<()> {
        super::check_rtol(rtol)?;
        if self.start.is_empty() {
            return Ok(());
        }
        let limit = u32::try_from(max_iterations).unwrap_or(u32::MAX);
        for system in 0..self.systems {
            for side in 0..2 {
                let at = self.active_words + system * self.system_words + side * STATE_WORDS;
                self.gpu
                    .write(&self.ledger, (at + 7) as u64 * 4, &limit.to_le_bytes())?;
                self.gpu
                    .write(&self.ledger, (at + 15) as u64 * 4, &(rtol as f32).to_le_bytes())?;
                self.gpu
                    .write(&self.ledger, (at + 17) as u64 * 4, &patience.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// The ledger and its size in bytes, for a readback.
    pub(super) fn ledger(&self) -> (&wgpu::Buffer, u64) {
        let words = if self.start.is_empty() {
            0
        } else {
            self.active_words + self.systems * self.system_words
        };
        (&self.ledger, words as u64 * 4)
    }

    /// What a readback of the ledger says of a system; made after whole replacements or a finished solve.
    pub(super) fn decode(&self, ledger: &[u32], system: usize, done: usize) -> CgState {
        // Odd iterations of the single reduction leave their state on the other side.
        let odd = self.form == Form::SingleReduction && done % self.replace_every % 2 == 1;
        let at = self.active_words + system * self.system_words + usize::from(odd) * STATE_WORDS;
        let Some(state) = ledger.get(at..at + 16) else {
            return CgState::default();
        };
        let number = |word: usize| f64::from(f32::from_bits(state[word]));
        CgState {
            status: CgStatus::decode(state[0]),
            iterations: state[1] as usize,
            relative_residual: if state[6] == 1 {
                0.0
            } else {
                (number(11) / number(14)).sqrt()
            },
        }
    }

    /// Squared scaled norm of b.
    pub(super) fn norm_b(&self, ledger: &[u32], system: usize) -> f64 {
        let at = self.active_words + system * self.system_words + 14;
        ledger.get(at).map_or(0.0, |&word| f64::from(f32::from_bits(word)))
    }

    /// The exponent e of the matrix 2^e A that the coefficients are those of.
    pub(super) fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Iterations `from..to` of a system; at most as many as lie between two replacements.
    pub(super) fn history(&self, ledger: &[u32], system: usize, from: usize, to: usize) -> Vec<Remembered> {
        let begin = self.active_words + system * self.system_words + self.history_word;
        (from..to)
            .filter_map(|i| {
                let at = begin + i % self.replace_every * HISTORY_WORDS;
                let words = ledger.get(at..at + 3)?;
                let number = |w: usize| f64::from(f32::from_bits(words[w]));
                Some(Remembered {
                    rr: number(0),
                    alpha: number(1),
                    beta: number(2),
                })
            })
            .collect()
    }

    /// Waits for everything submitted so far and says how each system stands after a solve recorded with this many iterations.
    ///
    /// # Errors
    /// A lost device.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn state(&self, iterations: usize) -> Result<Vec<CgState>> {
        let (buffer, bytes) = self.ledger();
        if bytes == 0 {
            let empty = CgState {
                status: CgStatus::Converged,
                ..CgState::default()
            };
            return Ok(vec![empty; self.systems]);
        }
        let encoder = self.gpu.device().create_command_encoder(&Default::default());
        let words = bytemuck::pod_collect_to_vec::<u8, u32>(&self.gpu.read_back(encoder, buffer, bytes)?.wait()?);
        Ok((0..self.systems)
            .map(|system| self.decode(&words, system, iterations))
            .collect())
    }
}
