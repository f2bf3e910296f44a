//! Products of sparse matrices with tensors, and one propagation of a graph network.

use crate::adapters::{Adapter, all, assert_offset, host, normal, skipped};
use burn::tensor::{Tensor, activation, s};
use macheps::ops::spmv::{bounds, reference};
use macheps::random::Random;
use macheps::sparse::{Coo, Narrowing, matrix_market};
use macheps_burn::{Csr, SparseMatrix, spmm};
use std::path::PathBuf;

/// About `degree` entries a row at random places.
fn scattered(rows: usize, columns: usize, degree: usize) -> Csr<f32> {
    let mut random = Random::new(31);
    let mut entries = Coo::new(rows, columns).expect("a small matrix");
    for row in 0..rows {
        for _ in 0..random.below(2 * degree as u64) {
            let column = random.below(columns as u64) as usize;
            entries
                .push(row, column, random.normal() as f32)
                .expect("within the matrix");
        }
    }
    entries.to_csr().expect("valid")
}

/// Holds `a x` to the bound, column by column.
fn check(name: &str, a: &Csr<f32>, x: &[f32], got: &[f32]) {
    let k = x.len() / a.cols();
    assert_eq!(got.len(), a.rows() * k, "{name}");
    for (i, &got) in got.iter().enumerate() {
        let (row, column) = (i / k, i % k);
        let x = |j: usize| f64::from(x[j * k + column]);
        let want = reference::row(a, row, x);
        let allowed = bounds::element(&bounds::row_scale(a, row, x), want, 1.0, 0.0, 0.0);
        assert!(
            (f64::from(got) - want).abs() <= allowed,
            "{name}: element {i} is {got}, should be {want} +- {allowed:e}"
        );
    }
}

/// Product and gradient.
fn product(adapter: &Adapter, name: &str, a: &Csr<f32>, x: &Tensor<2>) {
    let name = format!("{}: {name}", adapter.name);
    let matrix = SparseMatrix::new(&adapter.device, a).expect("a matrix");
    let values = host(x);
    let x = Tensor::from_inner(x.clone()).require_grad();
    let y = spmm(&matrix, x.clone()).expect("a product");
    check(&name, a, &values, &host(&y.clone().inner()));
    let weights = normal(32, y.dims(), 1.0, &adapter.device);
    let total = (y * Tensor::from_inner(weights.clone())).sum();
    let gradient = x.grad(&total.backward()).expect("a leaf");
    check(
        &format!("{name}, gradient"),
        &a.transpose().expect("valid"),
        &host(&weights),
        &host(&gradient),
    );
}

#[test]
fn products_and_gradients() {
    for adapter in all("products_and_gradients") {
        let a = scattered(120, 90, 6);
        for k in [1, 3, 16] {
            product(
                adapter,
                &format!("[90, {k}]"),
                &a,
                &normal(33, [90, k], 1.0, &adapter.device),
            );
        }
        // A square one, which fits the other way round too.
        let square = scattered(90, 90, 5);
        product(
            adapter,
            "a square matrix",
            &square,
            &normal(38, [90, 4], 1.0, &adapter.device),
        );
        let whole = normal(34, [192, 192], 1.0, &adapter.device);
        let view = whole.slice(s![64..154, 64..128]);
        product(adapter, "a view", &a, &view);
        product(
            adapter,
            "a transposed view",
            &scattered(50, 64, 4),
            &view.slice(s![0..64, ..]).transpose(),
        );
        let rows = normal(35, [128, 64], 1.0, &adapter.device).slice(s![38..128, ..]);
        assert_offset(&rows, "Burn copied these rows");
        product(adapter, "rows from 38 on", &a, &rows);
    }
}

/// D^-1/2 (A + A^T + I) D^-1/2: how a graph convolution spreads features (Kipf and Welling, 2017).
fn normalised(links: &Csr<f64>) -> Csr<f64> {
    let mut graph = Coo::new(links.rows(), links.rows()).expect("a graph");
    for (i, j, _) in links.iter().filter(|&(i, j, _)| i != j) {
        graph.push(i, j, 1.0).expect("within the graph");
        graph.push(j, i, 1.0).expect("within the graph");
    }
    for i in 0..links.rows() {
        graph.push(i, i, 1.0).expect("within the graph");
    }
    let graph = graph.to_csr().expect("valid");
    let degree = |i: usize| graph.row(i).1.iter().sum::<f64>();
    let values = graph
        .iter()
        .map(|(i, j, value)| value / (degree(i) * degree(j)).sqrt())
        .collect();
    graph.with_values(values).expect("as many as before")
}

/// Links between 1,490 political blogs (Adamic and Glance, 2005), from outside the package.
fn blogs(test: &str) -> Option<Csr<f64>> {
    let folder = std::env::var_os("MACHEPS_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let file = folder.join("matrices/polblogs.mtx.gz");
    if !file.is_file() {
        skipped(test, "polblogs.mtx.gz is not here (set MACHEPS_SHARED_DATA)");
        return None;
    }
    let contents = matrix_market::read_file(&file).expect("a matrix of the collection");
    Some(contents.to_csr().expect("valid"))
}

/// A layer of a graph convolution, relu(P x W), against the same with P as a dense tensor of Burn's, with gradients to x and W.
#[test]
fn a_graph_convolution() {
    let test = "a_graph_convolution";
    let Some(links) = blogs(test) else { return };
    let p = normalised(&links)
        .narrow::<f32>(Narrowing::Refuse)
        .expect("numbers up to 1")
        .matrix;
    let n = p.rows();
    for adapter in all(test) {
        let device = &adapter.device;
        let mut dense = vec![0.0f32; n * n];
        p.iter().for_each(|(i, j, value)| dense[i * n + j] = value);
        let dense = Tensor::<2>::from_data(burn::tensor::TensorData::new(dense, [n, n]), device);
        let matrix = SparseMatrix::new(device, &p).expect("a matrix");
        let (x, w) = (normal(36, [n, 32], 1.0, device), normal(37, [32, 8], 0.2, device));
        let layer = |spread: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let x = Tensor::from_inner(x.clone()).require_grad();
            let w = Tensor::from_inner(w.clone()).require_grad();
            let y = activation::relu(spread(x.clone().matmul(w.clone())));
            let gradients = y.clone().sum().backward();
            let of = |x: &Tensor<2>| host(&x.grad(&gradients).expect("a leaf"));
            [host(&y.inner()), of(&x), of(&w)]
        };
        let ours = layer(&|x| spmm(&matrix, x).expect("a product"));
        let own = layer(&|x| Tensor::from_inner(dense.clone()).matmul(x));
        for (name, ours, own) in [
            ("y", &ours[0], &own[0]),
            ("dx", &ours[1], &own[1]),
            ("dw", &ours[2], &own[2]),
        ] {
            let scale = own.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            for (i, (ours, own)) in ours.iter().zip(own).enumerate() {
                assert!(
                    (ours - own).abs() <= 2e-5 * scale,
                    "{}: {name}[{i}] is {ours}, dense {own}",
                    adapter.name
                );
            }
        }
    }
}
