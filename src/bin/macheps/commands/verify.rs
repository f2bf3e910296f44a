//! `macheps verify`.

use std::path::Path;

use serde::Serialize;

use crate::backend::{self, Device};
use crate::destination;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::report::{Adapter, Document, VerifyCase, is_stdout};
use crate::table;

#[derive(Serialize)]
struct Body<'a> {
    /// Every device verified; `adapter` is the first of them.
    adapters: &'a [Adapter],
    cases: &'a [VerifyCase],
}

pub fn run(device: &str, op: Option<&str>, json: Option<&Path>) -> Outcome {
    let quiet = json.is_some_and(is_stdout);
    destination::check_reports(&[], &[("--json", json)])?;
    let (mut adapters, mut cases, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    let selectors = if device == "all" {
        backend::devices().iter().map(|d| d.index.to_string()).collect()
    } else {
        vec![device.to_string()]
    };
    for selector in &selectors {
        let device = match Device::open(selector) {
            Ok(device) => device,
            // One device that does not open does not keep the others from being verified.
            Err(failure) if selectors.len() > 1 => {
                output::note(&failure.to_string());
                broken.push(failure);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let of_device = verify(&device, op)?;
        if !quiet {
            output::print(&text(&device, &of_device))?;
        }
        adapters.push(device.adapter().clone());
        cases.extend(of_device);
    }
    let (Some(adapter), Some(path)) = (adapters.first(), json) else {
        return judge(&cases, broken.len());
    };
    Document::new(
        "verify",
        adapter,
        Body {
            adapters: &adapters,
            cases: &cases,
        },
    )
    .write(path)?;
    judge(&cases, broken.len())
}

/// Verifies every case of `op`, or of all operations, on a device.
pub fn verify(device: &Device, op: Option<&str>) -> Outcome<Vec<VerifyCase>> {
    let cases = backend::verify_cases(op)?;
    let bar = output::progress(cases.len());
    let results = cases
        .iter()
        .map(|case| {
            let result = device.verify(case.as_ref());
            bar.set_message(format!("verify {}", result.op));
            bar.inc(1);
            result
        })
        .collect();
    bar.finish_and_clear();
    Ok(results)
}

/// The failure if any case failed, or a device could not be opened.
pub fn judge(cases: &[VerifyCase], broken: usize) -> Outcome {
    let failed = cases.iter().filter(|c| !c.ok).count();
    match (failed, broken) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::Check(format!("{broken} devices could not be verified"))),
        _ => Err(Failure::Check(format!(
            "verify: {failed} of {} cases failed",
            cases.len()
        ))),
    }
}

/// The worst case of each operation and storage type, and every failure.
pub fn text(device: &Device, cases: &[VerifyCase]) -> String {
    let mut groups: Vec<Vec<&VerifyCase>> = Vec::new();
    for case in cases {
        match groups
            .iter_mut()
            .find(|g| (&g[0].op, g[0].dtype, g[0].unit) == (&case.op, case.dtype, case.unit))
        {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    let columns = [
        ("op", false),
        ("dtype", false),
        ("cases", true),
        ("worst error", true),
        ("bound", true),
        ("unit", false),
        ("at", false),
        ("", false),
    ];
    let rows = groups.iter().map(|group| {
        let worst = group
            .iter()
            .max_by(|a, b| severity(a).total_cmp(&severity(b)))
            .unwrap_or(&group[0]);
        let failed = group.iter().filter(|c| !c.ok).count();
        vec![
            worst.op.clone(),
            worst.dtype.to_string(),
            group.len().to_string(),
            table::short(worst.max_error),
            table::short(worst.bound),
            worst.unit.to_string(),
            worst.shape.clone(),
            if failed == 0 {
                "ok".to_string()
            } else {
                format!("{failed} FAILED")
            },
        ]
    });
    let mut text = format!("Verified on {}:\n{}", device.adapter(), table::table(&columns, rows));
    for case in cases.iter().filter(|c| !c.ok) {
        text += &format!("\nFAILED {} {} {}", case.op, case.shape, case.dtype);
        if !case.detail.is_empty() {
            text += &format!(" {}", case.detail);
        }
        text += &format!(
            ": error {} {}, bound {}",
            table::short(case.max_error),
            case.unit,
            table::short(case.bound)
        );
        if let Some(message) = &case.message {
            text += &format!("; {message}");
        }
    }
    text.push('\n');
    text
}

/// Failures first, then by how much of the bound is used; a NaN is as bad as it gets.
fn severity(case: &VerifyCase) -> f64 {
    let used = case.max_error / case.bound;
    let used = if case.max_error == 0.0 {
        0.0
    } else if used.is_nan() {
        f64::INFINITY
    } else {
        used
    };
    if case.ok { used } else { used + 1e300 }
}
