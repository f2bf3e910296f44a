//! Relaxation and preconditioners on every adapter.

use crate::adapters;
use crate::gpu_planted::{Bug, all_gpus, caught, limited};
use crate::gpu_robust::{live_objects, own_context};
use crate::operators::FivePoint;
use crate::relaxation::{arrow, dense, grid, judge, operator, preconditioners, random_vector, shared};
use macheps::accuracy::{Mismatch, check};
use macheps::solve::relaxation::{
    BoundRelaxation, Jacobi, RelaxationOptions, Sor, gauss_seidel, jacobi, reference, sor,
};
use macheps::solve::{
    Breakdown, IncompleteCholesky, IncompleteCholeskyOptions, LinearOperator, OperatorCall, Outcome, Preconditioner,
    PreconditionerCall, Record, RowOrder, Ssor,
};
use macheps::sparse::Csr;
use macheps::{BufferView, Context, DType, Error, Gpu};

const RELAXATION: &str = include_str!("../../shaders/relaxation.wgsl");
const SWEEP: &str = include_str!("../../shaders/sweep.wgsl");

/// The words of a buffer.
pub fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<f32> {
    let staging = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    gpu.queue().submit([encoder.finish()]);
    staging.slice(..).map_async(wgpu::MapMode::Read, |_| ());
    gpu.device()
        .poll(wgpu::PollType::wait_indefinitely())
        .expect("a device that answers");
    let bytes = staging.slice(..).get_mapped_range().expect("mapped").to_vec();
    bytemuck::pod_collect_to_vec(&bytes)
}

pub fn upload(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    gpu.upload("test", bytemuck::cast_slice(values)).expect("upload")
}

/// Runs a preconditioner on vectors, each framed by sentinels, and returns z.
fn run(gpu: &Gpu, m: &dyn Preconditioner, r: &[Vec<f32>], active: Option<&[u32]>) -> Vec<Vec<f32>> {
    const FRAME: usize = 5;
    let (k, n) = (r.len(), m.size());
    let mut flat = vec![77.0f32; 2 * FRAME + k * n];
    flat[FRAME..FRAME + k * n].copy_from_slice(&r.concat());
    // Whatever is in z before must not count, even NaN.
    let mut before = vec![f32::NAN; 2 * FRAME + k * n];
    before[..FRAME].fill(77.0);
    before[FRAME + k * n..].fill(77.0);
    let (r_buffer, z_buffer) = (upload(gpu, &flat), upload(gpu, &before));
    let view = |buffer| BufferView::new(buffer, DType::F32, &[k, n]).at(FRAME);
    let (r_view, z_view) = (view(&r_buffer), view(&z_buffer));
    let words = active.map(|words| gpu.upload("active", bytemuck::cast_slice(words)).expect("upload"));
    let mut call = PreconditionerCall::new(&r_view, &z_view);
    call.active = words.as_ref();
    let record = m.bind(gpu, &call).unwrap_or_else(|e| panic!("{}: {e}", m.name()));
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        record.record(&mut pass);
    }
    gpu.queue().submit([encoder.finish()]);
    let z = read(gpu, &z_buffer);
    assert!(
        z[..FRAME]
            .iter()
            .chain(&z[FRAME + k * n..2 * FRAME + k * n])
            .all(|&s| s == 77.0),
        "{}: sentinels",
        m.name()
    );
    z[FRAME..FRAME + k * n]
        .chunks(n.max(1))
        .take(k)
        .map(<[f32]>::to_vec)
        .collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// What the host says the device should give, and within which bounds.
fn wanted(m: &Case, r: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let r: Vec<f64> = r.iter().map(|&r| f64::from(r)).collect();
    let (mut z, mut bound) = (vec![0.0; r.len()], vec![0.0; r.len()]);
    match m {
        Case::Ssor(m) => m.apply_with_bound(&r, &mut z, &mut bound),
        Case::IncompleteCholesky(m) => m.apply_with_bound(&r, &mut z, &mut bound),
    }
    (z, bound)
}

