//! `macheps run cross_entropy` and `nll_loss`.

use macheps::accuracy::{MaxError, Mismatch};
use macheps::ops::cross_entropy::{
    self, CrossEntropyInput, CrossEntropyOptions, LossKind, LossReduction, Target, Wanted, reference,
};
use macheps::{DType, Element, bf16, f16};

use super::{Call, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table;
use crate::tensor::{Stored, Tensor};

pub fn run(args: &RunArgs) -> Outcome {
    let kind = LossKind::ALL
        .into_iter()
        .find(|kind| kind.name() == args.op)
        .ok_or_else(|| Failure::usage(format!("no operation named '{}'", args.op)))?;
    let call = match kind {
        LossKind::CrossEntropy => Call::parse(
            args,
            &["x", "target", "target_probs", "weight", "upstream"],
            &["ignore_index", "label_smoothing", "z_loss", "reduction", "upstream"],
            &["loss", "log_prob", "grad"],
        ),
        LossKind::NllLoss => Call::parse(
            args,
            &["x", "target", "weight", "upstream"],
            &["ignore_index", "reduction", "upstream"],
            &["loss", "grad"],
        ),
    }?;
    let options = options(&call)?;
    let upstream = call.number("upstream")?;
    if call.has("upstream") && upstream.is_some() {
        return Err(Failure::usage("upstream is given both as an input and as a setting"));
    }
    if call.has("target") == call.has("target_probs") {
        return Err(Failure::usage(match kind {
            LossKind::CrossEntropy => "cross_entropy needs an input target, of labels, or target_probs, and not both",
            LossKind::NllLoss => "nll_loss needs an input target: --input target=FILE",
        }));
    }
    let x = call.need("x")?;
    let dtype = call.dtype(&x);
    call.check_outputs(|name| if name == "loss" { Stored::F32 } else { dtype.into() })?;
    match dtype {
        DType::F32 => execute::<f32>(&call, kind, &options, upstream, &x),
        DType::F16 => execute::<f16>(&call, kind, &options, upstream, &x),
        DType::Bf16 => execute::<bf16>(&call, kind, &options, upstream, &x),
    }
}

fn options(call: &Call) -> Outcome<CrossEntropyOptions> {
    let mut options = CrossEntropyOptions::default();
    if let Some(index) = call.parsed("ignore_index", "an integer", |text| text.parse().ok())? {
        options.ignore_index = Some(index);
    }
    let share = |text: &str| text.parse().ok().filter(|e: &f32| (0.0..=1.0).contains(e));
    if let Some(smoothing) = call.parsed("label_smoothing", "a number from 0 to 1", share)? {
        options.label_smoothing = smoothing;
    }
    let weight = |text: &str| text.parse().ok().filter(|z: &f32| z.is_finite() && *z >= 0.0);
    if let Some(z_loss) = call.parsed("z_loss", "a finite number, at least 0", weight)? {
        options.z_loss = z_loss;
    }
    if let Some(reduction) = call.parsed("reduction", "none, mean or sum", |text| text.parse().ok())? {
        options.reduction = reduction;
    }
    Ok(options)
}

fn execute<T: Element>(
    call: &Call,
    kind: LossKind,
    options: &CrossEntropyOptions,
    setting: Option<f64>,
    x: &Tensor,
) -> Outcome {
    let shape = &x.shape;
    let row_shape: Vec<usize> = match shape.len() {
        0 => return Err(Failure::usage("x: expected [C] or [N, C, ..], got a single number")),
        1 => Vec::new(),
        _ => [&shape[..1], &shape[2..]].concat(),
    };
    let loss_shape = match options.reduction {
        LossReduction::None => row_shape.clone(),
        LossReduction::Mean | LossReduction::Sum => Vec::new(),
    };
    let expect = |name: &str, tensor: &Tensor, wanted: &[usize]| {
        if tensor.shape == wanted {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{name}: expected shape {wanted:?}, got {:?}",
            tensor.shape
        )))
    };
    let values = call.values::<T>("x", x);
    let (mut labels, mut probabilities) = (Vec::new(), None);
    if let Some(target) = call.read("target")? {
        expect("target", &target, &row_shape)?;
        labels = target.integers().map_err(|e| Failure::usage(format!("target: {e}")))?;
    }
    if let Some(target) = call.read("target_probs")? {
        expect("target_probs", &target, shape)?;
        probabilities = Some(call.values::<T>("target_probs", &target));
    }
    let weight = match call.read("weight")? {
        None => None,
        Some(weight) => {
            expect("weight", &weight, &shape[usize::from(shape.len() > 1)..][..1])?;
            Some(call.values::<f32>("weight", &weight))
        }
    };
    let given = call.read("upstream")?;
    let gradient = call.writes("grad") || (call.only_shows() && (given.is_some() || setting.is_some()));
    if !gradient && (given.is_some() || setting.is_some()) {
        output::remark("upstream is not used: it is for the output grad, which is not asked for");
    }
    let upstream: Option<Vec<f32>> = match given {
        Some(upstream) => {
            let single = loss_shape.is_empty() && upstream.shape == [1];
            if !single {
                expect("upstream", &upstream, &loss_shape)?;
            }
            Some(call.values::<f32>("upstream", &upstream))
        }
        None => setting.map(|value| vec![value as f32; loss_shape.iter().product()]),
    };

    let input = CrossEntropyInput {
        x: &values,
        shape,
        target: match &probabilities {
            Some(probabilities) => Target::Probabilities(probabilities),
            None => Target::Indices((&labels).into()),
        },
        weight: weight.as_deref(),
    };
    let wanted = Wanted {
        log_prob: call.writes("log_prob"),
        gradient,
        upstream: upstream.as_deref(),
    };
    let device = Device::open(&call.device)?;
    let out = cross_entropy::compute(device.context(), kind, &input, &wanted, options)?;
    let mut results = Results::default();
    let show_loss = call.writes("loss") || call.only_shows();
    if call.check {
        let ones = vec![1.0; loss_shape.iter().product()];
        let upstream = gradient.then(|| upstream.as_deref().unwrap_or(&ones));
        let answer = reference::answer(kind, &input, upstream, options)?;
        if show_loss {
            let found = judged(answer.loss.check(&out.loss), |worst| {
                format!("largest error {} ulp, ", table::short(worst.ulp))
            });
            results.checked("loss", found);
        }
        if let Some(log_prob) = &out.log_prob {
            let found = judged(answer.log_prob.check(log_prob), |worst| {
                format!("largest error {} ulp, ", table::short(worst.ulp))
            });
            results.checked("log_prob", found);
        }
        if let Some(gradient) = &out.gradient {
            // Where the terms of a gradient cancel, units in the last place of the difference say nothing.
            let found = judged(answer.gradient.check(gradient), |_| "largest error ".into());
            results.checked("grad", found);
        }
    }
    if show_loss {
        results.floats("loss", &loss_shape, &out.loss);
    }
    if let Some(log_prob) = &out.log_prob {
        results.floats("log_prob", shape, log_prob);
    }
    if let Some(gradient) = &out.gradient {
        results.floats("grad", shape, gradient);
    }
    results.finish(call, &format!("{} of {shape:?} on {}", kind.name(), device.adapter()))
}

/// What a check found, in words.
fn judged(found: Result<MaxError, Mismatch>, error: impl Fn(&MaxError) -> String) -> Outcome<String> {
    match found {
        Ok(worst) => Ok(format!(
            "{}{} of the bound",
            error(&worst),
            table::percent(worst.of_bound)
        )),
        Err(mismatch) => Err(Failure::Check(mismatch.to_string())),
    }
}
