//! Solvers on devices at the ends of the range of numbers: f32 has room for little of it, and answers are right all the same, or say
//! that they are not.

use macheps::solve::conjugate_gradient::{CgOptions, CgViews, ConjugateGradient, LinearSystem, conjugate_gradient};
use macheps::solve::relaxation::{RelaxationOptions, jacobi, sor};
use macheps::solve::{
    Breakdown, CsrOperator, EigenOptions, Identity, LinearOperator, Outcome, Preconditioner, Solution,
    condition_number, largest_eigenvalue,
};
use macheps::sparse::Csr;
use macheps::{BufferView, CsrDefect, DType, Error, Gpu};

use crate::adapters;
use crate::extremes::{check_sane, named, near_one, preconditioners, scaled, times};
use crate::operators::FivePoint;
use crate::solve_host::second_differences;

fn solve(
    adapter: &adapters::Adapter,
    a: &Csr<f64>,
    m: &Option<Box<dyn Preconditioner>>,
    b: &[f64],
    x0: Option<&[f64]>,
    refine: bool,
) -> Solution {
    let operator = CsrOperator::new(a.clone()).unwrap();
    let mut system = LinearSystem::new(&operator, b);
    if let Some(m) = m {
        system = system.with_preconditioner(m.as_ref());
    }
    if let Some(x0) = x0 {
        system = system.with_x0(x0);
    }
    let mut options = CgOptions::with_rtol(if refine { 1e-12 } else { 1e-5 });
    options.refine = refine;
    conjugate_gradient(&adapter.context, &system, &options).unwrap()
}

/// The error of x against the CPU path's, relative to its largest element.
fn difference(x: &[f64], want: &[f64]) -> f64 {
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    x.iter().zip(want).fold(0.0f64, |m, (x, w)| m.max((x - w).abs())) / largest
}

/// Matrices that vanish, are subnormal, or overflow in f32, or of which products would be.
#[test]
fn matrices_beyond_f32() {
    let plain = second_differences(40);
    let b = near_one(40, 4);
    for adapter in adapters::all("matrices_beyond_f32") {
        for m in preconditioners(&plain) {
            let want = solve(adapter, &plain, &m, &b, None, false);
            let far: &[i32] = if m.is_none() {
                &[-1000, -664, -140, -125, -70, 70, 125, 1000]
            } else {
                &[-664, 125]
            };
            for &e in far {
                let what = format!("{} 2^{e} {}", adapter.name, named(&m));
                let a = scaled(&plain, e);
                let of_a = preconditioners(&a)
                    .into_iter()
                    .find(|other| named(other) == named(&m))
                    .unwrap();
                let got = solve(adapter, &a, &of_a, &b, None, false);
                check_sane(&got.report, &what);
                assert!(got.report.converged(), "{what}: {:?}", got.report);
                // 2^e A is the very matrix that was solved with.
                assert_eq!(got.report.iterations, want.report.iterations, "{what}");
                assert!(difference(&times(&got.x, e), &want.x) < 1e-4, "{what}");
                if let Some(bound) = got.report.forward_error_bound {
                    let exact = solve(adapter, &plain, &m, &b, None, true).x;
                    assert!(difference(&times(&got.x, e), &exact) <= bound, "{what}");
                }
            }
        }
        let a = scaled(&plain, -664);
        let refined = solve(adapter, &a, &None, &b, None, true);
        assert!(refined.report.converged() && refined.report.relative_residual <= 1e-12);
        let operator = CsrOperator::new(a).unwrap();
        type Solve =
            fn(&macheps::Context, &dyn LinearOperator, &[f64], &RelaxationOptions) -> macheps::Result<Solution>;
        let solvers: [(Solve, f64, f64); 2] = [(sor, 1.8, 1e-4), (jacobi, 1.0, 0.3)];
        for (solve, omega, rtol) in solvers {
            let options = RelaxationOptions {
                omega,
                rtol,
                ..RelaxationOptions::default()
            };
            let got = solve(&adapter.context, &operator, &b, &options).unwrap();
            check_sane(&got.report, &adapter.name);
            assert!(got.report.converged(), "{}: {:?}", adapter.name, got.report);
        }
        let mut options = EigenOptions::default();
        options.tolerance = 1e-4;
        let top = largest_eigenvalue(&adapter.context, &operator, &options).unwrap();
        assert!(
            (times(&[top.value], 664)[0] - 4.0).abs() < 0.01,
            "{}: {top:?}",
            adapter.name
        );
        let condition = condition_number(&adapter.context, &operator, &options).unwrap();
        assert!(
            (condition.condition / 681.0 - 1.0).abs() < 0.01,
            "{}: {condition:?}",
            adapter.name
        );
    }
}

