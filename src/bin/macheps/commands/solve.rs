//! `macheps solve`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
use macheps::solve::relaxation::{RelaxationOptions, gauss_seidel, jacobi, sor};
use macheps::solve::{
    Breakdown, ConditionEstimate, CsrOperator, Identity, IncompleteCholesky, JacobiPreconditioner, LinearOperator,
    Outcome as Ending, Preconditioner, Report, ReportOptions, RunFacts, Solution, Ssor, device_exponent,
};
use macheps::sparse::Csr;
use macheps::{DType, bf16, f16};
use serde::Serialize;

use crate::args::{Method, Precond, SolveArgs};
use crate::backend::Device;
use crate::convergence::{self, Convergence};
use crate::destination::{self, Destination, Kind, Output};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::report::{Document, is_stdout};
use crate::source::{Source, market};
use crate::table;
use crate::tensor::Stored;

/// Multiplications that estimating the condition of A may cost: a few seconds.
const ESTIMATE: f64 = 4e9;

#[derive(Serialize)]
struct Body<'a> {
    matrix: &'a str,
    rows: usize,
    entries: usize,
    method: &'static str,
    preconditioner: Option<&'a str>,
    omega: Option<f64>,
    shift: f64,
    /// Storage type of the matrix where the iteration ran.
    dtype: &'static str,
    /// What the iteration computed with; corrections (`refine`) and the figures of this report are in f64 always.
    arithmetic: &'static str,
    refine: bool,
    rtol: f64,
    max_iterations: usize,
    outcome: String,
    breakdown_iteration: Option<usize>,
    iterations: usize,
    refinements: usize,
    relative_residual: f64,
    backward_error: Option<f64>,
    condition_estimate: Option<f64>,
    preconditioned_condition_estimate: Option<f64>,
    forward_error_bound: Option<f64>,
    digits: Option<f64>,
    residual_history: &'a [f64],
    /// Iterations between two entries of the history.
    residual_history_every: usize,
    advice: &'a [String],
    seconds: f64,
}

