//! Measures the largest error of every operation on every device and writes them down as a document.
//!
//!     cargo run --release --example accuracy [-- [FILE] [--quick]]
//!
//! FILE is docs/accuracy.md if not given. The exit code is 1 if any figure exceeds its bound.

use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::cases::{Case, Data, Fill, MaskShape};
use macheps::ops::softmax::reference;
use macheps::probe::{Value, Verdict};
use macheps::rows::RowMap;
use macheps::{
    Context, ContextOptions, DType, DeviceKind, DeviceSelector, Element, MaskedRows, SoftmaxKind, SoftmaxOptions,
    Strategy, bf16, f16,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::time::Instant;

/// A device under measurement.
struct Device {
    name: String,
    driver: String,
    context: Context,
    /// Software drivers build pipelines slowly; those without subgroups slowest.
    slow: bool,
}

/// The largest error of one row of a table on one device.
#[derive(Clone, Default)]
struct Worst {
    figure: f64,
    of_bound: f64,
    at: String,
}

/// One line of a table: storage type, operation, strategy (none on the CPU path).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    dtype: usize,
    quantity: usize,
    strategy: Option<usize>,
}

const DEFAULT_PATH: &str = "docs/accuracy.md";

fn main() -> Result<(), Box<dyn Error>> {
    let mut path = None;
    let mut quick = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            other if !other.starts_with('-') && path.is_none() => path = Some(other.to_string()),
            other => {
                eprintln!("accuracy: unexpected argument '{other}'; usage: accuracy [FILE] [--quick]");
                std::process::exit(2);
            }
        }
    }
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    let start = Instant::now();
    let devices = open_all()?;
    let mut table = BTreeMap::new();
    let mut excesses = Vec::new();
    let cases = cases(quick);
    for (i, case) in cases.iter().enumerate() {
        if i % 50 == 0 {
            eprintln!(
                "{:4.0} s  case {} of {}",
                start.elapsed().as_secs_f64(),
                i + 1,
                cases.len()
            );
        }
        match case.dtype {
            DType::F32 => measure::<f32>(case, &devices, quick, &mut table, &mut excesses)?,
            DType::F16 => measure::<f16>(case, &devices, quick, &mut table, &mut excesses)?,
            DType::Bf16 => measure::<bf16>(case, &devices, quick, &mut table, &mut excesses)?,
        }
    }
    let mut text = heading(&devices, cases.len(), quick);
    for (d, dtype) in DType::ALL.into_iter().enumerate() {
        write_table(&mut text, &devices, &table, d, dtype, &mut excesses);
    }
    write_fractions(&mut text, &devices, &table);
    write_others(&mut text, &devices, quick, &mut excesses);
    write_elementary(&mut text, &devices, &mut excesses)?;
    if let Some(folder) = std::path::Path::new(&path).parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&path, text)?;
    eprintln!("{:4.0} s  wrote {path}", start.elapsed().as_secs_f64());
    for excess in &excesses {
        eprintln!("BEYOND ITS BOUND: {excess}");
    }
    if !excesses.is_empty() {
        std::process::exit(1);
    }
    Ok(())
}

fn open_all() -> macheps::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for info in macheps::devices() {
        let options = ContextOptions {
            device: DeviceSelector::Index(info.index),
            ..Default::default()
        };
        let name = match info.kind {
            DeviceKind::Cpu => "CPU path".to_string(),
            _ => {
                let short = info.name.split(" (").next().unwrap_or_default();
                format!("{short}, {}", info.backend)
            }
        };
        devices.push(Device {
            slow: info.kind == DeviceKind::Software && info.subgroup_sizes.1 <= 4,
            name,
            driver: info.driver.clone(),
            context: Context::with_options(options)?,
        });
    }
    Ok(devices)
}

fn quantities() -> impl Iterator<Item = Quantity> {
    SoftmaxKind::ALL
        .into_iter()
        .flat_map(|k| [Quantity::Forward(k), Quantity::Backward(k)])
}