enum Case {
    Ssor(Ssor),
    IncompleteCholesky(IncompleteCholesky),
}

impl Case {
    fn all(a: &Csr<f64>) -> Vec<Case> {
        let ic0 = |order| {
            let options = IncompleteCholeskyOptions {
                order,
                ..Default::default()
            };
            Case::IncompleteCholesky(IncompleteCholesky::with_options(a, &options).unwrap())
        };
        vec![
            Case::Ssor(Ssor::new(a, 1.3).unwrap()),
            ic0(RowOrder::Natural),
            ic0(RowOrder::Multicolour),
        ]
    }

    fn preconditioner(&self) -> &dyn Preconditioner {
        match self {
            Case::Ssor(m) => m,
            Case::IncompleteCholesky(m) => m,
        }
    }
}

fn held(gpu: &Gpu, case: &Case, seed: u64) -> Result<f64, Mismatch> {
    let r = narrow(&random_vector(case.preconditioner().size(), seed));
    let z = run(gpu, case.preconditioner(), std::slice::from_ref(&r), None);
    let (want, bound) = wanted(case, &r);
    check(&z[0], &want, &bound).map(|found| found.of_bound)
}

#[test]
fn preconditioners_hold_their_bounds() {
    let test = "gpu_relaxation::preconditioners_hold_their_bounds";
    let mut matrices = vec![("grid".to_string(), grid(13)), ("arrow".to_string(), arrow(700))];
    let names = ["nos3", "494_bus", "gr_30_30", "bcsstk01"];
    matrices.extend(shared(test, &names).into_iter().map(|(name, a, _)| (name, a)));
    for adapter in adapters::all(test) {
        let mut worst = 0.0f64;
        for (name, a) in &matrices {
            for case in Case::all(a) {
                let m = case.preconditioner();
                match held(adapter.gpu(), &case, 11) {
                    Ok(of_bound) => worst = worst.max(of_bound),
                    Err(e) => panic!("{}: {name}, {}: {e}", adapter.name, m.name()),
                }
            }
        }
        println!("{}: at most {worst:.3} of the bound", adapter.name);
    }
}

/// Identity and diagonal, too, though solvers fuse them.
#[test]
fn diagonals_can_be_bound() {
    for adapter in adapters::all("gpu_relaxation::diagonals_can_be_bound") {
        let a = arrow(200);
        let r = narrow(&random_vector(200, 1));
        for m in &preconditioners(&a)[..2] {
            let z = run(adapter.gpu(), &**m, std::slice::from_ref(&r), None);
            let mut want = vec![0.0; 200];
            m.apply(&r.iter().map(|&r| f64::from(r)).collect::<Vec<_>>(), &mut want);
            for (z, want) in z[0].iter().zip(&want) {
                assert!((f64::from(*z) - want).abs() <= 3e-7 * want.abs(), "{}", adapter.name);
            }
        }
    }
}

#[test]
fn several_vectors_and_some_of_them() {
    for adapter in adapters::all("gpu_relaxation::several_vectors_and_some_of_them") {
        let a = arrow(150);
        let r: Vec<Vec<f32>> = (0..3).map(|seed| narrow(&random_vector(150, seed))).collect();
        for case in Case::all(&a) {
            let m = case.preconditioner();
            let together = run(adapter.gpu(), m, &r, None);
            let some = run(adapter.gpu(), m, &r, Some(&[1, 0, 7]));
            for (v, r) in r.iter().enumerate() {
                let alone = run(adapter.gpu(), m, std::slice::from_ref(r), None);
                assert_eq!(alone[0], together[v], "{}: {}, vector {v}", adapter.name, m.name());
                if v == 1 {
                    assert!(
                        some[v].iter().all(|z| z.is_nan()),
                        "{}: vector 1 was not wanted",
                        adapter.name
                    );
                } else {
                    assert_eq!(some[v], together[v], "{}: {}, vector {v}", adapter.name, m.name());
                }
            }
        }
    }
}

