//! `macheps run prune`.

use macheps::ops::prune::{prune, prune_checked};
use macheps::{DType, Element, bf16, f16, float::Float};

use super::{Call, Names, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::tensor::{Stored, Tensor};

pub fn run(args: &RunArgs) -> Outcome {
    let names = Names {
        inputs: &["x"],
        settings: &["sparsity"],
        outputs: &["mask", "threshold"],
        written_matrices: &["A"],
        ..Names::default()
    };
    let call = Call::parse_names(args, &names)?;
    let sparsity = call
        .parsed("sparsity", "a number from 0 to 1", |value| {
            value.parse().ok().filter(|s: &f64| (0.0..=1.0).contains(s))
        })?
        .ok_or_else(|| Failure::usage("prune needs a sparsity: --set sparsity=0.9"))?;
    let x = call.need("x")?;
    let dtype = call.dtype(&x);
    call.check_outputs(|name| match name {
        "mask" => Stored::Bool,
        "threshold" => Stored::F32,
        _ => dtype.into(),
    })?;
    if call.writes("A") && x.shape.len() != 2 {
        return Err(Failure::usage(format!(
            "A: expected an x of two dimensions, got shape {:?}",
            x.shape
        )));
    }
    match dtype {
        DType::F32 => execute::<f32>(&call, &x, sparsity),
        DType::F16 => execute::<f16>(&call, &x, sparsity),
        DType::Bf16 => execute::<bf16>(&call, &x, sparsity),
    }
}

fn execute<T: Element + Float>(call: &Call, x: &Tensor, sparsity: f64) -> Outcome {
    let values = call.values::<T>("x", x);
    let device = Device::open(&call.device)?;
    let context = device.context();
    let mut results = Results::default();
    let pruned = prune(context, &values, &x.shape, sparsity)?;
    if call.check {
        let verdict = match prune_checked(context, &values, &x.shape, sparsity) {
            Ok(again) if again == pruned => Ok("threshold and mask equal".to_string()),
            Ok(_) => Err(Failure::Check("a second run gave another result".into())),
            Err(error) => Err(error.into()),
        };
        results.checked("prune", verdict);
    }
    results.booleans("mask", &x.shape, &pruned.mask);
    results.floats("threshold", &[], &[pruned.threshold]);
    if let ([rows, cols], true) = (x.shape.as_slice(), call.writes("A")) {
        results.matrix("A", &pruned.to_csr(&values, *rows, *cols)?)?;
    }
    let title = format!(
        "prune of {:?} to sparsity {sparsity} on {}: {} of {} elements kept",
        x.shape,
        device.adapter(),
        pruned.kept,
        values.len()
    );
    results.finish(call, &title)
}
