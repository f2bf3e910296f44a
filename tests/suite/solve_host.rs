//! Solvers on the host: conjugate gradients in f64 against known counts, and reports against true errors.

use macheps::solve::conjugate_gradient::reference::{CgRun, Control, chronopoulos_gear, conjugate_gradient};
use macheps::solve::refinement::{Correction, LIFT, RefinementOptions, lifted, refine_matrix};
use macheps::solve::{
    Breakdown, ConditionEstimate, LinearOperator, OperatorCall, Outcome, Preconditioner, PreconditionerCall,
    PreconditionerForm, Record, Report, ReportOptions, RunFacts,
};
use macheps::sparse::{Coo, Csr, Dense};
use macheps::{Error, Gpu};
use std::path::Path;
use std::sync::Mutex;

use crate::data::{json, shared_data};
use crate::sparse::{exact_vector, matrix};

/// A matrix that only the host applies.
pub struct HostOnly(pub Csr<f64>);

impl LinearOperator for HostOnly {
    fn size(&self) -> usize {
        self.0.rows()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        multiply(&self.0, x, y);
    }

    fn bind(&self, _: &Gpu, _: &OperatorCall<'_>) -> Result<Box<dyn Record>, Error> {
        panic!("not meant for a device")
    }

    fn norm_inf(&self) -> Option<f64> {
        Some(self.0.norm_inf())
    }

    fn diagonal(&self) -> Option<Vec<f64>> {
        Some(self.0.diagonal())
    }

    fn matrix(&self) -> Option<&Csr<f64>> {
        Some(&self.0)
    }
}

/// M = diag A, on the host.
pub struct Diagonal(pub Vec<f64>);

impl Preconditioner for Diagonal {
    fn name(&self) -> &str {
        "jacobi"
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::Diagonal(self.0.clone())
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        z.iter_mut().zip(r).zip(&self.0).for_each(|((z, r), d)| *z = r * d);
    }

    fn bind(&self, _: &Gpu, _: &PreconditionerCall<'_>) -> Result<Box<dyn Record>, Error> {
        panic!("not meant for a device")
    }
}

pub fn multiply(a: &Csr<f64>, x: &[f64], y: &mut [f64]) {
    let (row_ptr, columns, values) = (a.row_ptr(), a.columns(), a.values());
    for (i, y) in y.iter_mut().enumerate() {
        let range = row_ptr[i] as usize..row_ptr[i + 1] as usize;
        let mut sum = 0.0;
        for (&j, v) in columns[range.clone()].iter().zip(&values[range]) {
            sum += v * x[j as usize];
        }
        *y = sum;
    }
}

/// The inverse diagonal.
pub fn jacobi(a: &Csr<f64>) -> Diagonal {
    Diagonal(a.diagonal().iter().map(|d| 1.0 / d).collect())
}

fn solve(a: &Csr<f64>, m: Option<&Diagonal>, b: &[f64], x0: Option<&[f64]>, control: &Control) -> CgRun {
    let mut product = |x: &[f64], y: &mut [f64]| multiply(a, x, y);
    match m {
        None => conjugate_gradient(&mut product, None, b, x0, control),
        Some(m) => conjugate_gradient(&mut product, Some(&mut |r, z| m.apply(r, z)), b, x0, control),
    }
    .unwrap()
}

fn dense(n: usize, values: &[f64]) -> Csr<f64> {
    Dense::new(n, n, values.to_vec()).unwrap().to_csr().unwrap()
}

/// The matrix of second differences of size n.
pub fn second_differences(n: usize) -> Csr<f64> {
    let mut coo = Coo::new(n, n).unwrap();
    for i in 0..n {
        coo.push(i, i, 2.0).unwrap();
        if i > 0 {
            coo.push(i, i - 1, -1.0).unwrap();
            coo.push(i - 1, i, -1.0).unwrap();
        }
    }
    coo.to_csr().unwrap()
}

fn breakdown(kind: Breakdown, iteration: usize) -> Outcome {
    // The enum cannot be built outside the crate by its variants alone when it grows, but its variants are public.
    Outcome::Breakdown { kind, iteration }
}

