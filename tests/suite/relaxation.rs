//! Relaxation, its forecast and the preconditioners on the host.

use crate::data::{json, shared_data};
use macheps::solve::relaxation::{RelaxationMethod, RelaxationOptions, forecast, gauss_seidel, jacobi, reference, sor};
use macheps::solve::{
    Breakdown, Colouring, CsrOperator, Identity, IncompleteCholesky, IncompleteCholeskyOptions, JacobiPreconditioner,
    LinearOperator, Outcome, Preconditioner, PreconditionerForm, RowOrder, Solution, Ssor,
};
use macheps::sparse::{Coo, Csr, Dense};
use macheps::{Context, Error, random::Random};

/// The five-point Laplacian on m x m inner points.
pub fn grid(m: usize) -> Csr<f64> {
    let mut coo = Coo::new(m * m, m * m).unwrap();
    for i in 0..m * m {
        coo.push(i, i, 4.0).unwrap();
        if i % m > 0 {
            coo.push(i, i - 1, -1.0).unwrap();
            coo.push(i - 1, i, -1.0).unwrap();
        }
        if i >= m {
            coo.push(i, i - m, -1.0).unwrap();
            coo.push(i - m, i, -1.0).unwrap();
        }
    }
    coo.to_csr().unwrap()
}

pub fn dense(n: usize, values: &[f64]) -> Csr<f64> {
    Dense::new(n, n, values.to_vec()).unwrap().to_csr().unwrap()
}

/// A symmetric positive definite matrix with one full row and column in the middle, and rows of many lengths.
pub fn arrow(n: usize) -> Csr<f64> {
    let mut random = Random::new(5);
    let mut coo = Coo::new(n, n).unwrap();
    let mut sums = vec![1.0; n];
    let mut join = |i: usize, j: usize, value: f64| {
        coo.push(i, j, value).unwrap();
        coo.push(j, i, value).unwrap();
        sums[i] += value.abs();
        sums[j] += value.abs();
    };
    let hub = n / 2;
    for i in 0..n {
        if i != hub {
            join(i, hub, random.unit() - 0.5);
        }
        // Row i is joined to up to 20 later ones.
        for d in 1..=i % 21 {
            let j = i + 7 * d;
            if j < n && j != hub && i != hub {
                join(i, j, random.unit() - 0.6);
            }
        }
    }
    for (i, sum) in sums.iter().enumerate() {
        coo.push(i, i, *sum).unwrap();
    }
    coo.to_csr().unwrap()
}

pub fn random_vector(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..n).map(|_| f64::from(random.normal() as f32)).collect()
}

/// A matrix of the shared data by name, with what the index says of it.
pub fn shared(test: &str, names: &[&str]) -> Vec<(String, Csr<f64>, serde_json::Value)> {
    let Some(folder) = shared_data(test) else {
        return Vec::new();
    };
    let index = json(folder.join("matrices/index.json"));
    let all = index["matrices"].as_array().unwrap();
    let of_name = |name: &&str| {
        let entry = all.iter().find(|e| e["name"] == **name).expect("a matrix of this name");
        (name.to_string(), crate::sparse::matrix(&folder, entry), entry.clone())
    };
    names.iter().map(of_name).collect()
}

