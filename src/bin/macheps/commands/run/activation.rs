//! `macheps run sigmoid`, `log_sigmoid` and `softplus`.

use macheps::accuracy::{MaxError, Mismatch};
use macheps::ops::activation::{self, ActivationKind};
use macheps::{DType, Element, bf16, f16};

use super::{Call, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table;
use crate::tensor::Tensor;

pub fn run(args: &RunArgs) -> Outcome {
    let kind = ActivationKind::ALL
        .into_iter()
        .find(|kind| kind.name() == args.op)
        .ok_or_else(|| Failure::usage(format!("no operation named '{}'", args.op)))?;
    let call = Call::parse(args, &["x", "upstream"], &["upstream"], &["y", "grad"])?;
    let upstream = Upstream::parse(&call)?;
    let x = call.need("x")?;
    let dtype = call.dtype(&x);
    call.check_outputs(|_| dtype.into())?;
    match dtype {
        DType::F32 => execute::<f32>(&call, kind, &x, &upstream),
        DType::F16 => execute::<f16>(&call, kind, &x, &upstream),
        DType::Bf16 => execute::<bf16>(&call, kind, &x, &upstream),
    }
}

/// The gradient of the first output, as an input, a setting, or neither.
pub struct Upstream {
    file: Option<Tensor>,
    value: Option<f64>,
}

impl Upstream {
    pub fn parse(call: &Call) -> Outcome<Upstream> {
        let value = call.parsed("upstream", "a number", |text| text.parse().ok())?;
        if call.has("upstream") && value.is_some() {
            return Err(Failure::usage("upstream is given both as an input and as a setting"));
        }
        Ok(Upstream {
            file: call.read("upstream")?,
            value,
        })
    }

    /// Whether a gradient is to be computed; says so where one is given for nothing.
    pub fn wants_gradient(&self, call: &Call) -> bool {
        let given = self.file.is_some() || self.value.is_some();
        let wanted = call.writes("grad") || (call.only_shows() && given);
        if given && !wanted {
            output::remark("upstream is not used: it is for the output grad, which is not asked for");
        }
        wanted
    }

    /// Its elements, for an output of this shape; one element may have any rank.
    pub fn values<T: Element>(&self, call: &Call, shape: &[usize]) -> Outcome<Vec<T>> {
        let count: usize = shape.iter().product();
        match &self.file {
            None => Ok(vec![T::from_f64(self.value.unwrap_or(1.0)); count]),
            Some(file) if file.shape == shape || (shape.is_empty() && file.shape.iter().all(|&n| n == 1)) => {
                Ok(call.values::<T>("upstream", file))
            }
            Some(file) => Err(Failure::usage(format!(
                "upstream: expected the shape of the output, {shape:?}, got {:?}",
                file.shape
            ))),
        }
    }
}

/// What comparing with the reference found, in words. Units in the last place say nothing where terms cancel.
pub fn judged(found: macheps::Result<Result<MaxError, Mismatch>>, ulps: bool) -> Outcome<String> {
    match found? {
        Ok(worst) if ulps => Ok(format!(
            "largest error {} ulp, {} of the bound",
            table::short(worst.ulp),
            table::percent(worst.of_bound)
        )),
        Ok(worst) => Ok(format!("largest error {} of the bound", table::percent(worst.of_bound))),
        Err(mismatch) => Err(Failure::Check(mismatch.to_string())),
    }
}

fn execute<T: Element>(call: &Call, kind: ActivationKind, file: &Tensor, upstream: &Upstream) -> Outcome {
    let shape = &file.shape;
    let x = call.values::<T>("x", file);
    let upstream = if upstream.wants_gradient(call) {
        Some(upstream.values::<T>(call, shape)?)
    } else {
        None
    };
    let device = Device::open(&call.device)?;
    let mut results = Results::default();
    if call.writes("y") || call.only_shows() {
        let y = activation::forward(device.context(), kind, &x)?;
        if call.check {
            results.checked("y", judged(activation::check_results(kind, &x, None, &y), true));
        }
        results.floats("y", shape, &y);
    }
    if let Some(upstream) = &upstream {
        let grad = activation::backward(device.context(), kind, &x, upstream)?;
        if call.check {
            let found = activation::check_results(kind, &x, Some(upstream), &grad);
            results.checked("grad", judged(found, true));
        }
        results.floats("grad", shape, &grad);
    }
    results.finish(call, &format!("{} of {shape:?} on {}", kind.name(), device.adapter()))
}
