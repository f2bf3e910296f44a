//! `macheps run sum`, `mean`, `variance`, `std`, `norm`, `dot`, `min`, `max`, `argmin`, `argmax`, `sum_square` and `log_sum`.

use macheps::ops::reduction;
use macheps::{DType, Element, ReductionInput, ReductionKind, ReductionOptions, SumMode, bf16, f16};

use super::{Call, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table;
use crate::tensor::{Stored, Tensor};

/// The operations of this file; `norm` is one of three kinds, by `ord`.
pub const NAMES: &[&str] = &[
    "sum",
    "mean",
    "variance",
    "std",
    "norm",
    "dot",
    "min",
    "max",
    "argmin",
    "argmax",
    "sum_square",
    "log_sum",
];

pub fn run(args: &RunArgs) -> Outcome {
    let op = args.op.as_str();
    let inputs: &[&str] = if op == "dot" {
        &["x", "x2", "upstream"]
    } else {
        &["x", "upstream"]
    };
    let mut settings = vec!["axes", "keepdims", "upstream"];
    match op {
        "variance" | "std" => settings.push("correction"),
        "norm" => settings.push("ord"),
        "sum" | "mean" | "dot" => settings.push("mode"),
        _ => (),
    }
    let call = Call::parse(args, inputs, &settings, &["y", "grad"])?;
    if call.has("upstream") && call.setting("upstream").is_some() {
        return Err(Failure::usage("upstream is given both as an input and as a setting"));
    }
    let kind = kind(&call, op)?;
    let options = options(&call)?;
    let upstream = call.number("upstream")?;
    if kind.is_arg() && call.writes("grad") {
        return Err(Failure::usage(format!("{op} has no gradient: its results are indices")));
    }
    let files = Files {
        x: call.need("x")?,
        second: if kind.takes_two() { Some(call.need("x2")?) } else { None },
        upstream: call.read("upstream")?,
    };
    let dtype = call.dtype(&files.x);
    call.check_outputs(|name| {
        if kind.is_arg() && name == "y" {
            Stored::I64
        } else {
            dtype.into()
        }
    })?;
    if let Some(second) = files.second.as_ref().filter(|s| s.shape != files.x.shape) {
        return Err(Failure::usage(format!(
            "x2: expected the shape of x, {:?}, got {:?}",
            files.x.shape, second.shape
        )));
    }
    match dtype {
        DType::F32 => execute::<f32>(&call, kind, &options, &files, upstream),
        DType::F16 => execute::<f16>(&call, kind, &options, &files, upstream),
        DType::Bf16 => execute::<bf16>(&call, kind, &options, &files, upstream),
    }
}

fn kind(call: &Call, op: &str) -> Outcome<ReductionKind> {
    if op == "norm" {
        let ord = call.parsed("ord", "1, 2 or inf", |text| match text {
            "1" => Some(ReductionKind::NormL1),
            "2" => Some(ReductionKind::NormL2),
            "inf" => Some(ReductionKind::NormMax),
            _ => None,
        })?;
        return Ok(ord.unwrap_or(ReductionKind::NormL2));
    }
    ReductionKind::ALL
        .into_iter()
        .find(|kind| kind.name() == op)
        .ok_or_else(|| Failure::usage(format!("no operation named '{op}'")))
}

fn options(call: &Call) -> Outcome<ReductionOptions> {
    let mode = call.parsed("mode", "pairwise, compensated or reproducible", |text| {
        SumMode::ALL.into_iter().find(|mode| mode.name() == text)
    })?;
    let defaults = ReductionOptions::default();
    Ok(ReductionOptions {
        axes: call.axes("axes")?,
        keepdims: call.boolean("keepdims")?.unwrap_or(defaults.keepdims),
        mode: mode.unwrap_or(defaults.mode),
        correction: call.number("correction")?.unwrap_or(defaults.correction),
    })
}

/// The inputs as read.
struct Files {
    x: Tensor,
    second: Option<Tensor>,
    upstream: Option<Tensor>,
}

fn execute<T: Element>(
    call: &Call,
    kind: ReductionKind,
    options: &ReductionOptions,
    files: &Files,
    upstream: Option<f64>,
) -> Outcome {
    let shape = &files.x.shape;
    let result = options.output_shape(shape)?;
    let x = call.values::<T>("x", &files.x);
    let second = files.second.as_ref().map(|s| call.values::<T>("x2", s));
    let input = ReductionInput {
        x: &x,
        shape,
        second: second.as_deref(),
    };
    let given = files.upstream.is_some() || upstream.is_some();
    let grad_wanted = !kind.is_arg() && (call.writes("grad") || (call.only_shows() && given));
    if given && !grad_wanted {
        output::remark("upstream is not used: it is for the output grad, which is not asked for");
    }
    let device = Device::open(&call.device)?;
    let context = device.context();
    let mut results = Results::default();
    let used = |of_bound: f64| format!("largest error {} of the bound", table::percent(of_bound));
    if call.writes("y") || call.only_shows() {
        if kind.is_arg() {
            let y = reduction::arg_reduce(context, kind, &input, options)?;
            if call.check {
                let found = reduction::check_indices(kind, &input, options, &y);
                results.checked(
                    "y",
                    found.map(|()| "the same indices".to_string()).map_err(Failure::from),
                );
            }
            let y: Vec<i64> = y.into_iter().map(|i| i as i64).collect();
            results.integers("y", &result, &y);
        } else {
            let y = reduction::reduce(context, kind, &input, options)?;
            if call.check {
                let found = reduction::check_forward(kind, &input, options, &y);
                results.checked("y", found.map(used).map_err(Failure::from));
            }
            results.floats("y", &result, &y);
        }
    }
    if grad_wanted {
        let upstream = match &files.upstream {
            Some(tensor) => {
                // Dimensions of size 1 do not matter: with or without keepdims.
                let squeeze = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
                if squeeze(&tensor.shape) != squeeze(&result) {
                    return Err(Failure::usage(format!(
                        "upstream: expected the shape of y, {result:?}, got {:?}",
                        tensor.shape
                    )));
                }
                call.values::<T>("upstream", tensor)
            }
            None => {
                let too_large = || Failure::usage(format!("upstream: a tensor of shape {result:?} is too large"));
                let count = macheps::rows::element_count(&result).ok_or_else(too_large)?;
                let mut values = Vec::new();
                values.try_reserve_exact(count).map_err(|_| too_large())?;
                values.resize(count, T::from_f64(upstream.unwrap_or(1.0)));
                values
            }
        };
        let grad = reduction::backward(context, kind, &input, &upstream, options)?;
        if call.check {
            let found = reduction::check_backward(kind, &input, &upstream, options, &grad);
            results.checked("grad", found.map(used).map_err(Failure::from));
        }
        results.floats("grad", shape, &grad);
    }
    results.finish(call, &format!("{} of {shape:?} on {}", call.op(), device.adapter()))
}
