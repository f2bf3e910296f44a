//! Losses over classes: conformance cases of ONNX, rows made to be hard, the cases of `verify`, and what must hold for any input.

use crate::data::{self, shared_data, tensor};
use macheps::ops::cross_entropy::cases::{Case, bench_cases, verify_cases};
use macheps::ops::cross_entropy::{
    self, CrossEntropyInput, CrossEntropyOptions, LossKind, LossReduction, Target, Wanted, reference,
};
use macheps::ops::softmax::{self, SoftmaxInput, SoftmaxKind, SoftmaxOptions};
use macheps::{Context, CrossCheck, DType, Element, Error, bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;

/// A case from a file.
pub struct FileCase {
    pub name: String,
    pub kind: LossKind,
    pub dtype: DType,
    pub x: Vec<f64>,
    pub shape: Vec<usize>,
    pub labels: Vec<i64>,
    pub probabilities: Option<Vec<f64>>,
    pub weight: Option<Vec<f32>>,
    pub upstream: Option<Vec<f32>>,
    pub options: CrossEntropyOptions,
    /// What the file says, and how far that may be from the oracle: relative, and relative to the inputs.
    pub loss: Vec<f64>,
    pub log_prob: Option<Vec<f64>>,
    pub gradient: Option<Vec<f64>>,
    pub relative: f64,
    /// Whether the gradient of the file was rounded to f32.
    pub gradient_in_f32: bool,
    /// Names of the tensors in the file: x, target, target_probs, weight, upstream.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub names: Vec<(&'static str, &'static str)>,
    /// A setting for the upstream gradient.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub upstream_setting: Option<f64>,
}

fn reduction(text: Option<&str>) -> LossReduction {
    text.unwrap_or("mean").parse().unwrap()
}

fn f32s(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|v| v as f32).collect()
}

