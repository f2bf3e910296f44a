//! Solvers at the ends of the range of numbers: every answer is right or says that it is not.

use macheps::float::{Neumaier, ldexp};
use macheps::random::Random;
use macheps::solve::conjugate_gradient::{CgOptions, LinearSystem, conjugate_gradient};
use macheps::solve::refinement::{Correction, RefinementOptions, refine, refine_matrix};
use macheps::solve::relaxation::{RelaxationOptions, gauss_seidel, jacobi, sor};
use macheps::solve::{
    Breakdown, ConditionEstimate, CsrOperator, EigenOptions, IncompleteCholesky, JacobiPreconditioner, LinearOperator,
    Outcome, Preconditioner, Report, ReportOptions, RunFacts, Solution, Ssor, condition_number, largest_eigenvalue,
    smallest_eigenvalue,
};
use macheps::sparse::{Csr, Dense};
use macheps::{Context, Error};

use crate::solve_host::{HostOnly, second_differences};

pub fn times(v: &[f64], exponent: i32) -> Vec<f64> {
    v.iter().map(|&v| ldexp(v, exponent)).collect()
}

pub fn scaled(a: &Csr<f64>, exponent: i32) -> Csr<f64> {
    a.with_values(times(a.values(), exponent)).unwrap()
}

/// Numbers between 1/2 and 3/2.
pub fn near_one(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..n).map(|_| 0.5 + random.unit()).collect()
}

pub fn preconditioners(a: &Csr<f64>) -> Vec<Option<Box<dyn Preconditioner>>> {
    vec![
        None,
        Some(Box::new(JacobiPreconditioner::new(a).unwrap())),
        Some(Box::new(Ssor::new(a, 1.2).unwrap())),
        Some(Box::new(IncompleteCholesky::new(a).unwrap())),
    ]
}

pub fn named(m: &Option<Box<dyn Preconditioner>>) -> &str {
    m.as_deref().map_or("none", Preconditioner::name)
}

/// A report without numbers that mean nothing.
pub fn check_sane(report: &Report, what: &str) {
    let numbers = [
        Some(report.relative_residual),
        report.backward_error,
        report.condition_estimate,
        report.preconditioned_condition_estimate,
        report.forward_error_bound,
    ];
    for number in numbers
        .into_iter()
        .flatten()
        .chain(report.residual_history.iter().copied())
    {
        assert!(number.is_finite() && number >= 0.0, "{what}: {report:?}");
    }
    if let Some(backward) = report.backward_error {
        assert!(backward <= 1.0 + 1e-12, "{what}: {report:?}");
    }
}

fn system<'a>(
    operator: &'a dyn LinearOperator,
    m: &'a Option<Box<dyn Preconditioner>>,
    b: &'a [f64],
) -> LinearSystem<'a> {
    let system = LinearSystem::new(operator, b);
    match m {
        Some(m) => system.with_preconditioner(m.as_ref()),
        None => system,
    }
}

fn with_estimate(rtol: f64, estimate: ConditionEstimate) -> CgOptions {
    let mut options = CgOptions::with_rtol(rtol);
    options.report = ReportOptions::new(estimate);
    options
}

/// 4 / angle^2, or so: 2 - 2 cos of the extreme angles.
fn condition_of_differences(n: usize) -> f64 {
    let of = |k: usize| (k as f64 * std::f64::consts::PI / (2 * (n + 1)) as f64).sin().powi(2);
    of(n) / of(1)
}

