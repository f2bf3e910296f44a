//! `macheps run OP`: one operation on files.

use macheps::ops::softmax::{MaskedRows, SoftmaxKind, SoftmaxOptions};
use macheps::rows::resolve_axis;
use macheps::{DType, Element, bf16, f16};

use crate::args::RunArgs;
use crate::backend::{Device, Problem};
use crate::destination::{self, Destination, Output};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::source::Source;
use crate::table;
use crate::tensor::{self, Stored, Tensor};

const INPUTS: [&str; 3] = ["x", "mask", "upstream"];
const OUTPUTS: [&str; 2] = ["y", "grad"];

pub fn run(args: &RunArgs) -> Outcome {
    let kind = operation(&args.op)?;
    let inputs = pairs("input", &args.inputs, &INPUTS)?;
    let settings = Settings::parse(kind, &args.settings)?;
    let mut outputs = Vec::new();
    for (name, destination) in pairs("output", &args.outputs, &OUTPUTS)? {
        outputs.push((name.to_string(), Destination::parse(destination)?));
    }
    let source = |name: &str| {
        inputs
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, source)| Source::parse(source))
            .transpose()
    };
    let (x, mask, upstream) = (source("x")?, source("mask")?, source("upstream")?);
    let x = x.ok_or_else(|| Failure::usage(format!("{} needs an input x: --input x=FILE", kind.name())))?;
    if upstream.is_some() && settings.upstream.is_some() {
        return Err(Failure::usage("upstream is given both as an input and as a setting"));
    }
    let x = x.read()?;
    let dtype = args.dtype.unwrap_or(x.stored.runs_as().0);
    destination::check(&outputs, dtype)?;
    let read = |source: Option<Source>| source.map(|s| s.read()).transpose();
    let files = Files {
        x,
        mask: read(mask)?,
        upstream: read(upstream)?,
    };
    if files.mask.as_ref().is_some_and(|mask| mask.stored == Stored::Bool) {
        return Err(Failure::usage(
            "mask is of bools, but it is added to x; expected numbers, 0 where an entry takes part and -inf where it does not",
        ));
    }
    match dtype {
        DType::F32 => execute::<f32>(args, kind, &settings, &files, outputs),
        DType::F16 => execute::<f16>(args, kind, &settings, &files, outputs),
        DType::Bf16 => execute::<bf16>(args, kind, &settings, &files, outputs),
    }
}

fn operation(name: &str) -> Outcome<SoftmaxKind> {
    SoftmaxKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| {
            let all: Vec<_> = SoftmaxKind::ALL.iter().map(|kind| kind.name()).collect();
            Failure::usage(format!("no operation named '{name}'; there is {}", all.join(", ")))
        })
}

/// Splits `NAME=REST`s. Each name is known and comes once.
fn pairs<'a>(what: &str, texts: &'a [String], known: &[&str]) -> Outcome<Vec<(&'a str, &'a str)>> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for text in texts {
        let (name, rest) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!(
                "--{what} {text}: expected NAME=...; NAME is {}",
                known.join(", ")
            ))
        })?;
        if !known.contains(&name) {
            return Err(Failure::usage(format!(
                "--{what} {name}: there is {}",
                known.join(", ")
            )));
        }
        if found.iter().any(|(n, _)| *n == name) {
            return Err(Failure::usage(format!("--{what} {name} is given twice")));
        }
        found.push((name, rest));
    }
    Ok(found)
}

/// `--set`.
#[derive(Debug, PartialEq)]
struct Settings {
    /// One or more axes, as given.
    axes: Vec<isize>,
    keepdims: bool,
    scale: f32,
    causal: bool,
    masked: MaskedRows,
    upstream: Option<f64>,
}

