//! `macheps run unscale`.

use macheps::{DType, Gradient, bf16, f16};

use super::{Call, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::Outcome;
use crate::tensor::Stored;

pub fn run(args: &RunArgs) -> Outcome {
    let names = tensor_names(&args.inputs);
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let outputs: Vec<&str> = known.iter().copied().chain(["norm", "found_nonfinite"]).collect();
    let call = Call::parse(args, &known, &["scale", "max_norm"], &outputs)?;
    let positive = |key: &str| {
        call.parsed(key, "a positive number", |value| {
            value.parse().ok().filter(|v: &f32| *v > 0.0 && v.is_finite())
        })
    };
    let scale = positive("scale")?.unwrap_or(1.0);
    let max_norm = positive("max_norm")?;
    // A gap is more likely a slip than meant.
    if let Some(missing) = (0..names.len()).map(|n| format!("g{n}")).find(|name| !call.has(name)) {
        call.need(&missing)?;
    }

    let mut tensors = Vec::new();
    for name in known.iter().filter(|name| call.has(name)) {
        let file = call.need(name)?;
        let values = match call.dtype(&file) {
            DType::F32 => Values::F32(call.values(name, &file)),
            DType::F16 => Values::F16(call.values(name, &file)),
            DType::Bf16 => Values::Bf16(call.values(name, &file)),
        };
        tensors.push((*name, file.shape, values));
    }
    call.check_outputs(|name| match name {
        "norm" => Stored::F32,
        "found_nonfinite" => Stored::I64,
        _ => tensors
            .iter()
            .find(|(n, ..)| *n == name)
            .map_or(Stored::F32, |(.., values)| values.dtype().into()),
    })?;

    let device = Device::open(&call.device)?;
    let mut results = Results::default();
    let report = {
        let mut gradients: Vec<Gradient<'_>> = tensors.iter_mut().map(|(.., values)| values.gradient()).collect();
        if call.check {
            let (report, verdict) = device.unscale_checked(&mut gradients, scale, max_norm)?;
            results.checked("unscale", verdict);
            report
        } else {
            device.unscale(&mut gradients, scale, max_norm)?
        }
    };
    for (name, shape, values) in &tensors {
        match values {
            Values::F32(v) => results.floats(name, shape, v),
            Values::F16(v) => results.floats(name, shape, v),
            Values::Bf16(v) => results.floats(name, shape, v),
        }
    }
    results.floats("norm", &[], &[report.norm]);
    results.integers("found_nonfinite", &[], &[i64::from(report.found_nonfinite)]);
    let count = tensors.len();
    let title = format!(
        "unscale of {count} {} by {scale} on {}",
        if count == 1 { "tensor" } else { "tensors" },
        device.adapter()
    );
    results.finish(&call, &title)
}

/// A tensor's elements in the type it runs with.
enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Values {
    fn dtype(&self) -> DType {
        match self {
            Values::F32(_) => DType::F32,
            Values::F16(_) => DType::F16,
            Values::Bf16(_) => DType::Bf16,
        }
    }

    fn gradient(&mut self) -> Gradient<'_> {
        match self {
            Values::F32(v) => v.into(),
            Values::F16(v) => v.into(),
            Values::Bf16(v) => v.into(),
        }
    }
}

/// The names g0, g1, .. that the inputs go by, in the order of their numbers; at least g0.
fn tensor_names(inputs: &[String]) -> Vec<String> {
    let mut numbers: Vec<u32> = inputs
        .iter()
        .filter_map(|text| {
            let (name, _) = text.split_once('=')?;
            let digits = name.strip_prefix('g')?;
            // One way to write a number: g01 is not g1.
            digits.parse().ok().filter(|n: &u32| n.to_string() == digits)
        })
        .collect();
    numbers.push(0);
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into_iter().map(|n| format!("g{n}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_names_of_tensors() {
        let names = |texts: &[&str]| tensor_names(&texts.iter().map(|t| t.to_string()).collect::<Vec<_>>());
        assert_eq!(
            names(&["g10=a.npy", "g2=b.npy", "g02=c.npy", "gx=d.npy", "x=e.npy"]),
            ["g0", "g2", "g10"]
        );
        assert_eq!(names(&[]), ["g0"]);
    }
}