fn product(a: &Csr<f64>, x: &[f64]) -> Vec<f64> {
    (0..a.rows())
        .map(|i| a.row(i).0.iter().zip(a.row(i).1).map(|(&j, v)| v * x[j as usize]).sum())
        .collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

fn applied(m: &dyn Preconditioner, r: &[f64]) -> Vec<f64> {
    let mut z = vec![f64::NAN; r.len()];
    m.apply(r, &mut z);
    z
}

/// Iterations of preconditioned conjugate gradients from 0 until the recurrence's residual is below rtol.
fn cg_iterations(a: &Csr<f64>, m: &dyn Preconditioner, b: &[f64], rtol: f64) -> usize {
    let mut x = vec![0.0; b.len()];
    let mut r = b.to_vec();
    let mut z = applied(m, &r);
    let mut p = z.clone();
    let mut rz = dot(&r, &z);
    for iteration in 0..20 * b.len() {
        if norm(&r) <= rtol * norm(b) {
            return iteration;
        }
        let q = product(a, &p);
        let alpha = rz / dot(&p, &q);
        for i in 0..b.len() {
            x[i] += alpha * p[i];
            r[i] -= alpha * q[i];
        }
        z = applied(m, &r);
        let next = dot(&r, &z);
        for i in 0..b.len() {
            p[i] = z[i] + next / rz * p[i];
        }
        rz = next;
    }
    panic!("conjugate gradients with {} do not converge", m.name());
}

/// Preconditioners of a matrix, all kinds.
pub fn preconditioners(a: &Csr<f64>) -> Vec<Box<dyn Preconditioner>> {
    let ic0 = |order| {
        let options = IncompleteCholeskyOptions {
            order,
            ..Default::default()
        };
        Box::new(IncompleteCholesky::with_options(a, &options).unwrap())
    };
    vec![
        Box::new(Identity::new(a.rows())),
        Box::new(JacobiPreconditioner::new(a).unwrap()),
        Box::new(Ssor::new(a, 1.0).unwrap()),
        Box::new(Ssor::new(a, 1.6).unwrap()),
        ic0(RowOrder::Natural),
        ic0(RowOrder::Multicolour),
    ]
}

#[test]
fn colours_keep_neighbours_apart() {
    let unsymmetric = dense(4, &[1., 0., 0., 5., 0., 1., 0., 0., 0., 2., 1., 0., 0., 0., 0., 1.]);
    for (a, colours) in [
        (grid(9), 2),
        (Csr::identity(5).unwrap(), 1),
        (Csr::identity(0).unwrap(), 0),
        (unsymmetric, 2),
        (dense(3, &[1.0; 9]), 3),
    ] {
        let colouring = Colouring::greedy(&a).unwrap();
        assert_eq!(colouring.colours(), colours);
        let mut seen = vec![usize::MAX; a.rows()];
        for (c, group) in colouring.groups().iter().enumerate() {
            assert!(!group.is_empty() && group.is_sorted());
            group.iter().for_each(|&i| seen[i as usize] = c);
        }
        for (i, j, _) in a.iter() {
            assert!(seen[i] < colours && (i == j || seen[i] != seen[j]), "rows {i} and {j}");
        }
    }
    let wide = Dense::new(1, 2, vec![1.0, 2.0]).unwrap().to_csr().unwrap();
    assert!(matches!(Colouring::greedy(&wide), Err(Error::Shape { .. })));
    assert!(Colouring::greedy(&arrow(500)).unwrap().colours() < 30);
}

#[test]
fn sweeps_in_small() {
    // 4 -1 | 2; -1 4 | 7, from (1, 1).
    let a = dense(2, &[4., -1., -1., 4.]);
    let b = [2.0, 7.0];
    let swept = |sweep: &dyn Fn(&mut [f64])| {
        let mut x = [1.0, 1.0];
        sweep(&mut x);
        x
    };
    assert_eq!(swept(&|x| reference::jacobi_sweep(&a, 1.0, &b, x)), [0.75, 2.0]);
    assert_eq!(swept(&|x| reference::jacobi_sweep(&a, 0.5, &b, x)), [0.875, 1.5]);
    assert_eq!(swept(&|x| reference::sor_sweep(&a, 1.0, &b, x, [0, 1])), [0.75, 1.9375]);
    assert_eq!(swept(&|x| reference::sor_sweep(&a, 1.0, &b, x, [1, 0])), [1.0, 2.0]);
    assert_eq!(
        swept(&|x| reference::sor_sweep(&a, 1.5, &b, x, [0, 1])),
        [0.625, 2.359375]
    );
    assert_eq!(
        swept(&|x| reference::ssor_sweep(&a, 1.0, &b, x, &[0, 1])),
        [0.984375, 1.9375]
    );
}

#[test]
fn incomplete_cholesky_in_small() {
    // A grid of 2 x 2: Cholesky's factor has fill at (2, 1), which is dropped.
    let a = grid(2);
    let l = reference::incomplete_cholesky(&a).unwrap();
    let want = [
        (0, 0, 2.0),
        (1, 0, -0.5),
        (1, 1, 3.75f64.sqrt()),
        (2, 0, -0.5),
        (2, 2, 3.75f64.sqrt()),
        (3, 1, -1.0 / 3.75f64.sqrt()),
        (3, 2, -1.0 / 3.75f64.sqrt()),
        (3, 3, (4.0 - 2.0 / 3.75f64).sqrt()),
    ];
    assert_eq!(l.len(), want.len());
    for (got, want) in l.iter().zip(want) {
        assert_eq!((got.0, got.1), (want.0, want.1));
        assert!((got.2 - want.2).abs() < 1e-15, "{got:?} {want:?}");
    }
    let indefinite = dense(2, &[1., 2., 2., 1.]);
    assert!(reference::incomplete_cholesky(&indefinite).is_none());
}

/// M^-1 r is what solving with the reference's factor gives.
#[test]
fn incomplete_cholesky_applies_its_factor() {
    for a in [grid(7), arrow(60)] {
        let n = a.rows();
        let options = IncompleteCholeskyOptions {
            order: RowOrder::Natural,
            ..Default::default()
        };
        let m = IncompleteCholesky::with_options(&a, &options).unwrap();
        assert_eq!((m.shift(), m.order()), (0.0, RowOrder::Natural));
        let r = random_vector(n, 3);
        let z = applied(&m, &r);
        // L L^T z = r.
        let l = reference::incomplete_cholesky(&a).unwrap();
        let (mut half, mut back) = (vec![0.0; n], vec![0.0; n]);
        l.iter().for_each(|&(i, j, v)| half[j] += v * z[i]);
        l.iter().for_each(|&(i, j, v)| back[i] += v * half[j]);
        for (back, r) in back.iter().zip(&r) {
            assert!((back - r).abs() < 1e-11 * norm(&r_of(&z)), "{back} {r}");
        }
    }
}

fn r_of(z: &[f64]) -> Vec<f64> {
    z.iter().map(|z| z.abs() + 1.0).collect()
}

/// Where Cholesky's factor has no fill, IC(0) is that factor: the answer comes at once.
#[test]
fn incomplete_cholesky_without_fill_solves() {
    let n = 200;
    let mut coo = Coo::new(n, n).unwrap();
    for i in 0..n {
        coo.push(i, i, 2.0 + 0.01 * i as f64).unwrap();
        if i > 0 {
            coo.push(i, i - 1, -1.0).unwrap();
            coo.push(i - 1, i, -1.0).unwrap();
        }
    }
    let a = coo.to_csr().unwrap();
    let natural = IncompleteCholeskyOptions {
        order: RowOrder::Natural,
        ..Default::default()
    };
    let m = IncompleteCholesky::with_options(&a, &natural).unwrap();
    assert_eq!(m.levels(), n);
    let x = random_vector(n, 4);
    let z = applied(&m, &product(&a, &x));
    assert!(z.iter().zip(&x).all(|(z, x)| (z - x).abs() < 1e-12));
    assert_eq!(IncompleteCholesky::new(&a).unwrap().levels(), 2);
    // Few levels: the natural order.
    let blocks = IncompleteCholesky::new(&dense(3, &[4., 1., 0., 1., 4., 1., 0., 1., 4.])).unwrap();
    assert_eq!((blocks.order(), blocks.levels()), (RowOrder::Natural, 3));
}

/// SSOR's map is a forward and a backward sweep of SOR from 0 in the order of colours.
#[test]
fn ssor_is_two_sweeps() {
    for a in [grid(8), arrow(100)] {
        let order: Vec<usize> = Colouring::greedy(&a)
            .unwrap()
            .groups()
            .concat()
            .iter()
            .map(|&i| i as usize)
            .collect();
        for omega in [0.7, 1.0, 1.5] {
            let r = random_vector(a.rows(), 6);
            let mut want = vec![0.0; a.rows()];
            reference::ssor_sweep(&a, omega, &r, &mut want, &order);
            // (2 - w) / w M^-1, as it is usually scaled, is the sweeps times (2 - w) w / (w (2 - w)): the same.
            let z = applied(&Ssor::new(&a, omega).unwrap(), &r);
            for (z, want) in z.iter().zip(&want) {
                assert!((z - want).abs() < 1e-13 * (1.0 + want.abs()), "{omega}: {z} {want}");
            }
        }
    }
}

#[test]
fn preconditioners_are_symmetric_positive_definite() {
    let mut matrices = vec![("grid".to_string(), grid(10)), ("arrow".to_string(), arrow(300))];
    let names = ["nos3", "494_bus", "gr_30_30", "bcsstk01", "pyamg_bar", "ml_elasticity1"];
    let test = "relaxation::preconditioners_are_symmetric_positive_definite";
    matrices.extend(shared(test, &names).into_iter().map(|(name, a, _)| (name, a)));
    for (name, a) in &matrices {
        let n = a.rows();
        for m in preconditioners(a) {
            assert_eq!(m.size(), n);
            let (x, y) = (random_vector(n, 1), random_vector(n, 2));
            let (mx, my) = (applied(&*m, &x), applied(&*m, &y));
            let (a, b) = (dot(&x, &my), dot(&y, &mx));
            let scale = norm(&x) * norm(&my) + norm(&y) * norm(&mx);
            assert!((a - b).abs() <= 1e-12 * scale, "{name} {}: {a} {b}", m.name());
            assert!(dot(&x, &mx) > 0.0 && dot(&y, &my) > 0.0, "{name} {}", m.name());
            if let PreconditionerForm::Diagonal(d) = m.form() {
                assert!(mx.iter().zip(&x).zip(&d).all(|((z, x), d)| *z == x * d));
            }
        }
    }
}

/// What they are for: fewer iterations. On the grid the condition number falls by a constant with IC(0) and symmetric
/// Gauss-Seidel, so iterations fall by a third to two thirds.
#[test]
fn iterations_fall() {
    let a = grid(60);
    let b = random_vector(a.rows(), 8);
    let counts: Vec<usize> = preconditioners(&a)
        .iter()
        .map(|m| cg_iterations(&a, &**m, &b, 1e-8))
        .collect();
    println!("grid 60 x 60: none, jacobi, ssor 1, ssor 1.6, ic0, ic0 by colours: {counts:?}");
    let [none, jacobi, gauss_seidel, _, natural, colours] = counts[..] else {
        panic!("six of them")
    };
    assert_eq!(none, jacobi);
    assert!(gauss_seidel * 10 < none * 7 && colours * 10 < none * 7, "{counts:?}");
    assert!(natural * 10 < none * 5, "{counts:?}");

    let test = "relaxation::iterations_fall";
    for (name, a, entry) in shared(
        test,
        &[
            "nos3",
            "494_bus",
            "gr_30_30",
            "bcsstk01",
            "muelu_Aani",
            "pyamg_bar",
            "cantilever2D",
        ],
    ) {
        let b = crate::sparse::exact_vector(a.rows());
        let all = preconditioners(&a);
        let counts: Vec<usize> = all.iter().map(|m| cg_iterations(&a, &**m, &b, 1e-8)).collect();
        let shifts = [RowOrder::Natural, RowOrder::Multicolour].map(|order| {
            let options = IncompleteCholeskyOptions {
                order,
                ..Default::default()
            };
            let m = IncompleteCholesky::with_options(&a, &options).unwrap();
            (m.levels(), m.shift())
        });
        println!(
            "{name}: none, jacobi, ssor 1, ssor 1.6, ic0, ic0 by colours: {counts:?}; levels and shifts {shifts:?}"
        );
        let indexed = entry["cg_f64"]["iterations_jacobi"].as_f64().unwrap();
        assert!(
            (counts[1] as f64 - indexed).abs() <= 0.1 * indexed + 2.0,
            "{name}: {counts:?} {indexed}"
        );
        let best = counts[2..].iter().min().unwrap();
        assert!(*best < counts[1], "{name}: {counts:?}");
    }
}

/// Kershaw's matrix: positive definite, but IC(0) meets a negative pivot.
#[test]
fn incomplete_cholesky_shifts_where_it_must() {
    let a = dense(
        4,
        &[3., -2., 0., 2., -2., 3., -2., 0., 0., -2., 3., -2., 2., 0., -2., 3.],
    );
    assert!(reference::incomplete_cholesky(&a).is_none());
    let m = IncompleteCholesky::new(&a).unwrap();
    assert!(m.shift() > 0.0 && m.shift() < 1.0, "{}", m.shift());
    for seed in 0..20 {
        let x = random_vector(4, seed);
        assert!(dot(&x, &applied(&m, &x)) > 0.0);
    }
    let more = IncompleteCholeskyOptions {
        shift: 0.5,
        ..Default::default()
    };
    assert!(IncompleteCholesky::with_options(&a, &more).unwrap().shift() >= 0.5);
}

#[test]
fn preconditioners_refuse() {
    let zero = dense(3, &[1., 0., 0., 0., 0., 0., 0., 0., 1.]);
    let negative = dense(3, &[1., 0., 0., 0., 1., 0., 0., 0., -2.]);
    for (a, at) in [(&zero, 1), (&negative, 2)] {
        for error in [
            JacobiPreconditioner::new(a).unwrap_err(),
            Ssor::new(a, 1.0).unwrap_err(),
            IncompleteCholesky::new(a).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Diagonal { row, .. } if row == at), "{error}");
        }
    }
    let unsymmetric = dense(2, &[2., 1., 0., 2.]);
    assert!(matches!(Ssor::new(&unsymmetric, 1.0), Err(Error::Unsupported { .. })));
    assert!(matches!(
        IncompleteCholesky::new(&unsymmetric),
        Err(Error::Unsupported { .. })
    ));
    let a = grid(2);
    for omega in [0.0, 2.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(Ssor::new(&a, omega), Err(Error::Option { name: "omega", .. })));
    }
    let bad = IncompleteCholeskyOptions {
        shift: f64::NAN,
        ..Default::default()
    };
    assert!(matches!(
        IncompleteCholesky::with_options(&a, &bad),
        Err(Error::Option { name: "shift", .. })
    ));
    let wide = Dense::new(1, 2, vec![1.0, 2.0]).unwrap().to_csr().unwrap();
    assert!(matches!(JacobiPreconditioner::new(&wide), Err(Error::Shape { .. })));
    assert!(matches!(Ssor::new(&wide, 1.0), Err(Error::Shape { .. })));
    // Nothing, and one number; SSOR of the identity is w (2 - w).
    for n in [0usize, 1] {
        for m in preconditioners(&Csr::identity(n).unwrap()) {
            let z = applied(&*m, &vec![3.0; n]);
            assert!(
                z.iter()
                    .all(|&z| z == 3.0 || (m.name() == "ssor" && (z - 1.92).abs() < 1e-14)),
                "{z:?}"
            );
        }
    }
}

