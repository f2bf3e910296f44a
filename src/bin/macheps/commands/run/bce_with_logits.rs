//! `macheps run bce_with_logits`.

use macheps::ops::bce_with_logits::{self, BceInput, BceOptions, LossReduction, Weights};
use macheps::{DType, Element, bf16, f16};

use super::activation::{Upstream, judged};
use super::{Call, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::tensor::{Stored, Tensor};

/// The inputs as read.
struct Files {
    x: Tensor,
    target: Tensor,
    weight: Option<Tensor>,
    pos_weight: Option<Tensor>,
    upstream: Upstream,
}

pub fn run(args: &RunArgs) -> Outcome {
    let inputs = ["x", "target", "weight", "pos_weight", "upstream"];
    let call = Call::parse(args, &inputs, &["reduction", "upstream"], &["loss", "grad"])?;
    let options = BceOptions {
        reduction: call
            .parsed("reduction", "none, mean or sum", |text| text.parse().ok())?
            .unwrap_or_default(),
    };
    let files = Files {
        upstream: Upstream::parse(&call)?,
        x: call.need("x")?,
        target: call.need("target")?,
        weight: call.read("weight")?,
        pos_weight: call.read("pos_weight")?,
    };
    if files.target.shape != files.x.shape {
        return Err(Failure::usage(format!(
            "target: expected the shape of x, {:?}, got {:?}",
            files.x.shape, files.target.shape
        )));
    }
    let dtype = call.dtype(&files.x);
    call.check_outputs(|name| if name == "loss" { Stored::F32 } else { dtype.into() })?;
    match dtype {
        DType::F32 => execute::<f32>(&call, &options, &files),
        DType::F16 => execute::<f16>(&call, &options, &files),
        DType::Bf16 => execute::<bf16>(&call, &options, &files),
    }
}

fn execute<T: Element>(call: &Call, options: &BceOptions, files: &Files) -> Outcome {
    let shape = files.x.shape.as_slice();
    let x = call.values::<T>("x", &files.x);
    let target = call.values::<f32>("target", &files.target);
    let values = |name, file: &Option<Tensor>| {
        file.as_ref()
            .map(|file| (call.values::<f32>(name, file), file.shape.clone()))
    };
    let (weight, pos_weight) = (values("weight", &files.weight), values("pos_weight", &files.pos_weight));
    let input = BceInput {
        x: &x,
        target: &target,
        shape,
        weight: weight.as_ref().map(|(values, shape)| Weights { values, shape }),
        pos_weight: pos_weight.as_ref().map(|(values, shape)| Weights { values, shape }),
    };
    let loss_shape = if options.reduction == LossReduction::None {
        shape
    } else {
        &[]
    };
    let wants_gradient = files.upstream.wants_gradient(call);
    let upstream = if wants_gradient {
        Some(files.upstream.values::<f32>(call, loss_shape)?)
    } else {
        None
    };
    let wants_loss = call.writes("loss") || call.only_shows();
    let device = Device::open(&call.device)?;
    let context = device.context();
    let (mut loss, mut grad) = (None, None);
    match (wants_loss, &upstream) {
        (true, Some(upstream)) => {
            let both = bce_with_logits::forward_backward(context, &input, Some(upstream), options)?;
            (loss, grad) = (Some(both.loss), Some(both.grad));
        }
        (true, None) => loss = Some(bce_with_logits::forward(context, &input, options)?),
        (false, Some(upstream)) => grad = Some(bce_with_logits::backward(context, &input, Some(upstream), options)?),
        (false, None) => {}
    }
    let mut results = Results::default();
    if let Some(loss) = loss {
        if call.check {
            let found = bce_with_logits::check_losses(&input, options, &loss);
            results.checked("loss", judged(found, false));
        }
        results.floats("loss", loss_shape, &loss);
    }
    if let Some(grad) = grad {
        if call.check {
            let found = bce_with_logits::check_gradients(&input, upstream.as_deref(), options, &grad);
            results.checked("grad", judged(found, false));
        }
        results.floats("grad", shape, &grad);
    }
    results.finish(call, &format!("bce_with_logits of {shape:?} on {}", device.adapter()))
}
