//! Reductions on the CPU path and through the command line: hand-written values, conformance cases, hard rows, NIST's certified
//! digits. What runs a context is shared with the tests on devices.

use crate::data::{self, shared_data, tensor};
use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::reduction::cases::{Case, Fill, verify_cases};
use macheps::ops::reduction::{self, arg_reduce, bounds, reduce, reference};
use macheps::{Context, Error, ReductionInput, ReductionKind as Kind, ReductionOptions, SumMode};
use safetensors::SafeTensors;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// A case of ONNX or WebNN. Reductions over no axis are brought to an axis of size 1.
pub struct OnnxCase {
    pub name: String,
    pub kind: Kind,
    pub dtype: DType,
    pub x: Vec<f64>,
    pub shape: Vec<usize>,
    pub options: ReductionOptions,
    pub want: Vec<f64>,
    pub want_shape: Vec<usize>,
    pub error: f64,
    /// Whether the case reduces no axis: an axis of size 1 stands behind its shape here.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub over_nothing: bool,
}

fn kind_of(op: &str) -> Option<Kind> {
    match op {
        "ReduceSum" | "webnn.reduce_sum" => Some(Kind::Sum),
        "ReduceMean" | "webnn.reduce_mean" => Some(Kind::Mean),
        "ReduceSumSquare" | "webnn.reduce_sum_square" => Some(Kind::SumSquare),
        "ReduceLogSum" | "webnn.reduce_log_sum" => Some(Kind::LogSum),
        _ => None,
    }
}

