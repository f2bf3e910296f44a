//! Conjugate gradients on every adapter.

use crate::gpu_planted::{Bug, all_gpus};
use crate::gpu_robust::{live_objects, own_context};
use crate::operators::FivePoint;
use crate::solve_host::is_long;
use crate::sparse::{exact_vector, matrix};
use crate::{adapters, data};
use macheps::random::Random;
use macheps::solve::conjugate_gradient::{
    BoundConjugateGradient, CgOptions, CgStatus, CgViews, ConjugateGradient, Form, LinearSystem, conjugate_gradient,
    conjugate_gradient_async, conjugate_gradient_many,
};
use macheps::solve::refinement::{Correction, RefinementOptions, refine};
use macheps::solve::relaxation::{Jacobi, Sor};
use macheps::solve::{
    Boundary, Breakdown, CsrOperator, GridStencil, GridStencilOptions, Identity, IncompleteCholesky,
    JacobiPreconditioner, LinearOperator, Outcome, Preconditioner, PreconditionerCall, PreconditionerForm, Record,
    Solution, Ssor,
};
use macheps::{BufferView, Context, Csr, DType, Error, Gpu, wgpu};
use std::time::{Duration, Instant};

const SHADER: &str = include_str!("../../shaders/conjugate_gradient.wgsl");
const LEDGER: &str = include_str!("../../shaders/lib/conjugate_gradient_ledger.wgsl");

const FORMS: [Form; 2] = [Form::Standard, Form::SingleReduction];

fn right_hand_side(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    // Representable in f32, so that the device solves the very same system.
    (0..n).map(|_| f64::from(random.normal() as f32)).collect()
}

fn options(form: Form, rtol: f64) -> CgOptions {
    let mut options = CgOptions::with_rtol(rtol);
    options.form = form;
    options
}

fn solve(context: &Context, system: &LinearSystem<'_>, options: &CgOptions) -> Solution {
    conjugate_gradient(context, system, options).unwrap_or_else(|e| panic!("{e}"))
}

fn plane(nx: usize, ny: usize) -> GridStencil {
    let mut options = GridStencilOptions::plane(nx, ny);
    options.boundary[0] = [Boundary::DirichletCell; 2];
    options.boundary[1] = [Boundary::DirichletCell; 2];
    GridStencil::new(&options).expect("a grid")
}

/// Buffers of a solve, and the solve bound to them.
fn bound(
    gpu: &Gpu,
    operator: &dyn LinearOperator,
    m: &dyn Preconditioner,
    b: &[f64],
    options: CgOptions,
) -> (BoundConjugateGradient, wgpu::Buffer, wgpu::Buffer) {
    let n = operator.size();
    let narrow: Vec<f32> = b.iter().map(|&v| v as f32).collect();
    let b = gpu.upload("b", bytemuck::cast_slice(&narrow)).expect("upload");
    let x = gpu
        .upload("x", bytemuck::cast_slice(&vec![0.0f32; narrow.len()]))
        .expect("upload");
    let shape = [narrow.len() / n.max(1), n];
    let views = CgViews {
        b: &BufferView::new(&b, DType::F32, &shape),
        x: &BufferView::new(&x, DType::F32, &shape),
    };
    let cg = ConjugateGradient::new(gpu, options).expect("options");
    let bound = cg.bind(operator, m, views).unwrap_or_else(|e| panic!("{e}"));
    (bound, b, x)
}

fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f64> {
    let encoder = gpu.device().create_command_encoder(&Default::default());
    let bytes = gpu
        .read_back(encoder, buffer, buffer.size())
        .and_then(|r| r.wait())
        .expect("readback");
    bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)
        .into_iter()
        .map(f64::from)
        .collect()
}

fn relative_residual(operator: &dyn LinearOperator, b: &[f64], x: &[f64]) -> f64 {
    let mut r = vec![0.0; b.len()];
    operator.apply(x, &mut r);
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut r.iter().zip(b).map(|(r, b)| b - r)) / norm(&mut b.iter().copied())
}

#[test]
fn user_written_operator() {
    let operator = FivePoint::new(40, 31);
    let (low, high) = operator.spectrum();
    let b = right_hand_side(operator.size(), 1);
    let system = LinearSystem::new(&operator, &b);
    let host = solve(&Context::cpu(), &system, &options(Form::Auto, 1e-5));
    for adapter in adapters::all("user_written_operator") {
        for form in FORMS {
            let got = solve(&adapter.context, &system, &options(form, 1e-5));
            let report = &got.report;
            let name = format!("{} {form:?}", adapter.name);
            assert_eq!(report.outcome, Outcome::Converged, "{name}");
            assert!(
                report.iterations * 10 <= host.report.iterations * 11,
                "{name}: {}",
                report.iterations
            );
            assert_eq!(report.residual_history.len(), report.iterations + 1, "{name}");
            assert_eq!(report.residual_history[0], 1.0, "{name}");
            let condition = report.condition_estimate.expect("an estimate");
            assert!(
                (condition / (high / low) - 1.0).abs() < 0.02,
                "{name}: {condition} {}",
                high / low
            );
            // Both are within their bounds of the solution.
            let bound =
                report.forward_error_bound.expect("a bound") + host.report.forward_error_bound.expect("a bound");
            let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
            let difference: Vec<f64> = got.x.iter().zip(&host.x).map(|(a, b)| a - b).collect();
            assert!(norm(&difference) <= bound * norm(&host.x), "{name}");
        }
    }
}

