//! `macheps run softmax`, `log_softmax` and `logsumexp`.

use macheps::ops::softmax::{MaskedRows, SoftmaxKind, SoftmaxOptions};
use macheps::rows::resolve_axis;
use macheps::{DType, Element, bf16, f16};

use super::{Call, Results, pairs};
use crate::args::RunArgs;
use crate::backend::{Device, Problem};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::tensor::{self, Stored, Tensor};

const INPUTS: [&str; 3] = ["x", "mask", "upstream"];
const OUTPUTS: [&str; 2] = ["y", "grad"];

pub fn run(args: &RunArgs) -> Outcome {
    let kind = SoftmaxKind::ALL
        .into_iter()
        .find(|kind| kind.name() == args.op)
        .ok_or_else(|| Failure::usage(format!("no operation named '{}'", args.op)))?;
    let settings = Settings::parse(kind, &args.settings)?;
    let call = Call::parse(args, &INPUTS, known_settings(kind), &OUTPUTS)?;
    if call.has("upstream") && settings.upstream.is_some() {
        return Err(Failure::usage("upstream is given both as an input and as a setting"));
    }
    let x = call.need("x")?;
    let dtype = call.dtype(&x);
    call.check_outputs(|_| dtype.into())?;
    let files = Files {
        x,
        mask: call.read("mask")?,
        upstream: call.read("upstream")?,
    };
    if files.mask.as_ref().is_some_and(|mask| mask.stored == Stored::Bool) {
        return Err(Failure::usage(
            "mask is of bools, but it is added to x; expected numbers, 0 where an entry takes part and -inf where it does not",
        ));
    }
    match dtype {
        DType::F32 => execute::<f32>(&call, kind, &settings, &files),
        DType::F16 => execute::<f16>(&call, kind, &settings, &files),
        DType::Bf16 => execute::<bf16>(&call, kind, &settings, &files),
    }
}

fn known_settings(kind: SoftmaxKind) -> &'static [&'static str] {
    if kind.reduces() {
        &["axis", "axes", "keepdims", "scale", "causal", "masked", "upstream"]
    } else {
        &["axis", "scale", "causal", "masked", "upstream"]
    }
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
        let mut settings = Settings {
            axes: vec![-1],
            keepdims: false,
            scale: 1.0,
            causal: false,
            masked: MaskedRows::Nan,
            upstream: None,
        };
        let given = pairs("set", texts, known_settings(kind))?;
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

fn execute<T: Element>(call: &Call, kind: SoftmaxKind, settings: &Settings, files: &Files) -> Outcome {
    let shape = &files.x.shape;
    let layout = Layout::new(kind, shape, settings)?;
    let x = layout.turn(call.values::<T>("x", &files.x), shape);
    let mask = match &files.mask {
        None => None,
        Some(mask) => {
            let values = call.values::<T>("mask", mask);
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
    let grad_wanted =
        call.writes("grad") || (call.only_shows() && (files.upstream.is_some() || settings.upstream.is_some()));
    let upstream = if grad_wanted {
        Some(upstream::<T>(call, files, settings, &layout)?)
    } else {
        None
    };
    if !grad_wanted && (files.upstream.is_some() || settings.upstream.is_some()) {
        output::remark("upstream is not used: it is for the output grad, which is not asked for");
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
    let device = Device::open(&call.device)?;
    let mut results = Results::default();
    if call.writes("y") || call.only_shows() {
        let y = device.forward(&problem)?;
        if call.check {
            results.checked("y", device.check_forward(&problem, &y));
        }
        results.floats("y", &layout.result, &y);
    }
    if let Some(upstream) = &upstream {
        let grad = device.backward(&problem, upstream)?;
        if call.check {
            results.checked("grad", device.check_backward(&problem, upstream, &grad));
        }
        results.floats("grad", shape, &layout.turn_back(grad, shape));
    }
    results.finish(call, &format!("{} of {shape:?} on {}", kind.name(), device.adapter()))
}

/// The gradient of y, in the order in which the kernel sees y.
fn upstream<T: Element>(call: &Call, files: &Files, settings: &Settings, layout: &Layout) -> Outcome<Vec<T>> {
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
    Ok(call.values::<T>("upstream", upstream))
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
}