#[test]
fn nothing_and_one_number() {
    for adapter in adapters::all("gpu_relaxation::nothing_and_one_number") {
        for n in [0usize, 1] {
            let a = Csr::<f64>::identity(n).unwrap();
            for m in preconditioners(&a) {
                let z = run(adapter.gpu(), &*m, &[vec![2.0; n]], None);
                assert_eq!(z.concat().len(), n);
                assert!(
                    z.concat()
                        .iter()
                        .all(|&z| z == 2.0 || (m.name() == "ssor" && (z - 1.28).abs() < 1e-6))
                );
            }
        }
    }
}

#[test]
fn wrong_calls_are_refused() {
    for adapter in adapters::all("gpu_relaxation::wrong_calls_are_refused") {
        let gpu = adapter.gpu();
        let m = Ssor::new(&grid(3), 1.0).unwrap();
        let (r, z) = (upload(gpu, &[0.0; 32]), upload(gpu, &[0.0; 32]));
        let view = |buffer, shape: &[usize]| BufferView::new(buffer, DType::F32, shape);
        let refused = |r: &BufferView, z: &BufferView| match m.bind(gpu, &PreconditionerCall::new(r, z)) {
            Err(e) => e,
            Ok(_) => panic!("{}: taken", adapter.name),
        };
        let good = view(&r, &[9]);
        assert!(matches!(refused(&view(&r, &[8]), &view(&z, &[8])), Error::Shape { .. }));
        assert!(matches!(refused(&good, &view(&z, &[2, 9])), Error::Shape { .. }));
        assert!(matches!(refused(&good, &view(&r, &[9]).at(4)), Error::Aliased { .. }));
        assert!(matches!(refused(&good, &view(&z, &[9]).at(30)), Error::Shape { .. }));
        assert!(matches!(
            refused(&good, &view(&z, &[9]).with_strides(&[2])),
            Error::Shape { .. }
        ));
        assert!(matches!(
            refused(&good, &BufferView::new(&z, DType::F16, &[9])),
            Error::DTypeMismatch { .. }
        ));
        // Disjoint ranges of one buffer are fine.
        m.bind(gpu, &PreconditionerCall::new(&good, &view(&r, &[9]).at(16)))
            .expect("disjoint");
    }
}

/// Small bindings and grids: lists in windows, grids folded.
#[test]
fn lists_beyond_a_binding() {
    let a = grid(150);
    let case = Case::Ssor(Ssor::new(&a, 1.2).unwrap());
    let limits: fn(&mut wgpu::Limits) = |l| {
        l.max_storage_buffer_binding_size = 1 << 17;
        l.max_compute_workgroups_per_dimension = 32;
    };
    for (name, gpu) in limited("gpu_relaxation::lists_beyond_a_binding", limits) {
        held(&gpu, &case, 5).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let large = Case::Ssor(Ssor::new(&grid(200), 1.2).unwrap());
    for (name, gpu) in limited("gpu_relaxation::lists_beyond_a_binding", limits) {
        let buffer = upload(&gpu, &vec![0.0; 40_000]);
        let other = upload(&gpu, &vec![0.0; 40_000]);
        let view = |b| BufferView::new(b, DType::F32, &[40_000]);
        let outcome = large
            .preconditioner()
            .bind(&gpu, &PreconditionerCall::new(&view(&buffer), &view(&other)));
        assert!(matches!(outcome, Err(Error::Limit { .. })), "{name}");
    }
}

fn expect_caught(bug: &Bug, case: &Case) {
    let gpus = all_gpus(bug.name);
    let seen = caught(bug, &gpus, |context| {
        held(context.gpu().expect("a GPU"), case, 3).map(|_| ())
    });
    assert_eq!(seen.len(), gpus.len(), "{}: caught only on {seen:?}", bug.name);
}

#[test]
fn planted_last_entry_dropped() {
    let case = Case::Ssor(Ssor::new(&grid(9), 1.2).unwrap());
    expect_caught(
        &Bug {
            name: "last non-zero of a short row dropped",
            edits: &[(
                SWEEP,
                "let length = row.length & 0xffffu;",
                "let length = max(row.length & 0xffffu, 1u) - 1u;",
            )],
        },
        &case,
    );
    let options = IncompleteCholeskyOptions {
        order: RowOrder::Multicolour,
        ..Default::default()
    };
    let long = Case::IncompleteCholesky(IncompleteCholesky::with_options(&arrow(400), &options).unwrap());
    expect_caught(
        &Bug {
            name: "last non-zero of a long row dropped",
            edits: &[(
                SWEEP,
                "let length = select(0u, row.length, live);",
                "let length = select(0u, row.length - 1u, live);",
            )],
        },
        &long,
    );
}

#[test]
fn planted_old_value_lost() {
    expect_caught(
        &Bug {
            name: "the term of the old value lost",
            edits: &[(
                SWEEP,
                "relaxed += opaque(params.keep * y[at], zero);",
                "relaxed += 0.0;",
            )],
        },
        &Case::Ssor(Ssor::new(&grid(9), 1.2).unwrap()),
    );
}

fn record(gpu: &Gpu, bound: &BoundRelaxation, sweeps: usize) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder, sweeps);
    gpu.queue().submit([encoder.finish()]);
}

