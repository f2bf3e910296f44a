//! Sparse products on every adapter.

use crate::adapters;
use crate::data::{json, shared_data};
use crate::gpu_planted::{Bug, all_gpus, caught};
use crate::gpu_windows::{limited, small};
use crate::sparse::{exact_vector, matrix};
use macheps::accuracy::{Mismatch, U};
use macheps::float::Float;
use macheps::ops::spmv::cases::{Case, Matrix};
use macheps::ops::spmv::{bounds, reference};
use macheps::random::Random;
use macheps::solve::{CsrOperator, LinearOperator, OperatorCall};
use macheps::sparse::Narrowing;
use macheps::{BufferView, Context, Csr, DType, Element, Error, Gpu, Spmv, SpmvOptions, SpmvStrategy};
use macheps::{bf16, f16, wgpu};

const SPMV: &str = include_str!("../../shaders/spmv.wgsl");
const MERGE: &str = include_str!("../../shaders/spmv_merge.wgsl");
const ROWS: &str = include_str!("../../shaders/lib/spmv_rows.wgsl");
const FOUR: &str = include_str!("../../shaders/lib/spmv_four.wgsl");

/// What y holds where nothing may be written.
const SENTINEL: f32 = -123.25;

/// A vector on a device, between sentinels.
fn upload(gpu: &Gpu, values: &[f32], before: usize) -> wgpu::Buffer {
    let mut all = vec![SENTINEL; before];
    all.extend_from_slice(values);
    all.extend_from_slice(&[SENTINEL; 7]);
    gpu.upload("test", bytemuck::cast_slice(&all)).unwrap()
}

