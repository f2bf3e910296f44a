//! sigmoid, log_sigmoid, softplus and binary cross-entropy: the oracle against 50-digit values and the data sets, the CPU path against
//! the oracle, calls that cannot be served. What holds for any context is a function here that tests/suite/gpu_activation.rs calls, too.

use crate::data::{self, Tensor, shared_data, tensor};
use macheps::accuracy::{MaxError, check};
use macheps::element::{Element, bf16, f16};
use macheps::ops::activation::{self, reference};
use macheps::ops::bce_with_logits::{self, bounds, reference::Inputs};
use macheps::rows::RowMap;
use macheps::{
    ActivationKind, ActivationViews, BceInput, BceOptions, BceTensors, Context, CrossCheck, DType, Error,
    LossReduction, Weights, verify,
};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Relative error that the oracle may have against exact values.
const ORACLE: f64 = 1e-14;

fn near(got: f64, want: f64, magnitude: f64, what: &str) {
    let same = got == want || (got.is_nan() && want.is_nan());
    assert!(
        same || (got - want).abs() <= ORACLE * magnitude + 1e-300,
        "{what}: {got:e} should be {want:e}"
    );
}

#[test]
fn oracle_meets_fifty_digits() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fifty_digits.json");
    let all = data::json(path);
    let points = all["sigmoid"].as_array().unwrap();
    assert!(points.len() >= 18);
    for point in points {
        let number = |name: &str| -> f64 { point[name].as_str().unwrap().parse().unwrap() };
        let x = number("x");
        for (kind, name) in [
            (ActivationKind::Sigmoid, "sigmoid"),
            (ActivationKind::LogSigmoid, "log_sigmoid"),
            (ActivationKind::Softplus, "softplus"),
        ] {
            let want = number(name);
            near(reference::forward(kind, x), want, want.abs(), &format!("{name}({x})"));
        }
        for (target, name) in [(0.0, "bce_target_0"), (1.0, "bce_target_1")] {
            let inputs = Inputs {
                x,
                target,
                weight: 1.0,
                pos_weight: 1.0,
            };
            let want = number(name);
            near(inputs.loss().value, want, want.abs(), &format!("{name} of {x}"));
        }
    }
}

/// Values as the library gives them for host data, the CPU path or a device.
pub fn results<T: Element>(context: &Context, kind: ActivationKind, x: &[T], upstream: Option<&[T]>) -> Vec<T> {
    match upstream {
        Some(g) => activation::backward(context, kind, x, g).expect("a valid call"),
        None => activation::forward(context, kind, x).expect("a valid call"),
    }
}

/// Computes and holds to the oracle.
pub fn judged<T: Element>(
    what: &str,
    context: &Context,
    kind: ActivationKind,
    x: &[T],
    upstream: Option<&[T]>,
) -> MaxError {
    let got = results(context, kind, x, upstream);
    for (index, value) in got.iter().enumerate() {
        // The one NaN that is written.
        assert!(
            !value.to_f32().is_nan() || value.to_f32().to_bits() == 0x7fc0_0000,
            "{what}: {index}"
        );
    }
    activation::check_results(kind, x, upstream, &got)
        .unwrap()
        .unwrap_or_else(|m| panic!("{what}: {} of {:e}: {m}", kind.name(), x[m.index].to_f32()))
}

/// Operations of the data sets that are tested here: of ONNX and WebNN, and of the hard rows.
pub const ONNX: [&str; 3] = ["Sigmoid", "Softplus", "webnn.sigmoid"];
pub const HARD: [&str; 2] = ["sigmoid", "bce_with_logits"];

/// Names of the cases of these operations.
pub fn names(test: &str, folder: &str, wanted: &[&str]) -> Vec<String> {
    let name = |(_, case): (PathBuf, serde_json::Value)| case["file"].as_str().unwrap().to_string();
    cases(test, folder, wanted).into_iter().map(name).collect()
}

