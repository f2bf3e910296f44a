//! Solves every symmetric positive definite matrix of a collection in every way, and writes the figures down as a document.
//!
//!     cargo run --release --features gz --example solvers_table -- FOLDER [FILE] [--device NAME]... [--only NAME]... [--keep FOLDER [--kept]]
//!
//! FOLDER holds `index.json` (with `name`, `file`, `spd`, `condition_number` and `cg_f64` of each matrix) and the files. FILE is
//! docs/solvers.md if not given. Devices are given by parts of their names; all adapters if there is none. What was found is kept
//! in the folder of `--keep`, a file for every matrix and device, and not done again: large matrices take long on software drivers.
//! With `--kept` nothing is solved; the document is made of what is there, and says what is not.

use macheps::solve::conjugate_gradient::reference::{CgRun, Control, conjugate_gradient as reference};
use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
use macheps::solve::{
    ConditionEstimate, CsrOperator, Identity, IncompleteCholesky, JacobiPreconditioner, LinearOperator, Outcome,
    Preconditioner, Report, ReportOptions, RowOrder, RunFacts, Ssor,
};
use macheps::sparse::matrix_market;
use macheps::{Context, ContextOptions, DeviceKind, DeviceSelector};
use std::cell::OnceCell;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const DEFAULT_PATH: &str = "docs/solvers.md";
/// What the index counted iterations for.
const INDEX_RTOL: f64 = 1e-8;
/// What devices are asked for without refinement.
const RTOL: f64 = 1e-6;
/// And with.
const REFINED_RTOL: f64 = 1e-12;
/// Rows from which on devices are asked for the best preconditioner only.
const LARGE: usize = 20_000;
/// IC(0) with its rows reordered.
const BY_COLOURS: &str = "ic0 by colours";
const USAGE: &str = "usage: solvers_table FOLDER [FILE] [--device NAME]... [--only NAME]... [--keep FOLDER [--kept]]";

struct Device {
    name: String,
    context: Context,
}

/// One matrix with what all devices need of it.
struct Problem {
    name: String,
    index: serde_json::Value,
    operator: CsrOperator,
    b: Vec<f64>,
    /// Name and preconditioner; the first is none.
    preconditioners: Vec<(String, Box<dyn Preconditioner>)>,
    /// Iterations in f64 to [`RTOL`] with each.
    counts: OnceCell<Vec<usize>>,
}

/// What one matrix, or one matrix on one device, gave.
#[derive(Clone, Default)]
struct Findings {
    /// A line of a table.
    line: String,
    /// Forward error bounds divided by the true error, by what the condition was estimated from.
    ratios: Vec<(ConditionEstimate, f64)>,
    /// Whether no preconditioner led to the goal without refinement.
    beyond: bool,
    /// Nor with it.
    unsolved: bool,
}

/// Where findings are kept.
#[derive(Clone, Copy)]
struct Keep<'a> {
    folder: Option<&'a Path>,
    /// Nothing else counts.
    only: bool,
}

const CONDITIONS: [(ConditionEstimate, &str); 2] = [
    (ConditionEstimate::FromRun, "the run itself"),
    (ConditionEstimate::OwnRun, "a run of its own"),
];

impl Findings {
    fn load(path: &Path) -> Option<Findings> {
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let mut ratios = Vec::new();
        for (condition, title) in CONDITIONS {
            let of = value["ratios"][title].as_array()?;
            ratios.extend(of.iter().filter_map(|r| Some((condition, r.as_f64()?))));
        }
        Some(Findings {
            line: value["line"].as_str()?.to_string(),
            ratios,
            beyond: value["beyond"].as_bool()?,
            unsolved: value["unsolved"].as_bool()?,
        })
    }

    fn store(&self, path: &Path) -> Result {
        let mut ratios = serde_json::Map::new();
        for (condition, title) in CONDITIONS {
            let of: Vec<f64> = self.ratios.iter().filter(|r| r.0 == condition).map(|r| r.1).collect();
            ratios.insert(title.to_string(), of.into());
        }
        let value = serde_json::json!({
            "line": self.line, "ratios": ratios, "beyond": self.beyond, "unsolved": self.unsolved,
        });
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, value.to_string())?;
        Ok(std::fs::rename(unfinished, path)?)
    }

    /// What was kept, or what `find` finds now.
    fn kept_or(keep: Keep<'_>, name: &str, find: impl FnOnce() -> Result<Findings>) -> Result<Option<Findings>> {
        let file: String = name
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '_' })
            .collect();
        let path = keep.folder.map(|folder| folder.join(file + ".json"));
        if let Some(kept) = path.as_deref().and_then(Findings::load) {
            return Ok(Some(kept));
        }
        if keep.only {
            return Ok(None);
        }
        let start = Instant::now();
        let found = find()?;
        eprintln!("{name} in {:.1?}", start.elapsed());
        if let Some(path) = path {
            found.store(&path)?;
        }
        Ok(Some(found))
    }
}