/// Sweeps of SOR against the host's, k vectors at a time; with w = 1 and 1.5.
fn sor_held(gpu: &Gpu, a: &Csr<f64>, omega: f64) -> Result<f64, Mismatch> {
    let n = a.rows();
    let method = Sor::new(a, omega).expect("a diagonal");
    let (b, x) = (narrow(&random_vector(2 * n, 1)), narrow(&random_vector(2 * n, 2)));
    let (b_buffer, x_buffer) = (upload(gpu, &b), upload(gpu, &x));
    let view = |buffer| BufferView::new(buffer, DType::F32, &[2, n]);
    let bound = method.bind(gpu, &view(&b_buffer), &view(&x_buffer)).expect("binds");
    record(gpu, &bound, 3);
    let got = read(gpu, &x_buffer);
    let mut worst = 0.0f64;
    for k in 0..2 {
        let wide = |v: &[f32]| -> Vec<f64> { v[k * n..(k + 1) * n].iter().map(|&v| f64::from(v)).collect() };
        let (b, mut x, mut limit) = (wide(&b), wide(&x), vec![0.0; n]);
        let mut plain = x.clone();
        for _ in 0..3 {
            method.sweep_with_bound(&b, &mut x, &mut limit);
            reference::sor_sweep(a, omega, &b, &mut plain, method.order());
        }
        // The order of colours is what the reference has.
        assert!(
            plain
                .iter()
                .zip(&x)
                .all(|(p, x)| (p - x).abs() <= 1e-10 * (1.0 + p.abs()))
        );
        worst = worst.max(check(&got[k * n..(k + 1) * n], &x, &limit)?.of_bound);
    }
    Ok(worst)
}

#[test]
fn sor_holds_its_bound() {
    let test = "gpu_relaxation::sor_holds_its_bound";
    let mut matrices = vec![("grid".to_string(), grid(11)), ("arrow".to_string(), arrow(500))];
    let unsymmetric = dense(3, &[4., 1., 0., 2., 5., 0., 1., 1., 3.]);
    matrices.push(("unsymmetric".into(), unsymmetric));
    matrices.extend(
        shared(test, &["nos3", "bcsstk01"])
            .into_iter()
            .map(|(name, a, _)| (name, a)),
    );
    for adapter in adapters::all(test) {
        for (name, a) in &matrices {
            for omega in [1.0, 1.5] {
                sor_held(adapter.gpu(), a, omega).unwrap_or_else(|e| panic!("{}: {name}, {omega}: {e}", adapter.name));
            }
        }
    }
}