/// The cases of ONNX. Empty where the data is not there.
pub fn onnx_cases(test: &str) -> Vec<FileCase> {
    let Some(folder) = shared_data(test) else {
        return Vec::new();
    };
    let folder = folder.join("onnx");
    let index = data::json(folder.join("index.json"));
    let mut cases = Vec::new();
    for case in index["cases"].as_array().unwrap() {
        let kind = match case["op"].as_str().unwrap() {
            "SoftmaxCrossEntropyLoss" => LossKind::CrossEntropy,
            "NegativeLogLikelihoodLoss" => LossKind::NllLoss,
            _ => continue,
        };
        let name = case["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let x = tensor(&file, "in0").unwrap();
        let weight = tensor(&file, "in2").map(|w| f32s(w.values));
        let attributes = &case["attributes"];
        let mut names = vec![("x", "in0"), ("target", "in1")];
        if weight.is_some() {
            names.push(("weight", "in2"));
        }
        cases.push(FileCase {
            name: name.to_string(),
            kind,
            dtype: x.dtype.unwrap(),
            x: x.values,
            shape: x.shape,
            labels: tensor(&file, "in1").unwrap().values.iter().map(|&v| v as i64).collect(),
            probabilities: None,
            weight,
            upstream: None,
            options: CrossEntropyOptions {
                ignore_index: attributes["ignore_index"].as_i64(),
                reduction: reduction(attributes["reduction"].as_str()),
                ..Default::default()
            },
            loss: tensor(&file, "out0").unwrap().values,
            log_prob: tensor(&file, "out1").map(|t| t.values),
            gradient: None,
            relative: case["max_rel_diff_from_float64_recheck"].as_f64().unwrap(),
            gradient_in_f32: false,
            names,
            upstream_setting: None,
        });
    }
    assert_eq!(cases.len(), 28);
    cases
}

/// The hard cases. Empty where the data is not there.
pub fn hard_cases(test: &str) -> Vec<FileCase> {
    let Some(folder) = shared_data(test) else {
        return Vec::new();
    };
    let folder = folder.join("hard_rows");
    let index = data::json(folder.join("index.json"));
    let mut cases = Vec::new();
    for case in index["cases"].as_array().unwrap() {
        if case["op"] != "cross_entropy" {
            continue;
        }
        let name = case["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let params = &case["params"];
        let x = tensor(&file, "logits").unwrap();
        let labels = tensor(&file, "target").map_or(Vec::new(), |t| t.values.iter().map(|&v| v as i64).collect());
        let probabilities = tensor(&file, "target_probabilities").map(|t| t.values);
        let weight = tensor(&file, "class_weight").map(|t| f32s(t.values));
        let upstream = tensor(&file, "upstream").map(|t| f32s(t.values));
        let mut names = vec![("x", "logits")];
        let mut name_of = |there: bool, ours, theirs| {
            if there {
                names.push((ours, theirs));
            }
        };
        name_of(probabilities.is_none(), "target", "target");
        name_of(probabilities.is_some(), "target_probs", "target_probabilities");
        name_of(weight.is_some(), "weight", "class_weight");
        name_of(upstream.is_some(), "upstream", "upstream");
        let setting = params["upstream"].as_f64();
        let in_f32 = tensor(&file, "grad_f32");
        cases.push(FileCase {
            name: name.to_string(),
            kind: LossKind::CrossEntropy,
            // f64 runs as f32.
            dtype: x.dtype.unwrap_or(DType::F32),
            x: x.values,
            shape: x.shape,
            labels,
            probabilities,
            weight,
            upstream: upstream.or(setting.map(|u| vec![u as f32])),
            options: CrossEntropyOptions {
                ignore_index: params["ignore_index"].as_i64(),
                label_smoothing: params["label_smoothing"].as_f64().unwrap() as f32,
                reduction: reduction(params["reduction"].as_str()),
                ..Default::default()
            },
            loss: tensor(&file, "loss").unwrap().values,
            log_prob: None,
            gradient_in_f32: in_f32.is_some(),
            gradient: tensor(&file, "grad").or(in_f32).map(|t| t.values),
            relative: 1e-12,
            names,
            upstream_setting: setting,
        });
    }
    assert_eq!(cases.len(), 52);
    cases
}

impl FileCase {
    /// Runs the case and holds the result to the oracle, and the oracle to the file. Returns the worst error as a part of its bound.
    fn run(&self, context: &Context) -> f64 {
        match self.dtype {
            DType::F32 => self.run_as::<f32>(context),
            DType::F16 => self.run_as::<f16>(context),
            DType::Bf16 => self.run_as::<bf16>(context),
        }
    }

    /// Calls `f` with the input in the storage type to run in.
    fn with_input<T: Element, R>(&self, f: impl FnOnce(&CrossEntropyInput<'_, T>) -> R) -> R {
        let convert = |values: &[f64]| values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let x = convert(&self.x);
        let probabilities = self.probabilities.as_deref().map(convert);
        f(&CrossEntropyInput {
            x: &x,
            shape: &self.shape,
            target: match &probabilities {
                Some(p) => Target::Probabilities(p),
                None => Target::Indices((&self.labels).into()),
            },
            weight: self.weight.as_deref(),
        })
    }

    /// What the oracle makes of the case.
    pub fn answer<T: Element>(&self) -> reference::Answer {
        self.with_input::<T, _>(|input| {
            let rows = input.x.len() / self.shape[usize::from(self.shape.len() > 1)].max(1);
            let ones = vec![
                1.0;
                if self.options.reduction == LossReduction::None {
                    rows
                } else {
                    1
                }
            ];
            let upstream = self.upstream.as_deref().unwrap_or(&ones);
            reference::answer(self.kind, input, Some(upstream), &self.options).expect(&self.name)
        })
    }

    fn run_as<T: Element>(&self, context: &Context) -> f64 {
        let wanted = Wanted {
            log_prob: self.log_prob.is_some(),
            gradient: true,
            upstream: self.upstream.as_deref(),
        };
        let computed =
            self.with_input::<T, _>(|input| cross_entropy::compute(context, self.kind, input, &wanted, &self.options));
        let out = computed.expect(&self.name);
        let answer = self.answer::<T>();
        let fine = |what: &str, outcome: Result<macheps::accuracy::MaxError, macheps::accuracy::Mismatch>| {
            outcome
                .unwrap_or_else(|e| panic!("{}, {what}: {e}", self.name))
                .of_bound
        };
        let mut worst = fine("loss", answer.loss.check(&out.loss));
        if let Some(log_prob) = &out.log_prob {
            worst = worst.max(fine("log_prob", answer.log_prob.check(log_prob)));
        }
        worst = worst.max(fine(
            "gradient",
            answer.gradient.check(out.gradient.as_deref().unwrap()),
        ));

        // Inputs in f64 were rounded on the way in, the smoothing to f32.
        let rounded = self.x.iter().fold(0.0, |all: f64, &v| {
            let d = (v - f64::from(T::from_f64(v).to_f32())).abs();
            if d.is_nan() { all } else { all.max(d) }
        }) + if self.options.label_smoothing == 0.0 { 0.0 } else { 1e-7 };
        let near = |what: &str, oracle: &[f64], file: &[f64], in_f32: bool| {
            assert_eq!(oracle.len(), file.len(), "{}, {what}", self.name);
            for (i, (&got, &want)) in oracle.iter().zip(file).enumerate() {
                let row = if oracle.len() == self.x.len() {
                    i / self.shape[1]
                } else {
                    usize::MAX
                };
                if self
                    .labels
                    .get(row)
                    .is_some_and(|&label| Some(label) == self.options.ignore_index)
                {
                    // PyTorch leaves NaN where such a row holds one.
                    assert!(what == "log_prob" || got == 0.0, "{}, {what} {i}: {got}", self.name);
                    if what != "log_prob" {
                        continue;
                    }
                }
                let half = if in_f32 { 0.51 * DType::F32.ulp(want) } else { 0.0 };
                let allowed = (1.01 * self.relative + 4.0 * rounded) * want.abs() + half + 4.0 * rounded + 1e-13;
                let same = got == want || (got.is_nan() && want.is_nan());
                assert!(
                    same || (got - want).abs() <= allowed,
                    "{}, {what} {i}: oracle {got:e}, file {want:e}",
                    self.name
                );
            }
        };
        let from_f32 = self.relative > 1e-12 || self.gradient.is_none();
        near("loss", &answer.loss.values, &self.loss, from_f32);
        if let Some(log_prob) = &self.log_prob {
            near("log_prob", &answer.log_prob.values, log_prob, from_f32);
        }
        if let Some(gradient) = &self.gradient {
            near("gradient", &answer.gradient.values, gradient, self.gradient_in_f32);
        }
        worst
    }
}

fn conforms(context: &Context, name: &str, cases: &[FileCase]) {
    let worst = cases.iter().map(|case| case.run(context)).fold(0.0, f64::max);
    println!("{name}: {} cases, worst {worst:.3} of the bound", cases.len());
}

#[test]
fn cpu_conforms_to_onnx() {
    conforms(
        &Context::cpu(),
        "ONNX on the CPU",
        &onnx_cases("cross_entropy on ONNX cases"),
    );
}

#[test]
fn cpu_on_hard_rows() {
    conforms(
        &Context::cpu(),
        "hard rows on the CPU",
        &hard_cases("cross_entropy on hard rows"),
    );
}

fn holds(context: &Context, case: &Case) {
    let at = || format!("{} {:?} {} {}", case.name(), case.shape, case.dtype, case.detail());
    match case.run(context) {
        Ok(Ok(_)) => {}
        Ok(Err(m)) => panic!("{}: {m}", at()),
        Err(e) => panic!("{}: {e}", at()),
    }
}

#[test]
fn cpu_holds_the_cases_of_verify() {
    for case in verify_cases() {
        holds(&Context::cpu(), &case);
    }
    assert!(bench_cases(true).iter().all(|case| case.bytes() > 0));
}

/// In place it is the same bits as apart, along every way through memory.
#[test]
fn in_place_is_the_same() {
    fn compare<T: Element>(case: &Case) {
        let context = Context::cpu();
        let data = case.data::<T>();
        let out = case.compute(&context, &data).unwrap();
        let mut x = data.x.clone();
        let input = case.input(&data);
        let loss = cross_entropy::gradient_in_place(
            &context,
            case.kind,
            &mut x,
            &input,
            data.upstream.as_deref(),
            &case.options,
        );
        let bits = |values: &[T]| bytemuck::cast_slice::<T, u8>(values).to_vec();
        assert_eq!(
            bits(&x),
            bits(out.gradient.as_deref().unwrap()),
            "{:?} {} {}",
            case.shape,
            case.dtype,
            case.detail()
        );
        let same = |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
        assert!(same(&loss.unwrap(), &out.loss));
    }
    for case in verify_cases().into_iter().filter(|case| case.gradient) {
        match case.dtype {
            DType::F32 => compare::<f32>(&case),
            DType::F16 => compare::<f16>(&case),
            DType::Bf16 => compare::<bf16>(&case),
        }
    }
}

#[test]
fn hand_written_values() {
    let cpu = Context::cpu();
    let ln2 = std::f32::consts::LN_2;
    let none = CrossEntropyOptions {
        reduction: LossReduction::None,
        ..Default::default()
    };
    let x = [0.0f32, 0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 3.0, 3.0];
    let labels = [1i32, -100, 0, 0];
    let input = CrossEntropyInput::new(&x, &[4, 2], &labels);
    let (loss, dx) = macheps::cross_entropy_with_gradient(&cpu, &input, None, &none).unwrap();
    assert_eq!(loss, [ln2, 0.0, f32::INFINITY, ln2]);
    assert_eq!(dx, [0.5, -0.5, 0.0, 0.0, -1.0, 1.0, -0.5, 0.5]);
    // Weighted mean: (2 ln 2 + 1 ln 2) / 3.
    let x = [0.0f32; 4];
    let weight = [2.0, 1.0];
    let input = CrossEntropyInput::new(&x, &[2, 2], &[0u32, 1]).with_weight(&weight);
    let mean = CrossEntropyOptions::default();
    assert_eq!(macheps::cross_entropy(&cpu, &input, &mean).unwrap(), [ln2]);
    let dx = cross_entropy::cross_entropy_backward(&cpu, &input, &[3.0], &mean).unwrap();
    assert_eq!(dx, [-1.0, 1.0, 0.5, -0.5]);
    // z-loss of two zeros is z (ln 2)^2 for each row, averaged without weights.
    let z = CrossEntropyOptions { z_loss: 1.0, ..mean };
    let want = (f64::from(ln2) + 2f64.ln().powi(2)) as f32;
    assert!((macheps::cross_entropy(&cpu, &input, &z).unwrap()[0] - want).abs() < 1e-6);
    // One row without N; nothing but ignored rows; no rows.
    let one = CrossEntropyInput::new(&[5.0f32], &[1], &[0i64]);
    assert_eq!(macheps::cross_entropy(&cpu, &one, &mean).unwrap(), [0.0]);
    let ignored = CrossEntropyInput::new(&x, &[2, 2], &[-100i64, -100]);
    let (loss, dx) = macheps::cross_entropy_with_gradient(&cpu, &ignored, None, &mean).unwrap();
    assert!(loss[0].is_nan() && dx == [0.0; 4]);
    let empty = CrossEntropyInput::<f32>::new(&[], &[0, 2], &[0i64; 0]);
    assert!(macheps::cross_entropy(&cpu, &empty, &mean).unwrap()[0].is_nan());
    assert!(macheps::cross_entropy(&cpu, &empty, &none).unwrap().is_empty());
    let sum = CrossEntropyOptions {
        reduction: LossReduction::Sum,
        ..mean
    };
    assert_eq!(macheps::cross_entropy(&cpu, &empty, &sum).unwrap(), [0.0]);
}

#[test]
fn refuses() {
    let cpu = Context::cpu();
    let options = CrossEntropyOptions::default();
    let x = [0.0f32; 6];
    let run = |input: &CrossEntropyInput<'_, f32>, options: &CrossEntropyOptions| {
        macheps::cross_entropy(&cpu, input, options).unwrap_err()
    };
    match run(&CrossEntropyInput::new(&x, &[2, 3], &[2i64, 3]), &options) {
        Error::Label {
            index,
            label,
            classes,
            ignore_index,
        } => assert_eq!((index, label, classes, ignore_index), (1, 3, 3, Some(-100))),
        e => panic!("{e}"),
    }
    let none_ignored = CrossEntropyOptions {
        ignore_index: None,
        ..options
    };
    let labels = [-100i64, i64::MIN];
    assert!(matches!(
        run(&CrossEntropyInput::new(&x, &[2, 3], &labels), &none_ignored),
        Error::Label { index: 0, .. }
    ));
    let far = CrossEntropyOptions {
        ignore_index: Some(i64::MIN),
        ..options
    };
    assert!(matches!(
        run(&CrossEntropyInput::new(&x, &[2, 3], &labels), &far),
        Error::Label { index: 0, .. }
    ));
    for (input, what) in [
        (CrossEntropyInput::new(&x, &[2, 4], &[0i64, 0]), "x"),
        (CrossEntropyInput::new(&x, &[2, 3], &[0i64]), "target"),
        (CrossEntropyInput::new(&x, &[], &[0i64]), "x"),
        (CrossEntropyInput::new(&x[..0], &[2, 0], &[0i64, 0]), "class"),
        (CrossEntropyInput::soft(&x, &[2, 3], &x[..3]), "target"),
        (
            CrossEntropyInput::new(&x, &[2, 3], &[0i64, 0]).with_weight(&[1.0]),
            "weight",
        ),
    ] {
        let error = run(&input, &options);
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
    let input = CrossEntropyInput::new(&x, &[2, 3], &[0i64, 0]);
    let weight = [1.0, f32::NAN, 1.0];
    assert!(matches!(
        run(&input.with_weight(&weight), &options),
        Error::Option { .. }
    ));
    for wrong in [
        CrossEntropyOptions {
            label_smoothing: 1.5,
            ..options
        },
        CrossEntropyOptions {
            label_smoothing: f32::NAN,
            ..options
        },
        CrossEntropyOptions {
            z_loss: -1.0,
            ..options
        },
        CrossEntropyOptions {
            z_loss: f32::INFINITY,
            ..options
        },
    ] {
        assert!(matches!(run(&input, &wrong), Error::Option { .. }));
    }
    assert!(matches!(
        macheps::cross_entropy_with_gradient(&cpu, &input, Some(&[1.0, 1.0]), &options),
        Err(Error::Shape { .. })
    ));
    let soft = CrossEntropyInput::soft(&x, &[2, 3], &x);
    assert!(matches!(
        macheps::nll_loss(&cpu, &soft, &options),
        Err(Error::Unsupported { .. })
    ));
    let z = CrossEntropyOptions { z_loss: 1.0, ..options };
    assert!(matches!(macheps::nll_loss(&cpu, &input, &z), Err(Error::Option { .. })));
}

/// Our own chain of log_softmax, nll_loss and their gradients gives what the fused loss does.
#[test]
fn fused_is_the_chain() {
    let cpu = Context::cpu();
    let (shape, options) = ([31usize, 17], CrossEntropyOptions::default());
    let case = Case::new(LossKind::CrossEntropy, DType::F32, &shape);
    let data = case.data::<f32>();
    let log_softmax = SoftmaxOptions {
        axis: 1,
        ..Default::default()
    };
    let x = SoftmaxInput::new(&data.x, &shape);
    let log_prob = softmax::forward(&cpu, SoftmaxKind::LogSoftmax, &x, &log_softmax).unwrap();
    let input = CrossEntropyInput::new(&log_prob, &shape, &data.labels);
    let (nll, d_log_prob) = macheps::nll_loss_with_gradient(&cpu, &input, None, &options).unwrap();
    let dx = softmax::backward(&cpu, SoftmaxKind::LogSoftmax, &x, &d_log_prob, &log_softmax).unwrap();
    let input = CrossEntropyInput::new(&data.x, &shape, &data.labels);
    let (loss, gradient) = macheps::cross_entropy_with_gradient(&cpu, &input, None, &options).unwrap();
    assert!((loss[0] - nll[0]).abs() < 1e-6);
    assert!(dx.iter().zip(&gradient).all(|(a, b)| (a - b).abs() < 1e-7));
}

/// A loss that does not fit raises the alarm.
#[test]
fn cross_check_passes_on_what_is_right() {
    let context = Context::cpu().with_cross_check(CrossCheck::Full);
    for case in verify_cases().into_iter().filter(|c| c.dtype == DType::F32).take(4) {
        holds(&context, &case);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any logits, labels, weights and options hold the bounds; a shift of a row leaves its gradient alone.
    #[test]
    fn any_input_holds_the_bounds(
        seed in any::<u64>(),
        rows in 1usize..6,
        classes in 1usize..40,
        inner in prop::sample::select(vec![1usize, 1, 1, 2, 5, 9, 17]),
        spread in prop::sample::select(vec![0.1f64, 3.0, 90.0, 1e4, 1e38]),
        smoothing in prop::sample::select(vec![0.0f32, 0.0, 0.1, 1.0]),
        z_loss in prop::sample::select(vec![0.0f32, 0.0, 1e-3, 1.0]),
        reduction in prop::sample::select(LossReduction::ALL.to_vec()),
        soft in any::<bool>(),
        weighted in any::<bool>(),
    ) {
        let mut random = macheps::random::Random::new(seed);
        let shape = [rows, classes, inner];
        let count = rows * classes * inner;
        let x: Vec<f32> = (0..count).map(|_| (random.normal() * spread) as f32).collect();
        let labels: Vec<i64> = (0..rows * inner).map(|_| random.below(classes as u64 + 1) as i64 - 1).collect();
        let probabilities: Vec<f32> = (0..count).map(|_| random.unit() as f32).collect();
        let weight: Vec<f32> = (0..classes).map(|_| random.unit() as f32).collect();
        let options = CrossEntropyOptions { ignore_index: Some(-1), label_smoothing: smoothing, z_loss, reduction };
        let mut input = if soft {
            CrossEntropyInput::soft(&x, &shape, &probabilities)
        } else {
            CrossEntropyInput::new(&x, &shape, &labels)
        };
        if weighted {
            input = input.with_weight(&weight);
        }
        let (loss, gradient) = macheps::cross_entropy_with_gradient(&Context::cpu(), &input, None, &options).unwrap();
        let ones = vec![1.0; loss.len()];
        let answer = reference::answer(LossKind::CrossEntropy, &input, Some(&ones), &options).unwrap();
        answer.loss.check(&loss).map_err(|e| TestCaseError::fail(format!("loss: {e}")))?;
        answer.gradient.check(&gradient).map_err(|e| TestCaseError::fail(format!("gradient: {e}")))?;
    }

    /// The gradient is that of central differences of the oracle's losses.
    #[test]
    fn gradient_is_the_derivative(seed in any::<u64>(), smoothing in prop::sample::select(vec![0.0f32, 0.3]),
                                  z_loss in prop::sample::select(vec![0.0f32, 0.5]), weighted in any::<bool>()) {
        let mut random = macheps::random::Random::new(seed);
        let shape = [3usize, 5];
        let x: Vec<f32> = (0..15).map(|_| random.normal() as f32).collect();
        let labels: Vec<i64> = (0..3).map(|_| random.below(6) as i64 - 1).collect();
        let weight: Vec<f32> = (0..5).map(|_| 0.5 + random.unit() as f32).collect();
        let options = CrossEntropyOptions { ignore_index: Some(-1), label_smoothing: smoothing, z_loss, reduction: LossReduction::Sum };
        let loss = |x: &[f32]| {
            let mut input = CrossEntropyInput::new(x, &shape, &labels);
            if weighted {
                input = input.with_weight(&weight);
            }
            reference::answer(LossKind::CrossEntropy, &input, None, &options).unwrap().loss.values[0]
        };
        let mut input = CrossEntropyInput::new(&x, &shape, &labels);
        if weighted {
            input = input.with_weight(&weight);
        }
        let gradient = cross_entropy::cross_entropy_backward(&Context::cpu(), &input, &[1.0], &options).unwrap();
        for i in 0..15 {
            // A step that f32 holds exactly on both sides.
            let (mut up, mut down) = (x.clone(), x.clone());
            up[i] += 0.0009765625;
            down[i] -= 0.0009765625;
            let slope = (loss(&up) - loss(&down)) / (f64::from(up[i]) - f64::from(down[i]));
            prop_assert!((slope - f64::from(gradient[i])).abs() < 1e-4, "{i}: {slope} against {}", gradient[i]);
        }
    }
}

/// The same files on every adapter.
mod gpu_files {
    use super::*;
    use crate::adapters;

    fn on_adapters(test: &str, cases: &[FileCase]) {
        // GL takes seconds for each of the many variants; its share is in gpu_cross_entropy.
        for adapter in adapters::all(test).iter().filter(|a| !a.is("gl")) {
            conforms(&adapter.context, &format!("{test} on {}", adapter.name), cases);
        }
    }

    #[test]
    fn onnx() {
        on_adapters("losses of ONNX", &onnx_cases("losses of ONNX"));
    }

    #[test]
    fn hard_rows() {
        on_adapters("losses of hard rows", &hard_cases("losses of hard rows"));
    }
}

#[cfg(feature = "cli")]
mod command {
    use std::process::Command;

    #[test]
    fn refuses_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.safetensors");
        let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let i64s = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let tensors = [
            ("x", safetensors::Dtype::F32, vec![2usize, 3], f32s(&[0.0; 6])),
            ("good", safetensors::Dtype::I64, vec![2], i64s(&[0, 2])),
            ("bad", safetensors::Dtype::I64, vec![2], i64s(&[0, 7])),
            ("long", safetensors::Dtype::I64, vec![3], i64s(&[0, 1, 2])),
            ("floats", safetensors::Dtype::F32, vec![2], f32s(&[0.0; 2])),
        ];
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| {
                (
                    *name,
                    safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap(),
                )
            })
            .collect();
        std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        let input = |name: &str, tensor: &str| format!("--input={name}={}#{tensor}", file.display());
        let target = folder.path().join("loss.npy");
        let output = format!("--output=loss={}", target.display());
        let run = |op: &str, args: &[String]| {
            let done = Command::new(env!("CARGO_BIN_EXE_macheps"))
                .args(["run", op, "--device", "cpu"])
                .args(args)
                .arg(&output)
                .output()
                .unwrap();
            (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
        };
        let x = input("x", "x");
        for (op, args, expected) in [
            ("cross_entropy", vec![input("target", "bad")], "label 1 is 7"),
            ("cross_entropy", vec![input("target", "long")], "expected shape [2]"),
            ("cross_entropy", vec![input("target", "floats")], "expected integers"),
            ("cross_entropy", vec![], "target"),
            (
                "cross_entropy",
                vec![input("target", "good"), input("weight", "good")],
                "expected shape [3]",
            ),
            (
                "cross_entropy",
                vec![input("target", "good"), "--set=reduction=all".into()],
                "none, mean or sum",
            ),
            (
                "cross_entropy",
                vec![input("target", "good"), "--set=label_smoothing=2".into()],
                "from 0 to 1",
            ),
            (
                "cross_entropy",
                vec![input("target", "good"), "--set=z_loss=-1".into()],
                "at least 0",
            ),
            (
                "nll_loss",
                vec![input("target", "good"), "--set=z_loss=1".into()],
                "there is ignore_index",
            ),
        ] {
            let mut all = vec![x.clone()];
            all.extend(args);
            let (code, said) = run(op, &all);
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(expected), "{said:?} should contain {expected:?}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(!target.exists());
        }
        let (code, said) = run("cross_entropy", &[x, input("target", "good")]);
        assert_eq!(code, Some(0), "{said}");
        assert!(target.exists());
    }
}