/// Shapes with an axis: below, at and beyond what each strategy holds, aligned and not, to 2^20 columns.
fn cases(quick: bool) -> Vec<Case> {
    let shapes: &[(&[usize], isize)] = if quick {
        &[(&[24, 64], -1), (&[12, 1000], -1)]
    } else {
        &[
            (&[24, 61], -1),
            (&[24, 64], -1),
            (&[24, 1000], -1),
            (&[12, 1023], -1),
            (&[3, 20_001], -1),
            (&[3, 131_072], -1),
            (&[1, 1_048_576], -1),
            (&[1000, 24], 0),
            (&[3, 33, 7], 1),
        ]
    };
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        for quantity in quantities() {
            let kind = match quantity {
                Quantity::Forward(kind) | Quantity::Backward(kind) => kind,
            };
            for &(shape, axis) in shapes {
                let huge = shape.iter().product::<usize>() > 500_000;
                for fill in Fill::ALL {
                    if (huge || quick) && !matches!(fill, Fill::Ordinary | Fill::Spread | Fill::Rising) {
                        continue;
                    }
                    cases.push(Case {
                        quantity,
                        fill,
                        options: SoftmaxOptions {
                            axis,
                            ..Default::default()
                        },
                        ..Case::new(kind, dtype, shape)
                    });
                }
            }
            cases.push(Case {
                quantity,
                options: SoftmaxOptions {
                    scale: 0.125,
                    causal: Some(0),
                    masked_rows: MaskedRows::Zero,
                    ..Default::default()
                },
                mask: MaskShape::Padding,
                ..Case::new(kind, dtype, &[2, 3, 40, 40])
            });
        }
    }
    cases
}

/// Runs a case by every strategy that serves it on every device.
fn measure<T: Element>(
    case: &Case,
    devices: &[Device],
    quick: bool,
    table: &mut BTreeMap<(Line, usize), Worst>,
    excesses: &mut Vec<String>,
) -> macheps::Result<()> {
    let data = case.data::<T>();
    let expected = expect(case, &data)?;
    let found = std::thread::scope(|scope| {
        let running: Vec<_> = devices
            .iter()
            .map(|device| {
                let (data, expected) = (&data, &expected);
                scope.spawn(move || run(case, data, expected, device, quick))
            })
            .collect();
        running.into_iter().map(|r| r.join()).collect::<Vec<_>>()
    });
    for (d, outcome) in found.into_iter().enumerate() {
        let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for (line, result) in outcome? {
            match result {
                Ok(worst) => {
                    let known = table.entry((line, d)).or_default();
                    known.of_bound = known.of_bound.max(worst.of_bound);
                    if worst.figure >= known.figure {
                        known.figure = worst.figure;
                        known.at = worst.at;
                    }
                }
                Err(message) => excesses.push(format!("{}: {message}", devices[d].name)),
            }
        }
    }
    Ok(())
}

type Outcomes = Vec<(Line, Result<Worst, String>)>;

fn run<T: Element>(
    case: &Case,
    data: &Data<T>,
    expected: &Expected,
    device: &Device,
    quick: bool,
) -> macheps::Result<Outcomes> {
    let axis = resolved_axis(case);
    let map = RowMap::contiguous(&case.shape, axis);
    let strategies: Vec<Option<Strategy>> = match device.context.gpu() {
        None => vec![None],
        Some(gpu) => Strategy::ALL
            .into_iter()
            .filter(|s| s.serves(gpu.capabilities(), map.len, map.len_stride, case.is_backward()))
            .filter(|s| worth_it(*s, case, map.len, device.slow, quick))
            .map(Some)
            .collect(),
    };
    let mut outcomes = Vec::new();
    for strategy in strategies {
        let forced = Case {
            strategy,
            ..case.clone()
        };
        let line = Line {
            dtype: DType::ALL.iter().position(|&d| d == case.dtype).unwrap_or(0),
            quantity: quantities().position(|q| q == case.quantity).unwrap_or(0),
            strategy: strategy.and_then(|s| Strategy::ALL.iter().position(|&t| t == s)),
        };
        let accuracy = forced.accuracy(&device.context)?;
        let y = forced.compute(&device.context, data)?;
        let name = format!(
            "{} {:?} {} {}",
            case.quantity.name(),
            case.shape,
            case.dtype,
            forced.detail()
        );
        let result = match expected.check(&y, case.quantity, accuracy) {
            Ok(error) => Ok(Worst {
                figure: largest(case, &y, expected),
                of_bound: error.of_bound,
                at: format!("{:?} {}", case.shape, case.detail()),
            }),
            Err(mismatch) => Err(format!("{name}: {mismatch}")),
        };
        outcomes.push((line, result));
    }
    Ok(outcomes)
}

