//! Solves every symmetric positive definite matrix of a collection in every way, and writes the figures down as a document.
//!
//!     cargo run --release --features gz --example solvers_table -- FOLDER [FILE] [--device NAME]... [--only NAME]
//!
//! FOLDER holds `index.json` (with `name`, `file`, `spd`, `condition_number` and `cg_f64` of each matrix) and the files. FILE is
//! docs/solvers.md if not given. Devices are given by parts of their names; all adapters if there is none.

use macheps::solve::conjugate_gradient::reference::{Control, conjugate_gradient as reference};
use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
use macheps::solve::{
    ConditionEstimate, CsrOperator, Identity, IncompleteCholesky, JacobiPreconditioner, LinearOperator, Outcome,
    Preconditioner, Report, ReportOptions, RunFacts, Ssor,
};
use macheps::sparse::matrix_market;
use macheps::{Context, ContextOptions, DeviceKind, DeviceSelector};
use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const DEFAULT_PATH: &str = "docs/solvers.md";
/// What the index counted iterations for.
const INDEX_RTOL: f64 = 1e-8;
/// What devices are asked for without refinement.
const RTOL: f64 = 1e-6;
/// And with.
const REFINED_RTOL: f64 = 1e-12;
const USAGE: &str = "usage: solvers_table FOLDER [FILE] [--device NAME]... [--only NAME]";

struct Device {
    name: String,
    context: Context,
}

/// Lines of the three tables.
#[derive(Default)]
struct Tables {
    counts: String,
    solves: String,
    ratios: Vec<(ConditionEstimate, f64)>,
    beyond: Vec<String>,
    unsolved: Vec<String>,
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
    let (mut folder, mut path, mut wanted, mut only) = (None, None, Vec::new(), None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--device" => wanted.push(arguments.next().ok_or(USAGE)?.to_lowercase()),
            "--only" => only = Some(arguments.next().ok_or(USAGE)?),
            other if other.starts_with('-') => return Err(format!("unexpected argument '{other}'; {USAGE}").into()),
            _ if folder.is_none() => folder = Some(PathBuf::from(argument)),
            _ if path.is_none() => path = Some(PathBuf::from(argument)),
            other => return Err(format!("unexpected argument '{other}'; {USAGE}").into()),
        }
    }
    let folder = folder.ok_or(USAGE)?;
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json"))?)?;

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
    entries.retain(|e| e["spd"] == true && only.as_ref().is_none_or(|only| e["name"] == only.as_str()));
    entries.sort_by_key(|e| e["nnz"].as_u64());
    let mut tables = Tables::default();
    for entry in entries {
        let start = Instant::now();
        one(&folder, entry, &devices, &mut tables)?;
        eprintln!("{} in {:.1?}", entry["name"], start.elapsed());
        // Written after every matrix: the last ones take long.
        std::fs::write(&path, document(&tables, &devices))?;
    }
    Ok(())
}

