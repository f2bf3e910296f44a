//! Eigenvalues of known spectra, on the CPU path and on every adapter, by operators of the crate and by one of a user.

use macheps::solve::{
    CsrOperator, EigenMethod, EigenOptions, LinearOperator, OperatorCall, Record, condition_number, largest_eigenvalue,
    smallest_eigenvalue,
};
use macheps::sparse::{Coo, Csr, Dense};
use macheps::{Context, Error, Gpu};
use std::f64::consts::PI;
use std::sync::Mutex;

use crate::adapters;
use crate::data::shared_data;
use crate::operators::bind_shader;
use crate::solve_host::{for_each_spd, is_long, second_differences};

/// The five-point Laplacian of a grid with zero boundary values.
fn five_points(width: usize, height: usize) -> Csr<f64> {
    let n = width * height;
    let mut coo = Coo::new(n, n).unwrap();
    for y in 0..height {
        for x in 0..width {
            let i = y * width + x;
            coo.push(i, i, 4.0).unwrap();
            for (inside, j) in [
                (x > 0, i.wrapping_sub(1)),
                (x + 1 < width, i + 1),
                (y > 0, i.wrapping_sub(width)),
                (y + 1 < height, i + width),
            ] {
                if inside {
                    coo.push(i, j, -1.0).unwrap();
                }
            }
        }
    }
    coo.to_csr().unwrap()
}

/// Its eigenvalue of these wave numbers, from 1.
fn of_five_points(width: usize, height: usize, k: usize, l: usize) -> f64 {
    let part = |k: usize, n: usize| 4.0 * (k as f64 * PI / (2.0 * (n + 1) as f64)).sin().powi(2);
    part(k, width) + part(l, height)
}

fn tolerance(tolerance: f64) -> EigenOptions<'static> {
    let mut options = EigenOptions::default();
    options.tolerance = tolerance;
    options
}

/// All eigenvalues of a symmetric matrix by Jacobi's rotations: slow, simple, and nothing of what is tested.
fn by_rotations(n: usize, mut a: Vec<f64>) -> Vec<f64> {
    for _ in 0..60 {
        let off: f64 = (0..n)
            .flat_map(|i| (0..i).map(move |j| (i, j)))
            .map(|(i, j)| a[i * n + j].powi(2))
            .sum();
        if off == 0.0 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let pq = a[p * n + q];
                if pq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * pq);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    a[k * n + p] = c * x - s * y;
                    a[k * n + q] = s * x + c * y;
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    a[p * n + k] = c * x - s * y;
                    a[q * n + k] = s * x + c * y;
                }
            }
        }
    }
    let mut values: Vec<f64> = (0..n).map(|i| a[i * n + i]).collect();
    values.sort_by(f64::total_cmp);
    values
}

#[test]
fn grid_laplacians() {
    let ctx = Context::cpu();
    for (width, height) in [(1, 1), (2, 1), (7, 5), (30, 30), (60, 41)] {
        let operator = CsrOperator::new(five_points(width, height)).unwrap();
        let (low, high) = (
            of_five_points(width, height, 1, 1),
            of_five_points(width, height, width, height),
        );
        let found = condition_number(&ctx, &operator, &tolerance(1e-10)).unwrap();
        for (got, want) in [(found.largest, high), (found.smallest, low)] {
            assert!(got.converged, "{width} x {height}: {got:?}");
            let error = (got.value - want).abs();
            assert!(error <= 1e-9 * want, "{width} x {height}: {got:?}, should be {want}");
            // The error is an estimate of the right kind, with room for rounding.
            assert!(
                error <= 2.0 * got.error,
                "{width} x {height}: {got:?}, off by {error:e}"
            );
        }
        assert!((found.condition - high / low).abs() <= 2.0 * found.relative_error * found.condition);
    }
    // Power iteration: the same, later.
    let operator = CsrOperator::new(five_points(7, 5)).unwrap();
    let mut options = tolerance(1e-5);
    options.method = EigenMethod::PowerIteration;
    options.steps = 20_000;
    let found = condition_number(&ctx, &operator, &options).unwrap();
    let (low, high) = (of_five_points(7, 5, 1, 1), of_five_points(7, 5, 7, 5));
    assert!(found.largest.converged && found.smallest.converged, "{found:?}");
    assert!(
        (found.largest.value - high).abs() <= found.largest.error,
        "{found:?} {high}"
    );
    assert!(
        (found.smallest.value - low).abs() <= found.smallest.error,
        "{found:?} {low}"
    );
    assert!(found.smallest.products > found.smallest.steps);
}