/// A case of the data sets: where it lies and what its index says of it.
fn cases(test: &str, folder: &str, wanted: &[&str]) -> Vec<(PathBuf, serde_json::Value)> {
    let Some(shared) = shared_data(test) else {
        return Vec::new();
    };
    let folder = shared.join(folder);
    let index = data::json(folder.join("index.json"));
    let found: Vec<_> = index["cases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| wanted.contains(&case["op"].as_str().unwrap()))
        .map(|case| (folder.join(case["file"].as_str().unwrap()), case.clone()))
        .collect();
    assert!(!found.is_empty());
    found
}

/// What computes: the library on a context, or the program on a device. Gives the results of a case's tensors of these names.
pub trait Runner {
    /// `y` of a function, and the gradient if there is an upstream gradient by that name.
    fn activation<T: Element>(&self, kind: ActivationKind, file: &Path, x: &str, upstream: Option<&str>)
    -> [Vec<T>; 2];
    /// Loss and gradient.
    fn bce<T: Element>(&self, file: &Path, reduction: LossReduction) -> (Vec<f32>, Vec<T>);
}

pub struct Library<'a>(pub &'a Context);

fn read(file: &Path, name: &str) -> Option<Tensor> {
    let bytes = std::fs::read(file).unwrap();
    tensor(&SafeTensors::deserialize(&bytes).unwrap(), name)
}

fn as_type<T: Element>(values: &Tensor) -> Vec<T> {
    values.values.iter().map(|&v| T::from_f64(v)).collect()
}

impl Runner for Library<'_> {
    fn activation<T: Element>(
        &self,
        kind: ActivationKind,
        file: &Path,
        x: &str,
        upstream: Option<&str>,
    ) -> [Vec<T>; 2] {
        let x: Vec<T> = as_type(&read(file, x).unwrap());
        let grad = upstream.map(|name| {
            let g: Vec<T> = as_type(&read(file, name).unwrap());
            results(self.0, kind, &x, Some(&g))
        });
        [results(self.0, kind, &x, None), grad.unwrap_or_default()]
    }

    fn bce<T: Element>(&self, file: &Path, reduction: LossReduction) -> (Vec<f32>, Vec<T>) {
        let of = |name: &str| read(file, name);
        let (x, target) = (of("logits").unwrap(), of("target").unwrap());
        let floats = |t: Option<Tensor>| t.map(|t| (as_type::<f32>(&t), t.shape));
        let (weight, pos_weight) = (floats(of("weight")), floats(of("pos_weight")));
        let upstream = floats(of("upstream")).map(|(values, _)| values);
        let (logits, targets) = (as_type::<T>(&x), as_type::<f32>(&target));
        let input = BceInput {
            x: &logits,
            target: &targets,
            shape: &x.shape,
            weight: weight.as_ref().map(|(values, shape)| Weights { values, shape }),
            pos_weight: pos_weight.as_ref().map(|(values, shape)| Weights { values, shape }),
        };
        let options = BceOptions { reduction };
        let both = bce_with_logits::forward_backward(self.0, &input, upstream.as_deref(), &options).unwrap();
        // Alone they are the same.
        let loss = bce_with_logits::forward(self.0, &input, &options).unwrap();
        let grad = bce_with_logits::backward(self.0, &input, upstream.as_deref(), &options).unwrap();
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&loss), bits(&both.loss));
        let same = grad
            .iter()
            .zip(&both.grad)
            .all(|(a, b)| bytemuck::bytes_of(a) == bytemuck::bytes_of(b));
        assert!(same && grad.len() == both.grad.len());
        (both.loss, both.grad)
    }
}

