//! Relaxation and preconditioners on every adapter.

use crate::adapters;
use crate::gpu_planted::{Bug, all_gpus, caught, limited};
use crate::relaxation::{arrow, grid, preconditioners, random_vector, shared};
use macheps::accuracy::{Mismatch, check};
use macheps::solve::{
    IncompleteCholesky, IncompleteCholeskyOptions, Preconditioner, PreconditionerCall, RowOrder, Ssor,
};
use macheps::sparse::Csr;
use macheps::{BufferView, DType, Error, Gpu};

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