#[test]
fn dispatches_of_an_iteration() {
    for adapter in adapters::all("dispatches_of_an_iteration") {
        let gpu = adapter.gpu();
        let stencil = plane(20, 20);
        let a = stencil.to_csr().expect("small");
        let matrix = CsrOperator::new(a.clone()).expect("square");
        let user = FivePoint::new(20, 20);
        let b = right_hand_side(400, 2);
        let none = Identity::new(400);
        let jacobi = JacobiPreconditioner::new(&a).expect("positive");
        // Left to itself it needs no more than three for any operator of one dispatch.
        let (left_alone, ..) = bound(gpu, &user, &jacobi, &b, CgOptions::default());
        assert_eq!(left_alone.dispatches_per_iteration(), 3, "{}", adapter.name);
        for (form, most) in [(Form::Standard, 3), (Form::SingleReduction, 2)] {
            for m in [&none as &dyn Preconditioner, &jacobi] {
                for (operator, more) in [(&stencil as &dyn LinearOperator, 0), (&matrix, 0), (&user, 1)] {
                    let (bound, ..) = bound(gpu, operator, m, &b, options(form, 1e-5));
                    assert_eq!(
                        bound.dispatches_per_iteration(),
                        most + more,
                        "{} {form:?}",
                        adapter.name
                    );
                }
            }
        }
    }
}

#[test]
fn dispatches_of_a_frame() {
    for adapter in adapters::all("dispatches_of_a_frame") {
        let gpu = adapter.gpu();
        let stencil = plane(20, 20);
        let ssor = Ssor::new(&stencil.to_csr().expect("small"), 1.2).expect("symmetric");
        let none = Identity::new(400);
        let b = right_hand_side(400, 2);
        for (form, m) in [
            (Form::SingleReduction, &none as &dyn Preconditioner),
            (Form::Standard, &none),
            (Form::Standard, &ssor),
        ] {
            let mut o = options(form, 1e-5);
            o.check_every = 10;
            let (bound, ..) = bound(gpu, &stencil, m, &b, o);
            let name = format!("{} {form:?} {}", adapter.name, m.name());
            let each = bound.dispatches_per_iteration();
            // Start and finish alone.
            let around = bound.dispatches(0);
            assert!(around > 0, "{name}");
            assert_eq!(bound.dispatches(9), around + 9 * each, "{name}");
            // With a replacement of the residual, then another.
            let replacement = bound.dispatches(10) - bound.dispatches(9) - each;
            assert!(replacement > 0, "{name}");
            assert_eq!(bound.dispatches(25), around + 25 * each + 2 * replacement, "{name}");
            for budget in [0, around, around + each - 1, 100, 1000] {
                let iterations = bound.iterations_within(budget);
                assert!(bound.dispatches(iterations + 1) > budget, "{name}: {budget}");
                assert!(
                    iterations == 0 || bound.dispatches(iterations) <= budget,
                    "{name}: {budget}"
                );
            }
        }
    }
}

#[test]
fn preconditioners_on_devices() {
    let stencil = plane(37, 29);
    let a = stencil.to_csr().expect("small");
    let n = a.rows();
    let b = right_hand_side(n, 3);
    let all: [Box<dyn Preconditioner>; 4] = [
        Box::new(Identity::new(n)),
        Box::new(JacobiPreconditioner::new(&a).expect("positive")),
        Box::new(Ssor::new(&a, 1.2).expect("symmetric")),
        Box::new(IncompleteCholesky::new(&a).expect("symmetric")),
    ];
    for adapter in adapters::all("preconditioners_on_devices") {
        for m in &all {
            let system = LinearSystem::new(&stencil, &b).with_preconditioner(m.as_ref());
            let host = solve(&Context::cpu(), &system, &options(Form::Auto, 1e-5));
            for form in FORMS {
                let name = format!("{} {} {form:?}", adapter.name, m.name());
                match conjugate_gradient(&adapter.context, &system, &options(form, 1e-5)) {
                    Ok(got) => {
                        assert!(got.report.converged(), "{name}: {:?}", got.report.outcome);
                        assert!(
                            got.report.iterations <= host.report.iterations * 11 / 10 + 1,
                            "{name}: {} against {}",
                            got.report.iterations,
                            host.report.iterations
                        );
                    }
                    Err(Error::Unsupported { .. }) => assert_eq!(form, Form::SingleReduction, "{name}"),
                    Err(e) => panic!("{name}: {e}"),
                }
            }
        }
    }
}

