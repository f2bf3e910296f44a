//! `macheps run layer_norm` and `rms_norm`.

use macheps::ops::layer_norm::{backward, backward_checked, forward, forward_checked};
use macheps::{CrossCheck, DType, Element, Error, LayerNormInput, LayerNormOptions, NormKind, bf16, f16};

use super::{Call, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::tensor::Tensor;

const OUTPUTS: [&str; 2] = ["y", "grad"];
const SETTINGS: [&str; 2] = ["eps", "upstream"];

pub fn run(args: &RunArgs) -> Outcome {
    let kind = NormKind::ALL
        .into_iter()
        .find(|kind| kind.name() == args.op)
        .ok_or_else(|| Failure::usage(format!("no operation named '{}'", args.op)))?;
    let inputs: &[&str] = match kind {
        NormKind::LayerNorm => &["x", "weight", "bias", "upstream"],
        NormKind::RmsNorm => &["x", "weight", "upstream"],
    };
    let call = Call::parse(args, inputs, &SETTINGS, &OUTPUTS)?;
    let mut options = LayerNormOptions::new(kind);
    if let Some(eps) = call.parsed("eps", "a finite number that is not negative", |text| {
        text.parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0)
    })? {
        options.eps = eps;
    }
    let upstream = call.number("upstream")?;
    if call.has("upstream") && upstream.is_some() {
        return Err(Failure::usage("upstream is given both as an input and as a setting"));
    }
    let x = call.need("x")?;
    let dtype = call.dtype(&x);
    call.check_outputs(|_| dtype.into())?;
    let read = |name| match inputs.contains(&name) {
        true => call.read(name),
        false => Ok(None),
    };
    let files = Files {
        x,
        weight: read("weight")?,
        bias: read("bias")?,
        upstream: read("upstream")?,
    };
    match dtype {
        DType::F32 => execute::<f32>(&call, &options, &files, upstream),
        DType::F16 => execute::<f16>(&call, &options, &files, upstream),
        DType::Bf16 => execute::<bf16>(&call, &options, &files, upstream),
    }
}

/// The inputs as read.
struct Files {
    x: Tensor,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    upstream: Option<Tensor>,
}

fn execute<T: Element>(call: &Call, options: &LayerNormOptions, files: &Files, upstream: Option<f64>) -> Outcome {
    let shape = &files.x.shape;
    let len = *shape
        .last()
        .ok_or_else(|| Failure::usage("x: expected at least one dimension, got a scalar"))?;
    // A vector of the last dimension's size; dimensions of size 1 before it do not matter.
    let row = |name: &str, tensor: &Option<Tensor>| -> Outcome<Option<Vec<T>>> {
        let Some(tensor) = tensor else { return Ok(None) };
        if tensor.shape.last() != Some(&len) || tensor.shape.iter().rev().skip(1).any(|&n| n != 1) {
            return Err(Failure::usage(format!(
                "{name}: expected the shape [{len}], got {:?}",
                tensor.shape
            )));
        }
        Ok(Some(call.values::<T>(name, tensor)))
    };
    let x = call.values::<T>("x", &files.x);
    let (weight, bias) = (row("weight", &files.weight)?, row("bias", &files.bias)?);
    let given = files.upstream.is_some() || upstream.is_some();
    let grad_wanted = call.writes("grad") || (call.only_shows() && given);
    if given && !grad_wanted {
        output::remark("upstream is not used: it is for the output grad, which is not asked for");
    }
    let input = LayerNormInput {
        x: &x,
        shape,
        weight: weight.as_deref(),
        bias: bias.as_deref(),
    };
    let device = Device::open(&call.device)?;
    let context = device.context();
    let name = options.kind.name();
    let mut results = Results::default();
    if call.writes("y") || call.only_shows() {
        let y = forward(context, &input, options)?;
        if call.check {
            results.checked(
                "y",
                verdict(forward_checked(context, &input, options, CrossCheck::Full)),
            );
        }
        results.floats("y", shape, &y);
    }
    if grad_wanted {
        let g = match &files.upstream {
            Some(tensor) if tensor.shape != *shape => {
                return Err(Failure::usage(format!(
                    "upstream: expected the shape of y, {shape:?}, got {:?}",
                    tensor.shape
                )));
            }
            Some(tensor) => call.values::<T>("upstream", tensor),
            None => vec![T::from_f64(upstream.unwrap_or(1.0)); x.len()],
        };
        // Of x alone: weight and bias have no outputs here.
        let plain = LayerNormInput { bias: None, ..input };
        let grad = backward(context, &plain, &g, options)?.dx;
        if call.check {
            results.checked(
                "grad",
                verdict(backward_checked(context, &plain, &g, options, CrossCheck::Full)),
            );
        }
        results.floats("grad", shape, &grad);
    }
    results.finish(call, &format!("{name} of {shape:?} on {}", device.adapter()))
}

/// What a checked computation found.
fn verdict<R>(checked: macheps::Result<R>) -> Outcome<String> {
    match checked {
        Ok(_) => Ok("every element within its bound".into()),
        Err(e @ Error::Mismatch { .. }) => Err(Failure::Check(e.to_string())),
        Err(e) => Err(e.into()),
    }
}