#[test]
fn small_systems() {
    let tight = Control::new(1e-14, 100);
    // Two steps for two eigenvalues; alpha and beta by hand: b = [1, 2], r.r = 5, b.Ab = 20.
    let run = solve(&dense(2, &[4.0, 1.0, 1.0, 3.0]), None, &[1.0, 2.0], None, &tight);
    assert_eq!((run.outcome, run.iterations, run.restarts), (Outcome::Converged, 2, 0));
    assert_eq!(run.alphas[0], 0.25);
    // r = [1, 2] - [6, 7] / 4 = [-1/2, 1/4]
    assert_eq!((run.betas[0], run.betas[1]), (0.0625, 0.0));
    assert_eq!(run.residual_history.len(), 3);
    assert!((run.x[0] - 1.0 / 11.0).abs() < 1e-16 && (run.x[1] - 7.0 / 11.0).abs() < 1e-15);
    // n = 0, n = 1, b = 0, exact x0, no iterations allowed.
    let nothing = dense(0, &[]);
    let run = solve(&nothing, None, &[], None, &tight);
    assert_eq!(
        (run.outcome, run.iterations, run.relative_residual),
        (Outcome::Converged, 0, 0.0)
    );
    let one = dense(1, &[5.0]);
    let run = solve(&one, None, &[10.0], None, &tight);
    assert_eq!((run.outcome, run.iterations, run.x[0]), (Outcome::Converged, 1, 2.0));
    let run = solve(&one, None, &[0.0], Some(&[7.0]), &tight);
    assert_eq!((run.outcome, run.iterations, run.x[0]), (Outcome::Converged, 0, 0.0));
    let run = solve(&one, None, &[10.0], Some(&[2.0]), &tight);
    assert_eq!((run.outcome, run.iterations, run.x[0]), (Outcome::Converged, 0, 2.0));
    let run = solve(&one, None, &[10.0], None, &Control::new(1e-6, 0));
    assert_eq!(
        (run.outcome, run.iterations, run.relative_residual),
        (Outcome::IterationLimit, 0, 1.0)
    );
    let mut product = |x: &[f64], y: &mut [f64]| multiply(&one, x, y);
    let wrong = conjugate_gradient(&mut product, None, &[1.0], Some(&[1.0, 2.0]), &tight);
    assert!(matches!(wrong, Err(Error::Shape { .. })));
}