#[test]
fn ends_that_are_no_convergence() {
    for adapter in adapters::all("ends_that_are_no_convergence") {
        let context = &adapter.context;
        for form in FORMS {
            let name = format!("{} {form:?}", adapter.name);
            let mut operator = FivePoint::new(12, 11);
            let b = right_hand_side(132, 4);
            let run = |operator: &FivePoint, o: &CgOptions| solve(context, &LinearSystem::new(operator, &b), o).report;

            operator.scale = -1.0;
            let negative = Outcome::Breakdown {
                kind: Breakdown::NotPositiveDefinite,
                iteration: 0,
            };
            assert_eq!(run(&operator, &options(form, 1e-6)).outcome, negative, "{name}");

            // Indefinite: a direction of negative curvature comes after some iterations.
            (operator.scale, operator.shift) = (1.0, -1.0);
            match run(&operator, &options(form, 1e-6)).outcome {
                Outcome::Breakdown {
                    kind: Breakdown::NotPositiveDefinite,
                    iteration,
                } => assert!(iteration > 0, "{name}"),
                other => panic!("{name}: {other:?}"),
            }

            // Products overflow.
            (operator.scale, operator.shift) = (1e38, 0.0);
            let report = run(&operator, &options(form, 1e-6));
            let kind = Breakdown::NonFinite;
            assert!(
                matches!(report.outcome, Outcome::Breakdown { kind: k, .. } if k == kind),
                "{name}: {report:?}"
            );

            operator.scale = 1.0;
            let mut few = options(form, 1e-6);
            few.max_iterations = Some(3);
            let report = run(&operator, &few);
            assert_eq!(
                (report.outcome, report.iterations),
                (Outcome::IterationLimit, 3),
                "{name}"
            );

            // Beyond f32: said so, and not claimed.
            let report = run(&operator, &options(form, 1e-12));
            let kind = Breakdown::Stagnation;
            assert!(
                matches!(report.outcome, Outcome::Breakdown { kind: k, .. } if k == kind),
                "{name}: {report:?}"
            );
            assert!(report.relative_residual < 1e-5 && !report.advice.is_empty(), "{name}");
            let mut refined = options(form, 1e-12);
            refined.refine = true;
            let report = run(&operator, &refined);
            assert!(
                report.converged() && report.relative_residual <= 1e-12 && report.refinements > 1,
                "{name}"
            );
        }
    }
}

/// A channel that is held at one end only: smooth solutions 10^5 times as large as b, whose rounding to f32 leaves next to nothing of
/// the residual. Updated in f64 the same directions reach 1e-10, in fewer iterations than corrections that each begin anew.
#[test]
fn refinement_goes_on_with_its_directions() {
    let mut shape = GridStencilOptions::plane(300, 8);
    shape.boundary[0] = [Boundary::DirichletCell, Boundary::Neumann];
    shape.boundary[1] = [Boundary::Neumann; 2];
    let grid = GridStencil::new(&shape).expect("a grid");
    let jacobi = JacobiPreconditioner::from_diagonal(&grid.diagonal().expect("one")).expect("positive");
    let b = right_hand_side(grid.size(), 77);
    let system = LinearSystem::new(&grid, &b).with_preconditioner(&jacobi);
    let rtol = 1e-10;
    for adapter in adapters::all("gpu_conjugate_gradient::refinement_goes_on_with_its_directions") {
        let mut inner = |r: &[f64]| {
            let system = LinearSystem { b: r, ..system };
            let solved = conjugate_gradient(&adapter.context, &system, &options(Form::Auto, 1e-5))?;
            Ok(Correction::new(solved.x, solved.report.iterations))
        };
        let anew = refine(&grid, &b, None, &RefinementOptions::new(rtol), &mut inner).expect("solves");
        assert_eq!(anew.outcome, Outcome::Converged, "{}", adapter.name);
        assert!(anew.refinements > 1, "{}: f32 is enough", adapter.name);
        for form in FORMS {
            let mut refined = options(form, rtol);
            refined.refine = true;
            let got = solve(&adapter.context, &system, &refined);
            let (have, most) = (got.report.iterations, 3 * anew.iterations / 4);
            println!("{} {form:?}: {have} iterations, anew {}", adapter.name, anew.iterations);
            assert!(got.report.converged(), "{}: {:?}", adapter.name, got.report.outcome);
            let mut product = vec![0.0; b.len()];
            grid.apply(&got.x, &mut product);
            let gap = b.iter().zip(&product).map(|(b, y)| (b - y) * (b - y)).sum::<f64>();
            let norm = b.iter().map(|b| b * b).sum::<f64>();
            assert!((gap / norm).sqrt() <= 1.01 * rtol, "{}", adapter.name);
            // A single reduction loses more to rounding.
            assert!(
                have <= most || form == Form::SingleReduction,
                "{}: {have} iterations, anew {}",
                adapter.name,
                anew.iterations
            );
            // Whatever the interval: batches are made shorter where the residual falls fast.
            refined.check_every = 1000;
            let again = solve(&adapter.context, &system, &refined).report;
            assert!(again.converged(), "{}: {:?}", adapter.name, again.outcome);
        }
    }
}

#[test]
fn trivial_systems() {
    let mut contexts = vec![("cpu".to_string(), Context::cpu())];
    contexts.extend(
        adapters::all("trivial_systems")
            .iter()
            .map(|a| (a.name.clone(), a.context.clone())),
    );
    for (name, context) in &contexts {
        for form in FORMS {
            let o = options(form, 1e-6);
            let operator = FivePoint::new(9, 7);
            let n = operator.size();
            // b = 0, whatever x0.
            let zeros = vec![0.0; n];
            let x0 = right_hand_side(n, 5);
            let got = solve(context, &LinearSystem::new(&operator, &zeros).with_x0(&x0), &o);
            assert!(got.report.converged() && got.x == zeros, "{name}");
            assert_eq!(got.report.iterations, 0, "{name}");
            // The exact solution to begin with.
            let ones = vec![1.0; n];
            let mut b = vec![0.0; n];
            operator.apply(&ones, &mut b);
            let got = solve(context, &LinearSystem::new(&operator, &b).with_x0(&ones), &o);
            assert!(
                got.report.converged() && got.report.iterations == 0 && got.x == ones,
                "{name}"
            );
            // A solution in f64 that the device's numbers cannot hold.
            let thirds: Vec<f64> = (0..n).map(|i| 1.0 / 3.0 + i as f64 / 7.0).collect();
            operator.apply(&thirds, &mut b);
            let got = solve(
                context,
                &LinearSystem::new(&operator, &b).with_x0(&thirds),
                &options(form, 1e-10),
            );
            assert!(
                got.report.converged() && got.report.iterations == 0 && got.x == thirds,
                "{name}: {:?}",
                got.report
            );
            // One unknown: one iteration.
            let one = FivePoint::new(1, 1);
            let got = solve(context, &LinearSystem::new(&one, &[8.0]), &o);
            assert!(
                got.report.converged() && got.report.iterations == 1 && got.x == [2.0],
                "{name}: {got:?}"
            );
            // None at all.
            let none = FivePoint::new(0, 5);
            let got = solve(context, &LinearSystem::new(&none, &[]), &o);
            assert!(got.report.converged() && got.x.is_empty(), "{name}");
            // An eigenvector: one iteration.
            let mut vector = vec![0.0; n];
            for j in 0..7 {
                for i in 0..9 {
                    let part = |k: usize, m: usize| (std::f64::consts::PI * (k + 1) as f64 / (m + 1) as f64).sin();
                    vector[j * 9 + i] = part(i, 9) * part(j, 7);
                }
            }
            let got = solve(context, &LinearSystem::new(&operator, &vector), &o);
            assert!(
                got.report.converged() && got.report.iterations <= 2,
                "{name}: {:?}",
                got.report.iterations
            );
        }
    }
}