#[test]
fn conditions_are_estimates_from_below_at_any_scale() {
    let ctx = Context::cpu();
    let plain = second_differences(30);
    let kappa = condition_of_differences(30);
    let b = near_one(30, 1);
    for e in [-1060, -1000, -900, -500, 500, 900, 1000, 1020] {
        let a = scaled(&plain, e);
        let own = CsrOperator::new(a.clone()).unwrap();
        let other = HostOnly(a.clone());
        let by_user: [&dyn LinearOperator; 2] = [&own, &other];
        for operator in by_user {
            for estimate in [ConditionEstimate::FromRun, ConditionEstimate::OwnRun] {
                let options = with_estimate(1e-10, estimate);
                // b as large as A.
                let b = times(&b, e);
                let report = conjugate_gradient(&ctx, &LinearSystem::new(operator, &b), &options)
                    .unwrap()
                    .report;
                let what = format!("2^{e} {estimate:?}");
                check_sane(&report, &what);
                assert!(report.converged(), "{what}: {report:?}");
                let condition = report.condition_estimate.unwrap();
                assert!(
                    condition <= kappa * (1.0 + 1e-9) && condition > 0.9 * kappa,
                    "{what}: {condition} {kappa}"
                );
            }
        }
        let found = condition_number(&ctx, &own, &EigenOptions::default()).unwrap();
        assert!((found.condition / kappa - 1.0).abs() < 1e-5, "2^{e}: {found:?}");
        if e < -1000 {
            // Subnormal eigenvalues have no digits to compare.
            continue;
        }
        let top = ldexp(
            largest_eigenvalue(&ctx, &own, &EigenOptions::default()).unwrap().value,
            -e,
        );
        let low = ldexp(
            smallest_eigenvalue(&ctx, &other, &EigenOptions::default())
                .unwrap()
                .value,
            -e,
        );
        assert!(
            (top / low / kappa - 1.0).abs() < 1e-5 && top < 4.0,
            "2^{e}: {top} {low}"
        );
    }
}

/// Rows whose sums overflow.
#[test]
fn the_largest_matrices() {
    let ctx = Context::cpu();
    let a = scaled(&second_differences(20), 1022);
    assert_eq!(a.norm_inf(), f64::INFINITY);
    let operator = CsrOperator::new(a).unwrap();
    let b = times(&near_one(20, 2), 1022);
    let got = conjugate_gradient(&ctx, &LinearSystem::new(&operator, &b), &CgOptions::with_rtol(1e-10)).unwrap();
    check_sane(&got.report, "rows that overflow");
    assert!(got.report.converged() && got.report.backward_error.is_some());
}

#[test]
fn right_hand_sides_of_any_size() {
    let ctx = Context::cpu();
    let a = second_differences(40);
    let operator = CsrOperator::new(a.clone()).unwrap();
    let rough = near_one(40, 3);
    let mut single = vec![1.0; 40];
    single[17] = 1e305;
    let mut tiny = vec![3e-310; 40];
    tiny[5] = 5e-324;
    let sides = [
        ("near the largest", times(&rough, 1014)),
        // Its own norm overflows.
        ("all of the largest", vec![1.7e308; 40]),
        ("subnormal", times(&rough, -1035)),
        ("tiny", tiny),
        ("one huge", single),
        (
            "mixed",
            (0..40).map(|i| if i % 2 == 0 { 1e-310 } else { 1.0 }).collect(),
        ),
    ];
    for (name, b) in &sides {
        for m in preconditioners(&a) {
            let what = format!("{name} {}", named(&m));
            let got = conjugate_gradient(&ctx, &system(&operator, &m, b), &CgOptions::with_rtol(1e-10)).unwrap();
            check_sane(&got.report, &what);
            if *name == "all of the largest" {
                // x is 220 times b at most: beyond f64, and said so.
                assert!(!got.report.converged() && got.x.iter().all(|x| x.is_finite()), "{what}");
                assert!(
                    got.report.advice[0].contains("beyond the range of f64"),
                    "{what}: {:?}",
                    got.report
                );
            } else {
                assert!(got.report.converged(), "{what}: {:?}", got.report);
                assert!(got.report.backward_error.unwrap() < 1e-9, "{what}");
            }
        }
        type Solve = fn(&Context, &dyn LinearOperator, &[f64], &RelaxationOptions) -> macheps::Result<Solution>;
        let solvers: [(&str, Solve); 3] = [("jacobi", jacobi), ("gauss-seidel", gauss_seidel), ("sor", sor)];
        for (solver, solve) in solvers {
            let options = RelaxationOptions {
                omega: if solver == "sor" { 1.7 } else { 1.0 },
                rtol: 1e-8,
                max_iterations: Some(20_000),
                ..RelaxationOptions::default()
            };
            let what = format!("{name} {solver}");
            let got = solve(&ctx, &operator, b, &options).unwrap();
            check_sane(&got.report, &what);
            assert_eq!(
                got.report.converged(),
                *name != "all of the largest",
                "{what}: {:?}",
                got.report
            );
        }
    }
}