/// A weighted sweep of Jacobi's method is x + w D^-1 (b - A x), the product being the operator's.
fn jacobi_held(gpu: &Gpu) -> Result<f64, Mismatch> {
    let operator = FivePoint::new(11, 10);
    let n = operator.size();
    let (b, x) = (narrow(&random_vector(2 * n, 1)), narrow(&random_vector(2 * n, 2)));
    let (b_buffer, x_buffer) = (upload(gpu, &b), upload(gpu, &x));
    let view = |buffer| BufferView::new(buffer, DType::F32, &[2, n]);
    let method = Jacobi::new(&operator, 0.8).expect("a diagonal");
    let bound = method.bind(gpu, &view(&b_buffer), &view(&x_buffer)).expect("binds");
    assert_eq!(bound.dispatches(), 2);
    record(gpu, &bound, 2);
    let got = read(gpu, &x_buffer);
    let mut worst = 0.0f64;
    for k in 0..2 {
        let wide = |v: &[f32]| -> Vec<f64> { v[k * n..(k + 1) * n].iter().map(|&v| f64::from(v)).collect() };
        let (b, mut x) = (wide(&b), wide(&x));
        let mut q = vec![0.0; n];
        for _ in 0..2 {
            operator.apply(&x, &mut q);
            for i in 0..n {
                x[i] += 0.8 / 4.0 * (b[i] - q[i]);
            }
        }
        // Two sweeps of values of up to about 4, with sums of five of them.
        let limits = vec![2.0 * 20.0 * macheps::accuracy::U * 8.0; n];
        worst = worst.max(check(&got[k * n..(k + 1) * n], &x, &limits)?.of_bound);
    }
    Ok(worst)
}

#[test]
fn jacobi_on_a_users_operator() {
    for adapter in adapters::all("gpu_relaxation::jacobi_on_a_users_operator") {
        jacobi_held(adapter.gpu()).unwrap_or_else(|e| panic!("{}: {e}", adapter.name));
    }
}

#[test]
fn solves_to_a_tolerance() {
    let a = grid(14);
    let b = random_vector(a.rows(), 9);
    let m = operator(&a);
    let free = FivePoint::new(14, 14);
    for adapter in adapters::all("gpu_relaxation::solves_to_a_tolerance") {
        let context = &adapter.context;
        let options = RelaxationOptions {
            rtol: 1e-5,
            ..Default::default()
        };
        let on_cpu = jacobi(&Context::cpu(), &m, &b, &options).unwrap();
        for (what, solution) in [
            ("jacobi", jacobi(context, &m, &b, &options).unwrap()),
            ("jacobi without entries", jacobi(context, &free, &b, &options).unwrap()),
            ("gauss-seidel", gauss_seidel(context, &m, &b, &options).unwrap()),
            (
                "sor",
                sor(
                    context,
                    &m,
                    &b,
                    &RelaxationOptions {
                        omega: 1.6,
                        ..options.clone()
                    },
                )
                .unwrap(),
            ),
        ] {
            judge(&a, &b, &solution, 1e-5, what);
            assert!(
                solution.report.converged(),
                "{}, {what}: {:?}",
                adapter.name,
                solution.report
            );
            if what.starts_with("jacobi") {
                assert_eq!(
                    solution.report.iterations, on_cpu.report.iterations,
                    "{}: {what}",
                    adapter.name
                );
                let history = &solution.report.residual_history;
                assert_eq!(history.len(), solution.report.iterations + 1);
                for (got, want) in history.iter().zip(&on_cpu.report.residual_history) {
                    assert!(
                        (got - want).abs() <= 1e-3 * want + 1e-6,
                        "{}: {got} {want}",
                        adapter.name
                    );
                }
            } else {
                assert!(
                    2 * solution.report.iterations <= on_cpu.report.iterations + 50,
                    "{what}"
                );
            }
        }
        // Beyond f32: said, and mended by refinement.
        let deep = RelaxationOptions {
            rtol: 1e-12,
            omega: 1.6,
            ..Default::default()
        };
        let stuck = sor(context, &m, &b, &deep).unwrap();
        judge(&a, &b, &stuck, 1e-12, "deep");
        assert!(
            matches!(
                stuck.report.outcome,
                Outcome::Breakdown {
                    kind: Breakdown::Stagnation,
                    ..
                }
            ),
            "{}: {:?}",
            adapter.name,
            stuck.report
        );
        assert!(
            stuck.report.relative_residual < 1e-6,
            "{}: {:?}",
            adapter.name,
            stuck.report.relative_residual
        );
        let refined = RelaxationOptions {
            refine: true,
            ..deep.clone()
        };
        let mended = sor(context, &m, &b, &refined).unwrap();
        judge(&a, &b, &mended, 1e-12, "refined");
        assert!(
            mended.report.converged() && mended.report.refinements > 0,
            "{}",
            adapter.name
        );
        // The same bits again.
        assert_eq!(sor(context, &m, &b, &refined).unwrap().x, mended.x);
    }
}

