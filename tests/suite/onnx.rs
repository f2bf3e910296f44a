//! Conformance cases of ONNX and WebNN for softmax, log-softmax and log-sum-exp.

use crate::data::{self, shared_data, tensor};
use macheps::element::{DType, Element, f16};
use macheps::ops::softmax::bounds::{Accuracy, Expected, Quantity};
use macheps::ops::softmax::{SoftmaxKind, SoftmaxOptions, cpu, reference};
use macheps::rows::RowMap;
use safetensors::SafeTensors;

/// One case, brought to the form of this crate: a reduction over several axes has them merged into the last one.
pub struct OnnxCase {
    /// Name of the file.
    pub name: String,
    /// The function.
    pub kind: SoftmaxKind,
    /// Storage type to run in; ONNX cases in f64 are run in f32.
    pub dtype: DType,
    /// The input.
    pub x: Vec<f64>,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The axis.
    pub axis: isize,
    /// The shape of the input as it is in the file, and the axes that are reduced there.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub file_shape: Vec<usize>,
    /// See `file_shape`.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub file_axes: Vec<usize>,
    /// Whether reduced axes stay.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub keepdims: bool,
    /// The output that the case states.
    pub want: Vec<f64>,
    /// Its shape.
    #[cfg_attr(not(feature = "cli"), expect(dead_code))]
    pub want_shape: Vec<usize>,
    /// Relative error of that output, from its index.
    pub error: f64,
}

fn kind_of(op: &str) -> Option<SoftmaxKind> {
    match op {
        "Softmax" | "webnn.softmax" => Some(SoftmaxKind::Softmax),
        "LogSoftmax" => Some(SoftmaxKind::LogSoftmax),
        "ReduceLogSumExp" | "webnn.reduce_log_sum_exp" => Some(SoftmaxKind::LogSumExp),
        _ => None,
    }
}

/// The tensor with `axes` moved to the end and merged, as rows.
fn merge_axes(x: &[f64], shape: &[usize], axes: &[usize]) -> (Vec<f64>, Vec<usize>) {
    let kept: Vec<usize> = (0..shape.len()).filter(|d| !axes.contains(d)).collect();
    let strides = macheps::rows::contiguous_strides(shape);
    let order: Vec<usize> = kept.iter().chain(axes).copied().collect();
    let mut values = Vec::with_capacity(x.len());
    for flat in 0..x.len() {
        // Position in the permuted tensor, taken apart from the innermost dimension on.
        let (mut rest, mut at) = (flat, 0);
        for &d in order.iter().rev() {
            at += (rest % shape[d]) * strides[d];
            rest /= shape[d];
        }
        values.push(x[at]);
    }
    let rows = kept.iter().map(|&d| shape[d]).product();
    (values, vec![rows, axes.iter().map(|&d| shape[d]).product()])
}

impl OnnxCase {
    fn options(&self) -> SoftmaxOptions {
        SoftmaxOptions {
            axis: self.axis,
            ..Default::default()
        }
    }

    /// The input in the storage type to run in.
    pub fn typed<T: Element>(&self) -> Vec<T> {
        self.x.iter().map(|&v| T::from_f64(v)).collect()
    }

    /// What the oracle makes of it.
    pub fn expected<T: Element>(&self) -> Expected {
        let options = self.options();
        let (map, y_map) = maps(self.kind, &self.shape, &options);
        reference::forward(self.kind, &self.typed::<T>(), &map, None, &options, 1, &y_map)
    }
}