/// What anybody's x is worth is told without overflow on the way.
#[test]
fn judgement_does_not_overflow() {
    let facts = RunFacts::new(Outcome::Converged, 1e-6, 1);
    let assess = |a: &Csr<f64>, b: &[f64], x: &[f64]| {
        let options = ReportOptions::default();
        Report::assess(&CsrOperator::new(a.clone()).unwrap(), b, x, &facts, &options).unwrap()
    };
    let a = second_differences(3);
    // b = 2^e (1, 0, 1) of x = 2^e (1, 1, 1).
    for e in [-1074, -1040, -600, 0, 600, 1022] {
        let (b, x) = (times(&[1.0, 0.0, 1.0], e), times(&[1.0; 3], e));
        let report = assess(&a, &b, &x);
        assert_eq!(
            (report.relative_residual, report.backward_error),
            (0.0, Some(0.0)),
            "{e}"
        );
        // Half of it.
        let report = assess(
            &a,
            &times(&[1.0, 0.0, 1.0], e.max(-1073)),
            &times(&[0.5; 3], e.max(-1073)),
        );
        assert_eq!(report.relative_residual, 0.5, "{e}");
        // ||r|| = 1/2, ||A|| = 4, ||x|| = 1/2, ||b|| = 1.
        assert_eq!(report.backward_error, Some(0.5 / 3.0), "{e}");
        let report = assess(
            &scaled(&a, -e.clamp(-1000, 1000)),
            &[1.0, 0.0, 1.0],
            &times(&[0.5; 3], e.clamp(-1000, 1000)),
        );
        assert_eq!(
            (report.relative_residual, report.backward_error),
            (0.5, Some(0.5 / 3.0)),
            "{e}"
        );
    }
    for x in [[f64::NAN, 1.0, 1.0], [1.0, f64::INFINITY, 1.0]] {
        let report = assess(&a, &[1.0; 3], &x);
        assert_eq!(
            report.outcome,
            Outcome::Breakdown {
                kind: Breakdown::NonFinite,
                iteration: 1
            }
        );
        assert_eq!((report.forward_error_bound, report.digits()), (None, None));
    }
    let nan = Report::assess(
        &HostOnly(a),
        &[1.0, f64::NAN, 1.0],
        &[1.0; 3],
        &facts,
        &ReportOptions::default(),
    );
    assert!(matches!(
        nan,
        Err(Error::NonFinite {
            what: "b",
            index: 1,
            ..
        })
    ));
}

#[test]
fn matrices_of_any_size() {
    let ctx = Context::cpu();
    let plain = second_differences(40);
    let b = near_one(40, 4);
    for e in [-1000, -665, 665, 1000] {
        let a = scaled(&plain, e);
        let operator = CsrOperator::new(a.clone()).unwrap();
        for (m, unscaled) in preconditioners(&a).iter().zip(preconditioners(&plain)) {
            let what = format!("2^{e} {}", named(m));
            let options = CgOptions::with_rtol(1e-10);
            let got = conjugate_gradient(&ctx, &system(&operator, m, &b), &options).unwrap();
            check_sane(&got.report, &what);
            let want = conjugate_gradient(
                &ctx,
                &system(&CsrOperator::new(plain.clone()).unwrap(), &unscaled, &b),
                &options,
            );
            let want = want.unwrap();
            assert_eq!(got.report.iterations, want.report.iterations, "{what}");
            assert_eq!(times(&got.x, e), want.x, "{what}");
            assert_eq!(got.report.backward_error, want.report.backward_error, "{what}");
            let (bound, of_plain) = (got.report.forward_error_bound, want.report.forward_error_bound);
            assert_eq!(bound.is_some(), of_plain.is_some());
            if let (Some(bound), Some(of_plain)) = (bound, of_plain) {
                assert!((bound / of_plain - 1.0).abs() < 1e-9, "{what}: {bound:e} {of_plain:e}");
            }
        }
        let options = RelaxationOptions {
            omega: 1.8,
            ..RelaxationOptions::default()
        };
        let got = sor(&ctx, &operator, &b, &options).unwrap();
        assert!(got.report.converged(), "2^{e}: {:?}", got.report);
        // Refinement around a solver that knows nothing of scales.
        let mut inner = |r: &[f64]| {
            let solved = conjugate_gradient(&ctx, &LinearSystem::new(&operator, r), &CgOptions::with_rtol(1e-3))?;
            Ok(Correction::new(solved.x, solved.report.iterations))
        };
        for side in [-900, 0, 1015] {
            let b = times(&b, side);
            let options = RefinementOptions::new(1e-13);
            for matrix in [true, false] {
                let got = if matrix {
                    refine_matrix(&a, &b, None, &options, &mut inner)
                } else {
                    refine(&operator, &b, None, &options, &mut inner)
                }
                .unwrap();
                assert!(got.residual_history.iter().all(|r| r.is_finite()), "2^{e} 2^{side}");
                // Where x itself is a number.
                if (side - e).abs() < 1000 {
                    assert_eq!(
                        got.outcome,
                        Outcome::Converged,
                        "2^{e} 2^{side}: {:?}",
                        got.residual_history
                    );
                } else {
                    assert!(got.outcome != Outcome::Converged || got.relative_residual <= 1e-13);
                    assert!(got.x.iter().all(|x| x.is_finite()));
                }
            }
        }
    }
}

