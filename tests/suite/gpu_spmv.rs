//! Sparse products on every adapter.

use crate::adapters::{self, Adapter};
use crate::data::{json, shared_data};
use crate::sparse::{exact_vector, matrix};
use macheps::accuracy::U;
use macheps::ops::spmv::{bounds, reference};
use macheps::random::Random;
use macheps::sparse::{Coo, Narrowing};
use macheps::{BufferView, Csr, DType, Element, Error, Gpu, Spmv, SpmvOptions, SpmvStrategy, bf16, f16, wgpu};

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
fn run<T: Element + macheps::float::Float>(
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
fn judge<T: macheps::float::Float>(
    a: &Csr<T>,
    x: &[f32],
    (alpha, beta): (f32, f32),
    y0: Option<&[f32]>,
    y: &[f32],
) -> Result<f64, String> {
    let x = |j: usize| f64::from(x[j]);
    let mut worst: f64 = 0.0;
    if y.len() != a.rows() {
        return Err("length".into());
    }
    for (i, &got) in y.iter().enumerate() {
        let sum = reference::row(a, i, x);
        let old = y0.map_or(0.0, |y0| f64::from(y0[i]));
        let (alpha, beta) = (f64::from(alpha), f64::from(beta));
        let want = reference::element(alpha, sum, beta, old);
        let allowed = bounds::element(&bounds::row_scale(a, i, x), sum, alpha, beta, old);
        let found = macheps::accuracy::check(&[got], &[want], &[allowed]);
        worst = worst.max(
            found
                .map_err(|m| format!("row {i} of {} entries: {m}", a.row(i).0.len()))?
                .of_bound,
        );
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

/// The solver's call: k vectors, parts of x.y, and words that say which vectors count.
#[test]
fn operator_with_dot_products() {
    use macheps::solve::{CsrOperator, LinearOperator, OperatorCall};
    let mut lengths = vec![5; 700];
    for (i, n) in lengths.iter_mut().enumerate() {
        *n = [5, 0, 3, 9, 40][i % 5];
    }
    lengths[300] = 700;
    lengths.extend([4500, 0, 9000]);
    lengths.resize(9001, 1);
    for (n, seed) in [(9001, 6), (1, 7), (0, 8)] {
        let a = random_matrix(&lengths.iter().take(n).map(|&l| l.min(n)).collect::<Vec<_>>(), n, seed);
        let operator = CsrOperator::new(a.widen()).unwrap();
        for adapter in adapters::all("spmv::operator_with_dot_products") {
            let gpu = adapter.gpu();
            let p = operator.dot_partials(gpu).unwrap();
            for k in [1usize, 3, 5] {
                let x = random_vector(k * n, 9);
                let xb = upload(gpu, &x, 0);
                let yb = upload(gpu, &vec![f32::NAN; k * n], 0);
                let db = upload(gpu, &vec![f32::NAN; k * p * 2], 0);
                let words: Vec<u32> = (0..k as u32).map(|c| u32::from(k == 1 || c != 1)).collect();
                let active = gpu.upload("active", bytemuck::cast_slice(&words)).unwrap();
                let shape = if k == 1 { vec![n] } else { vec![k, n] };
                let (xv, yv) = (
                    BufferView::new(&xb, DType::F32, &shape),
                    BufferView::new(&yb, DType::F32, &shape),
                );
                let dot = BufferView::new(&db, DType::F32, &[k, p, 2]);
                let mut call = OperatorCall::new(&xv, &yv);
                call.dot = Some(&dot);
                call.active = Some(&active);
                let bound = operator.bind(gpu, &call).unwrap();
                let mut encoder = gpu.device().create_command_encoder(&Default::default());
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    bound.record(&mut pass);
                    bound.record(&mut pass);
                }
                gpu.queue().submit([encoder.finish()]);
                let (y, parts) = (download(gpu, &yb, k * n), download(gpu, &db, k * p * 2));
                for c in 0..k {
                    if words[c] == 0 {
                        continue;
                    }
                    let (x, y) = (&x[c * n..][..n], &y[c * n..][..n]);
                    judge(&a, x, (1.0, 0.0), None, y).unwrap_or_else(|e| panic!("{} k {k} c {c}: {e}", adapter.name));
                    let got: f64 = parts[c * p * 2..][..p * 2].iter().map(|&v| f64::from(v)).sum();
                    let terms = || x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y));
                    let (want, scale) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    assert!(
                        (got - want).abs() <= 1.01 * U * scale,
                        "{} k {k} c {c}: {got} {want}",
                        adapter.name
                    );
                }
            }
        }
    }
}