/// A matrix by its entries.
pub fn operator(a: &Csr<f64>) -> CsrOperator {
    CsrOperator::new(a.clone()).unwrap()
}

fn options(rtol: f64) -> RelaxationOptions {
    RelaxationOptions {
        rtol,
        ..Default::default()
    }
}

/// What every solution has to be true to.
pub fn judge(a: &Csr<f64>, b: &[f64], solution: &Solution, rtol: f64, what: &str) {
    let report = &solution.report;
    let r: Vec<f64> = product(a, &solution.x).iter().zip(b).map(|(q, b)| b - q).collect();
    let relative = if norm(&r) == 0.0 { 0.0 } else { norm(&r) / norm(b) };
    assert!(
        (relative - report.relative_residual).abs() <= 1e-13 + 1e-9 * relative,
        "{what}: {relative} {report:?}"
    );
    assert_eq!(report.converged(), relative <= rtol, "{what}: {report:?}");
    assert!(solution.x.iter().all(|x| x.is_finite()), "{what}");
    assert!(report.residual_history[0].is_finite());
}

#[test]
fn solves_on_the_cpu() {
    let context = Context::cpu();
    let a = grid(12);
    let b = random_vector(a.rows(), 1);
    let m = operator(&a);
    let by_jacobi = jacobi(&context, &m, &b, &options(1e-8)).unwrap();
    let by_gauss_seidel = gauss_seidel(&context, &m, &b, &options(1e-8)).unwrap();
    // The best w for this grid (Young): 2 / (1 + sin(pi h)).
    let best = RelaxationOptions {
        omega: 2.0 / (1.0 + (std::f64::consts::PI / 13.0).sin()),
        ..options(1e-8)
    };
    let by_sor = sor(&context, &m, &b, &best).unwrap();
    for (what, solution) in [
        ("jacobi", &by_jacobi),
        ("gauss-seidel", &by_gauss_seidel),
        ("sor", &by_sor),
    ] {
        judge(&a, &b, solution, 1e-8, what);
        assert!(solution.report.converged(), "{what}");
    }
    let [j, g, s] = [&by_jacobi, &by_gauss_seidel, &by_sor].map(|s| s.report.iterations);
    println!("grid 12 x 12: jacobi {j}, gauss-seidel {g}, sor {s}");
    // Gauss-Seidel squares Jacobi's rate; looks are 25 sweeps apart.
    assert!(g < 6 * j / 10 + 25 && s < g / 3, "{j} {g} {s}");
    assert_eq!(by_jacobi.report.residual_history.len(), j + 1);
    assert_eq!(by_sor.report.residual_history.len(), s.div_ceil(25) + 1);
    // From the answer there is nothing to do; from near it, little.
    let warm = RelaxationOptions {
        x0: Some(by_jacobi.x.clone()),
        ..options(1e-7)
    };
    assert_eq!(jacobi(&context, &m, &b, &warm).unwrap().report.iterations, 0);
}