#[test]
fn breakdowns_are_named() {
    let control = Control::new(1e-12, 100);
    for gear in [false, true] {
        let run = |a: &Csr<f64>, m: Option<Vec<f64>>, b: &[f64], x0: Option<&[f64]>| {
            let mut product = |x: &[f64], y: &mut [f64]| multiply(a, x, y);
            let m = m.map(Diagonal);
            let mut precondition = |r: &[f64], z: &mut [f64]| m.as_ref().unwrap().apply(r, z);
            let solver = if gear { chronopoulos_gear } else { conjugate_gradient };
            match m {
                Some(_) => solver(&mut product, Some(&mut precondition), b, x0, &control),
                None => solver(&mut product, None, b, x0, &control),
            }
            .unwrap()
        };
        // Negative at once; indefinite, seen in the second step (p0 = b: p.Ap = 4 - 1 = 3).
        let negative = dense(2, &[-1.0, 0.0, 0.0, -2.0]);
        let got = run(&negative, None, &[1.0, 1.0], None);
        assert_eq!(got.outcome, breakdown(Breakdown::NotPositiveDefinite, 0));
        assert_eq!(got.x, [0.0, 0.0]);
        let got = run(&dense(2, &[4.0, 0.0, 0.0, -1.0]), None, &[1.0, 1.0], None);
        assert_eq!(got.outcome, breakdown(Breakdown::NotPositiveDefinite, 1));
        assert_eq!((got.iterations, got.alphas.len(), got.betas.len()), (1, 1, 1));
        // Singular: b has a part that no x reaches.
        let got = run(&dense(2, &[1.0, 0.0, 0.0, 0.0]), None, &[0.0, 1.0], None);
        assert_eq!(got.outcome, breakdown(Breakdown::NotPositiveDefinite, 0));
        // A preconditioner that is not definite.
        let got = run(
            &dense(2, &[2.0, 0.0, 0.0, 3.0]),
            Some(vec![1.0, -1.0]),
            &[1.0, 1.0],
            None,
        );
        assert_eq!(got.outcome, breakdown(Breakdown::NotPositiveDefinite, 0));
        for bad in [f64::NAN, f64::INFINITY] {
            let a = dense(2, &[2.0, 0.0, 0.0, 3.0]);
            let mut product = |x: &[f64], y: &mut [f64]| multiply(&a, x, y);
            let solver = if gear { chronopoulos_gear } else { conjugate_gradient };
            let got = solver(&mut product, None, &[1.0, bad], None, &control);
            assert!(matches!(
                got,
                Err(Error::NonFinite {
                    what: "b",
                    index: 1,
                    ..
                })
            ));
            let got = solver(&mut product, None, &[1.0, 1.0], Some(&[bad, 0.0]), &control);
            assert!(matches!(
                got,
                Err(Error::NonFinite {
                    what: "x0",
                    index: 0,
                    ..
                })
            ));
        }
    }
    // An operator that fails in its third product.
    let mut calls = 0;
    let a = second_differences(20);
    let mut product = |x: &[f64], y: &mut [f64]| {
        multiply(&a, x, y);
        calls += 1;
        if calls == 3 {
            y[0] = f64::NAN;
        }
    };
    let run = conjugate_gradient(&mut product, None, &exact_vector(20), None, &control).unwrap();
    assert_eq!((run.outcome, run.iterations), (breakdown(Breakdown::NonFinite, 2), 2));
    assert!(run.relative_residual < 1.5 && run.x.iter().all(|v| v.is_finite()));
    // Beyond what f64 can reach: stagnation, with an x as good as it gets.
    let a = second_differences(500);
    let run = solve(&a, None, &exact_vector(500), None, &Control::new(1e-18, 20_000));
    assert!(
        matches!(
            run.outcome,
            Outcome::Breakdown {
                kind: Breakdown::Stagnation,
                ..
            }
        ),
        "{:?}",
        run.outcome
    );
    assert!(
        run.relative_residual < 1e-11 && run.restarts > 0,
        "{:e}",
        run.relative_residual
    );
}

/// Powers of two change nothing but the scale; squares of these numbers would overflow or vanish.
#[test]
fn scales_do_not_matter() {
    let a = second_differences(40);
    let b = exact_vector(40);
    let control = Control::new(1e-10, 200);
    let plain = solve(&a, None, &b, None, &control);
    let times = |v: &[f64], e: i32| v.iter().map(|v| v * 2f64.powi(e)).collect::<Vec<f64>>();
    for (of_a, of_b) in [(0, 800), (0, -800), (300, 0), (-300, 0), (400, -500), (-400, 500)] {
        let scaled = a.with_values(times(a.values(), of_a)).unwrap();
        let run = solve(&scaled, None, &times(&b, of_b), None, &control);
        assert_eq!(
            (run.outcome, run.iterations),
            (plain.outcome, plain.iterations),
            "{of_a} {of_b}"
        );
        assert_eq!(times(&run.x, of_a - of_b), plain.x, "{of_a} {of_b}");
        assert_eq!(run.residual_history, plain.residual_history);
    }
    // A warm start far from b.
    let x0 = vec![1e200; 40];
    let run = solve(&a, None, &b, Some(&x0), &Control::new(1e-10, 1000));
    assert_eq!(run.outcome, Outcome::Converged, "{:e}", run.relative_residual);
}

