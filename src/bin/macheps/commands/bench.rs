//! `macheps bench`.

use serde::Serialize;

use crate::args::BenchArgs;
use crate::backend::{self, Device};
use crate::compare::Old;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::report::{self, BenchCase, Document, is_stdout};
use crate::{destination, svg, table};

#[derive(Serialize)]
struct Body<'a> {
    quick: bool,
    cases: &'a [BenchCase],
}

pub fn run(args: &BenchArgs) -> Outcome {
    let json = args.json.json.as_deref();
    let quiet = json.is_some_and(is_stdout);
    // Before the minutes that the bench may take.
    let inputs: Vec<_> = args.compare.iter().map(|path| ("--compare", path.as_path())).collect();
    destination::check_reports(
        &inputs,
        &[
            ("--json", json),
            ("--csv", args.csv.as_deref()),
            ("--svg", args.svg.as_deref()),
        ],
    )?;
    let old = args.compare.as_deref().map(Old::read).transpose();
    let old = old.map_err(|refused| refused.within("--compare"))?;
    let device = Device::open(&args.device.device)?;
    let cases = bench(&device, args.quick, args.op.as_deref())?;
    if !quiet {
        output::print(&text(&device, &cases))?;
    }
    if let Some(path) = json {
        Document::new(
            "bench",
            device.adapter(),
            Body {
                quick: args.quick,
                cases: &cases,
            },
        )
        .write(path)?;
    }
    if let Some(path) = &args.csv {
        destination::write_text(path, &report::csv(&cases)?)?;
    }
    if let Some(path) = &args.svg {
        destination::write_text(path, &svg::chart(device.adapter(), &cases))?;
    }
    if let Some(old) = old {
        let text = old.compare(device.adapter(), &cases);
        if quiet {
            eprintln_lines(&text);
        } else {
            output::print(&text)?;
        }
    }
    judge(&cases)
}

/// Times every case of `op`, or of all operations, on a device.
pub fn bench(device: &Device, quick: bool, op: Option<&str>) -> Outcome<Vec<BenchCase>> {
    let cases = backend::bench_cases(quick, op)?;
    let bar = output::progress(cases.len());
    let mut results = Vec::with_capacity(cases.len());
    for case in &cases {
        bar.set_message(format!("bench {}", case.op()));
        results.push(device.bench(case.as_ref(), quick)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(results)
}

/// The failure if any case could not be verified.
pub fn judge(cases: &[BenchCase]) -> Outcome {
    match cases.iter().filter(|c| !c.verified).count() {
        0 => Ok(()),
        wrong => Err(Failure::Check(format!(
            "bench: {wrong} of {} cases are not verified",
            cases.len()
        ))),
    }
}

/// The table of a bench.
pub fn text(device: &Device, cases: &[BenchCase]) -> String {
    let columns = [
        ("op", false),
        ("shape", true),
        ("dtype", false),
        ("median", true),
        ("p95", true),
        ("bytes", true),
        ("GB/s", true),
        ("copy GB/s", true),
        ("of copy", true),
        ("result", false),
    ];
    let rows = cases.iter().map(|c| {
        vec![
            c.op.clone(),
            c.shape.clone(),
            c.dtype.to_string(),
            table::seconds(c.seconds.median),
            table::seconds(c.seconds.p95),
            table::bytes(c.bytes),
            table::gbps(c.gbps),
            table::gbps(c.copy_gbps),
            table::percent(c.fraction_of_copy),
            if c.verified { "verified" } else { "WRONG" }.to_string(),
        ]
    });
    let mut timers: Vec<&str> = cases.iter().map(|c| c.timer).collect();
    timers.sort_unstable();
    timers.dedup();
    format!(
        "Timed on {} (by {}):\n{}\n",
        device.adapter(),
        timers.join(" and "),
        table::table(&columns, rows)
    )
}

fn eprintln_lines(text: &str) {
    text.lines().for_each(output::note);
}