impl Settings {
    fn parse(kind: SoftmaxKind, texts: &[String]) -> Outcome<Settings> {
        let known: &[&str] = if kind.reduces() {
            &["axis", "axes", "keepdims", "scale", "causal", "masked", "upstream"]
        } else {
            &["axis", "scale", "causal", "masked", "upstream"]
        };
        let mut settings = Settings {
            axes: vec![-1],
            keepdims: false,
            scale: 1.0,
            causal: false,
            masked: MaskedRows::Nan,
            upstream: None,
        };
        let given = pairs("set", texts, known)?;
        if given.iter().filter(|(key, _)| matches!(*key, "axis" | "axes")).count() > 1 {
            return Err(Failure::usage("--set takes axis or axes, not both"));
        }
        for (key, value) in given {
            let wrong = |expected: &str| Failure::usage(format!("--set {key}={value}: expected {expected}"));
            let boolean = || match value {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(wrong("true or false")),
            };
            match key {
                "axis" => settings.axes = vec![value.parse().map_err(|_| wrong("an integer"))?],
                "axes" => {
                    settings.axes = value
                        .split(',')
                        .map(|axis| {
                            axis.trim()
                                .parse()
                                .map_err(|_| wrong("integers with commas between, at least one"))
                        })
                        .collect::<Outcome<_>>()?;
                }
                "keepdims" => settings.keepdims = boolean()?,
                "scale" => {
                    settings.scale = value
                        .parse()
                        .ok()
                        .filter(|v: &f32| v.is_finite())
                        .ok_or_else(|| wrong("a finite number"))?
                }
                "causal" => settings.causal = boolean()?,
                "masked" => {
                    settings.masked = match value {
                        "nan" => MaskedRows::Nan,
                        "zero" => MaskedRows::Zero,
                        _ => return Err(wrong("nan or zero")),
                    };
                }
                _ => settings.upstream = Some(value.parse().map_err(|_| wrong("a number"))?),
            }
        }
        Ok(settings)
    }
}

/// The inputs as read.
struct Files {
    x: Tensor,
    mask: Option<Tensor>,
    upstream: Option<Tensor>,
}

/// How the tensors are turned so that one axis remains to be reduced.
struct Layout {
    /// Shape of x as the kernel sees it.
    shape: Vec<usize>,
    /// The axis there.
    axis: isize,
    /// Shape of y.
    result: Vec<usize>,
    /// Dimension of the input for each of the turned tensor; absent if nothing is turned.
    order: Option<Vec<usize>>,
}

impl Layout {
    fn new(kind: SoftmaxKind, shape: &[usize], settings: &Settings) -> Outcome<Layout> {
        let mut axes = settings
            .axes
            .iter()
            .map(|&axis| resolve_axis(axis, shape.len()))
            .collect::<macheps::Result<Vec<_>>>()?;
        axes.sort_unstable();
        if axes.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Failure::usage(format!(
                "axes {:?} name a dimension of {shape:?} twice",
                settings.axes
            )));
        }
        let result = if !kind.reduces() {
            shape.to_vec()
        } else if settings.keepdims {
            shape
                .iter()
                .enumerate()
                .map(|(d, &n)| if axes.contains(&d) { 1 } else { n })
                .collect()
        } else {
            shape
                .iter()
                .enumerate()
                .filter(|(d, _)| !axes.contains(d))
                .map(|(_, &n)| n)
                .collect()
        };
        if let [axis] = axes[..] {
            return Ok(Layout {
                shape: shape.to_vec(),
                axis: axis as isize,
                result,
                order: None,
            });
        }
        if settings.causal {
            return Err(Failure::usage(
                "causal works along the last axis; expected no axes beside it",
            ));
        }
        // The reduced dimensions go to the end and become one.
        let mut order: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
        let mut turned: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
        // Beside a dimension of size 0 the others may claim any size; the library refuses what is too large.
        turned.push(axes.iter().fold(1usize, |n, &d| n.saturating_mul(shape[d])));
        order.extend(&axes);
        Ok(Layout {
            shape: turned,
            axis: -1,
            result,
            order: Some(order),
        })
    }

    /// Turns a tensor of the shape of x.
    fn turn<T: Copy>(&self, values: Vec<T>, shape: &[usize]) -> Vec<T> {
        match &self.order {
            Some(order) => tensor::permute(&values, shape, order),
            None => values,
        }
    }

    /// Turns a result of the shape of x back.
    fn turn_back<T: Copy>(&self, values: Vec<T>, shape: &[usize]) -> Vec<T> {
        let Some(order) = &self.order else {
            return values;
        };
        let turned: Vec<usize> = order.iter().map(|&d| shape[d]).collect();
        let mut back = vec![0; order.len()];
        for (at, &d) in order.iter().enumerate() {
            back[d] = at;
        }
        tensor::permute(&values, &turned, &back)
    }
}