#[test]
fn both_forms_go_the_same_way() {
    let a = second_differences(300);
    let m = jacobi(&a);
    let b = exact_vector(300);
    for steps in [1, 2, 5, 20, 60] {
        let control = Control::unverified(1e-30, steps);
        for with in [false, true] {
            let mut product = |x: &[f64], y: &mut [f64]| multiply(&a, x, y);
            let mut precondition = |r: &[f64], z: &mut [f64]| m.apply(r, z);
            let gear = if with {
                chronopoulos_gear(&mut product, Some(&mut precondition), &b, None, &control).unwrap()
            } else {
                chronopoulos_gear(&mut product, None, &b, None, &control).unwrap()
            };
            let steifel = solve(&a, with.then_some(&m), &b, None, &control);
            assert_eq!((gear.outcome, gear.iterations), (Outcome::IterationLimit, steps));
            let largest = steifel.x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (g, s) in gear.x.iter().zip(&steifel.x) {
                assert!((g - s).abs() <= 1e-11 * largest, "{steps}: {g:e} {s:e}");
            }
            for (g, s) in gear.alphas.iter().zip(&steifel.alphas) {
                assert!((g / s - 1.0).abs() < 1e-9, "{steps}: {g:e} {s:e}");
            }
            assert_eq!(gear.betas.len(), steifel.betas.len());
        }
    }
    let control = Control::new(1e-10, 1000);
    let mut product = |x: &[f64], y: &mut [f64]| multiply(&a, x, y);
    let gear = chronopoulos_gear(&mut product, None, &b, None, &control).unwrap();
    let plain = solve(&a, None, &b, None, &control);
    assert_eq!((gear.outcome, plain.outcome), (Outcome::Converged, Outcome::Converged));
    assert!(gear.iterations.abs_diff(plain.iterations) <= 3);
    assert_eq!(solve(&a, None, &b, None, &control), plain);
}

/// The symmetric positive definite matrices of the index, shared among threads: the larger ones first.
pub fn for_each_spd(folder: &Path, each: impl Fn(&serde_json::Value, Csr<f64>) + Sync) {
    let index = json(folder.join("matrices/index.json"));
    let mut entries: Vec<&serde_json::Value> = index["matrices"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["spd"] == true)
        .collect();
    assert_eq!(entries.len(), 22);
    entries.sort_by_key(|entry| entry["nnz"].as_u64());
    let only = std::env::var("MACHEPS_TEST_MATRIX").ok();
    entries.retain(|entry| {
        only.as_ref()
            .is_none_or(|only| entry["name"].as_str().unwrap().contains(only))
    });
    let queue = Mutex::new(entries);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let Some(entry) = queue.lock().unwrap().pop() else {
                        break;
                    };
                    each(entry, matrix(folder, entry));
                }
            });
        }
    });
}

/// Whether a matrix is left to `MACHEPS_LONG_TESTS=1`: its iterations cost minutes without optimisation.
pub fn is_long(a: &Csr<f64>) -> bool {
    a.rows() > 20_000 && std::env::var_os("MACHEPS_LONG_TESTS").is_none()
}

#[test]
fn iterations_as_in_the_index() {
    let Some(folder) = shared_data("solve_host::iterations_as_in_the_index") else {
        return;
    };
    let table = Mutex::new(Vec::new());
    for_each_spd(&folder, |entry, a| {
        let name = entry["name"].as_str().unwrap();
        let m = jacobi(&a);
        let b = exact_vector(a.rows());
        let mut line = format!("{name:>30}");
        for (key, m) in [("iterations_jacobi", Some(&m)), ("iterations_plain", None)] {
            let want = entry["cg_f64"][key].as_i64().unwrap();
            // The longest ones by their faster half.
            if is_long(&a) && want.unsigned_abs() > 2000 {
                line += &format!("  {key} left out");
                continue;
            }
            let limit = if want < 0 {
                want.unsigned_abs() as usize
            } else {
                3 * want as usize
            };
            let start = std::time::Instant::now();
            let run = solve(&a, m, &b, None, &Control::unverified(1e-8, limit));
            line += &format!("  {key} {} of {want} in {:.1?}", run.iterations, start.elapsed());
            if want < 0 {
                assert_eq!(run.outcome, Outcome::IterationLimit, "{name} {key}");
            } else {
                let got = run.iterations as f64;
                assert_eq!(run.outcome, Outcome::Converged, "{name} {key}");
                assert!(
                    (got - want as f64).abs() <= (0.1 * want as f64).max(2.0),
                    "{name} {key}: {got} of {want}"
                );
            }
        }
        table.lock().unwrap().push(line);
    });
    let mut table = table.into_inner().unwrap();
    table.sort();
    println!("{}", table.join("\n"));
}

