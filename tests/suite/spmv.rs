//! Sparse products on the CPU path: known values, the shared cases, real matrices against exact samples, threads, errors.

use crate::data::{json, shared_data};
use crate::sparse::{exact_vector, matrix};
use macheps::float::Neumaier;
use macheps::ops::spmv::cases::{Case, Matrix, verify_cases};
use macheps::ops::spmv::{SpmvInput, SpmvScale, bounds, cpu, forward, forward_checked, reference};
use macheps::random::Random;
use macheps::solve::{CsrOperator, LinearOperator};
use macheps::sparse::Narrowing;
use macheps::{Context, CrossCheck, Csr, DType, Error, SpmvOptions, bf16, f16, spmm, spmv};

#[test]
fn known_values() {
    let ctx = Context::cpu();
    // [1 0 2; 0 0 0; -3 4 0]
    let a = Csr::try_new(3, 3, vec![0, 2, 2, 4], vec![0, 2, 0, 1], vec![1.0f32, 2.0, -3.0, 4.0]).unwrap();
    let x = [10.0, 100.0, 1000.0];
    assert_eq!(spmv(&ctx, &a, &x).unwrap(), [2010.0, 0.0, 370.0]);
    let mut input = SpmvInput::new(&a, &x);
    input.scale = SpmvScale {
        alpha: 2.0,
        beta: -1.0,
        y0: Some(&[1.0, 2.0, 3.0]),
    };
    assert_eq!(forward(&ctx, &input).unwrap(), [4019.0, -2.0, 737.0]);
    // Where beta is 0 a NaN does not count.
    input.scale.beta = 0.0;
    input.scale.y0 = Some(&[f32::NAN; 3]);
    assert_eq!(forward(&ctx, &input).unwrap(), [4020.0, 0.0, 740.0]);
    input.scale = SpmvScale::default();
    input.options.transpose = true;
    assert_eq!(forward(&ctx, &input).unwrap(), [-2990.0, 4000.0, 20.0]);
    let two = [10.0, 1.0, 100.0, 2.0, 1000.0, 3.0];
    assert_eq!(spmm(&ctx, &a, &two, 2).unwrap(), [2010.0, 7.0, 0.0, 0.0, 370.0, 5.0]);
    for (rows, cols) in [(0, 0), (0, 4), (4, 0)] {
        let a = Csr::<bf16>::try_new(rows, cols, vec![0; rows + 1], vec![], vec![]).unwrap();
        assert_eq!(spmv(&ctx, &a, &vec![1.0; cols]).unwrap(), vec![0.0; rows]);
        assert_eq!(spmm(&ctx, &a, &vec![1.0; cols * 3], 3).unwrap(), vec![0.0; rows * 3]);
        assert!(spmm(&ctx, &a, &[], 0).unwrap().is_empty());
    }
}

#[test]
fn cases_of_verify() {
    for case in verify_cases() {
        let verdict = case.run(&Context::cpu()).unwrap();
        verdict.unwrap_or_else(|e| panic!("{case:?}: {e}"));
    }
}

#[test]
fn lengths_are_checked() {
    let a = Csr::try_new(2, 3, vec![0, 1, 2], vec![0, 2], vec![1.0f32, 2.0]).unwrap();
    let ctx = Context::cpu();
    assert!(matches!(spmv(&ctx, &a, &[1.0; 2]), Err(Error::Shape { .. })));
    assert!(matches!(spmm(&ctx, &a, &[1.0; 7], 2), Err(Error::Shape { .. })));
    let mut input = SpmvInput::new(&a, &[1.0; 3]);
    input.scale.y0 = Some(&[1.0]);
    assert!(matches!(forward(&ctx, &input), Err(Error::Shape { .. })));
    input.scale.y0 = None;
    input.options.transpose = true;
    assert!(matches!(forward(&ctx, &input), Err(Error::Shape { .. })));
}

/// Infinities and NaN go where they are multiplied.
#[test]
fn non_finite_vectors() {
    let columns = vec![0, 1, 1, 0, 3];
    let a = Csr::try_new(4, 4, vec![0, 2, 3, 3, 5], columns, vec![1.0f32, 2.0, -1.0, 1.0, 0.0]).unwrap();
    let y = spmv(&Context::cpu(), &a, &[1.0, f32::INFINITY, 0.0, f32::NAN]).unwrap();
    assert_eq!(y[..3], [f32::INFINITY, f32::NEG_INFINITY, 0.0]);
    assert_eq!(y[3].to_bits(), 0x7fc0_0000);
}