/// Everything about one matrix.
fn one(folder: &std::path::Path, entry: &serde_json::Value, devices: &[Device], tables: &mut Tables) -> Result {
    let name = entry["name"].as_str().ok_or("a matrix without name")?;
    let kappa = entry["condition_number"].as_f64().ok_or("no condition_number")?;
    let a = matrix_market::read_file(folder.join(entry["file"].as_str().ok_or("no file")?))?.to_csr()?;
    let (n, entries) = (a.rows(), a.entries());
    let b = exact_vector(n);
    let preconditioners: Vec<(&str, Box<dyn Preconditioner>)> = vec![
        ("none", Box::new(Identity::new(n))),
        ("jacobi", Box::new(JacobiPreconditioner::new(&a)?)),
        ("ssor", Box::new(Ssor::new(&a, 1.0)?)),
        ("ic0", Box::new(IncompleteCholesky::new(&a)?)),
    ];
    let operator = CsrOperator::new(a)?;
    let cpu = |m: &dyn Preconditioner, rtol: f64, limit: usize| {
        let mut product = |x: &[f64], y: &mut [f64]| operator.apply(x, y);
        let mut apply = |r: &[f64], z: &mut [f64]| m.apply(r, z);
        reference(
            &mut product,
            Some(&mut apply),
            &b,
            None,
            &Control::unverified(rtol, limit),
        )
    };

    // Counts against the index.
    write!(tables.counts, "| {name} | {n} | {entries} | {kappa:.1e} |")?;
    for (which, key) in [("none", "iterations_plain"), ("jacobi", "iterations_jacobi")] {
        let want = entry["cg_f64"][key].as_i64().ok_or("no cg_f64")?;
        let limit = if want < 0 {
            want.unsigned_abs() as usize
        } else {
            3 * want as usize
        };
        let m = preconditioners
            .iter()
            .find(|p| p.0 == which)
            .ok_or("no such preconditioner")?;
        let run = cpu(m.1.as_ref(), INDEX_RTOL, limit)?;
        let got = if run.outcome == Outcome::Converged {
            run.iterations.to_string()
        } else {
            format!("> {}", run.iterations)
        };
        let want = if want < 0 {
            format!("> {}", -want)
        } else {
            want.to_string()
        };
        write!(tables.counts, " {got} | {want} |")?;
    }
    tables.counts.push('\n');

    // x* to hold errors to.
    let ic0 = preconditioners[3].1.as_ref();
    let mut options = CgOptions::with_rtol(1e-15);
    options.max_iterations = Some(100_000);
    options.report = ReportOptions::new(ConditionEstimate::Off);
    let system = LinearSystem::new(&operator, &b).with_preconditioner(ic0);
    let accurate = conjugate_gradient(&Context::cpu(), &system, &options)?.x;
    let length = norm(accurate.iter().copied());
    let error = |x: &[f64]| norm(x.iter().zip(&accurate).map(|(a, b)| a - b)) / length;

    // Bounds of the f64 solve, by both ways to a condition.
    for (m, condition) in [
        (0, ConditionEstimate::FromRun),
        (1, ConditionEstimate::FromRun),
        (1, ConditionEstimate::OwnRun),
    ] {
        let m = preconditioners[m].1.as_ref();
        let run = cpu(m, RTOL, 20_000)?;
        let mut facts = RunFacts::new(run.outcome, RTOL, run.iterations);
        (facts.alphas, facts.betas, facts.preconditioner) = (&run.alphas, &run.betas, Some(m));
        let report = Report::assess(&operator, &b, &run.x, &facts, &ReportOptions::new(condition))?;
        if let Some(bound) = report.forward_error_bound {
            tables.ratios.push((condition, bound / error(&run.x)));
        }
    }

    for device in devices {
        let mut best: Option<(usize, &dyn Preconditioner, &str)> = None;
        let mut any = false;
        write!(tables.solves, "| {name} | {} |", device.name)?;
        for (which, m) in &preconditioners[1..] {
            let mut options = CgOptions::with_rtol(RTOL);
            options.report = ReportOptions::new(ConditionEstimate::FromRun);
            let system = LinearSystem::new(&operator, &b).with_preconditioner(m.as_ref());
            let found = conjugate_gradient(&device.context, &system, &options)?;
            let f64_count = cpu(m.as_ref(), RTOL, 100_000)?.iterations;
            let report = &found.report;
            any |= report.converged();
            let count = if report.converged() {
                let ratio = report.iterations as f64 / f64_count.max(1) as f64;
                format!("{} ({ratio:.2})", report.iterations)
            } else {
                format!("{:.0e} at {}", report.relative_residual, report.iterations)
            };
            write!(tables.solves, " {count} |")?;
            if let Some(bound) = report.forward_error_bound {
                tables
                    .ratios
                    .push((ConditionEstimate::FromRun, bound / error(&found.x)));
            }
            if best.is_none_or(|(iterations, ..)| f64_count < iterations) {
                best = Some((f64_count, m.as_ref(), which));
            }
        }
        if !any {
            tables.beyond.push(format!("{name} on {}", device.name));
        }
        let (_, m, which) = best.ok_or("no preconditioner")?;
        let mut options = CgOptions::with_rtol(REFINED_RTOL);
        options.refine = true;
        let system = LinearSystem::new(&operator, &b).with_preconditioner(m);
        let found = conjugate_gradient(&device.context, &system, &options)?;
        let report = &found.report;
        if report.relative_residual > RTOL {
            tables.unsolved.push(format!("{name} on {}", device.name));
        }
        writeln!(
            tables.solves,
            " {which}: {:.0e}, {} x, {} iterations | {:.0e} |",
            report.relative_residual,
            report.refinements,
            report.iterations,
            error(&found.x)
        )?;
    }
    Ok(())
}

fn document(tables: &Tables, devices: &[Device]) -> String {
    let list = |names: &[String]| {
        if names.is_empty() {
            "none".to_string()
        } else {
            names.join(", ")
        }
    };
    let names: Vec<&str> = devices.iter().map(|d| d.name.as_str()).collect();
    let mut text = format!(
        "# Solvers, measured\n\n\
         Written by `cargo run --release --features gz --example solvers_table -- FOLDER`; do not edit. macheps {}, on {}.\n\n\
         All symmetric positive definite matrices of the collection, b = (((7919 j) mod 1009) - 504) / 256, x from 0.\n\n\
         ## Iterations of conjugate gradients in f64 to {INDEX_RTOL:.0e}, by the recurrence, ours and those of the index\n\n\
         | matrix | rows | entries | condition | none | index | jacobi | index |\n|---|---|---|---|---|---|---|---|\n{}\n\
         ## On devices, in f32 to {RTOL:.0e}, and refined to {REFINED_RTOL:.0e}\n\n\
         Iterations until the residual, recomputed in f64, is small enough, and in brackets relative to the f64 iteration with the same \
         preconditioner; or the residual that was reached. Refinement takes the preconditioner with the fewest iterations in f64: relative \
         residual reached, corrections, iterations, and the error of x against a solution in f64.\n\n\
         | matrix | device | jacobi | ssor | ic0 | refined | error |\n|---|---|---|---|---|---|---|\n{}\n\
         Beyond f32 without refinement: {}.\n\nBeyond {RTOL:.0e} with refinement too: {}.\n\n\
         ## Forward error bounds\n\n\
         Bound divided by true error, of all solves in f64 and on devices to {RTOL:.0e}.\n\n\
         | condition from | solves | smallest | 10 % | median | 90 % | largest |\n|---|---|---|---|---|---|---|\n",
        env!("CARGO_PKG_VERSION"),
        names.join(", "),
        tables.counts,
        tables.solves,
        list(&tables.beyond),
        list(&tables.unsolved)
    );
    for (condition, title) in [
        (ConditionEstimate::FromRun, "the run itself"),
        (ConditionEstimate::OwnRun, "a run of its own"),
    ] {
        let mut ratios: Vec<f64> = tables.ratios.iter().filter(|r| r.0 == condition).map(|r| r.1).collect();
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