/// The conformance cases of ONNX and WebNN.
pub fn onnx(what: &str, runner: &impl Runner) {
    fn one<T: Element>(what: &str, runner: &impl Runner, file: &Path, kind: ActivationKind, error: f64) {
        let what = format!("{what}: {}", file.display());
        let [y, _] = runner.activation::<T>(kind, file, "in0", None);
        let x: Vec<T> = as_type(&read(file, "in0").unwrap());
        activation::check_results(kind, &x, None, &y)
            .unwrap()
            .unwrap_or_else(|m| panic!("{what}: {m}"));
        for (x, want) in x.iter().zip(read(file, "out0").unwrap().values) {
            let oracle = reference::forward(kind, f64::from(x.to_f32()));
            let allowed = 1.01 * error * oracle.abs() + 0.5 * T::DTYPE.ulp(oracle);
            assert!(
                (oracle - want).abs() <= allowed,
                "{what}: oracle {oracle:e}, case {want:e}"
            );
        }
    }
    for (file, case) in cases(what, "onnx", &ONNX) {
        let kind = match case["op"].as_str().unwrap() {
            "Softplus" => ActivationKind::Softplus,
            _ => ActivationKind::Sigmoid,
        };
        let error = case["max_rel_diff_from_float64_recheck"].as_f64().unwrap();
        match read(&file, "in0").unwrap().dtype.unwrap() {
            DType::F16 => one::<f16>(what, runner, &file, kind, error),
            _ => one::<f32>(what, runner, &file, kind, error),
        }
    }
}

/// The hard rows of sigmoid.
pub fn hard_sigmoid(what: &str, runner: &impl Runner) {
    fn one<T: Element>(what: &str, runner: &impl Runner, file: &Path) {
        let what = format!("{what}: {}", file.display());
        let x = read(file, "x").unwrap();
        let values: Vec<T> = as_type(&x);
        let upstream = read(file, "upstream").unwrap();
        for (kind, name) in [
            (ActivationKind::Sigmoid, "sigmoid"),
            (ActivationKind::LogSigmoid, "log_sigmoid"),
            (ActivationKind::Softplus, "softplus"),
        ] {
            let want = read(file, name).unwrap().values;
            // f64 inputs are run rounded; the oracle is held to what is stated of the inputs as they are.
            for (&x, &want) in x.values.iter().zip(&want) {
                near(
                    reference::forward(kind, x),
                    want,
                    want.abs(),
                    &format!("{what}: {name}({x})"),
                );
            }
            let [y, grad] = runner.activation::<T>(kind, file, "x", Some("upstream"));
            activation::check_results(kind, &values, None, &y)
                .unwrap()
                .unwrap_or_else(|m| panic!("{what}: {name}: {m}"));
            let g: Vec<T> = as_type(&upstream);
            activation::check_results(kind, &values, Some(&g), &grad)
                .unwrap()
                .unwrap_or_else(|m| panic!("{what}: gradient of {name}: {m}"));
        }
        let lower = read(file, "one_minus_sigmoid").unwrap().values;
        let grads = read(file, "grad").unwrap().values;
        for (i, &x) in x.values.iter().enumerate() {
            near(
                reference::forward(ActivationKind::Sigmoid, -x),
                lower[i],
                lower[i].abs(),
                "sigmoid(-x)",
            );
            let grad = reference::backward(ActivationKind::Sigmoid, x, upstream.values[i]);
            // PyTorch forms s (1 - s), which loses digits where s is near 1.
            let allowed = 1e-15 * upstream.values[i].abs() + ORACLE * grad.abs();
            assert!(
                (grad - grads[i]).abs() <= allowed || (grad.is_nan() && grads[i].is_nan()),
                "{what}: {x}"
            );
        }
    }
    for (file, case) in cases(what, "hard_rows", &HARD[..1]) {
        match case["params"]["storage"].as_str().unwrap() {
            "f16" => one::<f16>(what, runner, &file),
            "bf16" => one::<bf16>(what, runner, &file),
            _ => one::<f32>(what, runner, &file),
        }
    }
}