/// x* of A x = b: conjugate gradients in f64, corrected until nothing changes any more.
pub fn accurate(a: &Csr<f64>, b: &[f64]) -> Vec<f64> {
    let m = jacobi(a);
    let mut x = vec![0.0; b.len()];
    let mut r = b.to_vec();
    let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    for _ in 0..4 {
        let run = solve(a, Some(&m), &r, None, &Control::unverified(1e-10, 100_000));
        x.iter_mut().zip(&run.x).for_each(|(x, d)| *x += d);
        for (i, r) in r.iter_mut().enumerate() {
            let (columns, values) = a.row(i);
            let mut sum = macheps::float::Neumaier::default();
            sum.add(b[i]);
            columns
                .iter()
                .zip(values)
                .for_each(|(&j, &v)| sum.add_product(-v, x[j as usize]));
            *r = sum.value();
        }
        if length(&run.x) <= 1e-13 * length(&x) {
            break;
        }
    }
    x
}

#[test]
fn error_bounds_hold() {
    let Some(folder) = shared_data("solve_host::error_bounds_hold") else {
        return;
    };
    let table = Mutex::new(Vec::new());
    for_each_spd(&folder, |entry, a| {
        if is_long(&a) {
            return;
        }
        let name = entry["name"].as_str().unwrap();
        let b = exact_vector(a.rows());
        let x = accurate(&a, &b);
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
        let length = norm(&mut x.iter().copied());
        let check = &entry["solve_check"];
        let off = check["rows"]
            .as_array()
            .unwrap()
            .iter()
            .zip(check["x"].as_array().unwrap());
        let off = off
            .map(|(i, v)| (x[i.as_u64().unwrap() as usize] - v.as_f64().unwrap()).abs())
            .fold(0.0, f64::max);
        assert!(
            off <= 1e-9 * length,
            "{name}: accurate solution off by {off:e} of {length:e}"
        );
        let kappa = entry["condition_number"].as_f64().unwrap();
        let operator = HostOnly(a);
        let m = jacobi(&operator.0);
        let mut line = format!("{name:>30} {kappa:9.1e}");
        for (with, condition) in [
            (None, ConditionEstimate::FromRun),
            (Some(&m), ConditionEstimate::FromRun),
            (Some(&m), ConditionEstimate::OwnRun),
        ] {
            for rtol in [1e-3, 1e-6] {
                let run = solve(&operator.0, with, &b, None, &Control::new(rtol, 30_000));
                let mut facts = RunFacts::new(run.outcome, rtol, run.iterations);
                facts.alphas = &run.alphas;
                facts.betas = &run.betas;
                facts.preconditioner = with.map(|m| m as &dyn Preconditioner);
                let report = Report::assess(&operator, &b, &run.x, &facts, &ReportOptions::new(condition)).unwrap();
                assert!(report.converged() && report.relative_residual <= rtol, "{name}");
                assert!(report.backward_error.unwrap() <= 2.0 * rtol, "{name}");
                let error = norm(&mut run.x.iter().zip(&x).map(|(a, b)| a - b)) / length;
                let bound = report.forward_error_bound.unwrap();
                line += &format!(" | {error:7.1e} x{:7.1e}", bound / error);
                if let Some(estimate) = report.condition_estimate {
                    line += &format!(" k {:.2}", estimate / kappa);
                    // A lower bound; the index has three digits.
                    assert!(estimate <= 1.01 * kappa, "{name}: {estimate:e} {kappa:e}");
                    if condition == ConditionEstimate::OwnRun {
                        assert!(estimate >= 0.5 * kappa, "{name}: {estimate:e} {kappa:e}");
                    }
                }
                table
                    .lock()
                    .unwrap()
                    .push((name.to_string(), condition, with.is_some(), rtol, bound / error));
            }
        }
        println!("{line}");
    });
    let table = table.into_inner().unwrap();
    for condition in [ConditionEstimate::FromRun, ConditionEstimate::OwnRun] {
        let mut ratios: Vec<f64> = table.iter().filter(|t| t.1 == condition).map(|t| t.4).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |q: f64| ratios[(q * (ratios.len() - 1) as f64) as usize];
        println!(
            "{condition:?}: bound / true error of {} solves: min {:.1e}, 10 % {:.1e}, median {:.1e}, 90 % {:.1e}, max {:.1e}",
            ratios.len(),
            at(0.0),
            at(0.1),
            at(0.5),
            at(0.9),
            at(1.0)
        );
    }
    for (name, condition, preconditioned, rtol, ratio) in table {
        assert!(
            ratio >= 1.0,
            "{name} {condition:?} preconditioned {preconditioned} rtol {rtol:e}: bound / error {ratio:.2e}"
        );
    }
}