fn download(gpu: &Gpu, buffer: &wgpu::Buffer, count: usize) -> Vec<f32> {
    let encoder = gpu.device().create_command_encoder(&Default::default());
    let bytes = gpu
        .read_back(encoder, buffer, count as u64 * 4)
        .unwrap()
        .wait()
        .unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

/// y = alpha A x + beta y0 on a device, the second run of two, which must agree bit for bit; sentinels are checked.
fn run<T: Element + Float>(
    gpu: &Gpu,
    a: &Csr<T>,
    options: &SpmvOptions,
    x: &[f32],
    (alpha, beta): (f32, f32),
    y0: Option<&[f32]>,
) -> Vec<f32> {
    let product = Spmv::new(gpu, a, options).unwrap();
    let (rows, cols) = (product.rows(), product.cols());
    assert_eq!((x.len(), product.entries()), (cols, a.entries()));
    let xb = upload(gpu, x, 3);
    let y0: Vec<f32> = y0.map_or(vec![f32::NAN; rows], <[f32]>::to_vec);
    let mut before: Option<Vec<u32>> = None;
    for _ in 0..2 {
        let yb = upload(gpu, &y0, 5);
        let view = |buffer: &wgpu::Buffer, n: usize, at: usize| BufferView::new(buffer, DType::F32, &[n]).at(at);
        let bound = product
            .bind(&view(&xb, cols, 3), &view(&yb, rows, 5), alpha, beta)
            .unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        let all = download(gpu, &yb, rows + 12);
        assert!(
            all[..5].iter().chain(&all[rows + 5..]).all(|&v| v == SENTINEL),
            "a sentinel was overwritten"
        );
        let bits: Vec<u32> = all[5..rows + 5].iter().map(|v| v.to_bits()).collect();
        if let Some(before) = &before {
            assert_eq!(before, &bits, "another run, other bits");
        }
        before = Some(bits);
    }
    before.unwrap().into_iter().map(f32::from_bits).collect()
}

/// Holds a result to the oracle. Gives the largest fraction of the bound.
fn judge<T: Float>(
    a: &Csr<T>,
    x: &[f32],
    (alpha, beta): (f32, f32),
    y0: Option<&[f32]>,
    y: &[f32],
) -> Result<f64, Mismatch> {
    let x = |j: usize| f64::from(x[j]);
    let mut worst: f64 = 0.0;
    assert_eq!(y.len(), a.rows());
    for (i, &got) in y.iter().enumerate() {
        let sum = reference::row(a, i, x);
        let old = y0.map_or(0.0, |y0| f64::from(y0[i]));
        let (alpha, beta) = (f64::from(alpha), f64::from(beta));
        let want = reference::element(alpha, sum, beta, old);
        let allowed = bounds::element(&bounds::row_scale(a, i, x), sum, alpha, beta, old);
        let found = macheps::accuracy::check(&[got], &[want], &[allowed]);
        worst = worst.max(found.map_err(|m| Mismatch { index: i, ..m })?.of_bound);
    }
    Ok(worst)
}

/// A matrix with rows of these lengths and normal values, columns at random.
fn random_matrix(lengths: &[usize], cols: usize, seed: u64) -> Csr<f32> {
    let mut random = Random::new(seed);
    let (mut row_ptr, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
    for &n in lengths {
        assert!(n <= cols);
        let mut row: Vec<u32> = if n * 2 > cols {
            (0..cols as u32).collect()
        } else {
            let mut set = std::collections::BTreeSet::new();
            while set.len() < n {
                set.insert(random.below(cols as u64) as u32);
            }
            set.into_iter().collect()
        };
        row.truncate(n);
        values.extend(row.iter().map(|_| random.normal() as f32));
        columns.extend(row);
        row_ptr.push(columns.len() as u32);
    }
    Csr::try_new(lengths.len(), cols, row_ptr, columns, values).unwrap()
}

fn random_vector(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal() as f32).collect()
}

fn strategies() -> impl Iterator<Item = SpmvOptions> {
    SpmvStrategy::ALL.into_iter().map(|s| SpmvOptions {
        strategy: Some(s),
        transpose: false,
    })
}

#[test]
fn row_lengths() {
    let lengths = [
        0, 1, 7, 8, 9, 0, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 513, 0, 4095, 4096, 4097, 0,
        20_000, 3, 0,
    ];
    let a = random_matrix(&lengths, 30_000, 1);
    let x = random_vector(a.cols(), 2);
    for adapter in adapters::all("spmv::row_lengths") {
        for options in strategies() {
            let y = run(adapter.gpu(), &a, &options, &x, (1.0, 0.0), None);
            let worst =
                judge(&a, &x, (1.0, 0.0), None, &y).unwrap_or_else(|e| panic!("{} {options:?}: {e}", adapter.name));
            println!("{} {options:?}: {worst:.2} of the bound", adapter.name);
        }
    }
}

#[test]
fn alpha_and_beta() {
    let a = random_matrix(&[3, 0, 12, 70, 5000, 1], 6000, 3);
    let x = random_vector(a.cols(), 4);
    let y0 = random_vector(a.rows(), 5);
    for adapter in adapters::all("spmv::alpha_and_beta") {
        for scale in [(1.0, 1.0), (-0.3, 0.0), (2.5, -1.7), (0.0, 1.0)] {
            let y = run(adapter.gpu(), &a, &SpmvOptions::default(), &x, scale, Some(&y0));
            judge(&a, &x, scale, Some(&y0), &y).unwrap_or_else(|e| panic!("{} {scale:?}: {e}", adapter.name));
        }
    }
}

/// What a solver's call gives: y, and x.y from its parts, for each vector that counts.
fn solver_call(gpu: &Gpu, operator: &CsrOperator, x: &[f32], words: &[u32]) -> Vec<Option<(Vec<f32>, f64)>> {
    let (n, k) = (operator.size(), words.len());
    let p = operator.dot_partials(gpu).unwrap();
    let xb = upload(gpu, x, 0);
    let yb = upload(gpu, &vec![f32::NAN; k * n], 0);
    let db = upload(gpu, &vec![f32::NAN; k * p * 2], 0);
    let active = gpu.upload("active", bytemuck::cast_slice(words)).unwrap();
    let shape = if k == 1 { vec![n] } else { vec![k, n] };
    let view = |buffer| BufferView::new(buffer, DType::F32, &shape);
    let (xv, yv) = (view(&xb), view(&yb));
    let dot = BufferView::new(&db, DType::F32, &[k, p, 2]);
    let mut call = OperatorCall::new(&xv, &yv);
    call.dot = Some(&dot);
    call.active = Some(&active);
    let bound = operator.bind(gpu, &call).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        // Twice: parts are written anew, not added to.
        bound.record(&mut pass);
        bound.record(&mut pass);
    }
    gpu.queue().submit([encoder.finish()]);
    let (y, parts) = (download(gpu, &yb, k * n), download(gpu, &db, k * p * 2));
    let dot = |c: usize| parts[c * p * 2..][..p * 2].iter().map(|&v| f64::from(v)).sum();
    (0..k)
        .map(|c| (words[c] != 0).then(|| (y[c * n..][..n].to_vec(), dot(c))))
        .collect()
}