/// Every strategy builds pipelines of its own, so slow drivers and the quick form leave out what others cover:
/// strategies at lengths where they are not at home, and gradients of 16-bit types by strategies that share their arithmetic.
fn worth_it(strategy: Strategy, case: &Case, len: usize, slow: bool, quick: bool) -> bool {
    let at_home = match strategy {
        Strategy::Short => true,
        Strategy::OnChip | Strategy::Subgroup => len > 64,
        Strategy::Workgroup | Strategy::Online | Strategy::Split => len >= 1000,
        Strategy::Columns => case.options.axis != -1 || len == 1000,
    };
    let sixteen = case.dtype != DType::F32;
    let gradient = case.is_backward();
    // Rows that load and store by fours, and one length for each way through them.
    let aligned = [64, 1000, 131_072].contains(&len) && case.mask == MaskShape::None;
    let first = matches!(strategy, Strategy::Short | Strategy::Subgroup);
    // What slow drivers leave out is measured once for each storage type and strategy all the same.
    let once =
        !quick && case.fill == Fill::Spread && (len == 1000 && at_home || strategy == Strategy::Short && len == 64);
    at_home
        && (once
            || if quick {
                aligned && (first || !(slow || sixteen || gradient)) && !(slow && (sixteen || gradient))
            } else if slow {
                (aligned || first && !sixteen) && (first || !(sixteen || gradient))
            } else {
                aligned || first || !(sixteen || gradient)
            })
}

fn resolved_axis(case: &Case) -> usize {
    let axis = case.options.axis;
    (if axis < 0 {
        axis + case.shape.len() as isize
    } else {
        axis
    }) as usize
}

/// What the oracle says.
fn expect<T: Element>(case: &Case, data: &Data<T>) -> macheps::Result<Expected> {
    let (shape, options) = (&case.shape, &case.options);
    let axis = resolved_axis(case);
    let x_map = RowMap::contiguous(shape, axis);
    let mask_map = match &data.mask {
        Some((_, mask_shape)) => Some(RowMap::broadcast("mask", mask_shape, shape, axis)?),
        None => None,
    };
    let mask = data
        .mask
        .as_ref()
        .map(|(values, _)| values.as_slice())
        .zip(mask_map.as_ref());
    let queries = if options.causal.is_some() { shape[axis - 1] } else { 0 };
    let mut result_shape = shape.clone();
    if case.kind().reduces() {
        result_shape[axis] = 1;
    }
    let result_map = RowMap::contiguous(&result_shape, axis);
    let (kind, x) = (case.kind(), data.x.as_slice());
    Ok(match &data.upstream {
        Some(g) => reference::backward(kind, x, &x_map, mask, g, &result_map, options, queries, &x_map),
        None => reference::forward(kind, x, &x_map, mask, options, queries, &result_map),
    })
}