#[test]
fn reports_say_what_is_wrong() {
    let assess = |a: Csr<f64>, b: &[f64], x: &[f64], facts: &RunFacts<'_>| {
        Report::assess(&HostOnly(a), b, x, facts, &ReportOptions::default()).unwrap()
    };
    let a = dense(2, &[4.0, 1.0, 1.0, 3.0]);
    // What claims to have converged and has not, and the other way round.
    let facts = RunFacts::new(Outcome::Converged, 1e-6, 7);
    let report = assess(a.clone(), &[1.0, 2.0], &[0.0, 0.0], &facts);
    assert_eq!(report.outcome, breakdown(Breakdown::Stagnation, 7));
    assert_eq!((report.relative_residual, report.backward_error), (1.0, Some(1.0)));
    assert!(
        report.advice.iter().any(|a| a.contains("refinement")),
        "{:?}",
        report.advice
    );
    let facts = RunFacts::new(Outcome::IterationLimit, 1e-6, 7);
    let report = assess(a.clone(), &[5.0, 4.0], &[1.0, 1.0], &facts);
    assert_eq!((report.outcome, report.relative_residual), (Outcome::Converged, 0.0));
    // A residual of 0 is one that rounding may have hidden; without a condition it bounds nothing.
    assert_eq!((report.forward_error_bound, report.digits()), (None, None));
    let report = assess(a.clone(), &[0.0, 0.0], &[0.0, 0.0], &facts);
    assert_eq!((report.outcome, report.backward_error), (Outcome::Converged, Some(0.0)));
    let report = assess(
        a.clone(),
        &[1.0, 1.0],
        &[f64::NAN, 1.0],
        &RunFacts::new(Outcome::Converged, 1e-6, 7),
    );
    assert_eq!(report.outcome, breakdown(Breakdown::NonFinite, 7));
    let mut unfit = facts.clone();
    (unfit.alphas, unfit.betas) = (&[1.0], &[0.0]);
    let report = assess(dense(2, &[1.0, 2.0, 0.0, 1.0]), &[3.0, 1.0], &[1.0, 1.0], &unfit);
    assert!(report.converged() && report.forward_error_bound.is_none());
    assert!(
        report.advice.iter().any(|a| a.contains("not symmetric")),
        "{:?}",
        report.advice
    );
    let facts = RunFacts::new(breakdown(Breakdown::NotPositiveDefinite, 3), 1e-6, 3);
    let report = assess(a.clone(), &[1.0, 1.0], &[0.0, 0.0], &facts);
    assert!(report.advice[0].contains("iteration 3"), "{:?}", report.advice);
    // A condition beyond f32.
    let stiff = dense(2, &[1.0, 0.0, 0.0, 1e-9]);
    let run = solve(&stiff, None, &[1.0, 1e-9], None, &Control::new(1e-12, 10));
    let mut facts = RunFacts::new(run.outcome, 1e-12, run.iterations);
    (facts.alphas, facts.betas) = (&run.alphas, &run.betas);
    let report = assess(stiff, &[1.0, 1e-9], &run.x, &facts);
    let condition = report.condition_estimate.unwrap();
    assert!((condition / 1e9 - 1.0).abs() < 1e-6, "{condition:e}");
    assert!(
        report.advice.iter().any(|a| a.contains("unit roundoff")),
        "{:?}",
        report.advice
    );
    let wrong = Report::assess(&HostOnly(a), &[1.0], &[1.0, 1.0], &facts, &ReportOptions::default());
    assert!(matches!(wrong, Err(Error::Shape { .. })));
}