/// The hard rows of binary cross-entropy.
pub fn hard_bce(what: &str, runner: &impl Runner) {
    fn one<T: Element>(what: &str, runner: &impl Runner, file: &Path, reduction: LossReduction) {
        let what = format!("{what}: {}", file.display());
        let of = |name: &str| read(file, name);
        let (x, target) = (of("logits").unwrap(), of("target").unwrap());
        let axis = x.shape.len() - 1;
        let all_of = |name: &str| -> Vec<f64> {
            let Some(t) = of(name).filter(|t| t.shape != [1]) else {
                return vec![1.0; x.values.len()];
            };
            let map = RowMap::broadcast(name, &t.shape, &x.shape, axis).unwrap();
            (0..x.values.len())
                .map(|i| t.values[map.start(i / map.len) + i % map.len * map.len_stride])
                .collect()
        };
        let (weight, pos_weight, upstream) = (all_of("weight"), all_of("pos_weight"), all_of("upstream"));
        let inputs: Vec<Inputs> = (0..x.values.len())
            .map(|i| Inputs {
                x: x.values[i],
                target: target.values[i],
                weight: weight[i],
                pos_weight: pos_weight[i],
            })
            .collect();
        let scale = if reduction == LossReduction::Mean {
            1.0 / inputs.len() as f64
        } else {
            1.0
        };
        let losses: Vec<_> = inputs.iter().map(Inputs::loss).collect();
        let grads: Vec<_> = inputs
            .iter()
            .zip(&upstream)
            .map(|(i, u)| i.gradient(u * scale))
            .collect();
        let (want_loss, want_grad) = (of("loss").unwrap().values, of("grad").unwrap().values);
        let (got_loss, got_grad) = runner.bce::<T>(file, reduction);
        let allowed = if reduction == LossReduction::None {
            for ((e, i), &want) in losses.iter().zip(&inputs).zip(&want_loss) {
                // PyTorch's form has terms of the size of x that cancel.
                let cancelled = (i.weight * (1.0 + i.pos_weight) * i.x).abs();
                near(e.value, want, e.magnitude + cancelled, &what);
            }
            losses
                .iter()
                .map(|e| bounds::loss(false, e.value, e.magnitude, e.lost))
                .collect()
        } else {
            let sum = |f: fn(&bce_with_logits::reference::Expected) -> f64| losses.iter().map(f).sum::<f64>() * scale;
            let (value, magnitude) = (sum(|e| e.value), sum(|e| e.magnitude));
            near(value, want_loss[0], magnitude, &what);
            vec![bounds::loss(true, value, magnitude, sum(|e| e.lost))]
        };
        // The oracle's values: where PyTorch's terms cancel, small losses and gradients in the file have lost their digits.
        let true_losses: Vec<f64> = match reduction {
            LossReduction::None => losses.iter().map(|e| e.value).collect(),
            _ => want_loss,
        };
        check(&got_loss, &true_losses, &allowed).unwrap_or_else(|m| panic!("{what}: loss: {m}"));
        let allowed: Vec<f64> = grads
            .iter()
            .map(|e| bounds::gradient(T::DTYPE, e.value, e.magnitude, e.lost))
            .collect();
        for (((e, i), u), &want) in grads.iter().zip(&inputs).zip(&upstream).zip(&want_grad) {
            let cancelled = (u * scale * i.weight * (1.0 + i.pos_weight)).abs();
            near(e.value, want, e.magnitude + cancelled, &what);
        }
        let true_grads: Vec<f64> = grads.iter().map(|e| e.value).collect();
        check(&got_grad, &true_grads, &allowed).unwrap_or_else(|m| panic!("{what}: gradient: {m}"));
    }
    for (file, case) in cases(what, "hard_rows", &HARD[1..]) {
        let reduction = case["params"]["reduction"].as_str().unwrap().parse().unwrap();
        match case["params"]["storage"].as_str().unwrap() {
            "f16" => one::<f16>(what, runner, &file, reduction),
            _ => one::<f32>(what, runner, &file, reduction),
        }
    }
}

#[test]
fn the_cpu_path_conforms() {
    let context = Context::cpu();
    onnx("ONNX on the CPU", &Library(&context));
    hard_sigmoid("hard rows on the CPU", &Library(&context));
    hard_bce("hard rows on the CPU", &Library(&context));
}