#[test]
fn divergence_is_said_on_devices() {
    let a = dense(3, &[1., 0.9, 0.9, 0.9, 1., 0.9, 0.9, 0.9, 1.]);
    let b = [1.0, 2.0, 3.0];
    let mut cases = vec![("small".to_string(), a, b.to_vec())];
    for (name, a, _) in shared("gpu_relaxation::divergence_is_said_on_devices", &["wathen96"]) {
        let b = crate::sparse::exact_vector(a.rows());
        cases.push((name, a, b));
    }
    for adapter in adapters::all("gpu_relaxation::divergence_is_said_on_devices") {
        for (name, a, b) in &cases {
            let solution = jacobi(&adapter.context, &operator(a), b, &RelaxationOptions::default()).unwrap();
            judge(a, b, &solution, 1e-6, name);
            assert!(
                matches!(
                    solution.report.outcome,
                    Outcome::Breakdown {
                        kind: Breakdown::Divergence,
                        ..
                    }
                ),
                "{}, {name}: {:?}",
                adapter.name,
                solution.report
            );
            // The best there is: not worse than the start.
            assert!(solution.report.relative_residual <= 1.0);
        }
        let hole = operator(&dense(2, &[0., 1., 1., 1.]));
        let broken = jacobi(&adapter.context, &hole, &[1.0, 1.0], &RelaxationOptions::default()).unwrap();
        assert!(matches!(
            broken.report.outcome,
            Outcome::Breakdown {
                kind: Breakdown::ZeroDiagonal { row: 0 },
                iteration: 0
            }
        ));
        for n in [0usize, 1] {
            let m = operator(&Csr::identity(n).unwrap());
            for solve in [jacobi, sor] {
                let solution = solve(&adapter.context, &m, &vec![3.0; n], &RelaxationOptions::default()).unwrap();
                assert!(solution.report.converged() && solution.x == vec![3.0; n]);
            }
        }
        // Magnitudes far from 1.
        let m = operator(&grid(3));
        let solution = jacobi(&adapter.context, &m, &[1e-300; 9], &RelaxationOptions::default()).unwrap();
        assert!(solution.report.converged(), "{}: {:?}", adapter.name, solution.report);
    }
}