/// Holds x.y to the y that came.
fn judge_dot(x: &[f32], y: &[f32], got: f64) -> Result<(), Mismatch> {
    let terms = || x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y));
    let (want, bound) = (terms().sum::<f64>(), 1.01 * U * terms().map(f64::abs).sum::<f64>());
    if (got - want).abs() <= bound {
        return Ok(());
    }
    Err(Mismatch {
        index: x.len(),
        got,
        want,
        bound,
    })
}

/// Rows of 0 to 40 entries, one full, and two that are split.
fn solver_matrix(n: usize, seed: u64) -> Csr<f32> {
    let mut lengths = vec![5; 700];
    for (i, n) in lengths.iter_mut().enumerate() {
        *n = [5, 0, 3, 9, 40][i % 5];
    }
    lengths[300] = 700;
    lengths.extend([4500, 0, 9000]);
    lengths.resize(9001, 1);
    random_matrix(&lengths.iter().take(n).map(|&l| l.min(n)).collect::<Vec<_>>(), n, seed)
}

/// The solver's call: k vectors, parts of x.y, and words that say which vectors count.
#[test]
fn operator_with_dot_products() {
    for (n, seed) in [(9001, 6), (1, 7), (0, 8)] {
        let a = solver_matrix(n, seed);
        let operator = CsrOperator::new(a.widen()).unwrap();
        for adapter in adapters::all("spmv::operator_with_dot_products") {
            for k in [1usize, 5] {
                let x = random_vector(k * n, 9);
                let words: Vec<u32> = (0..k as u32).map(|c| u32::from(c != 1)).collect();
                let results = solver_call(adapter.gpu(), &operator, &x, &words);
                for (c, result) in results.into_iter().enumerate() {
                    let Some((y, dot)) = result else { continue };
                    let x = &x[c * n..][..n];
                    let verdict = judge(&a, x, (1.0, 0.0), None, &y).and_then(|_| judge_dot(x, &y, dot));
                    verdict.unwrap_or_else(|e| panic!("{} n {n} k {k} c {c}: {e}", adapter.name));
                }
            }
        }
    }
}

#[test]
fn integers_are_exact() {
    let transposed = SpmvOptions {
        transpose: true,
        ..SpmvOptions::default()
    };
    for adapter in adapters::all("spmv::integers_are_exact") {
        for (dtype, options, vectors) in [
            (DType::F32, SpmvOptions::default(), 1),
            (DType::F16, transposed, 1),
            (DType::Bf16, transposed, 3),
        ] {
            let case = Case {
                options,
                vectors,
                ..Case::new(Matrix::Mixed(500, true), dtype)
            };
            let verdict = case.run(&adapter.context).unwrap();
            verdict.unwrap_or_else(|e| panic!("{} {case:?}: {e}", adapter.name));
        }
    }
}

#[test]
fn storage_types() {
    let wide = random_matrix(&[3, 0, 12, 70, 5001, 1, 9, 33, 2], 6000, 13).widen();
    let x = random_vector(wide.cols(), 14);
    fn narrowed<T: Element + Float>(wide: &Csr<f64>, x: &[f32]) {
        let a = wide.narrow::<T>(Narrowing::Refuse).unwrap().matrix;
        for adapter in adapters::all("spmv::storage_types") {
            let y = run(adapter.gpu(), &a, &SpmvOptions::default(), x, (1.0, 0.0), None);
            judge(&a, x, (1.0, 0.0), None, &y).unwrap_or_else(|e| panic!("{} {}: {e}", adapter.name, T::DTYPE));
        }
    }
    narrowed::<f16>(&wide, &x);
    narrowed::<bf16>(&wide, &x);
}