/// A matrix with short rows and one that is cut.
fn one_long_row() -> Csr<f64> {
    Matrix::DenseRow(200_001).make().unwrap()
}

#[test]
fn bits_do_not_depend_on_threads() {
    let a = one_long_row();
    let mut random = Random::new(5);
    let x: Vec<f64> = (0..a.cols()).map(|_| random.normal()).collect();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut y = vec![0.0; a.rows()];
        pool.install(|| cpu::apply(&a, &x, &mut y));
        y
    };
    let one = on(1);
    for threads in [2, 3, 7] {
        assert!(
            on(threads).iter().zip(&one).all(|(a, b)| a.to_bits() == b.to_bits()),
            "{threads} threads"
        );
    }
}

#[test]
fn operator_in_f64() {
    let a = one_long_row();
    let operator = CsrOperator::with_dtype(a.clone(), DType::F16).unwrap();
    let x = exact_vector(a.cols());
    let mut y = vec![f64::NAN; a.rows()];
    operator.apply(&x, &mut y);
    let want = reference::spmv(&a, &x, 1.0, 0.0, &[]);
    for (i, (&y, want)) in y.iter().zip(want).enumerate() {
        let mut scale = Neumaier::default();
        let (columns, values) = a.row(i);
        columns
            .iter()
            .zip(values)
            .for_each(|(&j, v)| scale.add((v * x[j as usize]).abs()));
        let steps = columns.len() as f64 / 4.0 + 4.0;
        assert!(
            (y - want).abs() <= steps * f64::EPSILON / 2.0 * scale.value(),
            "row {i}: {y:e} {want:e}"
        );
    }
    assert_eq!((operator.size(), operator.dtype()), (a.rows(), DType::F16));
    assert_eq!(operator.norm_inf(), Some(a.norm_inf()));
    assert_eq!(operator.diagonal().unwrap(), a.diagonal());
    assert_eq!(operator.matrix(), Some(&a));
}

#[test]
fn real_matrices() {
    let Some(folder) = shared_data("spmv::real_matrices") else {
        return;
    };
    let index = json(folder.join("matrices/index.json"));
    let mut products = 0;
    for entry in index["matrices"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let wide = matrix(&folder, entry);
        for (key, transpose) in [("spmv_check", false), ("spmv_check_transpose", true)] {
            let check = &entry[key];
            let (Some(at), Some(samples)) = (check["rows"].as_array(), check["y"].as_array()) else {
                continue;
            };
            let a = if transpose {
                wide.transpose().unwrap()
            } else {
                wide.clone()
            };
            let x = exact_vector(a.cols());
            let mut y = vec![f64::NAN; a.rows()];
            cpu::apply(&a, &x, &mut y);
            for (row, want) in at.iter().zip(samples) {
                let (row, want) = (row.as_u64().unwrap() as usize, want.as_f64().unwrap());
                let scale = bounds::row_scale(&a, row, |j| x[j]);
                let steps = scale.entries as f64 / 4.0 + 4.0;
                let allowed = steps * f64::EPSILON / 2.0 * scale.magnitude;
                assert!(
                    (y[row] - want).abs() <= allowed,
                    "{name} row {row}: {:e} {want:e}",
                    y[row]
                );
            }
            products += 1;
            // In f32, held to the oracle row by row.
            let Ok(narrow) = wide.narrow::<f32>(Narrowing::Refuse) else {
                continue;
            };
            let x: Vec<f32> = x.into_iter().map(|v| v as f32).collect();
            let mut input = SpmvInput::new(&narrow.matrix, &x);
            input.options = SpmvOptions {
                transpose,
                ..SpmvOptions::default()
            };
            forward_checked(&Context::cpu(), &input, CrossCheck::Sampled).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    println!("{products} products");
    assert!(products >= 54);
}

#[test]
fn halves_are_widened() {
    let wide = Matrix::Mixed(300, false).make().unwrap();
    let x: Vec<f32> = exact_vector(300).into_iter().map(|v| v as f32).collect();
    let a = wide.narrow::<f16>(Narrowing::Refuse).unwrap().matrix;
    let y = spmv(&Context::cpu(), &a, &x).unwrap();
    let same = spmv(
        &Context::cpu(),
        &a.widen().narrow::<f32>(Narrowing::Refuse).unwrap().matrix,
        &x,
    )
    .unwrap();
    assert_eq!(y, same);
    let case = Case::new(Matrix::Mixed(300, false), DType::Bf16);
    case.run(&Context::cpu()).unwrap().unwrap();
}