#[test]
fn bad_calls_are_refused() {
    let mut contexts = vec![Context::cpu()];
    contexts.extend(adapters::all("bad_calls_are_refused").iter().map(|a| a.context.clone()));
    for context in &contexts {
        let operator = FivePoint::new(3, 3);
        let b = [1.0; 9];
        let call =
            |system: &LinearSystem<'_>, o: &CgOptions| conjugate_gradient(context, system, o).expect_err("refused");
        let o = CgOptions::default();
        assert!(matches!(
            call(&LinearSystem::new(&operator, &b[1..]), &o),
            Error::Shape { .. }
        ));
        assert!(matches!(
            call(&LinearSystem::new(&operator, &b).with_x0(&b[1..]), &o),
            Error::Shape { .. }
        ));
        let mut nan = b;
        nan[4] = f64::NAN;
        assert!(matches!(
            call(&LinearSystem::new(&operator, &nan), &o),
            Error::NonFinite {
                what: "b",
                index: 4,
                ..
            }
        ));
        assert!(matches!(
            call(&LinearSystem::new(&operator, &b).with_x0(&nan), &o),
            Error::NonFinite {
                what: "x0",
                index: 4,
                ..
            }
        ));
        let m = Identity::new(8);
        assert!(matches!(
            call(&LinearSystem::new(&operator, &b).with_preconditioner(&m), &o),
            Error::Shape { .. }
        ));
        let mut bad = CgOptions::with_rtol(-1.0);
        assert!(matches!(
            call(&LinearSystem::new(&operator, &b), &bad),
            Error::Option { name: "rtol", .. }
        ));
        bad = CgOptions::default();
        bad.check_every = 0;
        assert!(matches!(
            call(&LinearSystem::new(&operator, &b), &bad),
            Error::Option {
                name: "check_every",
                ..
            }
        ));
    }
    for adapter in adapters::all("bad_calls_are_refused") {
        let gpu = adapter.gpu();
        let buffer = gpu.upload("b", &[0u8; 256]).expect("upload");
        let cg = ConjugateGradient::new(gpu, CgOptions::default()).expect("options");
        let (operator, m) = (FivePoint::new(3, 3), Identity::new(9));
        let view = BufferView::new(&buffer, DType::F32, &[9]);
        let call = |b: &BufferView, x: &BufferView| cg.bind(&operator, &m, CgViews { b, x }).err().expect("refused");
        assert!(matches!(call(&view, &view), Error::Aliased { .. }));
        assert!(matches!(
            call(&view, &BufferView::new(&buffer, DType::F32, &[8]).at(16)),
            Error::Shape { .. }
        ));
        assert!(matches!(call(&view, &view.clone().at(60)), Error::Shape { .. }));
        let half = BufferView::new(&buffer, DType::F16, &[9]).at(40);
        assert!(matches!(call(&view, &half), Error::DTypeMismatch { .. }));
        // Slices of one pool, at any element, are fine.
        assert!(
            cg.bind(
                &operator,
                &m,
                CgViews {
                    b: &view,
                    x: &view.clone().at(17)
                }
            )
            .is_ok()
        );
    }
}

/// Powers of two in A and b change nothing but exponents.
#[test]
fn scales_do_not_matter() {
    let plain = FivePoint::new(15, 10);
    let b = right_hand_side(plain.size(), 6);
    for adapter in adapters::all("scales_do_not_matter") {
        for form in FORMS {
            let o = options(form, 1e-6);
            let want = solve(&adapter.context, &LinearSystem::new(&plain, &b), &o);
            for (of_a, of_b) in [(60, 0), (-60, 40), (0, 300), (40, -500)] {
                let mut operator = plain.clone();
                operator.scale = 2f64.powi(of_a);
                let scaled: Vec<f64> = b.iter().map(|b| b * 2f64.powi(of_b)).collect();
                let got = solve(&adapter.context, &LinearSystem::new(&operator, &scaled), &o);
                let back: Vec<f64> = got.x.iter().map(|x| x * 2f64.powi(of_a) * 2f64.powi(-of_b)).collect();
                let name = format!("{} {form:?} 2^{of_a} 2^{of_b}", adapter.name);
                assert_eq!(got.report.iterations, want.report.iterations, "{name}");
                assert!(back == want.x, "{name}");
            }
        }
    }
}