/// The cases of this family. Empty where the data is not there.
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
        let file_shape = input.shape.clone();
        let mut file_axes = Vec::new();
        let rank = input.shape.len() as i64;
        let attributes = &case["attributes"];
        let (x, shape, axis) = if kind.reduces() {
            let resolve = |axis: i64| {
                if axis < 0 {
                    (axis + rank) as usize
                } else {
                    axis as usize
                }
            };
            let named = match tensor(&file, "in1") {
                // ONNX: no axes means all of them; WebNN: only a missing list does.
                Some(axes) => {
                    Some(axes.values.iter().map(|&a| a as i64).collect()).filter(|axes: &Vec<i64>| !axes.is_empty())
                }
                None => attributes["axes"]
                    .as_array()
                    .map(|axes| axes.iter().map(|a| a.as_i64().unwrap()).collect()),
            };
            let axes: Vec<usize> = named
                .unwrap_or_else(|| (0..rank).collect())
                .into_iter()
                .map(resolve)
                .collect();
            let (x, shape) = merge_axes(&input.values, &input.shape, &axes);
            file_axes = axes;
            (x, shape, -1)
        } else {
            // Before opset 13 everything from the axis on is one row; the cases here have the last axis.
            let axis = attributes["axis"].as_i64().unwrap_or(-1);
            assert!(
                case["opset"].as_i64().is_none_or(|o| o >= 13) || axis == rank - 1,
                "{name}"
            );
            (input.values, input.shape, axis as isize)
        };
        cases.push(OnnxCase {
            name: name.to_string(),
            kind,
            dtype: input.dtype.unwrap_or(DType::F32),
            x,
            shape,
            axis,
            file_shape,
            file_axes,
            keepdims: match attributes["keepDimensions"].as_bool() {
                Some(kept) => kept,
                // WebNN drops them unless told otherwise, ONNX keeps them.
                None => !name.starts_with("webnn") && attributes["keepdims"].as_i64() != Some(0),
            },
            want: want.values,
            want_shape: want.shape,
            error: case["max_rel_diff_from_float64_recheck"].as_f64().unwrap(),
        });
    }
    assert!(!cases.is_empty());
    cases
}

/// Runs the cases of a storage type through `run(kind, x, shape, options)`.
///
/// A result has to be within its bound of the oracle, and the oracle within the error that the case itself has been found to have.
pub fn run_onnx_cases<T: Element>(
    test: &str,
    accuracy: Accuracy,
    mut run: impl FnMut(SoftmaxKind, &[T], &[usize], &SoftmaxOptions) -> Vec<T>,
) -> usize {
    let mut count = 0;
    for case in onnx_cases(test).into_iter().filter(|case| case.dtype == T::DTYPE) {
        let options = case.options();
        let got = run(case.kind, &case.typed::<T>(), &case.shape, &options);
        let expected = case.expected::<T>();
        expected
            .check(&got, Quantity::Forward(case.kind), accuracy)
            .unwrap_or_else(|e| panic!("{test}: {}: {e}", case.name));
        assert_eq!(expected.values.len(), case.want.len(), "{}", case.name);
        // Inputs given in f64 were rounded on the way in; no result moves by more than twice the largest change.
        let rounded = case.x.iter().fold(0.0, |all: f64, &v| {
            all.max((v - f64::from(T::from_f64(v).to_f32())).abs())
        });
        for (oracle, want) in expected.values.iter().zip(&case.want) {
            let allowed = 1.01 * case.error * oracle.abs() + 0.5 * T::DTYPE.ulp(*oracle) + 2.0 * rounded;
            assert!(
                oracle == want || (oracle - want).abs() <= allowed,
                "{}: oracle {oracle:e}, case {want:e}",
                case.name
            );
        }
        count += 1;
    }
    count
}

fn maps(kind: SoftmaxKind, shape: &[usize], options: &SoftmaxOptions) -> (RowMap, RowMap) {
    let axis = macheps::rows::resolve_axis(options.axis, shape.len()).unwrap();
    let mut output = shape.to_vec();
    if kind.reduces() {
        output[axis] = 1;
    }
    (RowMap::contiguous(shape, axis), RowMap::contiguous(&output, axis))
}

#[test]
fn cpu_conforms() {
    fn on_cpu<T: Element>(kind: SoftmaxKind, x: &[T], shape: &[usize], options: &SoftmaxOptions) -> Vec<T> {
        let (map, y_map) = maps(kind, shape, options);
        let mut y = vec![T::default(); y_map.rows() * y_map.len];
        cpu::forward(kind, x, &map, None, options, 1, &mut y, &y_map);
        y
    }
    let f32s = run_onnx_cases::<f32>("ONNX on the CPU", Accuracy::Standard, on_cpu);
    let f16s = run_onnx_cases::<f16>("ONNX on the CPU", Accuracy::Standard, on_cpu);
    println!("{f32s} cases in f32, {f16s} in f16");
}