#[test]
fn edges_of_solves() {
    let context = Context::cpu();
    type Solve = fn(&Context, &dyn LinearOperator, &[f64], &RelaxationOptions) -> macheps::Result<Solution>;
    let solvers: [Solve; 3] = [jacobi, gauss_seidel, sor];
    for solve in solvers {
        let nothing = solve(&context, &operator(&Csr::identity(0).unwrap()), &[], &options(1e-6)).unwrap();
        assert!(nothing.report.converged() && nothing.x.is_empty());
        let one = solve(&context, &operator(&dense(1, &[4.0])), &[2.0], &options(1e-6)).unwrap();
        assert!(one.report.converged() && one.x == [0.5]);
        let m = operator(&grid(3));
        let warm = RelaxationOptions {
            x0: Some(vec![1.0; 9]),
            ..options(1e-6)
        };
        let zero = solve(&context, &m, &[0.0; 9], &warm).unwrap();
        assert!(zero.report.converged() && zero.x == [0.0; 9] && zero.report.relative_residual == 0.0);
        let hole = operator(&dense(3, &[1., 0., 0., 0., 0., 2., 0., 2., 1.]));
        let broken = solve(&context, &hole, &[1.0; 3], &options(1e-6)).unwrap();
        assert_eq!(
            broken.report.outcome,
            Outcome::Breakdown {
                kind: Breakdown::ZeroDiagonal { row: 1 },
                iteration: 0
            }
        );
        let nan = solve(&context, &m, &[f64::NAN; 9], &options(1e-6));
        assert!(matches!(
            nan,
            Err(Error::NonFinite {
                what: "b",
                index: 0,
                ..
            })
        ));
        let endless = RelaxationOptions {
            x0: Some([vec![0.0; 8], vec![f64::INFINITY]].concat()),
            ..options(1e-6)
        };
        assert!(matches!(
            solve(&context, &m, &[1.0; 9], &endless),
            Err(Error::NonFinite {
                what: "x0",
                index: 8,
                ..
            })
        ));
        assert!(matches!(
            solve(&context, &m, &[1.0; 8], &options(1e-6)),
            Err(Error::Shape { .. })
        ));
        let short = RelaxationOptions {
            x0: Some(vec![0.0; 3]),
            ..options(1e-6)
        };
        assert!(matches!(
            solve(&context, &m, &[1.0; 9], &short),
            Err(Error::Shape { .. })
        ));
        for bad in [
            RelaxationOptions {
                check_every: 0,
                ..options(1e-6)
            },
            options(-1.0),
            options(f64::NAN),
        ] {
            assert!(matches!(
                solve(&context, &m, &[1.0; 9], &bad),
                Err(Error::Option { .. })
            ));
        }
        let few = RelaxationOptions {
            max_iterations: Some(7),
            ..options(1e-12)
        };
        let limited = solve(&context, &m, &[1.0; 9], &few).unwrap();
        assert_eq!(
            (limited.report.outcome, limited.report.iterations),
            (Outcome::IterationLimit, 7)
        );
        judge(&grid(3), &[1.0; 9], &limited, 1e-12, "limited");
    }
    for omega in [0.0, 2.0, f64::NAN] {
        let bad = RelaxationOptions { omega, ..options(1e-6) };
        for solve in [jacobi, sor] {
            let outcome = solve(&context, &operator(&grid(3)), &[1.0; 9], &bad);
            assert!(matches!(outcome, Err(Error::Option { name: "omega", .. })));
        }
    }
}