#[test]
fn several_systems_at_once() {
    let operator = plane(21, 17);
    let n = operator.size();
    let mut b = right_hand_side(4 * n, 7);
    b[n..2 * n].fill(0.0);
    let jacobi = JacobiPreconditioner::from_diagonal(&operator.diagonal().expect("known")).expect("positive");
    let a = operator.to_csr().expect("small");
    let ssor = Ssor::new(&a, 1.0).expect("symmetric");
    let matrix = CsrOperator::new(a).expect("square");
    for adapter in adapters::all("several_systems_at_once") {
        let calls: [(Form, &dyn LinearOperator, &dyn Preconditioner); 4] = [
            (Form::Standard, &operator, &jacobi),
            (Form::SingleReduction, &operator, &jacobi),
            (Form::SingleReduction, &matrix, &jacobi),
            (Form::Standard, &matrix, &ssor),
        ];
        for (form, operator, m) in calls {
            let name = format!("{} {form:?}", adapter.name);
            let o = options(form, 1e-5);
            let together = LinearSystem::new(operator, &b).with_preconditioner(m);
            let many = conjugate_gradient_many(&adapter.context, &together, &o).expect("solves");
            assert_eq!(many.len(), 4);
            for (got, b) in many.iter().zip(b.chunks(n)) {
                let alone = solve(
                    &adapter.context,
                    &LinearSystem::new(operator, b).with_preconditioner(m),
                    &o,
                );
                assert!(got.report.converged(), "{name}");
                assert!(got.x == alone.x, "{name}: the company changes bits");
                assert_eq!(got.report.iterations, alone.report.iterations, "{name}");
                assert_eq!(got.report.residual_history, alone.report.residual_history, "{name}");
            }
            let again = conjugate_gradient_many(&adapter.context, &together, &o).expect("solves");
            assert!(
                again.iter().zip(&many).all(|(a, b)| a.x == b.x),
                "{name}: other bits on repeat"
            );
        }
        let alone = LinearSystem::new(&operator, &b[..n]);
        let (blocking, waiting) = (
            solve(&adapter.context, &alone, &CgOptions::default()),
            pollster::block_on(conjugate_gradient_async(
                &adapter.context,
                &alone,
                &CgOptions::default(),
            ))
            .expect("solves"),
        );
        assert_eq!(blocking.x, waiting.x);
    }
}

/// The guide's table of what a bound solve keeps on the device, in vectors of n beside b, x and the operator.
#[test]
fn memory_of_a_bound_solve() {
    for adapter in adapters::all("memory_of_a_bound_solve") {
        let context = own_context(adapter);
        let gpu = context.gpu().expect("a GPU");
        let memory = || {
            // Without what wgpu still holds of uploads.
            gpu.queue().submit([]);
            gpu.device().poll(wgpu::PollType::wait_indefinitely()).expect("done");
            gpu.device().get_internal_counters().hal.buffer_memory.read() as f64
        };
        let operator = plane(400, 250);
        let n = operator.size();
        let matrix = operator.to_csr().expect("a matrix");
        // Vectors as the device sees them, with a few parts of dot products and the alignment of buffers beside.
        let holds = |what: &str, vectors: f64, bytes: f64| {
            let kept = bytes / (4 * n) as f64;
            assert!(
                vectors - 0.01 <= kept && kept <= vectors + 0.5,
                "{}: {what} keeps {kept:.2} vectors, the guide says {vectors}",
                adapter.name
            );
        };
        let none = Identity::new(n);
        let jacobi = JacobiPreconditioner::new(&matrix).expect("a diagonal");
        let cg = |what: &str, form, m: &dyn Preconditioner, systems: usize, vectors: f64| {
            let before = memory();
            let b = vec![1.0; systems * n];
            let (_solve, _b, _x) = bound(gpu, &operator, m, &b, options(form, 1e-6));
            let given = (2 * 4 * systems * n) as f64;
            holds(what, vectors, memory() - before - given);
        };
        // wgpu's GL does not count it; the buffers are the same there.
        if memory() == 0.0 && adapter.name == "gl" {
            continue;
        }
        cg("CG", Form::Standard, &none, 1, 4.0);
        cg("CG of 3 systems", Form::Standard, &none, 3, 12.0);
        cg("CG with Jacobi", Form::Standard, &jacobi, 1, 5.0);
        cg("single reduction", Form::SingleReduction, &none, 1, 5.0);
        cg("single reduction with Jacobi", Form::SingleReduction, &jacobi, 1, 7.0);
        // 16 bytes a row of each of two factors, and 8 an entry.
        let factors = 2.0 * 4.0 + 2.0 * (matrix.entries() as f64 / n as f64 - 1.0);
        let ssor = Ssor::new(&matrix, 1.0).expect("a diagonal");
        cg("CG with SSOR", Form::Standard, &ssor, 1, 5.0 + factors);
        let incomplete = IncompleteCholesky::new(&matrix).expect("factors");
        cg("CG with IC(0)", Form::Standard, &incomplete, 1, 5.0 + factors);

        for systems in [1, 3] {
            let upload = || {
                gpu.upload("b", bytemuck::cast_slice(&vec![1.0f32; systems * n]))
                    .expect("upload")
            };
            let (b, x) = (upload(), upload());
            let view = |buffer| BufferView::new(buffer, DType::F32, &[systems, n]);
            let before = memory();
            let jacobi = Jacobi::new(&operator, 1.0).expect("a diagonal");
            let sweeps = jacobi.bind(gpu, &view(&b), &view(&x)).expect("binds");
            holds("Jacobi sweeps", systems as f64 + 1.0, memory() - before);
            drop((sweeps, jacobi));
            let before = memory();
            let sor = Sor::new(&matrix, 1.5).expect("a diagonal");
            let _sweeps = sor.bind(gpu, &view(&b), &view(&x)).expect("binds");
            let lists = 4.0 + 2.0 * (matrix.entries() as f64 / n as f64 - 1.0);
            holds("SOR", lists, memory() - before);
        }
    }
}