#[test]
fn right_hand_sides_and_starts_beyond_f32() {
    let a = second_differences(40);
    let rough = near_one(40, 3);
    let mut single = vec![1.0; 40];
    single[17] = 1e305;
    let huge = vec![1e200; 40];
    let largest = vec![1.7e308; 40];
    let (near, subnormal) = (times(&rough, 1014), times(&rough, -1035));
    type Case<'a> = (&'a str, &'a [f64], Option<&'a [f64]>);
    let cases: [Case<'_>; 7] = [
        ("near the largest", &near, None),
        ("subnormal", &subnormal, None),
        ("one huge", &single, None),
        ("a start of 1e200", &rough, Some(&huge)),
        ("a start of 1.7e308", &rough, Some(&largest)),
        ("a start of ones with a huge side", &huge, Some(&rough)),
        ("x beyond f64", &largest, None),
    ];
    for adapter in adapters::all("right_hand_sides_and_starts_beyond_f32") {
        for m in preconditioners(&a).into_iter().take(2) {
            for (name, b, x0) in cases {
                for refine in [false, true] {
                    let what = format!("{} {name} {} {refine}", adapter.name, named(&m));
                    let got = solve(adapter, &a, &m, b, x0, refine);
                    check_sane(&got.report, &what);
                    assert!(got.x.iter().all(|x| x.is_finite()), "{what}");
                    // What is subnormal has its digits only up to some 1e-12.
                    let reached = name != "x beyond f64" && !(refine && name == "subnormal");
                    assert!(!reached || got.report.converged(), "{what}: {:?}", got.report);
                    if name == "x beyond f64" {
                        let kind = Breakdown::NonFinite;
                        let outcome = got.report.outcome;
                        assert!(
                            matches!(outcome, Outcome::Breakdown { kind: k, .. } if k == kind),
                            "{what}"
                        );
                    }
                    let aside = got.report.advice.iter().any(|a| a.contains("left aside"));
                    assert_eq!(aside, name.starts_with("a start of 1"), "{what}");
                }
            }
        }
    }
}

/// Without a scaled form: said, and why.
#[test]
fn operators_beyond_f32_are_named() {
    for adapter in adapters::all("operators_beyond_f32_are_named") {
        let b = near_one(56, 9);
        for scale in [1e200, 1e-200] {
            let mut operator = FivePoint::new(8, 7);
            operator.scale = scale;
            let got = conjugate_gradient(
                &adapter.context,
                &LinearSystem::new(&operator, &b),
                &CgOptions::default(),
            );
            let report = got.unwrap().report;
            assert!(!report.converged(), "{}: {report:?}", adapter.name);
            assert!(
                report.advice.iter().any(|a| a.contains("2^-64 to 2^64")),
                "{} {scale:e}: {report:?}",
                adapter.name
            );
        }
        // What is bound by hand is bound as it is, or refused.
        let gpu: &Gpu = adapter.gpu();
        let buffer = gpu.upload("vectors", &[0u8; 512]).unwrap();
        let view = BufferView::new(&buffer, DType::F32, &[40]);
        let (b, x) = (view.clone(), view.at(64));
        let cg = ConjugateGradient::new(gpu, CgOptions::default()).unwrap();
        let bind = |e: i32, dtype: DType| {
            let operator = CsrOperator::with_dtype(scaled(&second_differences(40), e), dtype).unwrap();
            cg.bind(&operator, &Identity::new(40), CgViews { b: &b, x: &x })
                .map(|_| ())
        };
        for (e, dtype) in [(-140, DType::F32), (-664, DType::F32), (-20, DType::F16)] {
            let error = bind(e, dtype).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Csr {
                        row: 0,
                        defect: CsrDefect::Underflow { column: 0, .. }
                    }
                ),
                "{error}"
            );
            assert!(error.to_string().contains("scale the matrix"), "{error}");
        }
        assert!(matches!(
            bind(200, DType::F32),
            Err(Error::Csr {
                defect: CsrDefect::Overflow { .. },
                ..
            })
        ));
        bind(0, DType::F32).unwrap();
    }
}