/// All inputs of 16 bits, and f32 at a stride, densely where it matters, and around boundaries; forward and backward. Says the
/// largest errors.
pub fn exhaustive(what: &str, context: &Context) {
    fn sixteen<T: Element>(what: &str, context: &Context, from_bits: fn(u16) -> T) {
        let x: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
        let g: Vec<T> = (0..=u16::MAX).map(|i| from_bits(i.wrapping_mul(40_503))).collect();
        for kind in ActivationKind::ALL {
            judged(what, context, kind, &x, None);
            judged(what, context, kind, &x, Some(&g));
        }
    }
    sixteen(&format!("{what}, f16"), context, f16::from_bits);
    sixteen(&format!("{what}, bf16"), context, bf16::from_bits);
    let mut bits: Vec<u32> = (0..u64::from(u32::MAX)).step_by(8191).map(|b| b as u32).collect();
    bits.extend((0..400_000).map(|i| (-110.0 + i as f32 * 5.5e-4).to_bits()));
    bits.extend((0..100_000).map(|i| (-1.0 + i as f32 * 2e-5).to_bits()));
    let turns = [
        1e-45, 1e-38, 5.96e-8, 1.0986123, 16.635_532, 17.328_68, 87.336_55, 88.722_84, 103.972_08, 104.0, 256.0, 3e38,
    ];
    let steps = (0..260).map(|k| (f64::from(k) * 0.5 * std::f64::consts::LN_2) as f32);
    for boundary in turns.into_iter().chain(steps).flat_map(|b| [b, -b]) {
        bits.extend((0..65).map(|i| boundary.to_bits().wrapping_add(i).wrapping_sub(32)));
    }
    bits.extend([0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7f80_0001, 0xffff_ffff]);
    assert!(bits.len() > 1_000_000);
    let x: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
    let g: Vec<f32> = bits
        .iter()
        .map(|b| f32::from_bits(b.wrapping_mul(2_654_435_761)))
        .collect();
    // Of results that are normal numbers; subnormal ones may be flushed, which `judged` allows for.
    let largest = |kind, upstream: Option<&[f32]>| {
        judged(
            &format!("{what}, f32, upstream {}", upstream.is_some()),
            context,
            kind,
            &x,
            upstream,
        );
        let got = results(context, kind, &x, upstream);
        let (mut ulps, mut units) = (0f64, 0f64);
        for (i, got) in got.iter().enumerate() {
            let value = f64::from(x[i]);
            let want = match upstream {
                Some(g) => reference::backward(kind, value, f64::from(g[i])),
                None => reference::forward(kind, value),
            };
            if want.is_finite() && got.is_finite() && want.abs() >= DType::F32.min_normal() {
                let error = (f64::from(*got) - want).abs();
                ulps = ulps.max(error / DType::F32.ulp(want));
                units = units.max(error / want.abs() / macheps::accuracy::U);
            }
        }
        (ulps, units)
    };
    for kind in ActivationKind::ALL {
        let (forward, _) = largest(kind, None);
        let (_, backward) = largest(kind, Some(&g));
        let name = kind.name();
        crate::adapters::say(&format!("{what}: {name} {forward:.3} ulp, gradient {backward:.3} u"));
    }
}

#[test]
fn the_cpu_path_over_all_floats() {
    exhaustive("CPU", &Context::cpu());
}

/// The cases of `verify`.
pub fn verify_cases(what: &str, context: &Context) {
    for op in ["sigmoid", "log_sigmoid", "softplus", "bce_with_logits"] {
        let all = verify::cases(Some(op));
        assert!(all.len() > 20);
        let (mut worst, mut unit) = (0f64, "");
        for case in all {
            let report = verify::run(context, case.as_ref());
            assert!(report.ok, "{what}: {report:?}");
            if report.dtype == DType::F32 && report.max_error > worst {
                (worst, unit) = (report.max_error, report.unit);
            }
        }
        crate::adapters::say(&format!("{what}: {op} {worst:.3} {unit}"));
    }
}

#[test]
fn the_cpu_path_verifies() {
    verify_cases("CPU", &Context::cpu());
}