#[test]
fn real_matrices() {
    let Some(folder) = shared_data("gpu_spmv::real_matrices") else {
        return;
    };
    let index = json(folder.join("matrices/index.json"));
    let adapters = adapters::all("gpu_spmv::real_matrices");
    if adapters.is_empty() {
        return;
    }
    let mut checked = vec![(0, 0.0f64); adapters.len()];
    for entry in index["matrices"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let wide = matrix(&folder, entry);
        // Powers of two keep every sample exact.
        let factor = if wide.largest() > f64::from(f32::MAX) {
            0.0625
        } else {
            1.0
        };
        let values = wide.values().iter().map(|v| v * factor).collect();
        let wide = wide.with_values(values).unwrap();
        let a = wide.narrow::<f32>(Narrowing::Refuse).unwrap().matrix;
        for (key, transpose) in [("spmv_check", false), ("spmv_check_transpose", true)] {
            let check = &entry[key];
            let (Some(at), Some(samples)) = (check["rows"].as_array(), check["y"].as_array()) else {
                continue;
            };
            let multiplied = if transpose { a.transpose().unwrap() } else { a.clone() };
            let given = if transpose {
                wide.transpose().unwrap()
            } else {
                wide.clone()
            };
            let x: Vec<f32> = exact_vector(multiplied.cols()).into_iter().map(|v| v as f32).collect();
            let options = SpmvOptions {
                transpose,
                ..SpmvOptions::default()
            };
            let scale = |i| bounds::row_scale(&multiplied, i, |j| f64::from(x[j]));
            let sums = (0..multiplied.rows()).map(|i| reference::row(&multiplied, i, |j| x[j].into()));
            let sums: Vec<f64> = sums.collect();
            let allowed: Vec<f64> = (0..sums.len())
                .map(|i| bounds::element(&scale(i), sums[i], 1.0, 0.0, 0.0))
                .collect();
            for (adapter, (count, worst)) in adapters.iter().zip(&mut checked) {
                let y = run(adapter.gpu(), &a, &options, &x, (1.0, 0.0), None);
                let found = macheps::accuracy::check(&y, &sums, &allowed);
                *worst = worst.max(
                    found
                        .unwrap_or_else(|e| panic!("{name} on {}: {e}", adapter.name))
                        .of_bound,
                );
                for (row, want) in at.iter().zip(samples) {
                    let (row, want) = (row.as_u64().unwrap() as usize, want.as_f64().unwrap() * factor);
                    let scale = bounds::row_scale(&given, row, |j| x[j].into());
                    // Rounding the matrix costs u more, or a subnormal number what it is off by.
                    let allowed = bounds::sum(&scale) + U * scale.magnitude;
                    let got = f64::from(y[row]);
                    assert!(
                        (got - want).abs() <= allowed,
                        "{name} {key} row {row} on {}: {got:e}, should be {want:e} +- {allowed:e}",
                        adapter.name
                    );
                }
                *count += 1;
            }
        }
    }
    for (adapter, (count, worst)) in adapters.iter().zip(checked) {
        println!("{}: {count} products, {worst:.2} of the bound", adapter.name);
        assert!(count >= 54);
    }
}