#[test]
fn divergence_is_said() {
    // Eigenvalues 0.1, 0.1 and 2.8: positive definite, but Jacobi's iteration has radius 1.8.
    let a = dense(3, &[1., 0.9, 0.9, 0.9, 1., 0.9, 0.9, 0.9, 1.]);
    let b = [1.0, 2.0, 3.0];
    let context = Context::cpu();
    let solution = jacobi(&context, &operator(&a), &b, &options(1e-6)).unwrap();
    judge(&a, &b, &solution, 1e-6, "divergence");
    let Outcome::Breakdown {
        kind: Breakdown::Divergence,
        iteration,
    } = solution.report.outcome
    else {
        panic!("{:?}", solution.report)
    };
    // 1.8^24 is above a million.
    assert!((20..30).contains(&iteration) && solution.report.residual_history.len() == iteration + 1);
    assert!(solution.report.relative_residual <= 1.0 && !solution.report.advice.is_empty());
    // Damped, it converges; Gauss-Seidel does as it is.
    let damped = RelaxationOptions {
        omega: 0.6,
        max_iterations: Some(1000),
        ..options(1e-6)
    };
    assert!(jacobi(&context, &operator(&a), &b, &damped).unwrap().report.converged());
    assert!(
        gauss_seidel(&context, &operator(&a), &b, &options(1e-6))
            .unwrap()
            .report
            .converged()
    );
    // A permutation's worth of coupling: the residual neither grows nor falls.
    let stuck = dense(2, &[1., 1., -1., 1.]);
    let solution = jacobi(&context, &operator(&stuck), &[1.0, 0.0], &options(1e-6)).unwrap();
    assert!(matches!(
        solution.report.outcome,
        Outcome::Breakdown {
            kind: Breakdown::Stagnation,
            ..
        }
    ));
}