fn execute<T: Element>(
    args: &RunArgs,
    kind: SoftmaxKind,
    settings: &Settings,
    files: &Files,
    outputs: Vec<(String, Destination)>,
) -> Outcome {
    let shape = &files.x.shape;
    let layout = Layout::new(kind, shape, settings)?;
    let x = layout.turn(convert::<T>("x", &files.x, args.dtype), shape);
    let mask = match &files.mask {
        None => None,
        Some(mask) => {
            let values = convert::<T>("mask", mask, args.dtype);
            match &layout.order {
                None => Some((values, mask.shape.clone())),
                Some(_) => {
                    let full = tensor::broadcast(&values, &mask.shape, shape).ok_or_else(|| {
                        Failure::usage(format!(
                            "mask: expected a shape that broadcasts to {shape:?}, got {:?}",
                            mask.shape
                        ))
                    })?;
                    Some((layout.turn(full, shape), layout.shape.clone()))
                }
            }
        }
    };
    let wanted = |name: &str| outputs.iter().any(|(n, _)| n == name);
    let grad_wanted =
        wanted("grad") || (outputs.is_empty() && (files.upstream.is_some() || settings.upstream.is_some()));
    let upstream = if grad_wanted {
        Some(upstream::<T>(files, settings, &layout, args.dtype)?)
    } else {
        None
    };
    if !grad_wanted && (files.upstream.is_some() || settings.upstream.is_some()) {
        output::note("upstream is not used: it is for the output grad, which is not asked for");
    }

    let options = SoftmaxOptions {
        axis: layout.axis,
        scale: settings.scale,
        causal: settings.causal.then_some(0),
        masked_rows: settings.masked,
    };
    let problem = Problem {
        kind,
        x: &x,
        shape: &layout.shape,
        mask: mask
            .as_ref()
            .map(|(values, shape)| (values.as_slice(), shape.as_slice())),
        options,
    };
    let device = Device::open(&args.device.device)?;
    let (mut results, mut checks) = (Vec::new(), Vec::new());
    if wanted("y") || outputs.is_empty() {
        let y = device.forward(&problem)?;
        if args.check {
            checks.push(("y", device.check_forward(&problem, &y)));
        }
        results.push(("y", layout.result.clone(), y));
    }
    if let Some(upstream) = &upstream {
        let grad = device.backward(&problem, upstream)?;
        if args.check {
            checks.push(("grad", device.check_backward(&problem, upstream, &grad)));
        }
        results.push(("grad", shape.clone(), layout.turn_back(grad, shape)));
    }

    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|(name, shape, values)| {
            let file = outputs
                .iter()
                .find(|(n, _)| n == name)
                .map_or("not written".to_string(), |(_, d)| d.path().display().to_string());
            summary(name, shape, values, file)
        })
        .collect();
    let mut written = Vec::new();
    for (name, shape, values) in results {
        if let Some((_, destination)) = outputs.iter().find(|(n, _)| n == name) {
            written.push((
                Output {
                    name: name.to_string(),
                    dtype: T::DTYPE,
                    shape,
                    bytes: tensor::to_bytes(&values),
                },
                destination.clone(),
            ));
        }
    }
    destination::write(&written)?;
    let columns = [
        ("output", false),
        ("shape", false),
        ("dtype", false),
        ("min", true),
        ("max", true),
        ("NaN", true),
        ("inf", true),
        ("file", false),
    ];
    output::print(&format!(
        "{} of {shape:?} on {}\n{}",
        kind.name(),
        device.adapter(),
        table::table(&columns, rows)
    ))?;
    verdict(checks)
}

/// Says what the checks found.
fn verdict(checks: Vec<(&str, Outcome<String>)>) -> Outcome {
    let mut worst: Option<Failure> = None;
    for (name, check) in checks {
        match check {
            Ok(found) => output::print(&format!("check: {name} agrees with the CPU reference ({found})"))?,
            Err(failure) => {
                let named = match failure {
                    Failure::Check(message) => Failure::Check(format!("check of {name}: {message}")),
                    Failure::Usage(message) => Failure::Usage(format!("check of {name}: {message}")),
                };
                if let Some(earlier) = worst.replace(named) {
                    output::note(&earlier.to_string());
                }
            }
        }
    }
    worst.map_or(Ok(()), Err)
}

/// The gradient of y, in the order in which the kernel sees y.
fn upstream<T: Element>(files: &Files, settings: &Settings, layout: &Layout, asked: Option<DType>) -> Outcome<Vec<T>> {
    let Some(upstream) = &files.upstream else {
        let too_large = || Failure::usage(format!("upstream: a tensor of shape {:?} is too large", layout.result));
        let count = macheps::rows::element_count(&layout.result).ok_or_else(too_large)?;
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| too_large())?;
        values.resize(count, T::from_f64(settings.upstream.unwrap_or(1.0)));
        return Ok(values);
    };
    // Dimensions of size 1 do not matter to a reduction's result: with or without keepdims.
    let squeeze = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    if upstream.shape != layout.result && squeeze(&upstream.shape) != squeeze(&layout.result) {
        return Err(Failure::usage(format!(
            "upstream: expected the shape of y, {:?}, got {:?}",
            layout.result, upstream.shape
        )));
    }
    // y of turned axes has the kept dimensions in their order, so nothing is to be turned here.
    Ok(convert::<T>("upstream", upstream, asked))
}