/// k vectors side by side, row by row and column by column, with gaps.
#[test]
fn many_vectors() {
    let a = random_matrix(&[3, 0, 12, 70, 5000, 1, 9, 33, 2, 2], 6000, 15);
    let (rows, cols) = (a.rows(), a.cols());
    for adapter in adapters::all("spmv::many_vectors") {
        let gpu = adapter.gpu();
        let product = Spmv::new(gpu, &a, &SpmvOptions::default()).unwrap();
        for (k, by_rows) in [(2usize, true), (4, false), (5, true), (5, false), (9, true), (0, true)] {
            let strides = |n: usize| if by_rows { [k + 2, 1] } else { [1, n + 3] };
            let place = |n: usize, i: usize, c: usize| i * strides(n)[0] + c * strides(n)[1];
            let room = |n: usize| if by_rows { n * (k + 2) } else { k * (n + 3) };
            let x = random_vector(room(cols), 16);
            let y0 = random_vector(room(rows), 17);
            let (xb, yb) = (upload(gpu, &x, 1), upload(gpu, &y0, 2));
            let view = |buffer: &wgpu::Buffer, n: usize, at: usize| {
                BufferView::new(buffer, DType::F32, &[n, k])
                    .with_strides(&strides(n))
                    .at(at)
            };
            let scale = (1.5, -0.5);
            let bound = product
                .bind(&view(&xb, cols, 1), &view(&yb, rows, 2), scale.0, scale.1)
                .unwrap();
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            bound.record(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
            let y = download(gpu, &yb, room(rows) + 4);
            let mut expected: Vec<Option<f32>> = y0.iter().copied().map(Some).collect();
            for c in 0..k {
                let column = |values: &[f32], n: usize, at: usize| -> Vec<f32> {
                    (0..n).map(|i| values[at + place(n, i, c)]).collect()
                };
                let (xc, yc, old) = (column(&x, cols, 0), column(&y, rows, 2), column(&y0, rows, 0));
                judge(&a, &xc, scale, Some(&old), &yc)
                    .unwrap_or_else(|e| panic!("{} k {k} by_rows {by_rows} c {c}: {e}", adapter.name));
                (0..rows).for_each(|i| expected[place(rows, i, c)] = None);
            }
            for (got, expected) in y[2..].iter().zip(expected) {
                assert!(
                    expected.is_none_or(|v| v == *got),
                    "{}: a gap was written",
                    adapter.name
                );
            }
        }
    }
}

#[test]
fn values_and_factors_change_without_a_new_plan() {
    let a = random_matrix(&[3, 0, 12, 70, 5000, 1], 6000, 18);
    let mut random = Random::new(19);
    for adapter in adapters::all("spmv::values_and_factors_change") {
        let gpu = adapter.gpu();
        for transpose in [false, true] {
            let options = SpmvOptions {
                transpose,
                ..SpmvOptions::default()
            };
            let product = Spmv::new(gpu, &a, &options).unwrap();
            let (x, y0) = (random_vector(product.cols(), 20), random_vector(product.rows(), 21));
            let (xb, yb) = (upload(gpu, &x, 0), upload(gpu, &y0, 0));
            let view = |buffer: &wgpu::Buffer, n: usize| BufferView::new(buffer, DType::F32, &[n]);
            let bound = product
                .bind(&view(&xb, x.len()), &view(&yb, y0.len()), 1.0, 0.0)
                .unwrap();
            let values: Vec<f32> = (0..a.entries()).map(|_| random.normal() as f32).collect();
            let changed = a.with_values(values.clone()).unwrap();
            product.update_values(&values).unwrap();
            bound.set_scale(2.0, 3.0).unwrap();
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            bound.record(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
            let y = download(gpu, &yb, y0.len());
            let multiplied = if transpose {
                changed.transpose().unwrap()
            } else {
                changed
            };
            judge(&multiplied, &x, (2.0, 3.0), Some(&y0), &y)
                .unwrap_or_else(|e| panic!("{} transpose {transpose}: {e}", adapter.name));
            // The device's own order of the values.
            let stored = download(gpu, product.values().unwrap().buffer(), a.entries());
            assert_eq!(stored, multiplied.values());
            if let Some(places) = product.places() {
                assert!(places.iter().zip(&stored).all(|(&k, &v)| values[k as usize] == v));
            }
            assert!(matches!(product.update_values(&values[1..]), Err(Error::Csr { .. })));
            let halves = vec![f16::from_f32(1.0); a.entries()];
            assert!(matches!(
                product.update_values(&halves),
                Err(Error::DTypeMismatch { .. })
            ));
        }
    }
}

/// Infinities and NaN go where they are multiplied, and nowhere else.
#[test]
fn non_finite_vectors() {
    let a = Csr::try_new(
        5,
        4,
        vec![0, 2, 3, 3, 5, 6],
        vec![0, 1, 1, 0, 3, 2],
        vec![1.0f32, 2.0, -1.0, 1.0, 0.0, 1.0],
    )
    .unwrap();
    let x = [1.0, f32::INFINITY, 3.0e38, f32::NAN];
    for adapter in adapters::all("spmv::non_finite_vectors") {
        let y = run(adapter.gpu(), &a, &SpmvOptions::default(), &x, (1.0, 0.0), None);
        assert_eq!(y[..3], [f32::INFINITY, f32::NEG_INFINITY, 0.0], "{}", adapter.name);
        assert_eq!((y[3].to_bits(), y[4]), (0x7fc0_0000, 3.0e38), "{}", adapter.name);
    }
}

#[test]
fn beyond_one_binding() {
    // 1.9 MB of columns against 1 MiB a binding; a row of 300,000 entries is longer than one.
    let mut lengths = vec![11; 15_000];
    lengths.extend([0, 250_000, 5, 0, 41_000]);
    lengths.extend((0..3000).map(|i| i % 9));
    let wide = random_matrix(&lengths, 250_000, 22).widen();
    let x = random_vector(wide.cols(), 23);
    let buffers = |limits: &mut wgpu::Limits| {
        small(limits);
        // Not one buffer for all, either.
        limits.max_buffer_size = 1 << 20;
    };
    for (limit, one_buffer) in [(&small as &dyn Fn(&mut wgpu::Limits), true), (&buffers, false)] {
        for adapter in limited("spmv::beyond_one_binding", limit) {
            let a = wide.narrow::<f32>(Narrowing::Refuse).unwrap().matrix;
            let y = run(adapter.gpu(), &a, &SpmvOptions::default(), &x, (1.0, 0.0), None);
            judge(&a, &x, (1.0, 0.0), None, &y).unwrap_or_else(|e| panic!("{}: {e}", adapter.name));
            let a = wide.narrow::<bf16>(Narrowing::Refuse).unwrap().matrix;
            let product = Spmv::new(adapter.gpu(), &a, &SpmvOptions::default()).unwrap();
            assert_eq!(product.values().is_ok(), one_buffer);
            let y = run(adapter.gpu(), &a, &SpmvOptions::default(), &x, (1.0, 0.0), None);
            judge(&a, &x, (1.0, 0.0), None, &y).unwrap_or_else(|e| panic!("{}: {e}", adapter.name));
        }
    }
    // Square, with dot products over several dispatches.
    let a = random_matrix(
        &[vec![3; 20_000], vec![230_000], vec![2; 210_000]].concat(),
        230_001,
        24,
    );
    let operator = CsrOperator::new(a.widen()).unwrap();
    let x = random_vector(a.cols(), 25);
    for adapter in limited("spmv::beyond_one_binding", buffers) {
        let results = solver_call(adapter.gpu(), &operator, &x, &[1]);
        let (y, dot) = results[0].as_ref().unwrap();
        let verdict = judge(&a, &x, (1.0, 0.0), None, y).and_then(|_| judge_dot(&x, y, *dot));
        verdict.unwrap_or_else(|e| panic!("{}: {e}", adapter.name));
        // x as a whole has to fit.
        let gpu = adapter.gpu();
        let wide = Csr::<f32>::try_new(1, 300_000, vec![0, 1], vec![7], vec![1.0]).unwrap();
        let product = Spmv::new(gpu, &wide, &SpmvOptions::default()).unwrap();
        let buffer = upload(gpu, &[0.0], 0);
        let view = |n| BufferView::new(&buffer, DType::F32, &[n]);
        assert!(product.bind(&view(300_000), &view(1), 1.0, 0.0).is_err());
    }
}

#[test]
fn calls_that_do_not_fit() {
    let a = random_matrix(&[2, 1, 3], 4, 26);
    let Some(adapter) = adapters::all("spmv::calls_that_do_not_fit").first() else {
        return;
    };
    let gpu = adapter.gpu();
    let product = Spmv::new(gpu, &a, &SpmvOptions::default()).unwrap();
    let buffer = upload(gpu, &[0.0; 64], 0);
    let other = upload(gpu, &[0.0; 64], 0);
    let view = |shape: &[usize]| BufferView::new(&buffer, DType::F32, shape);
    let on = |shape: &[usize]| BufferView::new(&other, DType::F32, shape);
    for (x, y) in [
        (view(&[3]), on(&[3])),
        (view(&[4]), on(&[4])),
        (view(&[4, 2]), on(&[3])),
        (view(&[4, 2]), on(&[3, 1])),
        (view(&[4, 2, 1]), on(&[3, 2, 1])),
        (view(&[4]), on(&[3]).with_strides(&[0])),
        (view(&[4]).at(70), on(&[3])),
    ] {
        assert!(
            matches!(product.bind(&x, &y, 1.0, 0.0), Err(Error::Shape { .. })),
            "{x:?} {y:?}"
        );
    }
    let halves = BufferView::new(&buffer, DType::F16, &[4]);
    assert!(matches!(
        product.bind(&halves, &on(&[3]), 1.0, 0.0),
        Err(Error::DTypeMismatch { .. })
    ));
    assert!(matches!(
        product.bind(&view(&[4]), &view(&[3]).at(2), 1.0, 0.0),
        Err(Error::Aliased { .. })
    ));
    // Disjoint ranges of one buffer are fine.
    let bound = product.bind(&view(&[4]), &view(&[3]).at(4), 1.0, 0.0).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    assert_eq!(download(gpu, &buffer, 8)[4..7], [0.0; 3]);
    assert!(CsrOperator::new(a.widen()).is_err());
    let large = Csr::try_new(1, 1, vec![0, 1], vec![0], vec![1e39]).unwrap();
    let operator = CsrOperator::new(large).unwrap();
    assert!(matches!(operator.on_device(gpu), Err(Error::Csr { .. })));
    let operator = operator.with_narrowing(Narrowing::Saturate);
    assert_eq!(operator.on_device(gpu).unwrap().entries(), 1);
}

fn expect_caught(bug: &Bug, run: impl Fn(&Gpu) -> Result<(), Mismatch>) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, |context: &Context| run(context.gpu().expect("a device")));
    assert_eq!(caught.len(), gpus.len(), "{}: caught only on {caught:?}", bug.name);
}