/// sigmoid(-x) has all of its digits; neither function turns at 88.7; what is symmetric is so bit for bit.
pub fn properties(what: &str, context: &Context) {
    let x: Vec<f32> = (0..20_001).map(|i| (i - 10_000) as f32 * 0.0101).collect();
    let minus: Vec<f32> = x.iter().map(|v| -v).collect();
    let of = |kind, x: &[f32]| results(context, kind, x, None);
    let plus = of(ActivationKind::Softplus, &x);
    let log = of(ActivationKind::LogSigmoid, &minus);
    assert!(plus.iter().zip(&log).all(|(p, l)| *p == -l), "{what}");
    assert!(plus.windows(2).all(|w| w[0] <= w[1]), "{what}: softplus is monotonic");
    let (upper, lower) = (of(ActivationKind::Sigmoid, &x), of(ActivationKind::Sigmoid, &minus));
    for i in 0..x.len() {
        assert!(
            (f64::from(upper[i]) + f64::from(lower[i]) - 1.0).abs() <= 1.5 * 2f64.powi(-24),
            "{what}"
        );
    }
    let ends = [-1e30f32, -200.0, 200.0, 1e30];
    assert_eq!(of(ActivationKind::Softplus, &ends), [0.0, 0.0, 200.0, 1e30], "{what}");
    assert_eq!(of(ActivationKind::Sigmoid, &ends), [0.0, 0.0, 1.0, 1.0], "{what}");
    assert_eq!(
        of(ActivationKind::LogSigmoid, &ends),
        [-1e30, -200.0, 0.0, 0.0],
        "{what}"
    );
    // Losses of confident answers, right and wrong.
    let input = BceInput::new(&[100.0f32, -100.0, 100.0, -100.0], &[1.0, 0.0, 0.0, 1.0], &[4]);
    let options = BceOptions {
        reduction: LossReduction::None,
    };
    let loss = bce_with_logits::forward(context, &input, &options).unwrap();
    assert!(
        loss[0] < 4e-44 && loss[1] < 4e-44 && loss[2..] == [100.0; 2],
        "{what}: {loss:?}"
    );
    // Nothing in, nothing out; the mean of nothing is NaN.
    assert!(of(ActivationKind::Sigmoid, &[]).is_empty());
    let nothing = BceInput::new(&[] as &[f32], &[], &[0, 3]);
    for (reduction, want) in [(LossReduction::Sum, 0.0f32), (LossReduction::Mean, f32::NAN)] {
        let both = bce_with_logits::forward_backward(context, &nothing, None, &BceOptions { reduction }).unwrap();
        assert_eq!((both.loss[0].to_bits(), both.grad.len()), (want.to_bits(), 0), "{what}");
    }
    let both = bce_with_logits::forward_backward(context, &nothing, None, &options).unwrap();
    assert!(both.loss.is_empty() && both.grad.is_empty());
    // A scalar.
    let one = BceInput::new(&[0.0f32], &[0.5], &[]);
    assert_eq!(
        bce_with_logits::forward(context, &one, &options).unwrap(),
        [2f32.ln()],
        "{what}"
    );
}

#[test]
fn the_cpu_path_has_the_properties() {
    properties("CPU", &Context::cpu());
}