#[test]
fn forecasts_in_small() {
    let m = 9;
    let cosine = (std::f64::consts::PI / (m + 1) as f64).cos();
    let a = operator(&grid(m));
    let jacobi = forecast(&a, RelaxationMethod::Jacobi { omega: 1.0 }).unwrap();
    assert!((jacobi.spectral_radius - cosine).abs() < 1e-6, "{jacobi:?}");
    assert_eq!((jacobi.strictly_dominant, jacobi.converges), (Some(false), Some(true)));
    assert!((jacobi.best_omega.unwrap() - 1.0).abs() < 1e-6);
    // Young: Gauss-Seidel has the square, and the best SOR w - 1.
    let gauss_seidel = forecast(&a, RelaxationMethod::Sor { omega: 1.0 }).unwrap();
    assert!(
        (gauss_seidel.spectral_radius - cosine * cosine).abs() < 2e-3,
        "{gauss_seidel:?}"
    );
    let best = 2.0 / (1.0 + (1.0 - cosine * cosine).sqrt());
    let sor = forecast(&a, RelaxationMethod::Sor { omega: best }).unwrap();
    assert!((sor.spectral_radius - (best - 1.0)).abs() < 0.05, "{sor:?} {best}");
    let diverging = operator(&dense(3, &[1., 0.9, 0.9, 0.9, 1., 0.9, 0.9, 0.9, 1.]));
    let forecast_of = |omega| forecast(&diverging, RelaxationMethod::Jacobi { omega }).unwrap();
    let bad = forecast_of(1.0);
    assert!((bad.spectral_radius - 1.8).abs() < 1e-9 && bad.converges == Some(false) && bad.iterations(1e-6).is_none());
    assert!(bad.verdict().contains("diverges"), "{}", bad.verdict());
    assert_eq!(forecast_of(0.6).converges, Some(true));
    // Not symmetric, complex eigenvalues: +-0.5i.
    let rotation = operator(&dense(2, &[2., 1., -1., 2.]));
    let turning = forecast(&rotation, RelaxationMethod::Jacobi { omega: 1.0 }).unwrap();
    assert!((turning.spectral_radius - 0.5).abs() < 1e-6, "{turning:?}");
    assert_eq!(
        (turning.strictly_dominant, turning.iterations(1e-6)),
        (Some(true), Some(20))
    );
    let triangle = operator(&dense(2, &[2., 0., 1., 2.]));
    assert_eq!(
        forecast(&triangle, RelaxationMethod::Jacobi { omega: 1.0 })
            .unwrap()
            .iterations(1e-6),
        Some(1)
    );
    let empty = operator(&Csr::identity(0).unwrap());
    assert_eq!(
        forecast(&empty, RelaxationMethod::Sor { omega: 1.0 })
            .unwrap()
            .spectral_radius,
        0.0
    );
    let hole = operator(&dense(2, &[0., 1., 1., 1.]));
    assert!(matches!(
        forecast(&hole, RelaxationMethod::Jacobi { omega: 1.0 }),
        Err(Error::Diagonal { row: 0, .. })
    ));
    assert!(matches!(
        forecast(&a, RelaxationMethod::Jacobi { omega: 2.0 }),
        Err(Error::Option { .. })
    ));
}