/// The product of a matrix with short, empty and split rows.
fn ordinary(gpu: &Gpu) -> Result<(), Mismatch> {
    let a = random_matrix(&[3, 0, 12, 70, 5000, 1, 9, 33, 2, 0, 4], 6000, 27);
    let x = random_vector(a.cols(), 28);
    let y0 = random_vector(a.rows(), 29);
    let y = run(gpu, &a, &SpmvOptions::default(), &x, (1.0, 0.75), Some(&y0));
    judge(&a, &x, (1.0, 0.75), Some(&y0), &y).map(drop)
}

macro_rules! planted {
    ($test:ident, $name:expr, $edits:expr, $run:expr) => {
        #[test]
        fn $test() {
            let bug = Bug {
                name: $name,
                edits: $edits,
            };
            expect_caught(&bug, $run);
        }
    };
}

planted!(
    planted_last_entry_dropped,
    "last non-zero of a row dropped",
    &[(
        SPMV,
        "end = plan_data[params.row_ptr + row + 1u] - params.entry_base;",
        "end = max(begin + 1u, plan_data[params.row_ptr + row + 1u] - params.entry_base) - 1u;"
    )],
    ordinary
);
planted!(
    planted_row_pointer_off_by_one,
    "row pointer off by one",
    &[(
        SPMV,
        "begin = plan_data[params.row_ptr + row] - params.entry_base;",
        "begin = max(1u, plan_data[params.row_ptr + row] - params.entry_base) - 1u;"
    )],
    ordinary
);
planted!(
    planted_record_lost,
    "last record of a split row lost",
    &[(MERGE, "record < count; record", "record + 1u < count; record")],
    ordinary
);
planted!(
    planted_empty_row,
    "empty row writes nothing",
    &[(
        SPMV,
        "if live && within == 0u {",
        "if live && within == 0u && begin < end {"
    )],
    ordinary
);
planted!(
    planted_stale_beta,
    "beta taken for 1",
    &[(ROWS, "hidden(scale.y * y_load(row, vector))", "y_load(row, vector)")],
    ordinary
);
planted!(
    planted_old_y_read,
    "y read where beta is 0",
    &[(ROWS, "if (bitcast<u32>(scale.y) & 0x7fffffffu) != 0u {", "if true {")],
    |gpu| {
        // y holds NaN.
        let a = random_matrix(&[3, 0, 12], 60, 30);
        let x = random_vector(a.cols(), 31);
        let y = run(gpu, &a, &SpmvOptions::default(), &x, (1.0, 0.0), None);
        judge(&a, &x, (1.0, 0.0), None, &y).map(drop)
    }
);
planted!(
    planted_index_order,
    "rows and vectors change places",
    &[(
        FOUR,
        "let at = four_places(params.x_base, vector, params.x_vector) + vec4<u32>(column * params.x_row);",
        "let at = four_places(params.x_base, vector, params.x_row) + vec4<u32>(column * params.x_vector);"
    )],
    |gpu| {
        let case = Case {
            vectors: 3,
            ..Case::new(Matrix::Mixed(500, false), DType::F32)
        };
        case.run(&Context::from_gpu(gpu.clone())).unwrap().map(drop)
    }
);
planted!(
    planted_transposed_index_order,
    "x read at the row's number where the entry's column belongs",
    &[
        (
            SPMV,
            "fn chunk_sum(first: u32, end: u32, step: u32, vector: u32) -> num {",
            "var<private> own_row: u32;\nfn chunk_sum(first: u32, end: u32, step: u32, vector: u32) -> num {"
        ),
        (
            SPMV,
            "row = row_at(first + place);",
            "row = row_at(first + place);\n                own_row = row;"
        ),
        (SPMV, "x_load(columns_data[e], vector)", "x_load(own_row, vector)"),
    ],
    |gpu| {
        let lengths: Vec<usize> = (0..60).map(|i| i * 7 % 11).collect();
        let a = random_matrix(&lengths, 60, 36);
        let x = random_vector(60, 37);
        let options = SpmvOptions {
            transpose: true,
            ..SpmvOptions::default()
        };
        let y = run(gpu, &a, &options, &x, (1.0, 0.0), None);
        judge(&a.transpose().unwrap(), &x, (1.0, 0.0), None, &y).map(drop)
    }
);
planted!(
    planted_part_missing,
    "parts of x.y of one workgroup missing",
    &[(
        ROWS,
        "part_store(group, vector, sum);",
        "part_store(group, vector, Sum(sum.high * f32(group != 1u), sum.low));"
    )],
    |gpu| {
        let n = 9001;
        let a = solver_matrix(n, 32);
        let x = random_vector(n, 33);
        let results = solver_call(gpu, &CsrOperator::new(a.widen()).unwrap(), &x, &[1]);
        let (y, dot) = results[0].as_ref().unwrap();
        judge(&a, &x, (1.0, 0.0), None, y)?;
        judge_dot(&x, y, *dot)
    }
);