/// Chains give what one-shots give, bit for bit, and pass their cross-check.
pub fn chains(what: &str, context: &Context) {
    let context = context.clone().with_cross_check(CrossCheck::Full);
    let values: Vec<f32> = (0..1005).map(|i| (i * 37 % 101) as f32 * 0.4 - 20.0).collect();
    let g: Vec<f32> = values.iter().map(|v| 0.3 - v).collect();
    let targets: Vec<f32> = (0..1005).map(|i| (i % 3) as f32 * 0.5).collect();
    let (shape, kind) = ([67, 15], ActivationKind::Softplus);
    let (x, up) = (
        context.upload(&values, &shape).unwrap(),
        context.upload(&g, &shape).unwrap(),
    );
    let target = context.upload(&targets, &shape).unwrap();
    let pos: Vec<f32> = (0..15).map(|i| 0.5 + i as f32).collect();
    let pos_weight = context.upload(&pos, &[15]).unwrap();
    let mut chain = context.chain();
    let y = chain.activation(kind, &x).unwrap();
    let dx = chain.activation_backward(kind, &x, &up).unwrap();
    let input = BceTensors {
        x: &x,
        target: &target,
        weight: None,
        pos_weight: Some(&pos_weight),
        upstream: None,
    };
    let options = BceOptions::default();
    let (loss, grad) = chain.bce_with_logits_gradient(&input, &options).unwrap();
    let alone = chain.bce_with_logits(&input, &options).unwrap();
    chain.submit().unwrap();
    assert_eq!(y.download().unwrap(), results(&context, kind, &values, None), "{what}");
    assert_eq!(
        dx.download().unwrap(),
        results(&context, kind, &values, Some(&g)),
        "{what}"
    );
    let host = BceInput {
        pos_weight: Some(Weights {
            values: &pos,
            shape: &[15],
        }),
        ..BceInput::new(&values, &targets, &shape)
    };
    let both = bce_with_logits::forward_backward(&context, &host, None, &options).unwrap();
    assert_eq!(
        (loss.download().unwrap(), loss.shape().len()),
        (both.loss.clone(), 0),
        "{what}"
    );
    assert_eq!(grad.download().unwrap(), both.grad, "{what}");
    assert_eq!(alone.download().unwrap(), both.loss, "{what}");
    // A tensor of another shape, and one of another context.
    let short = context.upload(&values[..15], &[15]).unwrap();
    let mut chain = context.chain();
    assert!(matches!(
        chain.activation_backward(kind, &x, &short),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        chain.bce_with_logits(
            &BceTensors {
                target: &short,
                ..input
            },
            &options
        ),
        Err(Error::Shape { .. })
    ));
    if context.gpu().is_some() {
        let elsewhere = Context::cpu().upload(&values, &shape).unwrap();
        assert!(matches!(
            chain.activation(kind, &elsewhere),
            Err(Error::Unsupported { .. })
        ));
    }
}

#[test]
fn chains_on_the_cpu_path() {
    chains("CPU", &Context::cpu());
}

/// Calls on host data that cannot be served.
pub fn malformed(context: &Context) {
    let shape = |r: macheps::Result<Vec<f32>>| assert!(matches!(r, Err(Error::Shape { .. })), "{r:?}");
    shape(activation::backward(
        context,
        ActivationKind::Sigmoid,
        &[1.0f32; 3],
        &[1.0; 2],
    ));
    let x = [0.5f32; 6];
    let input = BceInput::new(&x, &x, &[2, 3]);
    let none = BceOptions {
        reduction: LossReduction::None,
    };
    let weights = |shape| Some(Weights { values: &x[..2], shape });
    let forward = |input: &BceInput<'_, f32>| bce_with_logits::forward(context, input, &none);
    shape(forward(&BceInput { x: &x[..5], ..input }));
    shape(forward(&BceInput {
        target: &x[..5],
        ..input
    }));
    shape(forward(&BceInput { shape: &[7], ..input }));
    shape(forward(&BceInput {
        weight: weights(&[2]),
        ..input
    }));
    shape(forward(&BceInput {
        weight: weights(&[3]),
        ..input
    }));
    shape(forward(&BceInput {
        pos_weight: weights(&[1, 1, 2]),
        ..input
    }));
    assert!(
        forward(&BceInput {
            weight: weights(&[2, 1]),
            ..input
        })
        .is_ok()
    );
    shape(bce_with_logits::backward(context, &input, Some(&x[..1]), &none));
    shape(bce_with_logits::backward(
        context,
        &input,
        Some(&x),
        &BceOptions::default(),
    ));
    let huge = [usize::MAX, 3];
    shape(forward(&BceInput { shape: &huge, ..input }));
}

#[test]
fn malformed_calls_are_refused() {
    malformed(&Context::cpu());
}

/// What the views of an embedded call may be is a matter of gpu_activation.rs; that they are plain data is one of this file.
#[test]
fn options_have_names() {
    assert_eq!(
        ActivationKind::ALL.map(ActivationKind::name),
        ["sigmoid", "log_sigmoid", "softplus"]
    );
    assert_eq!(BceOptions::default().reduction, LossReduction::Mean);
    assert!("median".parse::<LossReduction>().is_err());
    assert!(std::mem::size_of::<ActivationViews>() > 0);
}