/// Conjugate gradients of which every vector is rounded to f32 after each step, as a device would do it.
/// Also whether the recurrence says that it got there.
fn in_f32(a: &Csr<f64>, m: &Diagonal, b: &[f64], rtol: f32, limit: usize) -> (Vec<f64>, usize, bool) {
    let values: Vec<f32> = a.values().iter().map(|&v| v as f32).collect();
    let a = a.with_values(values).unwrap();
    let inverse: Vec<f32> = m.0.iter().map(|&d| d as f32).collect();
    let product = |x: &[f32]| -> Vec<f32> {
        (0..a.rows())
            .map(|i| {
                let (columns, values) = a.row(i);
                columns.iter().zip(values).map(|(&j, v)| v * x[j as usize]).sum()
            })
            .collect()
    };
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>() as f32;
    let n = b.len();
    let mut r: Vec<f32> = b.iter().map(|&v| v as f32).collect();
    let goal = rtol * rtol * dot(&r, &r);
    let mut x = vec![0f32; n];
    let mut z: Vec<f32> = r.iter().zip(&inverse).map(|(r, d)| r * d).collect();
    let mut p = z.clone();
    let mut rho = dot(&r, &z);
    for k in 0..limit {
        if dot(&r, &r) <= goal {
            return (x.iter().map(|&v| v.into()).collect(), k, true);
        }
        let q = product(&p);
        let curvature = dot(&p, &q);
        if curvature <= 0.0 {
            return (x.iter().map(|&v| v.into()).collect(), k, false);
        }
        let alpha = rho / curvature;
        for i in 0..n {
            x[i] += alpha * p[i];
            r[i] -= alpha * q[i];
            z[i] = r[i] * inverse[i];
        }
        let next = dot(&r, &z);
        for i in 0..n {
            p[i] = z[i] + next / rho * p[i];
        }
        rho = next;
    }
    (x.iter().map(|&v| v.into()).collect(), limit, false)
}