#[test]
fn planted_weights_of_relaxation() {
    let gpus = all_gpus("planted_weights_of_relaxation");
    for bug in [
        Bug {
            name: "the term (1 - w) x of SOR lost",
            edits: &[(SWEEP, "if params.keep != 0.0 {", "if params.keep > 2.0 {")],
        },
        Bug {
            name: "colours swept at once, from the old values",
            edits: &[(
                SWEEP,
                "return entry.value * y[origin + entry.column];",
                "return entry.value * y[origin];",
            )],
        },
    ] {
        let a = grid(6);
        let seen = caught(&bug, &gpus, |c| sor_held(c.gpu().expect("a GPU"), &a, 1.5).map(|_| ()));
        assert_eq!(seen.len(), gpus.len(), "{}: caught only on {seen:?}", bug.name);
    }
    for bug in [
        Bug {
            name: "the weight of Jacobi ignored",
            edits: &[(RELAXATION, "opaque(params.weight * inverse[i], zero)", "inverse[i]")],
        },
        Bug {
            name: "Jacobi without the diagonal",
            edits: &[(RELAXATION, "opaque(params.weight * inverse[i], zero)", "params.weight")],
        },
        Bug {
            name: "the last block of a vector left out",
            edits: &[(
                RELAXATION,
                "let rounds = select(0u, params.rounds, live);",
                "let rounds = select(0u, params.rounds - 1u, live);",
            )],
        },
    ] {
        let seen = caught(&bug, &gpus, |c| jacobi_held(c.gpu().expect("a GPU")).map(|_| ()));
        assert_eq!(seen.len(), gpus.len(), "{}: caught only on {seen:?}", bug.name);
    }
}

/// The kernel takes the rows of the other colour: both have as many, side by side in the list.
#[test]
fn planted_order_of_colours() {
    let a = grid(6);
    assert_eq!(Sor::new(&a, 1.0).unwrap().colours(), 2);
    let bug = Bug {
        name: "colour order wrong",
        edits: &[(
            SWEEP,
            "let row = rows_data[params.row_base + number];",
            "let row = rows_data[select(0u, params.count, params.row_base == 0u) + number];",
        )],
    };
    let gpus = all_gpus(bug.name);
    let seen = caught(&bug, &gpus, |c| sor_held(c.gpu().expect("a GPU"), &a, 1.5).map(|_| ()));
    assert_eq!(seen.len(), gpus.len(), "{}: caught only on {seen:?}", bug.name);
    expect_caught(&bug, &Case::Ssor(Ssor::new(&a, 1.2).unwrap()));
}

/// A user's operator whose diagonal is what it says, whatever its product is.
struct WithDiagonal(FivePoint, Vec<f64>);

impl LinearOperator for WithDiagonal {
    fn size(&self) -> usize {
        self.0.size()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        self.0.apply(x, y);
    }

    fn bind(&self, gpu: &Gpu, call: &OperatorCall<'_>) -> macheps::Result<Box<dyn Record>> {
        self.0.bind(gpu, call)
    }

    fn diagonal(&self) -> Option<Vec<f64>> {
        Some(self.1.clone())
    }
}

/// The row at which a sweep of Jacobi's method has to stop: the guard names it, or the kernel's x shows it.
fn row_named(gpu: &Gpu, method: macheps::Result<Jacobi<'_>>, n: usize) -> Result<usize, String> {
    let method = match method {
        Err(Error::Diagonal { row, .. }) => return Ok(row),
        Err(e) => return Err(e.to_string()),
        Ok(method) => method,
    };
    let (b, x) = (upload(gpu, &vec![1.0; n]), upload(gpu, &vec![0.0; n]));
    let view = |buffer| BufferView::new(buffer, DType::F32, &[n]);
    let bound = method.bind(gpu, &view(&b), &view(&x)).map_err(|e| e.to_string())?;
    record(gpu, &bound, 1);
    match read(gpu, &x).iter().position(|x| !x.is_finite()) {
        Some(row) => Err(format!("row {row} is not finite")),
        None => Err("no complaint".into()),
    }
}