/// Largest error over the results that are normal numbers of f32, in the unit of [`unit`]. Subnormal ones may be flushed;
/// the check against the bounds covers them.
fn largest<T: Element>(case: &Case, got: &[T], expected: &Expected) -> f64 {
    let dtype = T::DTYPE;
    let mut worst = 0.0f64;
    for ((got, &want), &magnitude) in got.iter().zip(&expected.values).zip(&expected.magnitudes) {
        let got = f64::from(got.to_f32());
        if !want.is_finite() || !got.is_finite() || want.abs() < DType::F32.min_normal() {
            continue;
        }
        let unit = match (case.quantity, dtype) {
            (Quantity::Backward(_), DType::F32) => magnitude * 2f64.powi(-24),
            (_, DType::F32) => dtype.ulp(magnitude),
            // The half unit of the rounding is one of the result, which may be larger than what it is made of.
            _ => dtype.ulp(magnitude.max(want.abs())),
        };
        worst = worst.max((got - want).abs() / unit);
    }
    worst
}

fn unit(quantity: Quantity, dtype: DType) -> &'static str {
    match (quantity, dtype) {
        (Quantity::Forward(SoftmaxKind::LogSumExp), DType::F32) => "ulp of max(abs(max), log S)",
        (Quantity::Forward(SoftmaxKind::LogSumExp), _) => "ulp of max(abs(y), abs(max), log S)",
        (Quantity::Forward(_), _) => "ulp",
        (Quantity::Backward(_), DType::F32) => "2^-24 of the sum of abs(terms)",
        (Quantity::Backward(_), _) => "ulp of the sum of abs(terms)",
    }
}

/// The bound in that unit.
fn bound(quantity: Quantity, dtype: DType, strategy: Option<Strategy>) -> f64 {
    let relaxed = strategy.is_some_and(Strategy::rescales);
    let accuracy = if relaxed { Accuracy::Relaxed } else { Accuracy::Standard };
    // At 1 a unit of the binade is u times the magnitude twice over, so the gradient's is at its worst there.
    let allowed = macheps::ops::softmax::bounds::bound(quantity, dtype, accuracy, 1.0, 1.0);
    match (quantity, dtype) {
        (Quantity::Backward(_), DType::F32) => allowed * 2f64.powi(24),
        (Quantity::Backward(_), _) => {
            // The half unit, and 8u of a magnitude just below the next binade.
            0.5 + 2.0 * (allowed / dtype.ulp(1.0) - 0.5)
        }
        _ => allowed / dtype.ulp(1.0),
    }
}