/// The right-hand side of the index: exact in every format.
fn exact_vector(n: usize) -> Vec<f64> {
    (0..n)
        .map(|j| ((7919 * j as u64 % 1009) as f64 - 504.0) / 256.0)
        .collect()
}

fn norm(v: impl Iterator<Item = f64>) -> f64 {
    v.map(|v| v * v).sum::<f64>().sqrt()
}

fn main() -> Result {
    let (mut folder, mut path, mut wanted, mut only, mut keep) = (None, None, Vec::new(), Vec::new(), None);
    let mut kept = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--device" => wanted.push(arguments.next().ok_or(USAGE)?.to_lowercase()),
            "--only" => only.push(arguments.next().ok_or(USAGE)?),
            "--keep" => keep = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            "--kept" => kept = true,
            other if other.starts_with('-') => return Err(format!("unexpected argument '{other}'; {USAGE}").into()),
            _ if folder.is_none() => folder = Some(PathBuf::from(argument)),
            _ if path.is_none() => path = Some(PathBuf::from(argument)),
            other => return Err(format!("unexpected argument '{other}'; {USAGE}").into()),
        }
    }
    let folder = folder.ok_or(USAGE)?;
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json"))?)?;
    if let Some(keep) = &keep {
        std::fs::create_dir_all(keep)?;
    }

    let mut devices = Vec::new();
    for info in macheps::devices() {
        let label = info.label().to_lowercase();
        if info.kind == DeviceKind::Cpu || !(wanted.is_empty() || wanted.iter().any(|w| label.contains(w))) {
            continue;
        }
        let options = ContextOptions {
            device: DeviceSelector::Index(info.index),
            ..Default::default()
        };
        devices.push(Device {
            name: info.label(),
            context: Context::with_options(options)?,
        });
    }

    let mut entries: Vec<&serde_json::Value> = index["matrices"]
        .as_array()
        .ok_or("no matrices in the index")?
        .iter()
        .collect();
    entries.retain(|e| e["spd"] == true && (only.is_empty() || only.iter().any(|only| e["name"] == only.as_str())));
    entries.sort_by_key(|e| e["nnz"].as_u64());
    let keep = Keep {
        folder: keep.as_deref(),
        only: kept,
    };
    let (mut counts, mut solves, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        let problem = OnceCell::new();
        let problem = || match problem.get() {
            Some(problem) => Ok(problem),
            None => Problem::read(&folder, entry).map(|read| problem.get_or_init(|| read)),
        };
        let accurate = OnceCell::new();
        let accurate = || match accurate.get() {
            Some(x) => Ok(x),
            None => problem()?.accurate().map(|x| accurate.get_or_init(|| x)),
        };
        let name = entry["name"].as_str().ok_or("a matrix without name")?;
        match Findings::kept_or(keep, name, || problem()?.on_host(accurate()?))? {
            Some(found) => counts.push(found),
            None => missing.push(format!("{name} in f64")),
        }
        for device in &devices {
            let on = format!("{name} on {}", device.name);
            match Findings::kept_or(keep, &on, || problem()?.on_device(device, accurate()?))? {
                Some(found) => solves.push((on, found)),
                None => missing.push(on),
            }
        }
        // Written after every matrix: the last ones take long.
        std::fs::write(&path, document(&counts, &solves, &missing, &devices))?;
    }
    Ok(())
}

impl Problem {
    fn read(folder: &Path, entry: &serde_json::Value) -> Result<Problem> {
        let name = entry["name"].as_str().ok_or("a matrix without name")?.to_string();
        let a = matrix_market::read_file(folder.join(entry["file"].as_str().ok_or("no file")?))?.to_csr()?;
        let ic0 = IncompleteCholesky::new(&a)?;
        let ic0_name = match ic0.order() {
            RowOrder::Natural => "ic0",
            _ => BY_COLOURS,
        };
        let preconditioners: Vec<(String, Box<dyn Preconditioner>)> = vec![
            ("none".to_string(), Box::new(Identity::new(a.rows()))),
            ("jacobi".to_string(), Box::new(JacobiPreconditioner::new(&a)?)),
            ("ssor".to_string(), Box::new(Ssor::new(&a, 1.0)?)),
            (ic0_name.to_string(), Box::new(ic0)),
        ];
        Ok(Problem {
            name,
            index: entry.clone(),
            b: exact_vector(a.rows()),
            operator: CsrOperator::new(a)?,
            preconditioners,
            counts: OnceCell::new(),
        })
    }