pub fn onnx_cases(test: &str) -> Vec<OnnxCase> {
    let Some(folder) = shared_data(test) else {
        return Vec::new();
    };
    let folder = folder.join("onnx");
    let index = data::json(folder.join("index.json"));
    let mut cases = Vec::new();
    for case in index["cases"].as_array().unwrap() {
        let Some(kind) = kind_of(case["op"].as_str().unwrap()) else {
            continue;
        };
        let name = case["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let input = tensor(&file, "in0").unwrap();
        let want = tensor(&file, "out0").unwrap();
        let attributes = &case["attributes"];
        let integers = |v: &serde_json::Value| -> Option<Vec<isize>> {
            Some(v.as_array()?.iter().map(|a| a.as_i64().unwrap() as isize).collect())
        };
        let webnn = name.starts_with("webnn");
        let mut axes = match tensor(&file, "in1") {
            Some(axes) => Some(axes.values.iter().map(|&a| a as isize).collect::<Vec<_>>()),
            None => integers(&attributes["axes"]),
        };
        // ONNX: no axes means all of them, unless said otherwise; WebNN: only a missing list does.
        let noop = attributes["noop_with_empty_axes"].as_i64() == Some(1);
        let over_nothing = axes.as_ref().is_some_and(Vec::is_empty) && (webnn || noop);
        let mut shape = input.shape.clone();
        if over_nothing {
            axes = Some(vec![-1]);
            shape.push(1);
        } else if axes.as_ref().is_some_and(Vec::is_empty) {
            axes = None;
        }
        let keepdims = if webnn {
            attributes["keepDimensions"].as_bool().unwrap_or(false)
        } else {
            attributes["keepdims"].as_i64() != Some(0)
        };
        cases.push(OnnxCase {
            name: name.to_string(),
            kind,
            dtype: input.dtype.unwrap_or(DType::F32),
            x: input.values,
            shape,
            options: ReductionOptions {
                axes,
                keepdims: keepdims && !over_nothing,
                ..Default::default()
            },
            want: want.values,
            want_shape: want.shape,
            error: case["max_rel_diff_from_float64_recheck"].as_f64().unwrap_or(0.0),
            over_nothing,
        });
    }
    assert!(cases.len() >= 90, "{} cases", cases.len());
    cases
}

/// Runs the cases of a storage type on a context.
pub fn run_onnx<T: Element>(test: &str, context: &Context) -> usize {
    let mut count = 0;
    for case in onnx_cases(test).into_iter().filter(|c| c.dtype == T::DTYPE) {
        let x: Vec<T> = case.x.iter().map(|&v| T::from_f64(v)).collect();
        let input = ReductionInput::new(&x, &case.shape);
        let y = reduce(context, case.kind, &input, &case.options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(
            case.options.output_shape(&case.shape).unwrap(),
            case.want_shape,
            "{}",
            case.name
        );
        reduction::check_forward(case.kind, &input, &case.options, &y)
            .unwrap_or_else(|e| panic!("{test}: {}: {e}", case.name));
        let oracle = reference::forward(case.kind, &x, None, &case.shape, &case.options).unwrap();
        for (oracle, want) in oracle.iter().map(|r| r.value).zip(&case.want) {
            let allowed = 1.01 * case.error * oracle.abs() + T::DTYPE.ulp(oracle);
            assert!(
                oracle == *want || (oracle - want).abs() <= allowed,
                "{}: oracle {oracle:e}, case {want:e}",
                case.name
            );
        }
        count += 1;
    }
    count
}

#[test]
fn cpu_meets_onnx_and_webnn() {
    let f32s = run_onnx::<f32>("reductions of ONNX on the CPU", &Context::cpu());
    let f16s = run_onnx::<f16>("reductions of ONNX on the CPU", &Context::cpu());
    println!("{f32s} cases in f32, {f16s} in f16");
}

/// What the files of `row_statistics` state of a row: the reduction, its correction and mode, and the name there.
pub const STATED: [(Kind, f64, SumMode, &str); 10] = [
    (Kind::Sum, 1.0, SumMode::Pairwise, "sum"),
    (Kind::Sum, 1.0, SumMode::Compensated, "sum"),
    (Kind::NormL1, 1.0, SumMode::Pairwise, "sum_of_abs"),
    (Kind::SumSquare, 1.0, SumMode::Pairwise, "sum_of_squares"),
    (Kind::Mean, 1.0, SumMode::Pairwise, "mean"),
    (Kind::Variance, 0.0, SumMode::Pairwise, "population_variance"),
    (Kind::Variance, 1.0, SumMode::Pairwise, "sample_variance"),
    (Kind::Std, 0.0, SumMode::Pairwise, "population_sd"),
    (Kind::Max, 1.0, SumMode::Pairwise, "max"),
    (Kind::Min, 1.0, SumMode::Pairwise, "min"),
];

/// A case of `row_statistics`.
pub struct HardRows<T> {
    pub name: String,
    /// The rows behind each other as the file has them, and in the type to run in.
    pub stored: Vec<f64>,
    pub x: Vec<T>,
    /// Where each row lies.
    pub rows: Vec<std::ops::Range<usize>>,
    /// What the file states, by name: a value for each row.
    stated: Vec<(&'static str, Vec<f64>)>,
}

/// The cases of `row_statistics` of a storage type, and with f32 those of f64, rounded. Empty where the data is not there.
pub fn hard_rows<T: Element>(test: &str) -> Vec<HardRows<T>> {
    let Some(folder) = shared_data(test) else {
        return Vec::new();
    };
    let folder = folder.join("hard_rows");
    let index = data::json(folder.join("index.json"));
    let mut cases = Vec::new();
    for case in index["cases"].as_array().unwrap() {
        let storage = case["params"]["storage"].as_str();
        let narrowed = storage == Some("f64") && T::DTYPE == DType::F32;
        if case["op"] != "row_statistics" || (storage != Some(T::DTYPE.name()) && !narrowed) {
            continue;
        }
        let name = case["file"].as_str().unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let stored = tensor(&file, "values").unwrap().values;
        let ends = tensor(&file, "row_offsets").unwrap().values;
        let stated = STATED.map(|(.., key)| Some((key, tensor(&file, key)?.values)));
        cases.push(HardRows {
            name: name.to_string(),
            x: stored.iter().map(|&v| T::from_f64(v)).collect(),
            stored,
            rows: ends.windows(2).map(|e| e[0] as usize..e[1] as usize).collect(),
            stated: stated.into_iter().flatten().collect(),
        });
    }
    assert!(!cases.is_empty());
    cases
}

/// Rows of `row_statistics`, each by itself.
pub fn run_hard_rows<T: Element>(test: &str, context: &Context) {
    for case in hard_rows::<T>(test) {
        let name = &case.name;
        for (row, range) in case.rows.iter().enumerate() {
            let x = &case.x[range.clone()];
            let shape = [x.len()];
            let input = ReductionInput::new(x, &shape);
            for (kind, correction, mode, key) in STATED {
                let options = &ReductionOptions {
                    correction,
                    mode,
                    ..Default::default()
                };
                if kind.needs_elements() && x.is_empty() {
                    assert!(matches!(
                        reduce(context, kind, &input, options),
                        Err(Error::Shape { .. })
                    ));
                    continue;
                }
                let Some(want) = case.stated.iter().find(|s| s.0 == key).map(|s| s.1[row]) else {
                    continue;
                };
                // The file speaks of the values before they were rounded.
                let oracle = reference::row(kind, &case.stored[range.clone()], &[], correction);
                let scale = oracle.magnitude.max(oracle.value.abs()) * 1e-15;
                assert!(
                    oracle.value == want
                        || (oracle.value - want).abs() <= scale
                        || (want.is_nan() && oracle.value.is_nan()),
                    "{name} row {row} {key}: oracle {:e}, stated {want:e}",
                    oracle.value
                );
                let y = reduce(context, kind, &input, options).unwrap();
                reduction::check_forward(kind, &input, options, &y)
                    .unwrap_or_else(|e| panic!("{test}: {name} row {row} {key}: {e}"));
            }
        }
    }
}

#[test]
fn cpu_meets_hard_rows() {
    let test = "hard rows of statistics on the CPU";
    run_hard_rows::<f32>(test, &Context::cpu());
    run_hard_rows::<f16>(test, &Context::cpu());
    run_hard_rows::<bf16>(test, &Context::cpu());
}

#[test]
fn cpu_meets_the_oracle() {
    let ctx = Context::cpu();
    for case in verify_cases() {
        if let Err(m) = case.run(&ctx).unwrap() {
            panic!("{} {} {:?}, {}: {m}", case.kind, case.dtype, case.shape, case.detail());
        }
    }
}

/// Rows, and what every reduction makes of them.
pub fn run_literals(context: &Context) {
    let one = |kind, x: &[f32], options: &ReductionOptions| -> f32 {
        let shape = [x.len()];
        let second = (kind == Kind::Dot).then_some(x);
        let input = ReductionInput {
            x,
            shape: &shape,
            second,
        };
        reduce(context, kind, &input, options).unwrap()[0]
    };
    let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
    let plain = ReductionOptions::default();
    type Row = (&'static [f32], [(Kind, f32); 6]);
    let rows: [Row; 8] = [
        (
            &[],
            [
                (Kind::Sum, 0.0),
                (Kind::Mean, NAN),
                (Kind::Variance, NAN),
                (Kind::NormL2, 0.0),
                (Kind::NormMax, 0.0),
                (Kind::LogSum, -INF),
            ],
        ),
        (
            &[1.0, 2.0, 3.0, 4.0],
            [
                (Kind::Sum, 10.0),
                (Kind::Mean, 2.5),
                (Kind::Dot, 30.0),
                (Kind::SumSquare, 30.0),
                (Kind::Max, 4.0),
                (Kind::Min, 1.0),
            ],
        ),
        (
            &[3.0e38, 3.0e38, -3.0e38, -3.0e38, 1.0],
            [
                (Kind::Sum, 1.0),
                (Kind::Mean, 0.2),
                (Kind::NormMax, 3.0e38),
                (Kind::NormL1, INF),
                (Kind::NormL2, INF),
                (Kind::SumSquare, INF),
            ],
        ),
        (
            &[1.0e38, 1.0e38],
            [
                (Kind::Mean, 1.0e38),
                (Kind::NormL2, 1.414_213_6e38),
                (Kind::Variance, 0.0),
                (Kind::Std, 0.0),
                (Kind::Dot, INF),
                (Kind::Max, 1.0e38),
            ],
        ),
        (
            &[3.0e-38, 4.0e-38],
            [
                (Kind::NormL2, 5.0e-38),
                (Kind::SumSquare, 0.0),
                (Kind::NormMax, 4.0e-38),
                (Kind::NormL1, 7.0e-38),
                (Kind::Sum, 7.0e-38),
                (Kind::Mean, 3.5e-38),
            ],
        ),
        (
            &[1.0, INF, 2.0],
            [
                (Kind::Sum, INF),
                (Kind::Mean, INF),
                (Kind::Variance, NAN),
                (Kind::NormL2, INF),
                (Kind::LogSum, INF),
                (Kind::Min, 1.0),
            ],
        ),
        (
            &[INF, -INF, 2.0],
            [
                (Kind::Sum, NAN),
                (Kind::NormL1, INF),
                (Kind::NormMax, INF),
                (Kind::SumSquare, INF),
                (Kind::Min, -INF),
                (Kind::Max, INF),
            ],
        ),
        (
            &[1.0, NAN, INF],
            [
                (Kind::Sum, NAN),
                (Kind::Max, NAN),
                (Kind::Min, NAN),
                (Kind::NormMax, NAN),
                (Kind::Std, NAN),
                (Kind::LogSum, NAN),
            ],
        ),
    ];
    for (x, wanted) in rows {
        for (kind, want) in wanted {
            let got = one(kind, x, &plain);
            let close = (got - want).abs() <= 2.0 * f32::EPSILON * want.abs();
            assert!(same(got, want) || close, "{kind} of {x:?}: {got:e}, not {want:e}");
        }
    }
    assert!(one(Kind::LogSum, &[-1.0], &plain).is_nan());
    // [1e6, 1e6 + 0.1, ..]: what is left of 0.1 in f32, never negative; no spread at all gives 0.
    let shifted: Vec<f32> = (0..1001).map(|i| 1.0e6 + 0.1 * (i % 3) as f32).collect();
    let variance = one(Kind::Variance, &shifted, &plain);
    let want = reference::row(
        Kind::Variance,
        &shifted.iter().map(|&v| v.into()).collect::<Vec<_>>(),
        &[],
        1.0,
    );
    assert!(
        f64::from((variance - want.value as f32).abs())
            <= bounds::bound(Kind::Variance, SumMode::Pairwise, DType::F32, &want)
    );
    assert_eq!(one(Kind::Variance, &[1.0e6 + 0.1; 777], &plain), 0.0);
    let index = |kind, x: &[f32]| arg_reduce(context, kind, &ReductionInput::new(x, &[x.len()]), &plain).unwrap()[0];
    assert_eq!(index(Kind::ArgMax, &[0.0, 2.0, -1.0, 2.0]), 1);
    assert_eq!(index(Kind::ArgMin, &[-0.0, 0.0]), 0);
    assert_eq!(index(Kind::ArgMax, &[-0.0, 0.0, -1.0]), 0);
    assert_eq!(index(Kind::ArgMin, &[-INF, NAN, 0.0, NAN]), 1);
    assert_eq!(index(Kind::ArgMax, &[INF, NAN]), 1);
    // 4096 ones in f16.
    let ones = vec![f16::ONE; 4096];
    let y = reduce(context, Kind::Sum, &ReductionInput::new(&ones, &[4096]), &plain).unwrap();
    assert_eq!(y[0], f16::from_f32(4096.0));
    let y = reduce(context, Kind::Mean, &ReductionInput::new(&ones, &[4096]), &plain).unwrap();
    assert_eq!(y[0], f16::ONE);
}

#[test]
fn cpu_meets_literals() {
    run_literals(&Context::cpu());
}

#[test]
fn a_hundred_million_bf16() {
    let value = bf16::from_f32(0.001);
    let n = 100_000_000;
    let x = vec![value; n];
    let y = reduce(
        &Context::cpu(),
        Kind::Sum,
        &ReductionInput::new(&x, &[n]),
        &ReductionOptions::default(),
    )
    .unwrap()[0];
    let row = reference::Row {
        value: f64::from(value.to_f32()) * n as f64,
        magnitude: f64::from(value.to_f32()) * n as f64,
        sum: f64::from(value.to_f32()) * n as f64,
        count: n,
        ..Default::default()
    };
    let bound = bounds::bound(Kind::Sum, SumMode::Pairwise, DType::Bf16, &row);
    assert!(
        (f64::from(y.to_f32()) - row.value).abs() <= bound,
        "{y} should be {}",
        row.value
    );
}

#[test]
fn options_are_refused() {
    let ctx = Context::cpu();
    let input = ReductionInput::new(&[1.0f32; 6], &[2, 3]);
    for axes in [vec![], vec![2], vec![-3], vec![0, -2]] {
        let options = ReductionOptions::over(&axes);
        assert!(
            matches!(reduce(&ctx, Kind::Sum, &input, &options), Err(Error::Shape { .. })),
            "{axes:?}"
        );
    }
    for correction in [-1.0, f64::NAN, f64::INFINITY] {
        let options = ReductionOptions {
            correction,
            ..Default::default()
        };
        assert!(matches!(
            reduce(&ctx, Kind::Variance, &input, &options),
            Err(Error::Option { .. })
        ));
    }
    let all = ReductionOptions::default();
    assert!(matches!(
        reduce(&ctx, Kind::Dot, &input, &all),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        reduce(&ctx, Kind::ArgMax, &input, &all),
        Err(Error::Unsupported { .. })
    ));
    assert!(matches!(
        arg_reduce(&ctx, Kind::Max, &input, &all),
        Err(Error::Unsupported { .. })
    ));
    assert!(matches!(
        reduction::backward(&ctx, Kind::ArgMax, &input, &[1.0], &all),
        Err(Error::Unsupported { .. })
    ));
    // Rows without elements have no maximum; no rows need none.
    let none = ReductionInput::<f32>::new(&[], &[3, 0]);
    assert!(matches!(
        reduce(&ctx, Kind::Max, &none, &ReductionOptions::over(&[1])),
        Err(Error::Shape { .. })
    ));
    let kept = reduce(&ctx, Kind::Max, &none, &ReductionOptions::over(&[0])).unwrap();
    assert!(kept.is_empty());
    assert_eq!(
        reduce(&ctx, Kind::Sum, &none, &ReductionOptions::over(&[1])).unwrap(),
        [0.0; 3]
    );
}

#[test]
fn bits_do_not_depend_on_threads() {
    let case = Case {
        fill: Fill::Extreme,
        ..Case::new(Kind::Sum, DType::F32, &[3, 300_001], Some(&[1]))
    };
    let data = case.data::<f32>();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.compute(&Context::cpu(), &data).unwrap())
    };
    assert_eq!(on(1), on(3));
}

/// Correct significant digits, at most `most`.
fn digits(got: f64, want: f64, most: f64) -> f64 {
    if got == want {
        return most;
    }
    let error = if want == 0.0 {
        got.abs()
    } else {
        ((got - want) / want).abs()
    };
    (-error.log10()).clamp(0.0, most)
}

/// Mean and standard deviation of NIST's univariate sets, and within-group sums of squares of the others.
pub fn run_strd(test: &str, context: &Context) {
    let Some(folder) = shared_data(test) else { return };
    let folder = folder.join("strd");
    let index = data::json(folder.join("index.json"));
    let number = |v: &serde_json::Value| v.as_str().and_then(|s| s.parse::<f64>().ok());
    for set in index["datasets"].as_array().unwrap() {
        let name = set["name"].as_str().unwrap();
        let text = std::fs::read_to_string(folder.join(set["values_file"].as_str().unwrap())).unwrap();
        let lines: Vec<Vec<f64>> = text
            .lines()
            .map(|l| l.split_whitespace().map(|w| w.parse().unwrap()).collect::<Vec<f64>>())
            .filter(|l: &Vec<f64>| !l.is_empty())
            .collect();
        let values: Vec<f64> = lines.iter().map(|l| l[l.len() - 1]).collect();
        let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let on = |kind, x: &[f32]| -> f64 {
            let shape = [x.len()];
            let input = ReductionInput::new(x, &shape);
            f64::from(reduce(context, kind, &input, &ReductionOptions::default()).unwrap()[0])
        };
        if set["kind"].as_str().unwrap().starts_with("univariate") {
            let rounded = &set["exact_after_rounding_each_value_to_f32"];
            let exact = &set["exact_from_decimal_values"];
            let mut line = format!("{test}: {name}:");
            for (kind, key) in [(Kind::Mean, "mean"), (Kind::Std, "sample_sd")] {
                let got = on(kind, &narrow);
                let (want, certified) = (number(&rounded[key]).unwrap(), number(&exact[key]).unwrap());
                let oracle = reference::row(kind, &values, &[], 1.0).value;
                // f32 has 7.2 digits: the result of f32 inputs has all of them.
                let of_f32 = digits(got, want, 7.2);
                line += &format!(
                    " {key} LRE {of_f32:.1} of the f32 inputs, {:.1} of f64 inputs rounded to f32, {:.1} of f64 inputs in the oracle;",
                    digits(got, certified, 7.2),
                    digits(oracle, certified, 15.0)
                );
                assert!(of_f32 >= 6.7, "{line}");
                assert!(digits(oracle, certified, 15.0) >= 8.0, "{line}");
            }
            println!("{line}");
        } else {
            let mut groups: std::collections::BTreeMap<i64, Vec<f32>> = Default::default();
            for (l, &v) in lines.iter().zip(&narrow) {
                groups.entry(l[0] as i64).or_default().push(v);
            }
            let within: f64 = groups
                .values()
                .map(|g| on(Kind::Variance, g) * (g.len() - 1) as f64)
                .sum();
            let key = "exact_within_sum_of_squares_after_rounding_each_value_to_f32";
            let want = number(&set[key]).unwrap();
            let lre = digits(within, want, 7.2);
            println!("{test}: {name}: within-group sum of squares LRE {lre:.1} of the f32 inputs");
            assert!(lre >= 6.0, "{name}: {within:e}, not {want:e}");
        }
    }
}

#[test]
fn cpu_meets_nist() {
    run_strd("NIST StRD on the CPU", &Context::cpu());
}

/// Gradients against central differences of the oracle.
#[test]
fn gradients_meet_differences() {
    let x = [0.7f64, -1.3, 2.1, 0.4, 3.5];
    let second = [1.0f64, 2.0, -3.0, 0.5, 0.25];
    for kind in Kind::ALL.into_iter().filter(|k| !k.is_arg()) {
        let gradient = reference::backward_row(kind, &x, &second, 1.0, 2.0);
        for i in 0..x.len() {
            let at = |h: f64| {
                let mut moved = x;
                moved[i] += h;
                reference::row(kind, &moved, &second, 1.0).value
            };
            let difference = 2.0 * (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (gradient[i].0 - difference).abs() < 1e-8 * (1.0 + difference.abs()),
                "{kind} {i}"
            );
        }
    }
}

/// Rows where there is no derivative, or no finite one.
pub fn run_gradient_literals(context: &Context) {
    let all = ReductionOptions::default();
    let run = |kind, x: &[f32], g: f32| {
        let shape = [x.len()];
        let input = ReductionInput::new(x, &shape);
        reduction::backward(context, kind, &input, &[g], &all).unwrap()
    };
    let same = |kind, x: &[f32], g: f32, want: &[f32]| {
        let got = run(kind, x, g);
        let equal = got.iter().zip(want).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
        assert!(
            equal && got.len() == want.len(),
            "{kind} of {x:?} by {g}: {got:?}, not {want:?}"
        );
    };
    same(Kind::NormL2, &[0.0, -0.0], 3.0, &[0.0; 2]);
    same(Kind::NormL2, &[0.0, 0.0], INF, &[0.0; 2]);
    same(Kind::NormL2, &[0.0, INF], 2.0, &[0.0, NAN]);
    // A norm beyond f32.
    let a = 15.0 * 2f32.powi(122);
    same(Kind::NormL2, &[3.0 * a, 0.0, -4.0 * a], 5.0, &[3.0, 0.0, -4.0]);
    same(Kind::NormL1, &[0.0, -2.0, INF, NAN], 3.0, &[0.0, -3.0, 3.0, NAN]);
    same(Kind::NormMax, &[1.0, -2.0, 2.0], 3.0, &[0.0, -3.0, 0.0]);
    same(Kind::NormMax, &[0.0, 0.0], 3.0, &[0.0, 0.0]);
    same(Kind::NormMax, &[1.0, NAN, -INF], 3.0, &[0.0, NAN, 0.0]);
    same(Kind::Max, &[1.0, 2.0, 2.0], 3.0, &[0.0, 3.0, 0.0]);
    same(Kind::Max, &[1.0, NAN, 2.0], 3.0, &[0.0, 3.0, 0.0]);
    same(Kind::Min, &[0.0, -0.0, 2.0], INF, &[INF, 0.0, 0.0]);
    // As torch.std: 0 where there is no spread.
    same(Kind::Std, &[2.5; 5], 3.0, &[0.0; 5]);
    same(Kind::Std, &[0.1; 100], 3.0, &[0.0; 100]);
    same(Kind::Std, &[1.0, 3.0], 2f32.sqrt(), &[-1.0, 1.0]);
    same(Kind::Std, &[1.0], 1.0, &[NAN]);
    same(Kind::Std, &[1.0, INF], 1.0, &[NAN; 2]);
    same(Kind::Variance, &[1.0], 1.0, &[NAN]);
    // As torch.var: finite elements are infinitely far off an infinite mean.
    same(Kind::Variance, &[1.0, INF, 2.0], 1.0, &[-INF, NAN, -INF]);
    same(Kind::Variance, &[1.0, INF, -INF], 1.0, &[NAN; 3]);
    same(Kind::Variance, &[7.0; 4], 1.0, &[0.0; 4]);
    same(Kind::LogSum, &[1.0, 3.0], 2.0, &[0.5; 2]);
    same(Kind::LogSum, &[1.0, -1.0], 2.0, &[INF; 2]);
    same(Kind::LogSum, &[1.0, INF], 2.0, &[0.0; 2]);
    same(Kind::LogSum, &[-1.0, -3.0], 2.0, &[-0.5; 2]);
    same(Kind::Mean, &[5.0; 4], 2.0, &[0.5; 4]);
    same(Kind::SumSquare, &[3.0, 1e-40, 3e38], 2.0, &[12.0, 4.0 * 1e-40, INF]);
    same(Kind::Sum, &[NAN, 1.0], -2.0, &[-2.0; 2]);
}

#[test]
fn cpu_gradients_meet_literals() {
    run_gradient_literals(&Context::cpu());
    // Chunks of a long row merge an infinity as one chunk has it.
    let mut x = vec![1.0f32; 200_000];
    x[3] = INF;
    let shape = [x.len()];
    let input = ReductionInput::new(&x, &shape);
    let dx = reduction::backward(
        &Context::cpu(),
        Kind::Variance,
        &input,
        &[1.0],
        &ReductionOptions::default(),
    )
    .unwrap();
    assert!(dx[3].is_nan() && dx[0] == -INF && dx[199_999] == -INF);
}

#[cfg(feature = "cli")]
mod command {
    use super::*;
    use std::process::Command;

    fn macheps(args: &[String]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_macheps"))
            .args(args)
            .env_remove("MACHEPS_DEVICE")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        (output.status.code().unwrap(), said)
    }

    /// A tensor of a safetensors file that the command wrote.
    fn written(path: &std::path::Path) -> (Vec<f64>, Vec<usize>) {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let y = tensor(&file, "y").unwrap();
        (y.values, y.shape)
    }

    fn save(path: &std::path::Path, x: &[f32], shape: &[usize]) {
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &bytes).unwrap();
        safetensors::serialize_to_file([("x", view)], None, path).unwrap();
    }

    #[test]
    fn runs_every_operation() {
        let folder = tempfile::tempdir().unwrap();
        let (x, y) = (folder.path().join("x.safetensors"), folder.path().join("y.safetensors"));
        save(&x, &[3.0, -4.0, 0.0, 12.0], &[2, 2]);
        let run = |op: &str, more: &[&str]| {
            let mut args: Vec<String> = ["run", op, "--device", "cpu", "--check", "--input"]
                .map(String::from)
                .into();
            args.push(format!("x={}#x", x.display()));
            if op == "dot" {
                args.extend(["--input".into(), format!("x2={}#x", x.display())]);
            }
            args.extend(["--output".into(), format!("y={}#y", y.display())]);
            args.extend(more.iter().flat_map(|s| ["--set".to_string(), s.to_string()]));
            macheps(&args)
        };
        for (op, more, want) in [
            ("sum", &["axes=1"][..], &[-1.0, 12.0][..]),
            ("sum", &["mode=compensated"], &[11.0]),
            ("mean", &["axes=0"], &[1.5, 4.0]),
            ("variance", &["axes=1", "correction=0"], &[12.25, 36.0]),
            ("std", &["axes=1", "correction=0"], &[3.5, 6.0]),
            ("norm", &["axes=1"], &[5.0, 12.0]),
            ("norm", &["ord=1"], &[19.0]),
            ("norm", &["ord=inf", "axes=0"], &[3.0, 12.0]),
            ("dot", &[], &[169.0]),
            ("min", &[], &[-4.0]),
            ("max", &["keepdims=true"], &[12.0]),
            ("argmin", &[], &[1.0]),
            ("argmax", &["axes=1"], &[0.0, 1.0]),
            ("sum_square", &[], &[169.0]),
            ("log_sum", &["axes=-1,0"], &[11f64.ln()]),
        ] {
            let (code, said) = run(op, more);
            assert_eq!(code, 0, "{op}: {said}");
            let (got, _) = written(&y);
            assert_eq!(got.len(), want.len());
            assert!(
                got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
                "{op} {more:?}: {got:?}"
            );
        }
        for (op, more) in [
            ("sum", "axes="),
            ("sum", "axes=2"),
            ("sum", "axes=0,0"),
            ("sum", "correction=1"),
            ("norm", "ord=3"),
            ("max", "mode=pairwise"),
            ("variance", "correction=-1"),
            ("sum", "mode=fast"),
        ] {
            assert_eq!(run(op, &[more]).0, 2, "{op} {more}");
        }
    }
}

/// Bytes of memory that can be had, where the system says.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

#[test]
fn two_to_the_31_elements() {
    const LEN: usize = 1 << 31;
    if available_memory().is_none_or(|bytes| bytes < 6 << 30) {
        crate::adapters::skipped(
            "2^31 elements",
            "4 GiB of bf16 need 6 GiB of memory that is known to be there",
        );
        return;
    }
    // Mostly pages that nobody writes to. Every 2^16 elements 1 and -1 take turns, so that each of them shows in the sum; the
    // largest element comes last.
    let mut x: Vec<bf16> = bytemuck::zeroed_vec(LEN);
    for (i, mark) in x.chunks_mut(1 << 16).enumerate() {
        mark[7] = bf16::from_f32(if i % 2 == 0 { 1.0 } else { -1.0 });
    }
    x[LEN - 1] = bf16::from_f32(5.0);
    let (context, options, shape) = (Context::cpu(), ReductionOptions::default(), [2048, LEN / 2048]);
    let value = |kind| -> f32 {
        let input = ReductionInput::new(&x, &shape);
        reduce(&context, kind, &input, &options).unwrap()[0].to_f32()
    };
    assert_eq!(value(Kind::Sum), 5.0);
    assert_eq!(
        reduction::argmax(&context, &x, &shape, &options).unwrap(),
        [LEN as u64 - 1]
    );
    let n = LEN as f64;
    let variance = (32768.0 + 25.0 - 25.0 / n) / (n - 1.0);
    assert_eq!(value(Kind::Variance), bf16::from_f64(variance).to_f32());
}