/// The operations beside the softmax family, by their own cases: those of `macheps verify`.
fn write_others(text: &mut String, devices: &[Device], quick: bool, excesses: &mut Vec<String>) {
    let cases: Vec<_> = macheps::verify::cases(None)
        .into_iter()
        .filter(|case| quantities().all(|q| q.name() != case.op()))
        .step_by(if quick { 12 } else { 1 })
        .collect();
    if cases.is_empty() {
        return;
    }
    // Operation, place of the storage type, unit and bound; then the largest error on each device.
    let mut lines: BTreeMap<(String, usize, String, String), Vec<Option<f64>>> = BTreeMap::new();
    let reports: Vec<Vec<_>> = std::thread::scope(|scope| {
        let running: Vec<_> = devices
            .iter()
            .map(|device| {
                let cases = &cases;
                scope.spawn(move || {
                    cases
                        .iter()
                        .map(|case| macheps::verify::run(&device.context, case.as_ref()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        running
            .into_iter()
            .map(|r| r.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    for (d, reports) in reports.into_iter().enumerate() {
        for report in reports {
            if let Some(message) = &report.message {
                let (op, shape, detail) = (&report.op, &report.shape, &report.detail);
                excesses.push(format!(
                    "{}: {op} {shape} {} {detail}: {message}",
                    devices[d].name, report.dtype
                ));
                continue;
            }
            let dtype = DType::ALL.iter().position(|&t| t == report.dtype).unwrap_or(0);
            let key = (
                report.op,
                dtype,
                report.unit.to_string(),
                format!("{:.3}", report.bound),
            );
            let worst = &mut lines.entry(key).or_insert_with(|| vec![None; devices.len()])[d];
            *worst = Some(worst.unwrap_or(0.0).max(report.max_error));
        }
    }
    let _ = writeln!(
        text,
        "## Other operations\n\nBy {} cases of `macheps verify`, each operation by the strategy that its shape calls for.\n",
        cases.len()
    );
    text.push_str("| operation | storage | unit | bound |");
    for device in devices {
        let _ = write!(text, " {} |", device.name);
    }
    text.push_str(&format!("\n|---|---|---|---|{}\n", "---|".repeat(devices.len())));
    for ((op, dtype, unit, bound), worst) in lines {
        let bound = bound.trim_end_matches('0').trim_end_matches('.');
        // A bar would end the cell.
        let unit = unit.replace('|', "\\|");
        let _ = write!(text, "| {op} | {} | {unit} | {bound} |", DType::ALL[dtype]);
        for worst in worst {
            match worst {
                Some(worst) => drop(write!(text, " {worst:.2} |")),
                None => text.push_str(" |"),
            }
        }
        text.push('\n');
    }
    text.push('\n');
}

fn heading(devices: &[Device], cases: usize, quick: bool) -> String {
    let mut text = String::new();
    let option = if quick { " -- --quick" } else { "" };
    let (rows, kinds) = if quick {
        (
            "64 and 1000",
            "three kinds: ordinary, spread evenly over 87 below the maximum, rising",
        )
    } else {
        (
            "33 to 1,048,576",
            "seven kinds: ordinary, spread evenly over 87 below the maximum, magnitudes from 1e-30 to 1e30, dominated by \
             one entry, a third -inf, special values, rising",
        )
    };
    let _ = writeln!(
        text,
        "# Accuracy, measured\n\nWritten by `cargo run --release --example accuracy{option}`; do not edit. macheps {}.\n",
        env!("CARGO_PKG_VERSION")
    );
    let _ = writeln!(
        text,
        "Every figure is the largest error over all elements of all cases, against the f64 oracle \
         (`src/ops/softmax/reference.rs`). The {cases} cases have rows of {rows} elements, \
         of {kinds}; and attention with scale, padding mask and causal mask. \
         The command fails where a bound is missed, a subnormal or non-finite result included; figures count the \
         results that are normal numbers.\n"
    );
    text.push_str("| device | driver | subgroup | native f16 |\n|---|---|---|---|\n");
    for device in devices {
        let (subgroup, half) = match device.context.gpu() {
            Some(gpu) => {
                let c = gpu.capabilities();
                (c.subgroup.to_string(), if c.shader_f16 { "yes" } else { "no" })
            }
            None => ("-".to_string(), "-"),
        };
        let _ = writeln!(text, "| {} | {} | {subgroup} | {half} |", device.name, device.driver);
    }
    text
}

fn write_table(
    text: &mut String,
    devices: &[Device],
    table: &BTreeMap<(Line, usize), Worst>,
    d: usize,
    dtype: DType,
    excesses: &mut Vec<String>,
) {
    let _ = writeln!(text, "\n## Storage {dtype}\n");
    text.push_str("| operation | unit | strategy | bound |");
    for device in devices {
        let _ = write!(text, " {} |", device.name);
    }
    text.push_str("\n|---|---|---|---|");
    text.push_str(&"---|".repeat(devices.len()));
    text.push('\n');
    for (q, quantity) in quantities().enumerate() {
        let strategies = std::iter::once(None).chain((0..Strategy::ALL.len()).map(Some));
        for strategy in strategies {
            let line = Line {
                dtype: d,
                quantity: q,
                strategy,
            };
            let figures: Vec<_> = (0..devices.len()).map(|i| table.get(&(line, i))).collect();
            if figures.iter().all(Option::is_none) {
                continue;
            }
            let named = strategy.map(|s| Strategy::ALL[s]);
            let digits = if dtype == DType::F32 { 2 } else { 5 };
            let allowed = bound(quantity, dtype, named);
            let allowed = if dtype == DType::F32 {
                format!("{allowed:.0}")
            } else {
                format!("{allowed:.5}")
            };
            let _ = write!(
                text,
                "| {} | {} | {} | {allowed} |",
                quantity.name(),
                unit(quantity, dtype),
                named.map_or("CPU path", Strategy::name)
            );
            for (figure, device) in figures.into_iter().zip(devices) {
                match figure {
                    Some(worst) => {
                        if worst.figure > bound(quantity, dtype, named) {
                            let (name, at) = (quantity.name(), &worst.at);
                            excesses.push(format!("{}: {name} {dtype}: {} at {at}", device.name, worst.figure));
                        }
                        let _ = write!(text, " {:.digits$} |", worst.figure);
                    }
                    None => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
    }
}

/// Where each device came nearest to a bound.
fn write_fractions(text: &mut String, devices: &[Device], table: &BTreeMap<(Line, usize), Worst>) {
    text.push_str("\n## Nearest to a bound in f32\n\n| device | operation | figure | where |\n|---|---|---|---|\n");
    for (d, device) in devices.iter().enumerate() {
        let nearest = table
            .iter()
            .filter(|((line, at), _)| *at == d && line.dtype == 0)
            .map(|((line, _), worst)| {
                let strategy = line.strategy.map(|s| Strategy::ALL[s]);
                let quantity = quantities()
                    .nth(line.quantity)
                    .unwrap_or(Quantity::Forward(SoftmaxKind::Softmax));
                let allowed = bound(quantity, DType::F32, strategy);
                (worst.figure / allowed, quantity, strategy, worst, allowed)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, quantity, strategy, worst, allowed)) = nearest {
            let _ = writeln!(
                text,
                "| {} | {}, {} | {:.2} of {allowed:.0} | {} |",
                device.name,
                quantity.name(),
                strategy.map_or("CPU path", Strategy::name),
                worst.figure,
                worst.at
            );
        }
    }
}

/// The elementary functions, from the numerics probe.
fn write_elementary(text: &mut String, devices: &[Device], excesses: &mut Vec<String>) -> macheps::Result<()> {
    text.push_str(
        "\n## Elementary functions in f32\n\nLargest error in ulp over 131,072 samples a line, by the numerics probe (`macheps probe`); \
         `m_` functions are those of `shaders/lib/elementary.wgsl`, the others the driver's, on the CPU those of Rust's standard library. \
         Bounds of ours: 1 ulp for `m_log` and `m_div`, 2 for the others.\n\n",
    );
    let reports = devices
        .iter()
        .map(|d| match d.context.gpu() {
            Some(gpu) => gpu.probe(),
            None => Ok(macheps::probe::cpu()),
        })
        .collect::<macheps::Result<Vec<_>>>()?;
    text.push_str("| function |");
    for device in devices {
        let _ = write!(text, " {} |", device.name);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(devices.len()));
    text.push('\n');
    let Some(longest) = reports.last() else {
        return Ok(());
    };
    for fact in &longest.facts {
        let values: Vec<_> = reports.iter().map(|r| r.get(fact.id)).collect();
        if !matches!(fact.value, Value::Accuracy { .. }) {
            continue;
        }
        let _ = write!(text, "| {} |", fact.what);
        for (value, device) in values.iter().zip(devices) {
            match value.map(|f| (&f.value, f.verdict)) {
                Some((Value::Accuracy { max_ulp, .. }, verdict)) => {
                    if *max_ulp < 1e5 {
                        let _ = write!(text, " {max_ulp:.2} |");
                    } else {
                        let _ = write!(text, " {max_ulp:.0e} |");
                    }
                    if fact.id.starts_with("m_") && verdict != Verdict::Ok {
                        excesses.push(format!("{}: {}: {max_ulp} ulp", device.name, fact.what));
                    }
                }
                _ => text.push_str(" |"),
            }
        }
        text.push('\n');
    }
    Ok(())
}