/// The permutation between the entries as given and the transposed product's own order left out, or taken the wrong way.
#[test]
fn planted_transposed_permutation() {
    let lengths: Vec<usize> = (0..40).map(|i| i * 5 % 9).collect();
    let a = random_matrix(&lengths, 30, 38);
    let x = random_vector(40, 39);
    let values = random_vector(a.entries(), 40);
    let want = a.with_values(values.clone()).unwrap().transpose().unwrap();
    let options = SpmvOptions {
        transpose: true,
        ..SpmvOptions::default()
    };
    for adapter in adapters::all("spmv::planted_transposed_permutation") {
        let gpu = adapter.gpu();
        let product = Spmv::new(gpu, &a, &options).unwrap();
        let places = product.places().expect("of a transposed product").to_vec();
        let mut inverse = vec![0; places.len()];
        for (at, &k) in places.iter().enumerate() {
            inverse[k as usize] = at as u32;
        }
        let as_given: Vec<u32> = (0..places.len() as u32).collect();
        let (xb, yb) = (upload(gpu, &x, 0), upload(gpu, &[0.0; 30], 0));
        let view = |buffer: &wgpu::Buffer, n: usize| BufferView::new(buffer, DType::F32, &[n]);
        let bound = product.bind(&view(&xb, 40), &view(&yb, 30), 1.0, 0.0).unwrap();
        let stored = product.values().unwrap();
        for (what, order) in [("right", &places), ("left out", &as_given), ("inverted", &inverse)] {
            let ordered: Vec<f32> = order.iter().map(|&k| values[k as usize]).collect();
            gpu.queue()
                .write_buffer(stored.buffer(), 0, bytemuck::cast_slice(&ordered));
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            bound.record(&mut encoder);
            gpu.queue().submit([encoder.finish()]);
            let verdict = judge(&want, &x, (1.0, 0.0), None, &download(gpu, &yb, 30));
            assert_eq!(verdict.is_ok(), what == "right", "{}: {what}", adapter.name);
        }
    }
}

