//! `macheps run spmv` and `spmm`.

use macheps::ops::spmv::{SpmvInput, SpmvOptions, SpmvScale, forward, forward_checked};
use macheps::{CrossCheck, Csr, DType, Element, Error, bf16, f16, float::Float};

use super::{Call, Names, Results};
use crate::args::RunArgs;
use crate::backend::Device;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::source::market;
use crate::tensor::{Stored, Tensor};

const SETTINGS: [&str; 3] = ["alpha", "beta", "transpose"];

/// What was read.
struct Files {
    path: String,
    a: Csr<f64>,
    x: Tensor,
    y0: Option<Tensor>,
    alpha: f32,
    beta: f32,
    transpose: bool,
}

pub fn run(args: &RunArgs) -> Outcome {
    let names = Names {
        matrices: &["A"],
        inputs: &["x", "y0"],
        settings: &SETTINGS,
        outputs: &["y"],
        ..Names::default()
    };
    let call = Call::parse_names(args, &names)?;
    let number = |key, default| -> Outcome<f32> {
        let given = call.parsed(key, "a finite number in the range of f32", |text| {
            text.parse().ok().filter(|v: &f32| v.is_finite())
        })?;
        Ok(given.unwrap_or(default))
    };
    let (alpha, beta) = (number("alpha", 1.0)?, number("beta", 0.0)?);
    let transpose = call.boolean("transpose")?.unwrap_or(false);
    let Some(path) = call.matrix("A") else {
        return Err(Failure::usage(format!(
            "{0} needs an input A: --input A=FILE.mtx",
            args.op
        )));
    };
    if beta != 0.0 && !call.has("y0") {
        return Err(Failure::usage("beta is for y0, which is not given: --input y0=FILE"));
    }
    call.check_outputs(|_| Stored::F32)?;
    let files = Files {
        path: path.to_string(),
        a: market::matrix(path).map_err(|refused| refused.within("--input A"))?,
        x: call.need("x")?,
        y0: call.read("y0")?,
        alpha,
        beta,
        transpose,
    };
    match args.dtype.unwrap_or(DType::F32) {
        DType::F32 => execute::<f32>(&call, &files),
        DType::F16 => execute::<f16>(&call, &files),
        DType::Bf16 => execute::<bf16>(&call, &files),
    }
}

/// The vectors of an input, in f32, and their number.
fn vectors(call: &Call, name: &str, tensor: &Tensor, n: usize) -> Outcome<(Vec<f32>, usize)> {
    let k = match (call.op(), &tensor.shape[..]) {
        ("spmv", &[got]) if got == n => 1,
        ("spmm", &[got, k]) if got == n => k,
        (op, shape) => {
            let expected = if op == "spmv" {
                format!("[{n}]")
            } else {
                format!("[{n}, k]")
            };
            return Err(Failure::usage(format!(
                "{name}: expected the shape {expected}, got {shape:?}"
            )));
        }
    };
    let (values, loss) = tensor.convert::<f32>();
    if tensor.stored != Stored::F32 {
        output::remark(&format!("{name}: {} runs as f32", tensor.stored.name()));
    }
    if loss.overflowed > 0 {
        output::remark(&format!("{name}: {} values overflow to infinity", loss.overflowed));
    }
    Ok((values, k))
}

fn execute<T: Element + Float>(call: &Call, files: &Files) -> Outcome {
    let narrowed = market::narrow::<T>(&files.path, &files.a, "").map_err(|refused| refused.within("--input A"))?;
    if narrowed.rounded > 0 {
        output::remark(&format!(
            "A: {} of {} values are rounded to {}, {} of them to zero",
            narrowed.rounded,
            files.a.entries(),
            T::DTYPE,
            narrowed.vanished
        ));
    }
    let a = narrowed.matrix;
    let (rows, cols) = match files.transpose {
        true => (a.cols(), a.rows()),
        false => (a.rows(), a.cols()),
    };
    let (x, k) = vectors(call, "x", &files.x, cols)?;
    let y0 = match &files.y0 {
        Some(tensor) => Some(vectors(call, "y0", tensor, rows)?),
        None => None,
    };
    if let Some((_, given)) = &y0
        && *given != k
    {
        return Err(Failure::usage(format!("y0: expected {k} vectors as in x, got {given}")));
    }
    if y0.is_some() && files.beta == 0.0 {
        output::remark("y0 is not used: beta is 0");
    }
    let input = SpmvInput {
        a: &a,
        x: &x,
        vectors: k,
        scale: SpmvScale {
            alpha: files.alpha,
            beta: files.beta,
            y0: y0.as_ref().map(|(values, _)| &values[..]),
        },
        options: SpmvOptions {
            transpose: files.transpose,
            ..SpmvOptions::default()
        },
    };
    let device = Device::open(&call.device)?;
    let context = device.context();
    let mut results = Results::default();
    let y = if call.check {
        match forward_checked(context, &input, CrossCheck::Full) {
            Ok(y) => {
                results.checked("y", Ok("every element within its bound".into()));
                y
            }
            Err(e @ Error::Mismatch { .. }) => {
                results.checked("y", Err(Failure::Check(e.to_string())));
                forward(context, &input)?
            }
            Err(e) => return Err(e.into()),
        }
    } else {
        forward(context, &input)?
    };
    let shape = if call.op() == "spmv" { vec![rows] } else { vec![rows, k] };
    results.floats("y", &shape, &y);
    let what = if files.transpose { "transposed " } else { "" };
    let title = format!(
        "{} of a {what}{} x {} matrix with {} entries in {} on {}",
        call.op(),
        a.rows(),
        a.cols(),
        a.entries(),
        T::DTYPE,
        device.adapter()
    );
    results.finish(call, &title)
}
