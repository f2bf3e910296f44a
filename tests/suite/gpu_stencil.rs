//! The grid stencil on every adapter: within the stated bound of the stored matrix's product, for every kind of side, with solid
//! cells and without; parts of dot products; several vectors; changes without binding anew; limits; planted bugs.

use crate::adapters;
use crate::gpu_planted::{Bug, Verdict, all_gpus, caught, limited};
use crate::stencil::{full, product, sides, vector};
use macheps::accuracy::{Mismatch, U, allowed, check};
use macheps::solve::{
    Boundary, Coefficient, GridStencil, GridStencilOptions, LinearOperator, OperatorCall, Reaction, Record,
};
use macheps::{BufferView, DType, Error, Gpu, wgpu};

const STENCIL: &str = include_str!("../../shaders/stencil.wgsl");
const SOLID: &str = include_str!("../../shaders/lib/stencil_solid.wgsl");
const DOT: &str = include_str!("../../shaders/lib/stencil_dot.wgsl");

/// Buffers of a call of k vectors, with sentinels where something is to be written.
struct Bound {
    recording: Box<dyn Record>,
    y: wgpu::Buffer,
    dot: Option<wgpu::Buffer>,
    k: usize,
    n: usize,
    parts: usize,
}

const SENTINEL: f32 = -7.5e20;

fn floats(gpu: &Gpu, values: &[f32]) -> wgpu::Buffer {
    gpu.upload("stencil test", bytemuck::cast_slice(values)).unwrap()
}

fn bind(
    gpu: &Gpu,
    stencil: &GridStencil,
    x: &[f64],
    k: usize,
    dot: bool,
    active: Option<&[u32]>,
) -> macheps::Result<Bound> {
    let n = stencil.size();
    let shape: &[usize] = if k == 1 { &[n] } else { &[k, n] };
    // From element 3 on, so that no base is 0.
    let values: Vec<f32> = [f32::NAN; 3].into_iter().chain(x.iter().map(|&v| v as f32)).collect();
    let x = BufferView::new(&floats(gpu, &values), DType::F32, shape).at(3);
    let y_buffer = floats(gpu, &vec![SENTINEL; k * n + 8]);
    // One vector may be [n] or [1, n].
    let y = BufferView::new(&y_buffer, DType::F32, &[k, n]).at(5);
    let parts = stencil.dot_partials(gpu).unwrap();
    let dot_buffer = dot.then(|| floats(gpu, &vec![SENTINEL; k * parts * 2 + 1]));
    let dot_view = dot_buffer
        .as_ref()
        .map(|b| BufferView::new(b, DType::F32, &[k, parts, 2]).at(1));
    let words = active.map(|words| gpu.upload("active", bytemuck::cast_slice(words)).unwrap());
    let mut call = OperatorCall::new(&x, &y);
    call.dot = dot_view.as_ref();
    call.active = words.as_ref();
    Ok(Bound {
        recording: stencil.bind(gpu, &call)?,
        y: y_buffer,
        dot: dot_buffer,
        k,
        n,
        parts,
    })
}

impl Bound {
    /// Runs it; y with the sentinels around it, and all parts of the dot products.
    fn run(&self, gpu: &Gpu) -> (Vec<f32>, Vec<f32>) {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.recording
            .record(&mut encoder.begin_compute_pass(&Default::default()));
        let mut outputs = vec![(&self.y, (self.k * self.n + 8) as u64 * 4)];
        if let Some(dot) = &self.dot {
            outputs.push((dot, dot.size() / 4 * 4));
        }
        let bytes = gpu.read_back_all(encoder, &outputs).unwrap().wait().unwrap();
        let mut y: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let mut dot = y.split_off(self.k * self.n + 8);
        dot.drain(..dot.len().min(1));
        dot.truncate(self.k * self.parts * 2);
        (y, dot)
    }
}

/// (log2 p + 6) u sum |a x|, and what flushing may add.
fn bounds(options: &GridStencilOptions, want: &[f64], scale: &[f64]) -> Vec<f64> {
    let flat = options.cells[2] == 1 && !options.boundary[2].contains(&Boundary::Dirichlet);
    let p: f64 = if flat { 5.0 } else { 7.0 };
    let each = want.iter().zip(scale);
    each.map(|(want, scale)| allowed(DType::F32, *want, (p.log2() + 6.0) * U * scale))
        .collect()
}

/// Computes k vectors and compares them, and the dot products, with the stored matrix.
fn judge(gpu: &Gpu, options: &GridStencilOptions, k: usize, dot: bool) -> Verdict {
    let stencil = GridStencil::new(options).unwrap();
    judge_made(gpu, &stencil, options, k, dot)
}