/// Without the guard 1/0 reaches the kernel, and the first sweep shows it in the very row; a solve never claims such an answer.
#[test]
fn planted_guard_of_the_diagonal() {
    const ROW: usize = 37;
    let plain = FivePoint::new(11, 10);
    let n = plain.size();
    let with = |value: f64| {
        let mut diagonal = vec![4.0; n];
        diagonal[ROW] = value;
        WithDiagonal(plain.clone(), diagonal)
    };
    for adapter in adapters::all("gpu_relaxation::planted_guard_of_the_diagonal") {
        let (gpu, name) = (adapter.gpu(), &adapter.name);
        // Zero, and what is zero to f32.
        for value in [0.0, -0.0, 1e-39] {
            let operator = with(value);
            assert_eq!(row_named(gpu, Jacobi::new(&operator, 0.8), n), Ok(ROW), "{name}");
            let unguarded = row_named(gpu, Jacobi::unguarded(&operator, 0.8), n);
            assert_eq!(unguarded, Err(format!("row {ROW} is not finite")), "{name}");
        }
        let whole = with(4.0);
        assert_eq!(
            row_named(gpu, Jacobi::new(&whole, 0.8), n),
            Err("no complaint".into()),
            "{name}"
        );
        // One that the guard just lets pass: the iteration overflows, which is said, and x is the best there was.
        let b = vec![1.0; n];
        let outcome = |value| jacobi(&adapter.context, &with(value), &b, &RelaxationOptions::default());
        let solution = outcome(3.1e-39).unwrap();
        assert!(!solution.report.converged(), "{name}: {:?}", solution.report);
        assert!(solution.x.iter().all(|x| x.is_finite()), "{name}");
        let solution = outcome(0.0).unwrap();
        let zero = Breakdown::ZeroDiagonal { row: ROW };
        assert_eq!(
            solution.report.outcome,
            Outcome::Breakdown {
                kind: zero,
                iteration: 0
            },
            "{name}"
        );
        assert!(
            matches!(outcome(1e-39), Err(Error::Diagonal { row: ROW, .. })),
            "{name}"
        );
    }
}

/// Frames of a renderer with a device of its own, which nothing is made on, submitted to or waited for.
#[test]
fn recording_makes_nothing() {
    for adapter in adapters::all("gpu_relaxation::recording_makes_nothing") {
        let context = own_context(adapter);
        let theirs = context.gpu().expect("a GPU");
        let gpu = Gpu::borrow(theirs.device(), theirs.queue());
        let a = grid(8);
        let operator = operator(&a);
        let b = random_vector(64, 1);
        let (b_buffer, x_buffer) = (upload(theirs, &narrow(&b)), upload(theirs, &[0.0; 64]));
        let view = |buffer| BufferView::new(buffer, DType::F32, &[64]);
        let sor = Sor::new(&a, 1.5).unwrap();
        let jacobi = Jacobi::new(&operator, 0.9).unwrap();
        for (bound, dispatches, goal) in [
            (sor.bind(&gpu, &view(&b_buffer), &view(&x_buffer)), 2, 1e-5),
            // From where SOR stopped.
            (jacobi.bind(&gpu, &view(&b_buffer), &view(&x_buffer)), 2, 1e-5),
        ] {
            let bound = bound.unwrap();
            assert_eq!(bound.dispatches(), dispatches);
            let (kernels, asked) = (gpu.kernel_count(), gpu.statistics());
            let mut settled = None;
            for frame in 0..200 {
                let mut encoder = theirs.device().create_command_encoder(&Default::default());
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    let objects = live_objects(theirs.device());
                    bound.record_pass(&mut pass, 2);
                    assert_eq!(
                        live_objects(theirs.device()),
                        objects,
                        "{}: frame {frame}",
                        adapter.name
                    );
                }
                theirs.queue().submit([encoder.finish()]);
                if frame == 10 {
                    settled = Some(live_objects(theirs.device())[1..7].to_vec());
                }
            }
            assert_eq!(
                settled,
                Some(live_objects(theirs.device())[1..7].to_vec()),
                "{}",
                adapter.name
            );
            assert_eq!(
                (gpu.kernel_count(), gpu.statistics()),
                (kernels, asked),
                "{}",
                adapter.name
            );
            let x: Vec<f64> = read(theirs, &x_buffer).iter().map(|&x| f64::from(x)).collect();
            let mut q = vec![0.0; 64];
            operator.apply(&x, &mut q);
            let r: f64 = q.iter().zip(&b).map(|(q, b)| (q - b).powi(2)).sum::<f64>().sqrt();
            assert!(r < goal, "{}: {r}", adapter.name);
        }
    }
}