pub fn run(args: &SolveArgs) -> Outcome {
    let json = args.json.json.as_deref();
    let plan = Plan::check(args)?;
    let outputs: Vec<(String, Destination)> = match &args.output {
        Some(path) => vec![("x".to_string(), Destination::parse("--output", path, Kind::Vector)?)],
        None => Vec::new(),
    };
    let rhs = match args.rhs.as_str() {
        "ones" => None,
        text => Some(Source::parse(text).map_err(|refused| refused.within("--rhs (ones, or a file)"))?),
    };
    let x0 = args.x0.as_deref().map(Source::parse).transpose();
    let x0 = x0.map_err(|refused| refused.within("--x0"))?;
    let mut inputs = vec![("the matrix", Path::new(&args.matrix))];
    inputs.extend(rhs.iter().map(|source| ("--rhs", source.path())));
    inputs.extend(x0.iter().map(|source| ("--x0", source.path())));
    let written = outputs.first().map(|(_, to)| to.path());
    let reports = [
        ("--output", written),
        ("--json", json),
        ("--plot", args.plot.as_deref()),
    ];
    destination::check_reports(&inputs, &reports)?;

    let device = Device::open(&args.device.device)?;
    let matrix = read_matrix(&args.matrix, plan.shift)?;
    let n = matrix.rows();
    let b = match &rhs {
        None => vec![1.0; n],
        Some(source) => read_vector("--rhs", source, n)?,
    };
    let x0 = x0.map(|source| read_vector("--x0", &source, n)).transpose()?;
    // The CPU path keeps the matrix as it is.
    let dtype = device.context().gpu().map(|_| args.dtype.unwrap_or(DType::F32));
    let preconditioner = plan.preconditioner(&matrix, &args.matrix)?;
    let entries = matrix.entries();
    let operator =
        CsrOperator::with_dtype(matrix, dtype.unwrap_or(DType::F32)).map_err(|e| of_matrix(&args.matrix, e))?;
    check_storage(dtype, &operator, args)?;
    let symmetric = operator.symmetry().is_some_and(|s| s.exact);
    let at_start = relative_residual(&operator, &b, x0.as_deref())?;

    let max_iterations = args.max_iter.unwrap_or(n.saturating_mul(10).min(100_000));
    let bar = output::progress(max_iterations);
    let rounds = Arc::new(Mutex::new(Rounds::default()));
    let (told, counted) = (bar.clone(), rounds.clone());
    let progress: Arc<dyn Fn(usize, f64) + Send + Sync> = Arc::new(move |iterations, residual| {
        // Only counts are in there, which are as good as they were whatever became of another thread.
        let all = counted.lock().unwrap_or_else(PoisonError::into_inner).count(iterations);
        told.set_position(all as u64);
        told.set_message(format!("residual {residual:.1e}"));
    });
    let mut every = 1;
    let ctx = device.context();
    let solved = if let Made::Broken(kind) = preconditioner {
        Solution::broken_down(&operator, &b, x0.as_deref(), args.rtol, kind)
    } else if args.method == Method::Cg {
        let mut options = CgOptions::with_rtol(args.rtol);
        options.max_iterations = Some(max_iterations);
        options.refine = args.refine;
        options.progress = Some(progress);
        let mut system = LinearSystem::new(&operator, &b);
        if let Some(m) = preconditioner.get() {
            system = system.with_preconditioner(m);
        }
        if let Some(x0) = &x0 {
            system = system.with_x0(x0);
        }
        conjugate_gradient(ctx, &system, &options)
    } else {
        let options = RelaxationOptions {
            omega: plan.omega,
            rtol: args.rtol,
            max_iterations: Some(max_iterations),
            x0,
            refine: args.refine,
            progress: Some(progress),
            ..RelaxationOptions::default()
        };
        // Sweeps of Gauss and Seidel's kind leave no residual behind.
        if args.method != Method::Jacobi {
            every = options.check_every;
        }
        match args.method {
            Method::Jacobi => jacobi(ctx, &operator, &b, &options),
            Method::GaussSeidel => gauss_seidel(ctx, &operator, &b, &options),
            _ => sor(ctx, &operator, &b, &options),
        }
    };
    bar.finish_and_clear();
    let Solution { x, mut report } = solved.map_err(|e| of_matrix(&args.matrix, e))?;
    if symmetric && report.iterations > 0 {
        let work = 6.0 * (entries + 10 * n) as f64 * report.iterations.max(500) as f64;
        if work <= ESTIMATE {
            estimate(&operator, preconditioner.get(), &b, &x, args.rtol, &mut report)?;
        } else if report.condition_estimate.is_none() {
            report
                .advice
                .push("the condition of A itself was not estimated: that would take longer than a few seconds".into());
        }
    }

    if ctx.gpu().is_some() && !args.refine && stagnated(report.outcome) {
        report
            .advice
            .push("--refine corrects the answer with residuals in f64, beyond what the device's f32 reaches".into());
    }

    let body = Body {
        matrix: &args.matrix,
        rows: n,
        entries,
        method: args.method.name(),
        preconditioner: match plan.precond {
            Precond::None => None,
            precond => Some(precond.name()),
        },
        omega: plan.uses_omega.then_some(plan.omega),
        shift: plan.shift,
        dtype: dtype.map_or("f64", DType::name),
        arithmetic: if dtype.is_none() { "f64" } else { "f32" },
        refine: args.refine,
        rtol: args.rtol,
        max_iterations,
        outcome: ending(&report.outcome),
        breakdown_iteration: match report.outcome {
            Ending::Breakdown { iteration, .. } => Some(iteration),
            _ => None,
        },
        iterations: report.iterations,
        refinements: report.refinements,
        relative_residual: report.relative_residual,
        backward_error: report.backward_error,
        condition_estimate: report.condition_estimate,
        preconditioned_condition_estimate: report.preconditioned_condition_estimate,
        forward_error_bound: report.forward_error_bound,
        digits: report.digits(),
        residual_history: &report.residual_history,
        residual_history_every: every,
        advice: &report.advice,
        seconds: report.seconds,
    };
    if !json.is_some_and(is_stdout) {
        output::print(&text(&device, &body))?;
    }
    if let Some((name, to)) = outputs.into_iter().next() {
        let output = Output {
            name,
            dtype: Stored::F64,
            shape: vec![n],
            bytes: x.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        destination::write(&[(output, to)])?;
    }
    if let Some(path) = &args.plot {
        let rounds = rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut recomputed = vec![(0, at_start)];
        if body.iterations > 0 || body.relative_residual != at_start {
            recomputed.push((body.iterations, body.relative_residual));
        }
        let plural = if body.iterations == 1 { "" } else { "s" };
        let mut ending = format!("{} after {} iteration{plural}", body.outcome, body.iterations);
        if body.refinements > 0 {
            let plural = if body.refinements == 1 { "" } else { "s" };
            ending += &format!(" and {} correction{plural}", body.refinements);
        }
        let picture = Convergence {
            title: system(&body),
            method: format!("{}, by {}", size(&body), method(&body)),
            ending: format!("{ending}, {}", table::seconds(body.seconds)),
            adapter: device.adapter(),
            history: body.residual_history,
            every,
            iterations: body.iterations,
            // Rounds that did not end in a correction are not told apart.
            corrections: if rounds.begins.len() + 1 == body.refinements {
                &rounds.begins
            } else {
                &[]
            },
            rtol: body.rtol,
            recomputed: &recomputed,
            converged: report.converged(),
        };
        destination::write_text(path, &convergence::draw(&picture))?;
    }
    if let Some(path) = json {
        Document::new("solve", device.adapter(), &body).write(path)?;
    }
    if report.converged() {
        return Ok(());
    }
    Err(Failure::Check(format!(
        "solve: {}: {} after {} iteration{}, relative residual {} (asked for {})",
        args.matrix,
        body.outcome,
        body.iterations,
        if body.iterations == 1 { "" } else { "s" },
        table::short(body.relative_residual),
        table::short(body.rtol)
    )))
}

/// What the options come to, checked before a file is opened.
struct Plan {
    precond: Precond,
    omega: f64,
    uses_omega: bool,
    shift: f64,
}

impl Plan {
    fn check(args: &SolveArgs) -> Outcome<Plan> {
        if !(args.rtol.is_finite() && args.rtol > 0.0) {
            return Err(Failure::usage(format!(
                "--rtol {}: expected a positive number, such as 1e-6",
                table::typed(args.rtol)
            )));
        }
        let shift = args.shift.unwrap_or(0.0);
        if !shift.is_finite() {
            return Err(Failure::usage(format!("--shift {shift}: expected a finite number")));
        }
        if shift < 0.0 {
            return Err(Failure::usage(format!(
                "--shift {}: expected 0 or a positive number; a negative one takes from the eigenvalues of A, which need not stay positive",
                table::typed(shift)
            )));
        }
        if let (Some(precond), true) = (args.precond, args.method != Method::Cg) {
            return Err(Failure::usage(format!(
                "--precond {} goes with --method cg; {} has no preconditioner",
                precond.name(),
                args.method.name()
            )));
        }
        let precond = match args.method {
            Method::Cg => args.precond.unwrap_or(Precond::Jacobi),
            _ => Precond::None,
        };
        let uses_omega = matches!(args.method, Method::Jacobi | Method::Sor) || precond == Precond::Ssor;
        if let Some(omega) = args.omega {
            if !uses_omega {
                return Err(Failure::usage(format!(
                    "--omega {omega} goes with --method jacobi or sor, or --precond ssor"
                )));
            }
            if !(omega > 0.0 && omega < 2.0) {
                return Err(Failure::usage(format!(
                    "--omega {omega}: expected a number between 0 and 2, both excluded"
                )));
            }
        }
        let default = if args.method == Method::Sor { 1.5 } else { 1.0 };
        Ok(Plan {
            precond,
            omega: args.omega.unwrap_or(default),
            uses_omega,
            shift,
        })
    }

    fn preconditioner(&self, a: &Csr<f64>, path: &str) -> Outcome<Made> {
        let made = || -> macheps::Result<Made> {
            Ok(match self.precond {
                Precond::None => Made::None,
                Precond::Jacobi => Made::Some(Box::new(JacobiPreconditioner::new(a)?)),
                Precond::Ssor => Made::Some(Box::new(Ssor::new(a, self.omega)?)),
                Precond::Ic0 => Made::Some(Box::new(IncompleteCholesky::new(a)?)),
            })
        };
        made().or_else(|e| {
            if let Some(kind) = Breakdown::of_error(&e) {
                return Ok(Made::Broken(kind));
            }
            Err(Failure::file(
                Path::new(path),
                format!(
                    "--precond {}: {e}; expected a symmetric positive definite matrix, or --precond none",
                    self.precond.name()
                ),
            ))
        })
    }
}

/// What came of making a preconditioner.
enum Made {
    None,
    Some(Box<dyn Preconditioner>),
    /// The matrix has no such preconditioner, which the report tells.
    Broken(Breakdown),
}

impl Made {
    fn get(&self) -> Option<&dyn Preconditioner> {
        match self {
            Made::Some(m) => Some(m.as_ref()),
            Made::None | Made::Broken(_) => None,
        }
    }
}

/// Names the file of a matrix that a device cannot take.
fn of_matrix(path: &str, error: macheps::Error) -> Failure {
    match error {
        macheps::Error::Csr { .. } => Failure::file(Path::new(path), error),
        other => other.into(),
    }
}

/// The square matrix of a file, shifted.
fn read_matrix(path: &str, shift: f64) -> Outcome<Csr<f64>> {
    let matrix = market::matrix(path)?;
    if matrix.rows() != matrix.cols() {
        return Err(Failure::file(
            Path::new(path),
            format!("expected a square matrix, got {} x {}", matrix.rows(), matrix.cols()),
        ));
    }
    if shift == 0.0 {
        return Ok(matrix);
    }
    matrix.regularized(shift).map_err(|e| Failure::file(Path::new(path), e))
}

/// A vector of n finite numbers.
fn read_vector(option: &str, source: &Source, n: usize) -> Outcome<Vec<f64>> {
    let tensor = source.read().map_err(|refused| refused.within(option))?;
    let text = source.path().display();
    let (values, shape) = (tensor.to_f64(), tensor.shape);
    let columns = shape.iter().skip(1).product::<usize>();
    if values.len() != n || columns != 1 {
        return Err(Failure::usage(format!(
            "{option} {text}: expected {n} elements, as the matrix has rows, got shape {shape:?}"
        )));
    }
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Failure::usage(format!(
            "{option} {text}: element {i} is {}; expected finite numbers",
            values[i]
        )));
    }
    Ok(values)
}