fn judge_made(gpu: &Gpu, stencil: &GridStencil, options: &GridStencilOptions, k: usize, dot: bool) -> Verdict {
    let n = stencil.size();
    let x = vector(k * n, 11);
    let bound = bind(gpu, stencil, &x, k, dot, None).unwrap();
    let (y, parts) = bound.run(gpu);
    let a = stencil.to_csr().unwrap();
    assert!(
        y[..5].iter().chain(&y[5 + k * n..]).all(|v| *v == SENTINEL),
        "written beside y"
    );
    let y = &y[5..5 + k * n];
    for vector in 0..k {
        let range = vector * n..(vector + 1) * n;
        let (want, scale) = product(&a, &x[range.clone()]);
        check(&y[range.clone()], &want, &bounds(options, &want, &scale))?;
        if dot {
            let p = stencil.dot_partials(gpu).unwrap();
            assert!((1..=1024).contains(&p));
            let parts = &parts[vector * p * 2..][..p * 2];
            // Of what was written, not of what should have been.
            let terms = || {
                x[range.clone()]
                    .iter()
                    .zip(&y[range.clone()])
                    .map(|(x, y)| x * f64::from(*y))
            };
            let got: f64 = parts.iter().map(|v| f64::from(*v)).sum();
            let (want, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let bound = 2.0 * U * size + n as f64 * 1e-37;
            if (got - want).abs() > bound || got.is_nan() {
                return Err(Mismatch {
                    index: vector,
                    got,
                    want,
                    bound,
                });
            }
        }
    }
    Ok(())
}

fn plane(cells: [usize; 2], boundary: [[Boundary; 2]; 2]) -> GridStencilOptions {
    let mut options = GridStencilOptions::plane(cells[0], cells[1]);
    options.boundary = [boundary[0], boundary[1], [Boundary::Neumann; 2]];
    options.spacing = [0.25, 0.5, 1.0];
    options
}

#[test]
fn products_are_within_the_bound() {
    for adapter in adapters::all("stencil products") {
        let gpu = adapter.gpu();
        let assert_fine = |options: &GridStencilOptions, k, dot| {
            judge(gpu, options, k, dot).unwrap_or_else(|m| panic!("{}: {m}: {options:?}", adapter.name));
        };
        // Constant in planes, every pair of sides; axes of 1, 2 and more than a block of cells.
        for b in 0..16 {
            for cells in [[13, 9], [1, 7], [7, 1], [2, 2], [1, 1]] {
                assert_fine(&plane(cells, [sides(b), sides(b / 4)]), 1, true);
            }
        }
        assert_fine(&plane([301, 77], [sides(0), sides(2)]), 1, true);
        // Everything at once, in volumes.
        for b in 0..16 {
            for cells in [[7, 5, 4], [1, 3, 5], [3, 2, 1], [1, 1, 1], [33, 1, 2]] {
                let options = full(cells, [sides(b), sides(b / 4), sides(b / 2)], b as u64);
                assert_fine(&options, 3, false);
            }
        }
        assert_fine(&full([37, 29, 17], [sides(1), sides(0), sides(2)], 5), 3, false);
    }
}

#[test]
fn cases_are_within_the_bound() {
    let gpus = adapters::all("stencil cases")
        .iter()
        .map(|a| (a.name.as_str(), a.context.clone()));
    for (name, context) in [("cpu", macheps::Context::cpu())].into_iter().chain(gpus) {
        for case in macheps::solve::stencil::cases::verify_cases() {
            case.run(&context)
                .unwrap()
                .unwrap_or_else(|m| panic!("{name}: {m}: {case:?}"));
        }
    }
}

#[test]
fn symmetric_and_blind_to_constants() {
    for adapter in adapters::all("stencil symmetry") {
        let gpu = adapter.gpu();
        // Without Dirichlet sides and reaction constants give exact zeros, also beside solid cells.
        let mut options = full([9, 8, 7], [sides(3), sides(1), sides(3)], 2);
        options.reaction = Reaction::Cells(vec![0.0; 504]);
        let stencil = GridStencil::new(&options).unwrap();
        let (y, _) = bind(gpu, &stencil, &vec![f64::from(1.1f32); 504], 1, false, None)
            .unwrap()
            .run(gpu);
        for (y, solid) in y[5..].iter().zip(options.solid.iter().flatten()) {
            assert_eq!(*y, if *solid { 1.1 } else { 0.0 }, "{}", adapter.name);
        }
        // NaN within solid cells stays there.
        let x: Vec<f64> = options
            .solid
            .iter()
            .flatten()
            .map(|s| if *s { f64::NAN } else { 1.0 })
            .collect();
        let (y, _) = bind(gpu, &stencil, &x, 1, false, None).unwrap().run(gpu);
        assert!(
            y[5..].iter().zip(&x).all(|(y, x)| y.is_nan() == x.is_nan()),
            "{}",
            adapter.name
        );
        // Columns: the product of unit vectors is the matrix, and that is symmetric bit for bit.
        let options = full([4, 3, 2], [sides(0), sides(1), sides(2)], 3);
        let stencil = GridStencil::new(&options).unwrap();
        let identity: Vec<f64> = (0..24 * 24).map(|i| f64::from(u8::from(i % 25 == 0))).collect();
        let (y, _) = bind(gpu, &stencil, &identity, 24, false, None).unwrap().run(gpu);
        for i in 0..24 {
            for j in 0..24 {
                assert_eq!(y[5 + i * 24 + j], y[5 + j * 24 + i], "{}: {i} {j}", adapter.name);
            }
        }
    }
}

#[test]
fn bound_once_changed_often() {
    for adapter in adapters::all("stencil changes") {
        let gpu = adapter.gpu();
        let boundary = [sides(0), sides(1), sides(2)];
        let options = full([11, 7, 5], boundary, 20);
        let stencil = GridStencil::new(&options).unwrap();
        let x = vector(385, 4);
        let bound = bind(gpu, &stencil, &x, 1, false, None).unwrap();
        for seed in 21..24 {
            let other = full([11, 7, 5], boundary, seed);
            stencil.set_solid(other.solid.as_ref().unwrap()).unwrap();
            stencil.set_coefficient(&other.coefficient).unwrap();
            stencil.set_reaction(&other.reaction).unwrap();
            let (want, scale) = product(&GridStencil::new(&other).unwrap().to_csr().unwrap(), &x);
            let (y, _) = bound.run(gpu);
            check(&y[5..390], &want, &bounds(&other, &want, &scale)).unwrap();
            assert_eq!(y, bound.run(gpu).0, "the same bits again");
        }
        // Buffers of the caller's own, with what is on the device by now.
        let own = stencil.buffers(gpu).unwrap();
        let second = GridStencil::new(&options).unwrap();
        second.set_buffers(gpu, own).unwrap();
        let (y, _) = bind(gpu, &second, &x, 1, false, None).unwrap().run(gpu);
        assert_eq!(y, bound.run(gpu).0);
        let plain = GridStencil::new(&plane([3, 3], [sides(0), sides(0)])).unwrap();
        let refused = plain.set_buffers(gpu, stencil.buffers(gpu).unwrap());
        assert!(matches!(refused, Err(Error::Shape { .. })), "{refused:?}");
    }
}

#[test]
fn vectors_that_are_done_may_be_left_alone() {
    for adapter in adapters::all("stencil activity") {
        let gpu = adapter.gpu();
        let options = plane([40, 21], [sides(0), sides(1)]);
        let stencil = GridStencil::new(&options).unwrap();
        let (n, p) = (840, stencil.dot_partials(gpu).unwrap());
        let x = vector(3 * n, 4);
        let (all, dots) = bind(gpu, &stencil, &x, 3, true, None).unwrap().run(gpu);
        let (some, parts) = bind(gpu, &stencil, &x, 3, true, Some(&[7, 0, 1])).unwrap().run(gpu);
        for vector in [0, 2] {
            let range = 5 + vector * n..5 + (vector + 1) * n;
            assert_eq!(some[range.clone()], all[range], "{}", adapter.name);
            assert_eq!(parts[vector * p * 2..][..p * 2], dots[vector * p * 2..][..p * 2]);
        }
        assert!(
            some[5 + n..5 + 2 * n].iter().all(|v| *v == SENTINEL),
            "{}",
            adapter.name
        );
        assert!(parts.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn one_pool_of_buffers_serves() {
    for adapter in adapters::all("stencil in a pool") {
        let gpu = adapter.gpu();
        let options = plane([40, 21], [sides(0), sides(1)]);
        let stencil = GridStencil::new(&options).unwrap();
        let x = vector(840, 4);
        let mut values: Vec<f32> = x.iter().map(|&v| v as f32).collect();
        values.resize(2048 + 840, SENTINEL);
        let pool = floats(gpu, &values);
        let view = |at| BufferView::new(&pool, DType::F32, &[840]).at(at);
        let bound = stencil.bind(gpu, &OperatorCall::new(&view(0), &view(2048))).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder.begin_compute_pass(&Default::default()));
        let bytes = gpu.read_back(encoder, &pool, pool.size()).unwrap().wait().unwrap();
        let y: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let (want, scale) = product(&stencil.to_csr().unwrap(), &x);
        check(&y[2048..], &want, &bounds(&options, &want, &scale)).unwrap();
        // What overlaps or has another shape is refused.
        let call = |x: &BufferView, y: &BufferView| stencil.bind(gpu, &OperatorCall::new(x, y)).map(|_| ());
        assert!(matches!(call(&view(0), &view(839)), Err(Error::Aliased { .. })));
        let short = BufferView::new(&pool, DType::F32, &[839]);
        assert!(matches!(call(&short, &view(2048)), Err(Error::Shape { .. })));
        let apart = BufferView::new(&pool, DType::F32, &[2, 840]).with_strides(&[900, 2]);
        assert!(matches!(call(&apart, &view(2048)), Err(Error::Shape { .. })));
        let halves = BufferView::new(&pool, DType::F16, &[840]);
        assert!(matches!(call(&halves, &view(2048)), Err(Error::DTypeMismatch { .. })));
        let beyond = view(2049);
        assert!(matches!(call(&view(0), &beyond), Err(Error::Shape { .. })));
    }
}

#[test]
fn empty_grids_leave_zeros() {
    for adapter in adapters::all("stencil of nothing") {
        let gpu = adapter.gpu();
        let stencil = GridStencil::new(&GridStencilOptions::plane(0, 3)).unwrap();
        let bound = bind(gpu, &stencil, &[], 1, true, None).unwrap();
        let (y, parts) = bound.run(gpu);
        assert!(
            y.iter().all(|v| *v == SENTINEL) && parts == [0.0, 0.0],
            "{}: {parts:?}",
            adapter.name
        );
    }
}

#[test]
fn small_limits() {
    let gpus = limited("stencil limits", |l| {
        l.max_storage_buffer_binding_size = 1 << 20;
        l.max_compute_workgroups_per_dimension = 16;
    });
    for (name, gpu) in gpus {
        // 16 workgroups have to do.
        judge(&gpu, &plane([400, 300], [sides(0), sides(1)]), 2, true).unwrap_or_else(|m| panic!("{name}: {m}"));
        let wide = GridStencil::new(&plane([600, 500], [sides(0), sides(1)])).unwrap();
        let refused = bind(&gpu, &wide, &vec![0.0; 300_000], 1, false, None).map(|_| ());
        assert!(matches!(refused, Err(Error::Limit { .. })), "{name}: {refused:?}");
        let small = GridStencil::new(&plane([6, 5], [sides(0), sides(1)])).unwrap();
        let refused = bind(&gpu, &small, &vec![0.0; 30 * 17], 17, false, None).map(|_| ());
        assert!(matches!(refused, Err(Error::Limit { .. })), "{name}: {refused:?}");
        let faces = GridStencilOptions {
            coefficient: Coefficient::Cells(vec![1.0; 160_000]),
            ..GridStencilOptions::plane(400, 400)
        };
        let refused = GridStencil::new(&faces).unwrap().buffers(&gpu).map(|_| ());
        assert!(matches!(refused, Err(Error::Limit { .. })), "{name}: {refused:?}");
    }
}

fn expect_caught(bug: &Bug, options: &GridStencilOptions) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, |context| {
        judge(context.gpu().unwrap(), options, 1, options.solid.is_none())
    });
    assert_eq!(caught.len(), gpus.len(), "{}: caught only on {caught:?}", bug.name);
}

#[test]
fn neighbour_dropped_at_a_border() {
    let bug = Bug {
        name: "neighbour below the last row dropped",
        edits: &[(STENCIL, "let last_y = j + 1u == ny;", "let last_y = j + 2u >= ny;")],
    };
    expect_caught(&bug, &plane([13, 9], [sides(0), sides(0)]));
}

#[test]
fn periodic_wrap_off_by_one() {
    let bug = Bug {
        name: "periodic wrap off by one",
        edits: &[(STENCIL, "cell + (nx - 1u), wrap.x)", "cell + nx, wrap.x)")],
    };
    expect_caught(&bug, &plane([13, 9], [sides(1), sides(0)]));
}

#[test]
fn solid_cells_ignored() {
    let bug = Bug {
        name: "mask ignored",
        edits: &[(SOLID, "& 1u) != 0u;", "& 1u) > 1u;")],
    };
    expect_caught(&bug, &full([7, 5, 4], [sides(0), sides(1), sides(2)], 3));
}

#[test]
fn part_of_a_workgroup_missing() {
    let bug = Bug {
        name: "part of one workgroup missing",
        edits: &[(
            DOT,
            "    if wanted && local == 0u {",
            "    if wanted && local == 0u && block != 1u {",
        )],
    };
    expect_caught(&bug, &plane([130, 90], [sides(0), sides(1)]));
}

#[test]
fn grid_position_lost_between_steps() {
    let bug = Bug {
        name: "no carry from x to y",
        edits: &[(
            STENCIL,
            "            i -= params.size.x;\n            j += 1u;",
            "            i -= params.size.x;",
        )],
    };
    expect_caught(&bug, &plane([130, 90], [sides(0), sides(0)]));
}