#[test]
fn small_dense_matrices() {
    let ctx = Context::cpu();
    let mut random = macheps::random::Random::new(7);
    for (n, definite) in [
        (1, true),
        (2, true),
        (3, true),
        (8, true),
        (24, true),
        (40, true),
        (8, false),
        (30, false),
    ] {
        // G G^T, or G + G^T.
        let g: Vec<f64> = (0..n * n).map(|_| random.normal()).collect();
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = if definite {
                    (0..n).map(|k| g[i * n + k] * g[j * n + k]).sum()
                } else {
                    g[i * n + j] + g[j * n + i]
                };
            }
        }
        let spectrum = by_rotations(n, a.clone());
        let operator = CsrOperator::new(Dense::new(n, n, a).unwrap().to_csr().unwrap()).unwrap();
        let scale = spectrum[n - 1].abs().max(spectrum[0].abs());
        let largest = largest_eigenvalue(&ctx, &operator, &tolerance(1e-10)).unwrap();
        let smallest = smallest_eigenvalue(&ctx, &operator, &tolerance(1e-10)).unwrap();
        assert!(
            (largest.value - spectrum[n - 1]).abs() <= 1e-9 * scale,
            "{n}: {largest:?} {}",
            spectrum[n - 1]
        );
        assert!(
            (smallest.value - spectrum[0]).abs() <= 1e-9 * scale,
            "{n}: {smallest:?} {}",
            spectrum[0]
        );
        let condition = condition_number(&ctx, &operator, &tolerance(1e-8));
        if definite {
            let (got, want) = (condition.unwrap(), spectrum[n - 1] / spectrum[0]);
            assert!(
                (got.condition / want - 1.0).abs() <= 1e-8 * want,
                "{n}: {got:?} {want:e}"
            );
        } else {
            assert!(matches!(condition, Err(Error::Unsupported { .. })), "{condition:?}");
        }
    }
    // A large indefinite one: found by A itself.
    let operator = CsrOperator::new(five_points(40, 40).shifted(-4.0).unwrap()).unwrap();
    let smallest = smallest_eigenvalue(&ctx, &operator, &tolerance(1e-6)).unwrap();
    let want = of_five_points(40, 40, 1, 1) - 4.0;
    assert!(
        smallest.converged && (smallest.value - want).abs() <= 2.0 * smallest.error,
        "{smallest:?} {want}"
    );
    let empty = CsrOperator::new(Dense::new(0, 0, vec![]).unwrap().to_csr().unwrap()).unwrap();
    assert!(matches!(
        largest_eigenvalue(&ctx, &empty, &tolerance(1e-6)),
        Err(Error::Shape { .. })
    ));
    let zero = CsrOperator::new(Csr::try_new(3, 3, vec![0; 4], vec![], vec![]).unwrap()).unwrap();
    assert_eq!(largest_eigenvalue(&ctx, &zero, &tolerance(1e-6)).unwrap().value, 0.0);
}