/// A renderer with a device of its own and 200 frames: a source that moves, an obstacle that moves, a few iterations a frame from
/// the last frame's answer. Inside a frame nothing is made, submitted, read back or waited for.
#[test]
fn two_hundred_frames() {
    let (nx, ny) = (24, 18);
    for adapter in adapters::all("two_hundred_frames") {
        let context = own_context(adapter);
        let theirs = context.gpu().expect("a GPU");
        let gpu = Gpu::borrow(theirs.device(), theirs.queue());
        let mut grid = GridStencilOptions::plane(nx, ny);
        grid.boundary[1] = [Boundary::Neumann; 2];
        grid.solid = Some(vec![false; nx * ny]);
        let stencil = GridStencil::new(&grid).expect("a grid");
        let m = JacobiPreconditioner::from_diagonal(&stencil.diagonal().expect("known")).expect("positive");
        for form in FORMS {
            let b = vec![0.0; nx * ny];
            let mut o = options(form, 1e-4);
            o.check_every = 10;
            let (solve, b, x) = bound(&gpu, &stencil, &m, &b, o);
            let device = theirs.device();
            let asked = gpu.statistics();
            let mut before = None;
            let mut rhs = vec![0.0f32; nx * ny];
            for frame in 0..200 {
                rhs.fill(0.0);
                rhs[(frame / 8) % ny * nx + frame / 10] = 1.0;
                theirs.queue().write_buffer(&b, 0, bytemuck::cast_slice(&rhs));
                if frame % 50 == 20 {
                    let solid: Vec<bool> = (0..nx * ny).map(|i| i % nx == 12 && i / nx < frame / 20 + 2).collect();
                    stencil.set_solid(&solid).expect("as many cells");
                }
                let mut encoder = device.create_command_encoder(&Default::default());
                let objects = live_objects(device);
                let (kernels, in_frame) = (gpu.kernel_count(), gpu.statistics());
                solve.record(&mut encoder, 25);
                assert_eq!(
                    live_objects(device),
                    objects,
                    "{} {form:?}: frame {frame}",
                    adapter.name
                );
                assert_eq!((gpu.kernel_count(), gpu.statistics()), (kernels, in_frame));
                theirs.queue().submit([encoder.finish()]);
                if frame == 10 {
                    before = Some(live_objects(device)[1..7].to_vec());
                }
            }
            assert_eq!(
                before,
                Some(live_objects(device)[1..7].to_vec()),
                "{}: frames leave objects",
                adapter.name
            );
            // Between frames the obstacles were written; nothing more was asked.
            let after = gpu.statistics();
            assert_eq!(
                (after.submissions, after.readbacks, after.waits),
                (asked.submissions, asked.readbacks, asked.waits),
                "{} {form:?}",
                adapter.name
            );
            assert!(after.calls <= asked.calls + 4, "{}: {after:?} {asked:?}", adapter.name);
            // The picture stands still for the last ten frames, so the answer has had 250 iterations.
            let rhs: Vec<f64> = rhs.into_iter().map(f64::from).collect();
            let residual = relative_residual(&stencil, &rhs, &read(&gpu, &x));
            assert!(residual < 2e-4, "{} {form:?}: {residual:e}", adapter.name);
            let state = solve.state(25).expect("alive")[0];
            assert_eq!(
                state.status,
                CgStatus::Converged,
                "{} {form:?}: {state:?}",
                adapter.name
            );
            // What is read is counted.
            let read = gpu.statistics();
            assert!(
                read.waits > after.waits && read.readbacks > after.readbacks && read.submissions > after.submissions
            );
        }
    }
}

/// A diagonal preconditioner as a user might write it, without a look at the diagonal.
struct Unguarded(Vec<f64>);

impl Preconditioner for Unguarded {
    fn name(&self) -> &str {
        "unguarded"
    }

    fn size(&self) -> usize {
        self.0.len()
    }

    fn form(&self) -> PreconditionerForm {
        PreconditionerForm::Diagonal(self.0.iter().map(|d| 1.0 / d).collect())
    }

    fn apply(&self, r: &[f64], z: &mut [f64]) {
        for ((z, r), d) in z.iter_mut().zip(r).zip(&self.0) {
            *z = r / d;
        }
    }

    fn bind(&self, _: &Gpu, _: &PreconditionerCall<'_>) -> macheps::Result<Box<dyn Record>> {
        unreachable!("diagonals are fused")
    }
}