#[test]
fn refinement_reaches_f64() {
    let options = RefinementOptions::new(1e-12);
    // By hand: a solver that is wrong by a third gains a factor 3 a round.
    let one = dense(1, &[3.0]);
    let mut third = |r: &[f64]| Ok(Correction::new(vec![r[0] / 3.0 * (4.0 / 3.0)], 2));
    let mut plain = options.clone();
    plain.energy = false;
    let got = refine_matrix(&one, &[6.0], None, &plain, &mut third).unwrap();
    assert_eq!((got.outcome, got.iterations), (Outcome::Converged, 2 * got.refinements));
    assert!(
        (got.x[0] - 2.0).abs() < 1e-11 && (24..=27).contains(&got.refinements),
        "{got:?}"
    );
    let got = refine_matrix(&one, &[6.0], None, &options, &mut third).unwrap();
    assert_eq!((got.outcome, got.refinements, got.x[0]), (Outcome::Converged, 1, 2.0));
    // Scales that f32 does not have.
    for b in [6e300, 6e-300] {
        let mut seen = Vec::new();
        let mut inner = |r: &[f64]| {
            seen.push(r[0]);
            Ok(Correction::new(vec![f64::from((r[0] / 3.0) as f32)], 1))
        };
        let got = refine_matrix(&one, &[b], None, &options, &mut inner).unwrap();
        assert_eq!(got.outcome, Outcome::Converged);
        assert!(seen.iter().all(|v| (0.5..=1.0).contains(&v.abs())), "{seen:?}");
    }
    // What goes wrong has a name.
    let mut wrong_sign = |r: &[f64]| Ok(Correction::new(vec![-r[0]], 1));
    let got = refine_matrix(&one, &[6.0], None, &plain, &mut wrong_sign).unwrap();
    assert!(matches!(
        got.outcome,
        Outcome::Breakdown {
            kind: Breakdown::Divergence | Breakdown::Stagnation,
            ..
        }
    ));
    assert_eq!((got.x[0], got.relative_residual), (0.0, 1.0));
    let mut nothing = |_: &[f64]| Ok(Correction::new(vec![0.0], 1));
    for options in [&plain, &options] {
        let got = refine_matrix(&one, &[6.0], None, options, &mut nothing).unwrap();
        assert!(matches!(
            got.outcome,
            Outcome::Breakdown {
                kind: Breakdown::Stagnation,
                ..
            }
        ));
    }
    let mut nan = |_: &[f64]| Ok(Correction::new(vec![f64::NAN], 1));
    let got = refine_matrix(&one, &[6.0], None, &options, &mut nan).unwrap();
    assert_eq!(got.outcome, breakdown(Breakdown::NonFinite, 1));
    let mut short = |_: &[f64]| Ok(Correction::new(vec![], 1));
    assert!(matches!(
        refine_matrix(&one, &[6.0], None, &options, &mut short),
        Err(Error::Shape { .. })
    ));
    let negative = dense(1, &[-3.0]);
    let got = refine_matrix(&negative, &[6.0], None, &options, &mut third).unwrap();
    assert_eq!(got.outcome, breakdown(Breakdown::NotPositiveDefinite, 2));
    let got = refine_matrix(&one, &[0.0], Some(&[5.0]), &options, &mut third).unwrap();
    assert_eq!((got.outcome, got.x[0], got.refinements), (Outcome::Converged, 0.0, 0));

    let Some(folder) = shared_data("solve_host::refinement_reaches_f64") else {
        return;
    };
    let lines = Mutex::new(Vec::new());
    for_each_spd(&folder, |entry, a| {
        if is_long(&a) {
            return;
        }
        let name = entry["name"].as_str().unwrap();
        let b = exact_vector(a.rows());
        let m = jacobi(&a);
        let kappa = entry["condition_number"].as_f64().unwrap();
        // Where A in f32 is not positive definite any more, or as good as singular: a little more on the diagonal.
        let shifted = lifted(&a, LIFT).unwrap();
        let mut beyond = false;
        let mut inner = |r: &[f64]| {
            let mut iterations = 0;
            if !beyond {
                let (x, k, reached) = in_f32(&a, &m, r, 1e-4, 5000);
                if reached {
                    return Ok(Correction::new(x, k));
                }
                (beyond, iterations) = (true, k);
            }
            let (x, k, _) = in_f32(&shifted, &m, r, 1e-4, 5000);
            Ok(Correction::new(x, iterations + k))
        };
        let start = std::time::Instant::now();
        let got = refine_matrix(&a, &b, None, &options, &mut inner).unwrap();
        lines.lock().unwrap().push(format!(
            "{name:>30} kappa {kappa:.1e}: {:.1?} {:.1e} after {} refinements, {} iterations, {:.1?}, {:?}",
            got.residual_history
                .iter()
                .take(12)
                .map(|v| v.log10())
                .collect::<Vec<_>>(),
            got.relative_residual,
            got.refinements,
            got.iterations,
            start.elapsed(),
            got.outcome
        ));
        // Residuals cannot be better than the rounding of x allows.
        let largest = got.x.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let length = b.iter().map(|v| v * v).sum::<f64>().sqrt();
        println!("{}", lines.lock().unwrap().last().unwrap());
        let floor = 0.5 * f64::EPSILON * a.norm_frobenius() * largest / length;
        assert!(
            got.outcome == Outcome::Converged || got.relative_residual <= 4.0 * floor,
            "{}: floor {floor:.1e}",
            lines.lock().unwrap().last().unwrap()
        );
    });
    let mut lines = lines.into_inner().unwrap();
    lines.sort();
    println!("{}", lines.join("\n"));
}