/// The elements as `T`; says on stderr what that changed.
fn convert<T: Element>(name: &str, tensor: &Tensor, asked: Option<DType>) -> Vec<T> {
    let (values, loss) = tensor.convert::<T>();
    let stored = tensor.stored;
    let mut notes = Vec::new();
    if asked.is_none() && !stored.runs_as().1 {
        notes.push(format!("{} runs as {}", stored.name(), T::DTYPE));
    } else if stored != Stored::from(T::DTYPE) {
        notes.push(format!("{} converted to {}", stored.name(), T::DTYPE));
    }
    if loss.overflowed > 0 {
        notes.push(format!(
            "{} of {} values overflow to infinity",
            loss.overflowed,
            values.len()
        ));
    }
    if !notes.is_empty() {
        output::note(&format!("{name}: {}", notes.join(", ")));
    }
    values
}

/// A row of the table of outputs.
fn summary<T: Element>(name: &str, shape: &[usize], values: &[T], file: String) -> Vec<String> {
    let (mut low, mut high, mut nans, mut infinities) = (f32::INFINITY, f32::NEG_INFINITY, 0usize, 0usize);
    for value in values.iter().map(|v| v.to_f32()) {
        if value.is_nan() {
            nans += 1;
        } else {
            infinities += usize::from(value.is_infinite());
            low = low.min(value);
            high = high.max(value);
        }
    }
    let number = |value: f32| {
        if nans == values.len() {
            "-".to_string()
        } else {
            table::short(f64::from(value))
        }
    };
    vec![
        name.to_string(),
        format!("{shape:?}"),
        T::DTYPE.to_string(),
        number(low),
        number(high),
        nans.to_string(),
        infinities.to_string(),
        file,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(kind: SoftmaxKind, texts: &[&str]) -> Outcome<Settings> {
        Settings::parse(kind, &texts.iter().map(|t| t.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn parses_settings() {
        let settings = set(
            SoftmaxKind::LogSumExp,
            &[
                "axes=0,-1",
                "keepdims=true",
                "scale=0.125",
                "masked=zero",
                "upstream=2.5",
            ],
        )
        .unwrap();
        assert_eq!(
            settings,
            Settings {
                axes: vec![0, -1],
                keepdims: true,
                scale: 0.125,
                causal: false,
                masked: MaskedRows::Zero,
                upstream: Some(2.5)
            }
        );
        for bad in [
            "axes=",
            "axes=1,,2",
            "axis=x",
            "keepdims=1",
            "scale=nan",
            "scale=",
            "masked=no",
            "nothing=1",
            "axis",
            "upstream=x",
        ] {
            assert!(set(SoftmaxKind::LogSumExp, &[bad]).is_err(), "{bad}");
        }
        assert!(
            set(SoftmaxKind::Softmax, &["axes=0"])
                .unwrap_err()
                .to_string()
                .contains("there is axis, scale")
        );
        assert!(set(SoftmaxKind::LogSumExp, &["axes=0", "axis=0"]).is_err());
        assert!(set(SoftmaxKind::LogSumExp, &["axis=0", "axis=0"]).is_err());
    }

    #[test]
    fn turns_axes_to_one() {
        let shape = [2, 3, 4];
        let settings = set(SoftmaxKind::LogSumExp, &["axes=2,0"]).unwrap();
        let layout = Layout::new(SoftmaxKind::LogSumExp, &shape, &settings).unwrap();
        assert_eq!(
            (layout.shape.clone(), layout.axis, layout.result.clone()),
            (vec![3, 8], -1, vec![3])
        );
        let values: Vec<u32> = (0..24).collect();
        let turned = layout.turn(values.clone(), &shape);
        assert_eq!(turned[..8], [0, 1, 2, 3, 12, 13, 14, 15]);
        assert_eq!(layout.turn_back(turned, &shape), values);
        let settings = set(SoftmaxKind::LogSumExp, &["axis=1", "keepdims=true"]).unwrap();
        let layout = Layout::new(SoftmaxKind::LogSumExp, &shape, &settings).unwrap();
        assert_eq!(
            (layout.shape, layout.axis, layout.result),
            (vec![2, 3, 4], 1, vec![2, 1, 4])
        );
        let twice = set(SoftmaxKind::LogSumExp, &["axes=0,-3"]).unwrap();
        assert!(Layout::new(SoftmaxKind::LogSumExp, &shape, &twice).is_err());
    }

    #[test]
    fn names_operations() {
        assert!(
            operation("soft")
                .unwrap_err()
                .to_string()
                .contains("there is softmax, log_softmax, logsumexp")
        );
    }
}
