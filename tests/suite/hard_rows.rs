//! The oracle against 50-digit values, and any implementation against rows that are made to be hard.

use crate::data::{self, Tensor, shared_data, tensor};
use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::softmax::SoftmaxOptions;
use macheps::ops::softmax::bounds::{Accuracy, Expected, MaxError, Quantity};
use macheps::ops::softmax::{MaskedRows, SoftmaxKind, cpu, reference};
use macheps::rows::RowMap;
use safetensors::SafeTensors;

/// Relative error that the oracle may have against exact values.
const ORACLE: f64 = 2e-14;

fn close(got: f64, want: f64, scale: f64, what: &str) {
    let same = got == want || (got.is_nan() && want.is_nan());
    assert!(
        same || (got - want).abs() <= ORACLE * scale + 1e-300,
        "{what}: {got:e} should be {want:e}"
    );
}

#[test]
fn oracle_meets_fifty_digits() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fifty_digits.json");
    let all = data::json(path);
    let numbers = |v: &serde_json::Value| -> Vec<f64> {
        v.as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_str().unwrap().parse().unwrap())
            .collect()
    };
    let rows = all["rows"].as_array().unwrap();
    assert!(!rows.is_empty());
    for (i, row) in rows.iter().enumerate() {
        let z = numbers(&row["x"]);
        let run = |kind| reference::forward_row(kind, &z, z.len(), MaskedRows::Nan);
        for (kind, key) in [
            (SoftmaxKind::Softmax, "softmax"),
            (SoftmaxKind::LogSoftmax, "log_softmax"),
        ] {
            for (got, want) in run(kind).values.iter().zip(numbers(&row[key])) {
                close(*got, want, want.abs(), &format!("row {i}, {key}"));
            }
        }
        let want: f64 = row["logsumexp"].as_str().unwrap().parse().unwrap();
        let got = run(SoftmaxKind::LogSumExp);
        close(got.values[0], want, got.magnitudes[0], &format!("row {i}, logsumexp"));
        // The gradient of cross-entropy is that of -log_softmax at the target, and p - one_hot.
        let target = row["target"].as_u64().unwrap() as usize;
        let mut g = vec![0.0; z.len()];
        g[target] = -1.0;
        let gradient = reference::backward_row(SoftmaxKind::LogSoftmax, &z, &g, z.len(), 1.0, MaskedRows::Nan);
        for (j, (got, want)) in gradient
            .values
            .iter()
            .zip(numbers(&row["cross_entropy_grad"]))
            .enumerate()
        {
            close(*got, want, gradient.magnitudes[j], &format!("row {i}, gradient {j}"));
        }
    }
}

#[test]
fn oracle_meets_hand_written_values() {
    use std::f64::consts::LN_2;
    let third = reference::forward_row(SoftmaxKind::Softmax, &[0.0, LN_2], 2, MaskedRows::Nan).values;
    close(third[0], 1.0 / 3.0, 1.0, "softmax");
    close(third[1], 2.0 / 3.0, 1.0, "softmax");
    let dominated = reference::forward_row(SoftmaxKind::LogSoftmax, &[0.0, -100.0], 2, MaskedRows::Nan).values;
    close(
        dominated[0],
        -(-100f64).exp(),
        (-100f64).exp(),
        "log_softmax of the maximum",
    );
    // Softmax of two equal entries with upstream (1, 0): p (g - 1/2) with scale 3.
    let gradient =
        reference::backward_row(SoftmaxKind::Softmax, &[7.0, 7.0], &[1.0, 0.0], 2, 3.0, MaskedRows::Nan).values;
    assert_eq!(gradient, [0.75, -0.75]);
    let gradient = reference::backward_row(SoftmaxKind::LogSumExp, &[7.0, 7.0], &[4.0], 2, 1.0, MaskedRows::Nan).values;
    assert_eq!(gradient, [2.0, 2.0]);
}