/// Says what the storage type of the matrix on a device changes; refuses one that does not hold it. `None` is the CPU path.
fn check_storage(dtype: Option<DType>, operator: &CsrOperator, args: &SolveArgs) -> Outcome {
    let Some(dtype) = dtype else {
        if let Some(dtype) = args.dtype {
            output::remark(&format!(
                "the CPU path solves in f64 with the matrix as given; --dtype {} changes nothing",
                dtype.name()
            ));
        }
        return Ok(());
    };
    let exponent = device_exponent(operator);
    let scaled = if exponent == 0 { None } else { operator.scaled(exponent) };
    let Some(matrix) = scaled.as_deref().map_or(operator.matrix(), |scaled| scaled.matrix()) else {
        return Ok(());
    };
    let factor = match exponent {
        0 => String::new(),
        e => format!(" times 2^{e}"),
    };
    let otherwise = ", or --device cpu, which solves in f64";
    let (rounded, vanished) = match dtype {
        DType::F32 => market::narrow::<f32>(&args.matrix, matrix, otherwise).map(|n| (n.rounded, n.vanished)),
        DType::F16 => market::narrow::<f16>(&args.matrix, matrix, otherwise).map(|n| (n.rounded, n.vanished)),
        DType::Bf16 => market::narrow::<bf16>(&args.matrix, matrix, otherwise).map(|n| (n.rounded, n.vanished)),
    }?;
    if rounded > 0 {
        let lost = if vanished > 0 {
            format!(", {vanished} of them to zero")
        } else {
            String::new()
        };
        output::remark(&format!(
            "{}: f64{factor} runs as {} on the device; {rounded} of {} entries are rounded{lost}; residuals are judged with the file's values",
            args.matrix,
            dtype.name(),
            matrix.entries()
        ));
    }
    Ok(())
}