    /// Conjugate gradients in f64, by the recurrence.
    fn in_f64(&self, m: &dyn Preconditioner, rtol: f64, limit: usize) -> macheps::Result<CgRun> {
        let mut product = |x: &[f64], y: &mut [f64]| self.operator.apply(x, y);
        let mut apply = |r: &[f64], z: &mut [f64]| m.apply(r, z);
        let control = Control::unverified(rtol, limit);
        reference(&mut product, Some(&mut apply), &self.b, None, &control)
    }

    /// Iterations in f64 with every preconditioner but none, which is 0.
    fn counts(&self) -> Result<&[usize]> {
        if self.counts.get().is_none() {
            let mut counts = vec![0];
            for (_, m) in &self.preconditioners[1..] {
                counts.push(self.in_f64(m.as_ref(), RTOL, 100_000)?.iterations);
            }
            return Ok(self.counts.get_or_init(|| counts));
        }
        Ok(self.counts.get().map_or(&[], Vec::as_slice))
    }

    /// x* to hold errors to.
    fn accurate(&self) -> Result<Vec<f64>> {
        let mut options = CgOptions::with_rtol(1e-15);
        options.max_iterations = Some(100_000);
        options.report = ReportOptions::new(ConditionEstimate::Off);
        let ic0 = self.preconditioners[3].1.as_ref();
        let system = LinearSystem::new(&self.operator, &self.b).with_preconditioner(ic0);
        Ok(conjugate_gradient(&Context::cpu(), &system, &options)?.x)
    }

    /// Counts against the index, and the bounds of f64 solves.
    fn on_host(&self, accurate: &[f64]) -> Result<Findings> {
        let kappa = self.index["condition_number"].as_f64().ok_or("no condition_number")?;
        let matrix = self.operator.matrix().ok_or("no matrix")?;
        let mut found = Findings {
            line: format!(
                "| {} | {} | {} | {kappa:.1e} |",
                self.name,
                matrix.rows(),
                matrix.entries()
            ),
            ..Default::default()
        };
        for (m, key) in [(0, "iterations_plain"), (1, "iterations_jacobi")] {
            let want = self.index["cg_f64"][key].as_i64().ok_or("no cg_f64")?;
            let limit = if want < 0 { -want } else { 3 * want } as usize;
            let run = self.in_f64(self.preconditioners[m].1.as_ref(), INDEX_RTOL, limit)?;
            let more = |beyond: bool| if beyond { "> " } else { "" };
            let unfinished = more(run.outcome != Outcome::Converged);
            write!(
                found.line,
                " {unfinished}{} | {}{} |",
                run.iterations,
                more(want < 0),
                want.abs()
            )?;
        }
        for (m, condition) in [
            (0, ConditionEstimate::FromRun),
            (1, ConditionEstimate::FromRun),
            (1, ConditionEstimate::OwnRun),
        ] {
            let m = self.preconditioners[m].1.as_ref();
            let run = self.in_f64(m, RTOL, 20_000)?;
            let mut facts = RunFacts::new(run.outcome, RTOL, run.iterations);
            (facts.alphas, facts.betas, facts.preconditioner) = (&run.alphas, &run.betas, Some(m));
            let report = Report::assess(&self.operator, &self.b, &run.x, &facts, &ReportOptions::new(condition))?;
            if let Some(bound) = report.forward_error_bound {
                found.ratios.push((condition, bound / error(&run.x, accurate)));
            }
        }
        Ok(found)
    }

    fn on_device(&self, device: &Device, accurate: &[f64]) -> Result<Findings> {
        let mut found = Findings {
            line: format!("| {} | {} |", self.name, device.name),
            beyond: true,
            ..Default::default()
        };
        let counts = self.counts()?;
        let best = (1..counts.len())
            .min_by_key(|&m| counts[m])
            .ok_or("no preconditioner")?;
        let large = self.b.len() > LARGE;
        for (i, (which, m)) in self.preconditioners.iter().enumerate().skip(1) {
            if large && i != best {
                found.line += " |";
                continue;
            }
            let m = m.as_ref();
            let mut options = CgOptions::with_rtol(RTOL);
            options.report = ReportOptions::new(ConditionEstimate::FromRun);
            // What f32 does not reach by then it will not reach.
            options.max_iterations = Some(2 * counts[i].max(100));
            let system = LinearSystem::new(&self.operator, &self.b).with_preconditioner(m);
            let solved = conjugate_gradient(&device.context, &system, &options)?;
            let report = &solved.report;
            found.beyond &= !report.converged();
            if report.converged() {
                let ratio = report.iterations as f64 / counts[i].max(1) as f64;
                write!(found.line, " {} ({ratio:.2})", report.iterations)?;
            } else {
                write!(found.line, " {:.0e} at {}", report.relative_residual, report.iterations)?;
            }
            found.line += if which == BY_COLOURS { ", by colours |" } else { " |" };
            if let Some(bound) = report.forward_error_bound {
                let ratio = bound / error(&solved.x, accurate);
                found.ratios.push((ConditionEstimate::FromRun, ratio));
            }
        }
        let (which, m) = &self.preconditioners[best];
        let m = m.as_ref();
        let mut options = CgOptions::with_rtol(REFINED_RTOL);
        options.refine = true;
        let system = LinearSystem::new(&self.operator, &self.b).with_preconditioner(m);
        let solved = conjugate_gradient(&device.context, &system, &options)?;
        let report = &solved.report;
        found.unsolved = report.relative_residual > RTOL;
        write!(
            found.line,
            " {which}: {:.0e}, {} x, {} iterations | {:.0e} |",
            report.relative_residual,
            report.refinements,
            report.iterations,
            error(&solved.x, accurate)
        )?;
        Ok(found)
    }
}