#[test]
fn spectra_of_the_index() {
    let Some(folder) = shared_data("gpu_eigenvalues::spectra_of_the_index") else {
        return;
    };
    let ctx = Context::cpu();
    let lines = Mutex::new(Vec::new());
    for_each_spd(&folder, |entry, a| {
        if is_long(&a) {
            return;
        }
        let name = entry["name"].as_str().unwrap();
        let operator = CsrOperator::new(a).unwrap();
        let start = std::time::Instant::now();
        let found = condition_number(&ctx, &operator, &tolerance(1e-4)).unwrap();
        for (key, got) in [
            ("eigenvalue_max", found.largest.value),
            ("eigenvalue_min", found.smallest.value),
            ("condition_number", found.condition),
        ] {
            let want = entry[key].as_f64().unwrap();
            assert!(
                (got / want - 1.0).abs() <= 1e-3,
                "{name}: {key} {got:e}, should be {want:e}: {found:?}"
            );
        }
        lines.lock().unwrap().push(format!(
            "{name:>30} condition {:.4e} +- {:.0e}, {} and {} steps, {} products, {:.1?}",
            found.condition,
            found.relative_error,
            found.largest.steps,
            found.smallest.steps,
            found.largest.products + found.smallest.products,
            start.elapsed()
        ));
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    println!("{}", lines.join("\n"));
}

/// y_i = d x_i + e (x_(i-1) + x_(i+1)), never stored: an operator as a user of the crate writes it.
struct Tridiagonal {
    n: usize,
    d: f32,
    e: f32,
}

const TRIDIAGONAL: &str = "
struct Params { n: u32, x: u32, y: u32, d: f32, e: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let i = id.x;
    if i >= params.n { return; }
    var sum = params.d * x[params.x + i];
    if i > 0u { sum += params.e * x[params.x + i - 1u]; }
    if i + 1u < params.n { sum += params.e * x[params.x + i + 1u]; }
    y[params.y + i] = sum;
}
";

impl LinearOperator for Tridiagonal {
    fn size(&self) -> usize {
        self.n
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        for i in 0..self.n {
            let left = if i > 0 { x[i - 1] } else { 0.0 };
            let right = x.get(i + 1).copied().unwrap_or(0.0);
            y[i] = f64::from(self.d) * x[i] + f64::from(self.e) * (left + right);
        }
    }

    fn bind(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> Result<Box<dyn Record>, Error> {
        let words = [
            self.n as u32,
            call.x.offset() as u32,
            call.y.offset() as u32,
            self.d.to_bits(),
            self.e.to_bits(),
            0,
            0,
            0,
        ];
        bind_shader(gpu, call, TRIDIAGONAL, &words, [(self.n as u32).div_ceil(64), 1])
    }
}

#[test]
fn on_devices() {
    for adapter in adapters::all("gpu_eigenvalues::on_devices") {
        // A user's operator, and the same matrix stored.
        let n = 500;
        let user = Tridiagonal { n, d: 2.0, e: -1.0 };
        let stored = CsrOperator::new(second_differences(n)).unwrap();
        let (low, high) = (2.0 - 2.0 * (PI / 501.0).cos(), 2.0 + 2.0 * (PI / 501.0).cos());
        for operator in [&user as &dyn LinearOperator, &stored] {
            let largest = largest_eigenvalue(&adapter.context, operator, &tolerance(1e-3)).unwrap();
            let error = (largest.value - high).abs();
            assert!(
                largest.converged && error <= 2.0 * largest.error && error < 4e-3,
                "{}: {largest:?}, off by {error:e}",
                adapter.name
            );
        }
        // A shift moves the spectrum away from 0: then f32 knows the smallest one to some digits.
        let user = Tridiagonal { n, d: 2.5, e: -1.0 };
        let found = condition_number(&adapter.context, &user, &tolerance(1e-4)).unwrap();
        let want = (high + 0.5) / (low + 0.5);
        assert!(
            (found.condition / want - 1.0).abs() <= 2.0 * found.relative_error.max(1e-4),
            "{}: {found:?}, {want}",
            adapter.name
        );
        assert!(found.relative_error < 1e-2, "{}: {found:?}", adapter.name);
        println!(
            "{}: condition {:.6} +- {:.1e}, should be {want:.6}",
            adapter.name, found.condition, found.relative_error
        );
        // Near the rounding of f32 the error says how little is known.
        let stiff = CsrOperator::new(second_differences(3000)).unwrap();
        let mut options = tolerance(1e-3);
        options.solve_iterations = 3000;
        options.steps = 60;
        let low = 2.0 - 2.0 * (PI / 3001.0).cos();
        let smallest = smallest_eigenvalue(&adapter.context, &stiff, &options).unwrap();
        assert!(
            (smallest.value - low).abs() <= 2.0 * smallest.error,
            "{}: {smallest:?} {low:e}",
            adapter.name
        );
    }
}