/// ||b - A x|| / ||b|| in f64, of the x that a solve begins with.
fn relative_residual(operator: &CsrOperator, b: &[f64], x: Option<&[f64]>) -> Outcome<f64> {
    let x = x.map_or_else(|| vec![0.0; b.len()], <[f64]>::to_vec);
    let facts = RunFacts::new(Ending::IterationLimit, 0.0, 0);
    let report = Report::assess(operator, b, &x, &facts, &ReportOptions::new(ConditionEstimate::Off))?;
    Ok(report.relative_residual)
}

/// The iterations of a solve and its corrections, each of which counts from 0.
#[derive(Default)]
struct Rounds {
    before: usize,
    last: usize,
    /// Iterations before each round but the first.
    begins: Vec<usize>,
}

impl Rounds {
    /// Takes the count of a round; that of all.
    fn count(&mut self, iterations: usize) -> usize {
        if iterations < self.last {
            self.before += self.last;
            self.begins.push(self.before);
        }
        self.last = iterations;
        self.before + iterations
    }
}

/// Puts what a run on A itself says about its condition into the report.
fn estimate(
    operator: &CsrOperator,
    preconditioner: Option<&dyn Preconditioner>,
    b: &[f64],
    x: &[f64],
    rtol: f64,
    report: &mut Report,
) -> Outcome {
    let mut facts = RunFacts::new(report.outcome, rtol, report.iterations);
    let diagonal = operator
        .diagonal()
        .and_then(|d| JacobiPreconditioner::from_diagonal(&d).ok());
    let none = Identity::new(operator.size());
    facts.preconditioner = match (preconditioner, &diagonal) {
        (Some(m), _) => Some(m),
        (None, Some(m)) => Some(m),
        (None, None) => Some(&none),
    };
    facts.refinements = report.refinements;
    if report.refinements > 0 {
        facts.unit_roundoff = f64::EPSILON / 2.0;
    }
    let own = Report::assess(operator, b, x, &facts, &ReportOptions::new(ConditionEstimate::OwnRun))?;
    if own.condition_estimate.is_some() || own.doubtful {
        report.doubtful = own.doubtful;
        report.condition_estimate = own.condition_estimate;
        report.forward_error_bound = own.forward_error_bound;
        report.advice = own.advice;
    }
    Ok(())
}