#[test]
fn solutions_beyond_the_range() {
    let ctx = Context::cpu();
    let plain = second_differences(10);
    let b = near_one(10, 5);
    for (of_a, of_b) in [(-1000, 1000), (1000, -1000), (1000, -60), (900, -150)] {
        let operator = CsrOperator::new(scaled(&plain, of_a)).unwrap();
        let b = times(&b, of_b);
        let start = [1.0; 10];
        for x0 in [None, Some(&start[..])] {
            let mut system = LinearSystem::new(&operator, &b);
            if let Some(x0) = x0 {
                system = system.with_x0(x0);
            }
            let got = conjugate_gradient(&ctx, &system, &CgOptions::with_rtol(1e-10)).unwrap();
            let what = format!("2^{of_a} 2^{of_b}: {:?}", got.report);
            assert!(
                got.x.iter().all(|x| x.is_finite()) && !got.report.advice.is_empty(),
                "{what}"
            );
            assert!(!got.report.converged(), "{what}");
            if of_b > 0 {
                let kind = Breakdown::NonFinite;
                assert!(
                    matches!(got.report.outcome, Outcome::Breakdown { kind: k, .. } if k == kind),
                    "{what}"
                );
                assert_eq!(got.report.digits(), None, "{what}");
            } else {
                check_sane(&got.report, &what);
            }
        }
    }
}

#[test]
fn starts_of_any_size() {
    let ctx = Context::cpu();
    let a = second_differences(40);
    let operator = CsrOperator::new(a.clone()).unwrap();
    let b = near_one(40, 6);
    for size in [1e10, 1e200, 1.7e308] {
        let x0 = vec![size; 40];
        for m in preconditioners(&a) {
            let what = format!("{size:e} {}", named(&m));
            let system = system(&operator, &m, &b).with_x0(&x0);
            let got = conjugate_gradient(&ctx, &system, &CgOptions::with_rtol(1e-8)).unwrap();
            check_sane(&got.report, &what);
            assert!(got.report.converged(), "{what}: {:?}", got.report);
            let left = got.report.advice.iter().any(|a| a.contains("left aside"));
            assert_eq!(left, size > 1e100, "{what}");
        }
        let options = RelaxationOptions {
            x0: Some(x0),
            omega: 1.8,
            // 1e10 less 1e10 leaves six digits.
            refine: true,
            max_iterations: Some(10_000),
            ..RelaxationOptions::default()
        };
        let got = sor(&ctx, &operator, &b, &options).unwrap();
        check_sane(&got.report, "sor");
        assert!(got.report.converged(), "{size:e}: {:?}", got.report);
    }
    // A start that is exact stays, whatever its size.
    let ones = times(&[1.0; 40], 1020);
    let mut product = vec![0.0; 40];
    operator.apply(&ones, &mut product);
    let system = LinearSystem::new(&operator, &product).with_x0(&ones);
    let got = conjugate_gradient(&ctx, &system, &CgOptions::default()).unwrap();
    assert!(got.report.converged() && got.report.iterations == 0 && got.x == ones);
}