/// Jacobi's preconditioner names the row with the zero; without that guard the solve breaks down at once and says so, and x stays.
#[test]
fn jacobi_without_the_guard() {
    let operator = FivePoint::new(14, 9);
    let n = operator.size();
    let b = right_hand_side(n, 9);
    let mut diagonal = operator.diagonal().expect("known");
    let sound = Unguarded(diagonal.clone());
    diagonal[50] = 0.0;
    assert!(matches!(
        JacobiPreconditioner::from_diagonal(&diagonal),
        Err(Error::Diagonal {
            row: 50,
            value: 0.0,
            ..
        })
    ));
    let broken = Unguarded(diagonal);
    let mut contexts = vec![("cpu".to_string(), Context::cpu())];
    let all = adapters::all("jacobi_without_the_guard");
    contexts.extend(all.iter().map(|a| (a.name.clone(), a.context.clone())));
    for (name, context) in &contexts {
        for form in FORMS {
            let run = |m| {
                solve(
                    context,
                    &LinearSystem::new(&operator, &b).with_preconditioner(m),
                    &options(form, 1e-5),
                )
            };
            assert!(run(&sound).report.converged(), "{name} {form:?}");
            let got = run(&broken);
            let at_once = Outcome::Breakdown {
                kind: Breakdown::NonFinite,
                iteration: 0,
            };
            assert_eq!(got.report.outcome, at_once, "{name} {form:?}");
            assert!(got.x.iter().all(|x| x.is_finite()), "{name} {form:?}");
        }
    }
}

/// What must hold of a solve for the tests of planted bugs: it converges as the host does, on a system with several workgroups and
/// an uneven diagonal, and what the device believes is so.
fn honest(context: &Context, form: Form) -> Result<(), String> {
    let gpu = context.gpu().expect("a GPU");
    let (nx, ny) = (41, 35);
    let mut grid = GridStencilOptions::plane(nx, ny);
    grid.reaction =
        macheps::solve::Reaction::Cells((0..nx * ny).map(|i| if i % 7 == 0 { 40_000.0 } else { 0.0 }).collect());
    // M^-1 is far from 1, and not brought near it where it is applied by dispatches of its own.
    grid.spacing = [1.0 / 32.0; 3];
    let stencil = GridStencil::new(&grid).expect("a grid");
    let a = stencil.to_csr().expect("small");
    let m: Box<dyn Preconditioner> = match form {
        Form::Standard => Box::new(Ssor::new(&a, 1.0).expect("symmetric")),
        _ => Box::new(JacobiPreconditioner::new(&a).expect("positive")),
    };
    let m = m.as_ref();
    let b = right_hand_side(nx * ny, 8);
    let system = LinearSystem::new(&stencil, &b).with_preconditioner(m);
    let host = solve(&Context::cpu(), &system, &options(form, 1e-4)).report.iterations;
    let (bound, _, x) = bound(gpu, &stencil, m, &b, options(form, 1e-4));
    let budget = 2 * bound.replace_every();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder, budget);
    gpu.queue().submit([encoder.finish()]);
    let state = bound.state(budget).map_err(|e| e.to_string())?[0];
    let residual = relative_residual(&stencil, &b, &read(gpu, &x));
    if state.status != CgStatus::Converged || residual > 1.001e-4 || state.iterations > host + 2 {
        return Err(format!("{state:?}, truly {residual:e}, host {host}"));
    }
    let mut operator = FivePoint::new(12, 11);
    operator.shift = -1.0;
    let b = right_hand_side(132, 4);
    let report = solve(context, &LinearSystem::new(&operator, &b), &options(form, 1e-6)).report;
    match report.outcome {
        Outcome::Breakdown {
            kind: Breakdown::NotPositiveDefinite,
            ..
        } => Ok(()),
        other => Err(format!("an indefinite matrix: {other:?}")),
    }
}

fn expect_caught(bug: &Bug, form: Form) {
    let gpus = all_gpus(bug.name);
    for (name, gpu) in &gpus {
        if let Err(e) = honest(&Context::from_gpu(gpu.clone()), form) {
            panic!("{}: {name} fails without the bug: {e}", bug.name);
        }
        match honest(&Context::from_gpu(bug.plant(gpu)), form) {
            Err(e) => println!("{}: {name}: {e}", bug.name),
            Ok(()) => panic!("{}: not seen on {name}", bug.name),
        }
    }
}

#[test]
fn stale_beta() {
    let bug = Bug {
        name: "beta of the iteration before",
        edits: &[(
            SHADER,
            "    let beta = select(rz / s.gamma, 0.0, again);\n    if s.moved",
            "    let beta = select(s.beta, 0.0, again);\n    if s.moved",
        )],
    };
    expect_caught(&bug, Form::Standard);
}

#[test]
fn stale_alpha() {
    let bug = Bug {
        name: "alpha of the iteration before",
        edits: &[(
            SHADER,
            "    let alpha = s.gamma / pq;",
            "    let alpha = select(s.gamma / pq, s.alpha, s.iteration > 0u);",
        )],
    };
    expect_caught(&bug, Form::Standard);
}

#[test]
fn parts_of_a_workgroup_missing() {
    let bug = Bug {
        name: "parts of the last workgroup missing",
        edits: &[(
            LEDGER,
            "for (var g = local; g < params.groups; g += WG)",
            "for (var g = local; g + 1u < params.groups; g += WG)",
        )],
    };
    expect_caught(&bug, Form::Standard);
    expect_caught(&bug, Form::SingleReduction);
}

#[test]
fn preconditioned_norm_tested() {
    let bug = Bug {
        name: "convergence of the preconditioned norm",
        edits: &[
            (
                SHADER,
                "        } else if rr <= MARGIN * s.goal {\n            s.status = CANDIDATE;\n        } else if rz <= 0.0 {",
                "        } else if rz <= MARGIN * s.goal {\n            s.status = CANDIDATE;\n        } else if rz <= 0.0 {",
            ),
            (
                SHADER,
                "        } else if true_rr <= s.goal {",
                "        } else if rz <= s.goal {",
            ),
        ],
    };
    expect_caught(&bug, Form::Standard);
}