/// How a solve ended, in words.
fn ending(outcome: &Ending) -> String {
    match outcome {
        Ending::Converged => "converged".to_string(),
        Ending::IterationLimit => "iteration limit".to_string(),
        Ending::Breakdown { kind, .. } => {
            let kind = match kind {
                Breakdown::NotPositiveDefinite => "not positive definite",
                Breakdown::NonFinite => "non-finite",
                Breakdown::Stagnation => "stagnation",
                Breakdown::ZeroDiagonal { row } => return format!("breakdown: zero diagonal in row {row}"),
                Breakdown::NegativeDiagonal { row } => return format!("breakdown: negative diagonal in row {row}"),
                Breakdown::Divergence => "divergence",
                _ => "unknown",
            };
            format!("breakdown: {kind}")
        }
        _ => "unknown".to_string(),
    }
}

/// The method in a few words.
fn method(body: &Body) -> String {
    let mut method = body.method.to_string();
    if let Some(m) = body.preconditioner {
        method += &format!(" with {m}");
    }
    if let Some(omega) = body.omega {
        method += &format!(", omega {omega}");
    }
    if body.refine {
        method += ", refined";
    }
    method
}

/// The system by its name.
fn system(body: &Body) -> String {
    let shift = match body.shift {
        0.0 => String::new(),
        shift => format!(" + {} I", table::typed(shift)),
    };
    let name = Path::new(body.matrix)
        .file_name()
        .map_or(body.matrix.into(), |name| name.to_string_lossy());
    format!("{name}{shift}")
}

/// How large it is.
fn size(body: &Body) -> String {
    let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    format!(
        "{}, {}",
        plural(body.rows, "row", "rows"),
        plural(body.entries, "entry", "entries")
    )
}

/// The system and the method in a line.
fn subject(body: &Body) -> String {
    format!("{}, {}, by {}", system(body), size(body), method(body))
}

/// The report as a table.
fn text(device: &Device, body: &Body) -> String {
    let number = |v: Option<f64>| v.map_or("-".to_string(), table::short);
    let outcome = match body.breakdown_iteration {
        Some(iteration) => format!("{} in iteration {iteration}", body.outcome),
        None => body.outcome.clone(),
    };
    let mut rows = vec![
        ("outcome", outcome),
        (
            "iterations",
            format!("{} of at most {}", body.iterations, body.max_iterations),
        ),
        (
            "relative residual, in f64",
            format!(
                "{} (asked for {})",
                table::short(body.relative_residual),
                table::short(body.rtol)
            ),
        ),
        ("normwise backward error", number(body.backward_error)),
        ("condition of A, estimated", number(body.condition_estimate)),
    ];
    if body.preconditioned_condition_estimate.is_some() {
        rows.push((
            "the same as preconditioned, estimated",
            number(body.preconditioned_condition_estimate),
        ));
    }
    rows.push(("forward error, estimated bound", number(body.forward_error_bound)));
    rows.push((
        "digits that can be trusted",
        body.digits
            .map_or("-".to_string(), |d| format!("{d:.0}", d = d.floor())),
    ));
    if body.refine {
        rows.push(("refinements", body.refinements.to_string()));
    }
    rows.push(("time", table::seconds(body.seconds)));
    let rows = rows.into_iter().map(|(key, value)| vec![key.to_string(), value]);
    let mut text = format!(
        "{}\nSolved on {}:\n{}",
        subject(body),
        device.adapter(),
        table::table(&[("report", false), ("", false)], rows)
    );
    for advice in body.advice {
        text += &format!("\nAdvice: {advice}.");
    }
    text
}

/// Whether the residual stopped falling.
fn stagnated(outcome: macheps::solve::Outcome) -> bool {
    use macheps::solve::{Breakdown, Outcome};
    matches!(
        outcome,
        Outcome::Breakdown {
            kind: Breakdown::Stagnation,
            ..
        }
    )
}