fn error(x: &[f64], accurate: &[f64]) -> f64 {
    norm(x.iter().zip(accurate).map(|(a, b)| a - b)) / norm(accurate.iter().copied())
}

fn document(counts: &[Findings], solves: &[(String, Findings)], missing: &[String], devices: &[Device]) -> String {
    let list = |which: fn(&Findings) -> bool| {
        let names: Vec<&str> = solves.iter().filter(|s| which(&s.1)).map(|s| s.0.as_str()).collect();
        if names.is_empty() {
            "none".to_string()
        } else {
            names.join(", ")
        }
    };
    let lines = |lines: &mut dyn Iterator<Item = &Findings>| lines.map(|f| f.line.clone() + "\n").collect::<String>();
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!("Not measured yet: {}.\n\n", missing.join(", "))
    };
    let names: Vec<&str> = devices.iter().map(|d| d.name.as_str()).collect();
    let mut text = format!(
        "# Solvers, measured\n\n\
         Written by `cargo run --release --features gz --example solvers_table -- FOLDER`; do not edit. macheps {}, on {}.\n\n\
         All symmetric positive definite matrices of the collection, b = (((7919 j) mod 1009) - 504) / 256, x from 0.\n\n\
         {missing}\
         ## Iterations of conjugate gradients in f64 to {INDEX_RTOL:.0e}, by the recurrence, ours and those of the index\n\n\
         | matrix | rows | entries | condition | none | index | jacobi | index |\n|---|---|---|---|---|---|---|---|\n{}\n\
         ## On devices, in f32 to {RTOL:.0e}, and refined to {REFINED_RTOL:.0e}\n\n\
         Iterations until the residual, recomputed in f64, is small enough, and in brackets relative to the f64 iteration with the same \
         preconditioner; or the residual that was reached within twice as many. Matrices of more than {LARGE} rows are solved with \
         the preconditioner alone that takes the fewest iterations in f64. IC(0) is factored in the order that it chooses by itself.\n\n\
         Refined solves (x and its residual in f64, all else in f32) take the preconditioner with the fewest iterations in f64: relative \
         residual reached, times that x in f64 was added to, iterations, and the error of x against a solution in f64.\n\n\
         | matrix | device | jacobi | ssor | ic0 | refined | error |\n|---|---|---|---|---|---|---|\n{}\n\
         Beyond f32 without refinement: {}.\n\nBeyond {RTOL:.0e} with refinement too: {}.\n\n\
         ## Forward error bounds\n\n\
         Bound divided by true error, of all solves in f64 and on devices to {RTOL:.0e}.\n\n\
         | condition from | solves | smallest | 10 % | median | 90 % | largest |\n|---|---|---|---|---|---|---|\n",
        env!("CARGO_PKG_VERSION"),
        names.join(", "),
        lines(&mut counts.iter()),
        lines(&mut solves.iter().map(|s| &s.1)),
        list(|f| f.beyond),
        list(|f| f.unsolved)
    );
    let all = counts.iter().chain(solves.iter().map(|s| &s.1));
    for (condition, title) in CONDITIONS {
        let of = all.clone().flat_map(|f| &f.ratios).filter(|r| r.0 == condition);
        let mut ratios: Vec<f64> = of.map(|r| r.1).collect();
        ratios.sort_by(f64::total_cmp);
        if ratios.is_empty() {
            continue;
        }
        let at = |share: f64| ratios[(share * (ratios.len() - 1) as f64) as usize];
        let _ = writeln!(
            text,
            "| {title} | {} | {:.1} | {:.1e} | {:.1e} | {:.1e} | {:.1e} |",
            ratios.len(),
            at(0.0),
            at(0.1),
            at(0.5),
            at(0.9),
            at(1.0)
        );
    }
    text
}