#[test]
fn what_is_not_symmetric_has_no_eigenvalues_here() {
    let ctx = Context::cpu();
    let a = Dense::new(2, 2, vec![1.0, 2.0, 0.0, 1.0]).unwrap().to_csr().unwrap();
    let own = CsrOperator::new(a.clone()).unwrap();
    assert_eq!(own.symmetry(), Some(a.symmetry()));
    let other = HostOnly(a);
    let by_user: [&dyn LinearOperator; 2] = [&own, &other];
    for operator in by_user {
        let options = EigenOptions::default();
        for found in [
            largest_eigenvalue(&ctx, operator, &options).map(|_| ()),
            smallest_eigenvalue(&ctx, operator, &options).map(|_| ()),
            condition_number(&ctx, operator, &options).map(|_| ()),
        ] {
            match found {
                Err(Error::Unsupported { what, .. }) => assert!(what.contains("not symmetric"), "{what}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn diagonals_name_their_breakdown() {
    let of = |d: f64| Dense::new(2, 2, vec![1.0, 2.0, 2.0, d]).unwrap().to_csr().unwrap();
    let zero = Breakdown::ZeroDiagonal { row: 1 };
    let negative = Breakdown::NegativeDiagonal { row: 1 };
    for (d, want) in [(0.0, zero), (-3.0, negative)] {
        let a = of(d);
        let errors = [
            JacobiPreconditioner::new(&a).err(),
            Ssor::new(&a, 1.0).err(),
            IncompleteCholesky::new(&a).err(),
        ];
        for error in errors {
            let error = error.unwrap();
            assert!(matches!(error, Error::Diagonal { row: 1, .. }), "{error}");
            assert_eq!(Breakdown::of_error(&error), Some(want));
        }
        let operator = CsrOperator::new(a).unwrap();
        let got = Solution::broken_down(&operator, &[1.0, 1.0], Some(&[1.0, 0.0]), 1e-6, want).unwrap();
        assert_eq!(
            got.report.outcome,
            Outcome::Breakdown {
                kind: want,
                iteration: 0
            }
        );
        assert_eq!((got.x, got.report.residual_history.len()), (vec![1.0, 0.0], 1));
        assert!(got.report.advice[0].contains("row 1"), "{:?}", got.report.advice);
        // A start that is the answer is one.
        let exact = Solution::broken_down(&operator, &[1.0, 2.0], Some(&[1.0, 0.0]), 1e-6, want).unwrap();
        assert!(exact.report.converged());
    }
    let tiny = JacobiPreconditioner::from_diagonal(&[1.0, 1e-310]).unwrap_err();
    assert!(tiny.to_string().contains("reciprocal") && Breakdown::of_error(&tiny).is_none());
    let nan = JacobiPreconditioner::from_diagonal(&[f64::NAN]).unwrap_err();
    assert_eq!(Breakdown::of_error(&nan), None);
}

/// A symmetric positive definite matrix with entries of f64, of a condition up to about 1e10.
fn random_spd(random: &mut Random, n: usize) -> Csr<f64> {
    let grade = 5.0 * random.unit();
    let columns: Vec<Vec<f64>> = (0..n)
        .map(|j| {
            let size = 10f64.powf(-grade * j as f64 / n as f64);
            (0..n).map(|_| size * random.normal()).collect()
        })
        .collect();
    let mut values = vec![0.0; n * n];
    for (i, row) in columns.iter().enumerate() {
        for (j, column) in columns.iter().enumerate().take(i + 1) {
            let mut entry: f64 = row.iter().zip(column).map(|(x, y)| x * y).sum();
            if i == j {
                entry += 1e-11 + 1e-3 * entry;
            }
            values[i * n + j] = entry;
            values[j * n + i] = entry;
        }
    }
    Dense::new(n, n, values).unwrap().to_csr().unwrap()
}

/// x* as a sum of two vectors: Cholesky's factorisation, and corrections from residuals as exact as twice the precision.
fn exact(a: &Csr<f64>, b: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = b.len();
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let mut sum = a.get(i, j).unwrap_or(0.0);
            for k in 0..j {
                sum -= l[i * n + k] * l[j * n + k];
            }
            l[i * n + j] = if i == j { sum.sqrt() } else { sum / l[j * n + j] };
        }
    }
    let solve = |r: &[f64]| -> Vec<f64> {
        let mut y = r.to_vec();
        for i in 0..n {
            for k in 0..i {
                y[i] -= l[i * n + k] * y[k];
            }
            y[i] /= l[i * n + i];
        }
        for i in (0..n).rev() {
            for k in i + 1..n {
                y[i] -= l[k * n + i] * y[k];
            }
            y[i] /= l[i * n + i];
        }
        y
    };
    let (mut x, mut rest) = (vec![0.0; n], vec![0.0; n]);
    for _ in 0..12 {
        let r: Vec<f64> = (0..n)
            .map(|i| {
                let mut sum = Neumaier::default();
                sum.add(b[i]);
                let (columns, values) = a.row(i);
                for (&j, &v) in columns.iter().zip(values) {
                    sum.add_product(-v, x[j as usize]);
                    sum.add_product(-v, rest[j as usize]);
                }
                sum.value()
            })
            .collect();
        for (i, d) in solve(&r).into_iter().enumerate() {
            let (sum, lost) = macheps::float::two_sum(x[i], d + rest[i]);
            (x[i], rest[i]) = (sum, lost);
        }
    }
    (x, rest)
}

/// Powers of two from 2^-900 to 2^900 in A and b: the bound is never below the true error, and nothing is called converged that is
/// not.
#[test]
fn error_bounds_hold_at_any_scale() {
    let ctx = Context::cpu();
    let mut random = Random::new(0x5ca1e);
    let cases: usize = std::env::var("MACHEPS_TEST_CASES")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(250);
    let (mut bounds, mut converged, mut least) = (0, 0, f64::INFINITY);
    for case in 0..cases {
        let n = 1 + (random.unit() * 12.0) as usize;
        let plain = random_spd(&mut random, n);
        let b: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let (x, rest) = exact(&plain, &b);
        let mut any = |range: f64| ((2.0 * random.unit() - 1.0) * range).round() as i32;
        let (of_a, of_b) = (any(900.0), any(900.0));
        let a = scaled(&plain, of_a);
        let b = times(&b, of_b);
        let operator = CsrOperator::new(a.clone()).unwrap();
        let rtol = 10f64.powf(-8.0 - 5.0 * random.unit());
        for m in preconditioners(&a) {
            for estimate in [ConditionEstimate::FromRun, ConditionEstimate::OwnRun] {
                let mut options = with_estimate(rtol, estimate);
                options.max_iterations = Some(1000);
                let got = conjugate_gradient(&ctx, &system(&operator, &m, &b), &options).unwrap();
                let what = format!(
                    "case {case}: n {n}, 2^{of_a}, 2^{of_b}, {rtol:.0e}, {}, {estimate:?}",
                    named(&m)
                );
                let report = &got.report;
                let y = times(&got.x, of_a - of_b);
                assert!(got.x.iter().all(|x| x.is_finite()), "{what}");
                let (mut error, mut length) = (0.0, 0.0);
                for i in 0..n {
                    error += ((y[i] - x[i]) - rest[i]).powi(2);
                    length += x[i].powi(2);
                }
                let error = (error / length).sqrt();
                if !matches!(
                    report.outcome,
                    Outcome::Breakdown {
                        kind: Breakdown::NonFinite,
                        ..
                    }
                ) {
                    check_sane(report, &what);
                }
                converged += usize::from(report.converged());
                assert!(
                    report.converged() == (report.relative_residual <= rtol),
                    "{what}: {report:?}"
                );
                if let Some(bound) = report.forward_error_bound {
                    bounds += 1;
                    // x* is known to about 1e-30 of kappa.
                    assert!(bound >= error, "{what}: {bound:e} below {error:e}: {report:?}");
                    if error > 0.0 {
                        least = least.min(bound / error);
                    }
                }
            }
        }
    }
    println!(
        "{bounds} bounds, {converged} of {} converged, least bound / error {least:.2}",
        cases * 8
    );
    assert!(bounds > 3 * cases && converged > 5 * cases);
}