#[test]
fn planted_seam_counted_twice() {
    let bug = Bug {
        name: "entry at the seam of two windows counted twice",
        edits: &[(SPMV, "begin + count, WG", "begin + count + 1u, WG")],
    };
    let a = random_matrix(&[10, 250_000, 250_000, 7], 250_000, 34);
    let x = random_vector(a.cols(), 35);
    let gpus = crate::gpu_planted::limited(bug.name, small);
    let caught = caught(&bug, &gpus, |context| {
        let gpu = context.gpu().expect("a device");
        let y = run(gpu, &a, &SpmvOptions::default(), &x, (1.0, 0.0), None);
        judge(&a, &x, (1.0, 0.0), None, &y).map(drop)
    });
    assert_eq!(caught.len(), gpus.len(), "{}: caught only on {caught:?}", bug.name);
}

/// One row of a million entries between short ones, in every strategy's pieces.
#[test]
fn one_dense_row_of_a_million() {
    let cols = 1_000_000;
    let mut columns: Vec<u32> = vec![5, 999_999];
    columns.extend(0..cols as u32);
    columns.push(0);
    let row_ptr = vec![0, 2, 2 + cols as u32, 2 + cols as u32, 3 + cols as u32];
    let values: Vec<f32> = (0..columns.len()).map(|k| (k % 17) as f32 - 8.0).collect();
    let a = Csr::try_new(4, cols, row_ptr, columns, values).unwrap();
    let x: Vec<f32> = (0..cols).map(|j| (j % 5) as f32 - 2.0).collect();
    for adapter in adapters::all("one_dense_row_of_a_million") {
        for options in strategies().filter(|o| !o.transpose) {
            let y = run(adapter.gpu(), &a, &options, &x, (1.0, 0.0), None);
            judge(&a, &x, (1.0, 0.0), None, &y).unwrap_or_else(|m| panic!("{} {options:?}: {m}", adapter.name));
        }
    }
}