#[test]
fn oracle_answers_every_class_of_row() {
    const INF: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;
    let same = |got: &[f64], want: &[f64]| {
        got.len() == want.len() && got.iter().zip(want).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
    };
    /// Visible entries of a row of three, then softmax, log_softmax, logsumexp, gradient of softmax.
    type Case = (&'static [f64], [f64; 3], [f64; 3], f64, [f64; 3]);
    let rows: [Case; 6] = [
        (&[-INF, 0.0, -INF], [0.0, 1.0, 0.0], [-INF, 0.0, -INF], 0.0, [0.0; 3]),
        (&[0.0, INF, -INF], [NAN; 3], [NAN; 3], INF, [NAN; 3]),
        (&[NAN, INF, 0.0], [NAN; 3], [NAN; 3], NAN, [NAN; 3]),
        (&[-INF; 3], [NAN; 3], [NAN; 3], -INF, [NAN; 3]),
        (&[5.0], [1.0, 0.0, 0.0], [0.0, -INF, -INF], 5.0, [0.0; 3]),
        (&[NAN], [NAN, 0.0, 0.0], [NAN, -INF, -INF], NAN, [NAN, 0.0, 0.0]),
    ];
    for (z, softmax, log_softmax, logsumexp, gradient) in rows {
        let run = |kind| reference::forward_row(kind, z, 3, MaskedRows::Nan).values;
        assert!(same(&run(SoftmaxKind::Softmax), &softmax), "{z:?}");
        assert!(same(&run(SoftmaxKind::LogSoftmax), &log_softmax), "{z:?}");
        assert!(same(&run(SoftmaxKind::LogSumExp), &[logsumexp]), "{z:?}");
        let got = reference::backward_row(SoftmaxKind::Softmax, z, &[1.0, 2.0, 3.0], 3, 1.0, MaskedRows::Nan).values;
        assert!(same(&got, &gradient), "{z:?}: {got:?}");
    }
    for z in [&[-INF; 3][..], &[]] {
        let run = |kind| reference::forward_row(kind, z, 3, MaskedRows::Zero).values;
        assert_eq!(run(SoftmaxKind::Softmax), [0.0; 3]);
        assert_eq!(run(SoftmaxKind::LogSoftmax), [-INF; 3]);
        assert_eq!(run(SoftmaxKind::LogSumExp), [-INF]);
        for kind in SoftmaxKind::ALL {
            assert_eq!(
                reference::backward_row(kind, z, &[1.0, 2.0, 3.0], 3, 1.0, MaskedRows::Zero).values,
                [0.0; 3]
            );
        }
    }
    assert_eq!(
        reference::forward_row(SoftmaxKind::LogSumExp, &[], 0, MaskedRows::Nan).values,
        [-INF]
    );
}

/// A case with rows of `x`, and what must come out.
pub struct HardCase<T> {
    /// Name of the file.
    pub name: String,
    /// The input.
    pub x: Vec<T>,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// Upstream values of the two gradients.
    pub upstream: Option<Vec<T>>,
    /// What must come out, with magnitudes from the oracle.
    pub expected: Vec<(Quantity, Expected)>,
}

/// The `row_softmax` cases of a storage type, and with f32 those of f64, rounded. Empty where the data is not there.
pub fn hard_cases<T: Element>(test: &str) -> Vec<HardCase<T>> {
    let Some(folder) = shared_data(test) else {
        return Vec::new();
    };
    let folder = folder.join("hard_rows");
    let index = data::json(folder.join("index.json"));
    let mut cases = Vec::new();
    for case in index["cases"].as_array().unwrap() {
        let name = case["file"].as_str().unwrap();
        let storage = case["params"]["storage"].as_str();
        let narrowed = storage == Some("f64") && T::DTYPE == DType::F32;
        if case["op"] != "row_softmax" || (storage != Some(T::DTYPE.name()) && !narrowed) {
            continue;
        }
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let x = tensor(&file, "x").unwrap();
        let shape = [x.shape[0], x.shape[1]];
        let map = RowMap::contiguous(&shape, 1);
        let stored = tensor(&file, "upstream");
        let round = |t: &Tensor| t.values.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let upstream = stored.as_ref().map(round);
        let (wide, x) = (x.values.as_slice(), round(&x));
        let options = SoftmaxOptions::default();
        let wanted = [
            (Quantity::Forward(SoftmaxKind::Softmax), "softmax"),
            (Quantity::Forward(SoftmaxKind::LogSoftmax), "log_softmax"),
            (Quantity::Forward(SoftmaxKind::LogSumExp), "logsumexp"),
            (Quantity::Backward(SoftmaxKind::Softmax), "grad_through_softmax"),
            (Quantity::Backward(SoftmaxKind::LogSoftmax), "grad_through_log_softmax"),
        ];
        let mut expected = Vec::new();
        for (quantity, key) in wanted {
            // Large cases keep results rounded to f32, which say less than the oracle: they check it, and it is what is expected.
            let rounded = tensor(&file, &format!("{key}_f32"));
            let Some(values) = tensor(&file, key).or(rounded) else {
                continue;
            };
            let of_oracle = match quantity {
                Quantity::Forward(kind) => {
                    let y_map = RowMap::contiguous(&[shape[0], if kind.reduces() { 1 } else { shape[1] }], 1);
                    reference::forward(kind, &x, &map, None, &options, 1, &y_map)
                }
                Quantity::Backward(kind) => reference::backward(
                    kind,
                    &x,
                    &map,
                    None,
                    upstream.as_deref().unwrap(),
                    &map,
                    &options,
                    1,
                    &map,
                ),
            };
            if narrowed {
                // The file speaks of the values before they were rounded.
                let g = stored.as_ref().map_or(&[][..], |g| g.values.as_slice());
                check_oracle(
                    &format!("{name}, {key}"),
                    &values,
                    &oracle_in_f64(quantity, wide, g, shape[1]),
                );
            } else {
                check_oracle(&format!("{name}, {key}"), &values, &of_oracle);
            }
            expected.push((quantity, of_oracle));
        }
        cases.push(HardCase {
            name: name.to_string(),
            x,
            shape,
            upstream,
            expected,
        });
    }
    assert!(!cases.is_empty());
    cases
}

/// The oracle of rows of f64 that are not rounded to a storage type.
fn oracle_in_f64(quantity: Quantity, x: &[f64], upstream: &[f64], len: usize) -> Expected {
    let mut all = Expected {
        values: Vec::new(),
        magnitudes: Vec::new(),
    };
    for (i, z) in x.chunks(len).enumerate() {
        let row = match quantity {
            Quantity::Forward(kind) => reference::forward_row(kind, z, len, MaskedRows::Nan),
            Quantity::Backward(kind) => {
                let g = &upstream[i * len..][..len];
                reference::backward_row(kind, z, g, len, 1.0, MaskedRows::Nan)
            }
        };
        all.values.extend(row.values);
        all.magnitudes.extend(row.magnitudes);
    }
    all
}

/// The file's values, of PyTorch in f64, are good to some 1e-13 of the magnitudes; those kept in f32 to half a unit.
fn check_oracle(what: &str, file: &Tensor, oracle: &Expected) {
    assert_eq!(file.values.len(), oracle.values.len(), "{what}");
    let in_f32 = file.dtype == Some(DType::F32);
    // PyTorch's log of a sum loses what is small beside 1.
    let absolute = if what.contains("log") { 1e-15 } else { 1e-290 };
    for (j, (&want, &got)) in file.values.iter().zip(&oracle.values).enumerate() {
        let allowed = if in_f32 { 0.51 * DType::F32.ulp(want) } else { 0.0 } + 1e-12 * oracle.magnitudes[j] + absolute;
        let same = got == want || (got.is_nan() && want.is_nan());
        assert!(
            same || (got - want).abs() <= allowed,
            "{what}, element {j}: oracle {got:e}, file {want:e}"
        );
    }
}

/// Runs every hard case of a storage type through `run(quantity, x, shape, upstream)` and returns the worst error of each quantity.
pub fn run_hard_cases<T: Element>(
    test: &str,
    accuracy: Accuracy,
    mut run: impl FnMut(Quantity, &[T], [usize; 2], Option<&[T]>) -> Vec<T>,
) -> Vec<(Quantity, MaxError)> {
    let mut worst: Vec<(Quantity, MaxError)> = Vec::new();
    for case in hard_cases::<T>(test) {
        for (quantity, expected) in &case.expected {
            let got = run(*quantity, &case.x, case.shape, case.upstream.as_deref());
            let error = expected
                .check(&got, *quantity, accuracy)
                .unwrap_or_else(|e| panic!("{test}: {}, {}: {e}", case.name, quantity.name()));
            match worst.iter_mut().find(|(q, _)| q == quantity) {
                Some((_, all)) => *all = all.merge(error),
                None => worst.push((*quantity, error)),
            }
        }
    }
    worst
}

fn on_cpu<T: Element>(quantity: Quantity, x: &[T], shape: [usize; 2], upstream: Option<&[T]>) -> Vec<T> {
    let options = SoftmaxOptions::default();
    let map = RowMap::contiguous(&shape, 1);
    match quantity {
        Quantity::Forward(kind) => {
            let y_map = RowMap::contiguous(&[shape[0], if kind.reduces() { 1 } else { shape[1] }], 1);
            let mut y = vec![T::default(); shape[0] * y_map.len];
            cpu::forward(kind, x, &map, None, &options, 1, &mut y, &y_map);
            y
        }
        Quantity::Backward(kind) => {
            let mut dx = vec![T::default(); x.len()];
            cpu::backward(kind, x, &map, None, upstream.unwrap(), &map, &options, 1, &mut dx, &map);
            dx
        }
    }
}

#[test]
fn cpu_on_hard_rows() {
    fn all<T: Element>() {
        for (quantity, error) in run_hard_cases::<T>("hard rows on the CPU", Accuracy::Standard, on_cpu) {
            println!(
                "{} {}: {:.3} ulp, {:.3} of the bound",
                T::DTYPE,
                quantity.name(),
                error.ulp,
                error.of_bound
            );
        }
    }
    all::<f32>();
    all::<f16>();
    all::<bf16>();
}