/// The forecast against what the index says, and against what then happens.
#[test]
fn forecasts_come_true() {
    let names = [
        "bcsstk01",
        "nos3",
        "494_bus",
        "gr_30_30",
        "wathen96",
        "ml_elasticity1",
        "pyamg_bar",
        "pyamg_knot",
        "muelu_Aani",
        "resolve_A_spd01",
        "lap2D_5pt_n100",
        "bcsstk14",
        "bcsstk16",
    ];
    let context = Context::cpu();
    for (name, a, entry) in shared("relaxation::forecasts_come_true", &names) {
        let m = operator(&a);
        let found = forecast(&m, RelaxationMethod::Jacobi { omega: 1.0 }).unwrap();
        let radius = entry["jacobi_iteration_spectral_radius"].as_f64().unwrap();
        println!(
            "{name}: {} (index {radius}, {} steps, +- {:.1e})",
            found.verdict(),
            found.steps,
            found.uncertainty
        );
        let gap = (radius - 1.0).abs();
        assert!(
            (found.spectral_radius - radius).abs() <= 2.0 * found.uncertainty + 0.03 * gap,
            "{name}: {found:?} {radius}"
        );
        let converges = entry["plain_jacobi_sweeps_converge"].as_bool().unwrap();
        assert!(found.converges.is_none_or(|c| c == converges), "{name}: {found:?}");
        let b = crate::sparse::exact_vector(a.rows());
        let solution = jacobi(
            &context,
            &m,
            &b,
            &RelaxationOptions {
                max_iterations: Some(3000),
                ..options(1e-6)
            },
        )
        .unwrap();
        judge(&a, &b, &solution, 1e-6, &name);
        let diverged = matches!(
            solution.report.outcome,
            Outcome::Breakdown {
                kind: Breakdown::Divergence,
                ..
            }
        );
        assert_eq!(diverged, !converges, "{name}: {:?}", solution.report.outcome);
        if let (true, Some(predicted)) = (solution.report.converged(), found.iterations(1e-6)) {
            let history = &solution.report.residual_history;
            let took = history.iter().position(|&r| r <= 1e-6).unwrap();
            println!("    predicted {predicted}, took {took}");
            // The residual begins with faster parts; its constant is about 1.
            let ratio = took as f64 / predicted as f64;
            assert!((0.3..2.5).contains(&ratio), "{name}: {ratio}");
        }
    }
}