/// The program on a device.
#[cfg(feature = "cli")]
pub mod program {
    use super::*;
    use std::process::Command;

    pub struct Program<'a>(pub &'a str);

    impl Program<'_> {
        /// Runs with `--check`; gives the tensors written, in the order of `outputs`.
        fn run(&self, op: &str, inputs: &[(&str, String)], settings: &[String], outputs: &[&str]) -> Vec<Tensor> {
            let folder = tempfile::tempdir().unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_macheps"));
            command.args(["run", op, "--device", self.0, "--check"]);
            for (name, source) in inputs {
                command.args(["--input", &format!("{name}={source}")]);
            }
            for setting in settings {
                command.args(["--set", setting]);
            }
            let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
            for name in outputs {
                command.args(["--output", &format!("{name}={}#{name}", path(name).display())]);
            }
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{op} {inputs:?} {settings:?}: {said}");
            outputs.iter().map(|name| read(&path(name), name).unwrap()).collect()
        }
    }

    impl Runner for Program<'_> {
        fn activation<T: Element>(
            &self,
            kind: ActivationKind,
            file: &Path,
            x: &str,
            upstream: Option<&str>,
        ) -> [Vec<T>; 2] {
            let at = |name: &str| format!("{}#{name}", file.display());
            let mut inputs = vec![("x", at(x))];
            inputs.extend(upstream.map(|name| ("upstream", at(name))));
            let outputs: &[&str] = if upstream.is_some() { &["y", "grad"] } else { &["y"] };
            let written = self.run(kind.name(), &inputs, &[], outputs);
            let mut all = written.iter().map(|t| t.to::<T>());
            [all.next().unwrap(), all.next().unwrap_or_default()]
        }

        fn bce<T: Element>(&self, file: &Path, reduction: LossReduction) -> (Vec<f32>, Vec<T>) {
            let inputs: Vec<(&str, String)> = [
                ("x", "logits"),
                ("target", "target"),
                ("weight", "weight"),
                ("pos_weight", "pos_weight"),
                ("upstream", "upstream"),
            ]
            .into_iter()
            .filter(|(_, tensor)| read(file, tensor).is_some())
            .map(|(name, tensor)| (name, format!("{}#{tensor}", file.display())))
            .collect();
            let settings = [format!("reduction={}", reduction.name())];
            let written = self.run("bce_with_logits", &inputs, &settings, &["loss", "grad"]);
            (written[0].to::<f32>(), written[1].to::<T>())
        }
    }

    #[test]
    fn the_program_conforms() {
        let program = Program("cpu");
        onnx("ONNX, program on the CPU", &program);
        hard_sigmoid("hard rows, program on the CPU", &program);
        hard_bce("hard rows, program on the CPU", &program);
    }

    #[test]
    fn wrong_usage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.safetensors");
        let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = |shape| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &floats).unwrap();
        let tensors = [("x", view(vec![2, 3])), ("t", view(vec![6]))];
        safetensors::serialize_to_file(tensors, None, &file).unwrap();
        let (x, t) = (format!("x={}#x", file.display()), format!("{}#t", file.display()));
        let cases: &[(&[&str], &str)] = &[
            (&["sigmoid"], "needs an input x"),
            (&["sigmoid", "--input", &x, "--set", "axis=1"], "axis"),
            (
                &["softplus", "--input", &x, "--input", &format!("upstream={t}")],
                "upstream",
            ),
            (&["bce_with_logits", "--input", &x], "needs an input target"),
            (
                &["bce_with_logits", "--input", &x, "--input", &format!("target={t}")],
                "target",
            ),
            (
                &["bce_with_logits", "--input", &x, "--set", "reduction=median"],
                "none, mean or sum",
            ),
        ];
        for (args, part) in cases {
            let output = Command::new(env!("CARGO_BIN_EXE_macheps"))
                .arg("run")
                .args(*args)
                .args(["--device", "cpu"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
}