#[test]
fn breakdown_never_read() {
    let bug = Bug {
        name: "breakdown flag never read",
        edits: &[
            (
                SHADER,
                "    if s.moved == 1u {\n        let residual_step = alpha * params.power;",
                "    if true {\n        let residual_step = alpha * params.power;",
            ),
            (SHADER, "        } else if pq <= 0.0 {", "        } else if pq == 0.0 {"),
        ],
    };
    expect_caught(&bug, Form::Standard);
}

#[test]
fn true_residual_never_looked_at() {
    let bug = Bug {
        name: "the recurrence is believed",
        edits: &[
            (
                SHADER,
                "        } else if true_rr <= s.goal {",
                "        } else if true_rr <= s.goal || s.status == CANDIDATE {",
            ),
            (
                SHADER,
                "    let residual_step = alpha * params.power;\n    let end",
                "    let residual_step = 1.01 * alpha * params.power;\n    let end",
            ),
        ],
    };
    expect_caught(&bug, Form::SingleReduction);
}

fn best_preconditioner(a: &Csr<f64>) -> Option<Box<dyn Preconditioner>> {
    IncompleteCholesky::new(a)
        .ok()
        .map(|m| Box::new(m) as Box<dyn Preconditioner>)
}

/// SPD matrices of the shared data on every adapter: converged, or reported as beyond f32 and then refined; and with Jacobi as many
/// iterations as f64 needs, within 1.3 times, where the condition leaves f32 the digits. Those of more than 20,000 rows under
/// `MACHEPS_LONG_TESTS=1`; every preconditioner: `docs/solvers.md`.
#[test]
fn real_matrices() {
    let test = "gpu_conjugate_gradient::real_matrices";
    let Some(folder) = data::shared_data(test) else {
        return;
    };
    let index = data::json(folder.join("matrices/index.json"));
    let entries = index["matrices"].as_array().expect("matrices");
    let all = adapters::all(test);
    let mut spent = vec![Duration::ZERO; all.len()];
    let (mut refined, mut left) = (0, Vec::new());
    for entry in entries.iter().filter(|e| e["spd"] == true) {
        let name = entry["name"].as_str().expect("a name");
        let a = matrix(&folder, entry);
        if is_long(&a) {
            left.push(name);
            continue;
        }
        let b = exact_vector(a.rows());
        let best = best_preconditioner(&a).expect("symmetric");
        let jacobi = JacobiPreconditioner::new(&a).expect("positive");
        let operator = CsrOperator::new(a).expect("square");
        let condition = entry["condition_number"].as_f64().expect("known");
        // 2^-24 kappa is what rounding x to f32 may cost in the worst case.
        let rtol = (condition * 2f64.powi(-24)).max(1e-6);
        let plain = LinearSystem::new(&operator, &b).with_preconditioner(&jacobi);
        let host = (rtol < 0.1).then(|| solve(&Context::cpu(), &plain, &options(Form::Auto, rtol)));
        for (adapter, spent) in all.iter().zip(&mut spent) {
            let start = Instant::now();
            let system = LinearSystem::new(&operator, &b).with_preconditioner(best.as_ref());
            let got = solve(&adapter.context, &system, &options(Form::Auto, 1e-6));
            if !got.report.converged() {
                assert!(condition > 1e3, "{name} on {}: {:?}", adapter.name, got.report.outcome);
                let mut o = options(Form::Auto, 1e-6);
                o.refine = true;
                let again = solve(&adapter.context, &system, &o);
                assert!(
                    again.report.converged(),
                    "{name} on {}: {:?}",
                    adapter.name,
                    again.report.outcome
                );
                refined += 1;
            }
            if let Some(host) = &host {
                let got = solve(&adapter.context, &plain, &options(Form::Auto, rtol)).report;
                let (have, most) = (got.iterations, host.report.iterations * 13 / 10 + 1);
                assert!(
                    got.converged() && have <= most,
                    "{name} on {}: {have} of {most}",
                    adapter.name
                );
            }
            println!("{name} on {}: {:.1?}", adapter.name, start.elapsed());
            *spent += start.elapsed();
        }
    }
    for (adapter, spent) in all.iter().zip(spent) {
        println!("{}: {spent:.1?}", adapter.name);
    }
    println!("refined: {refined}");
    if !left.is_empty() {
        adapters::say(&format!("{test}: left to MACHEPS_LONG_TESTS=1: {}", left.join(", ")));
    }
}

#[test]
fn matrices_that_must_be_noticed() {
    let Some(folder) = data::shared_data("gpu_conjugate_gradient::matrices_that_must_be_noticed") else {
        return;
    };
    let index = data::json(folder.join("matrices/index.json"));
    let entries = index["matrices"].as_array().expect("matrices");
    for name in ["sherman1", "laser"] {
        let entry = entries.iter().find(|e| e["name"] == name).expect("there");
        let operator = CsrOperator::new(matrix(&folder, entry)).expect("square");
        let b = exact_vector(operator.size());
        let mut contexts = vec![("cpu".to_string(), Context::cpu())];
        let all = adapters::all("matrices_that_must_be_noticed");
        contexts.extend(all.iter().map(|a| (a.name.clone(), a.context.clone())));
        for (adapter, context) in &contexts {
            let report = solve(context, &LinearSystem::new(&operator, &b), &CgOptions::default()).report;
            let kind = Breakdown::NotPositiveDefinite;
            assert!(
                matches!(report.outcome, Outcome::Breakdown { kind: k, .. } if k == kind),
                "{name} on {adapter}: {:?}",
                report.outcome
            );
        }
    }
}
