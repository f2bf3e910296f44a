//! sigmoid, log_sigmoid, softplus and binary cross-entropy on every adapter: what holds on the CPU path, then views at any offset and
//! stride, bytes that must stay as they were, windows, the same bits on every run, planted bugs and the errors of embedded calls.

use crate::activation::{self as shared, Library};
use crate::adapters::{self, Adapter};
use crate::gpu_planted::{Bug, all_gpus, caught};
use crate::gpu_windows::{limited, small};
use macheps::element::{Element, bf16, f16};
use macheps::ops::activation;
use macheps::ops::activation::cases::{Case, Fill};
use macheps::ops::bce_with_logits;
use macheps::ops::bce_with_logits::cases::{Case as BceCase, Wanted};
use macheps::random::Random;
use macheps::{
    Activation, ActivationGradientViews, ActivationKind, ActivationViews, BceInput, BceOptions, BceViews,
    BceWithLogits, BufferView, Context, DType, Error, Gpu, LossReduction, Weights, wgpu,
};
use wgpu::BufferUsages as Usage;

const LOGISTIC: &str = include_str!("../../shaders/lib/logistic.wgsl");
const ELEMENTWISE: &str = include_str!("../../shaders/lib/elementwise.wgsl");
const BACKWARD: &str = include_str!("../../shaders/activation_backward.wgsl");
const BCE: &str = include_str!("../../shaders/bce_with_logits.wgsl");

#[test]
fn conforms() {
    for adapter in adapters::all("conforms") {
        let library = Library(&adapter.context);
        shared::onnx(&format!("ONNX on {}", adapter.name), &library);
        shared::hard_sigmoid(&format!("hard rows on {}", adapter.name), &library);
        shared::hard_bce(&format!("hard rows on {}", adapter.name), &library);
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_program_conforms() {
    for adapter in adapters::all("the_program_conforms") {
        // A process for each case: the data sets' inputs through both Vulkan drivers, which is what `--device` names apart.
        if adapter.is("gl") {
            continue;
        }
        let program = shared::program::Program(&adapter.name);
        shared::onnx(&format!("ONNX, program on {}", adapter.name), &program);
        shared::hard_sigmoid(&format!("hard rows, program on {}", adapter.name), &program);
        shared::hard_bce(&format!("hard rows, program on {}", adapter.name), &program);
    }
}

#[test]
fn all_floats() {
    for adapter in adapters::all("all_floats") {
        shared::exhaustive(&adapter.name, &adapter.context);
    }
}

#[test]
fn verify_cases() {
    for adapter in adapters::all("verify_cases") {
        shared::verify_cases(&adapter.name, &adapter.context);
    }
}

#[test]
fn properties_chains_and_malformed_calls() {
    for adapter in adapters::all("properties_chains_and_malformed_calls") {
        shared::properties(&adapter.name, &adapter.context);
        shared::chains(&adapter.name, &adapter.context);
        shared::malformed(&adapter.context);
    }
}

#[test]
fn the_same_bits_on_every_run() {
    for adapter in adapters::all("the_same_bits_on_every_run") {
        let case = BceCase {
            weighted: true,
            soft: true,
            ..BceCase::new(DType::F32, &[301, 257])
        };
        let data = case.data::<f32>();
        let once = case.compute(&adapter.context, &data).unwrap();
        assert_eq!(once, case.compute(&adapter.context, &data).unwrap(), "{}", adapter.name);
        // Nor do they depend on subgroups.
        let without = adapter.gpu().with_capabilities(|c| c.subgroup = 1);
        assert_eq!(
            once,
            case.compute(&Context::from_gpu(without), &data).unwrap(),
            "{}",
            adapter.name
        );
    }
}

/// A buffer's elements on the host. What belongs to no tensor is a NaN of an odd pattern: reading it spoils a result, writing
/// it is seen.
struct Pool<T> {
    values: Vec<T>,
    buffer: Option<wgpu::Buffer>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

fn place(shape: &[usize], strides: &[usize], offset: usize) -> Place {
    Place {
        shape: shape.to_vec(),
        strides: strides.to_vec(),
        offset,
    }
}

impl Place {
    fn positions(&self) -> Vec<usize> {
        let own = macheps::rows::contiguous_strides(&self.shape);
        (0..self.shape.iter().product())
            .map(|flat: usize| {
                let index = self.shape.iter().zip(&own).map(|(&size, &stride)| flat / stride % size);
                self.offset + index.zip(&self.strides).map(|(i, s)| i * s).sum::<usize>()
            })
            .collect()
    }
}

impl<T: Element> Pool<T> {
    fn new(len: usize) -> Pool<T> {
        let size = std::mem::size_of::<T>();
        let bytes = vec![0xffu8; len * size];
        Pool {
            values: bytemuck::pod_collect_to_vec(&bytes),
            buffer: None,
        }
    }

    fn fill(&mut self, at: &Place, values: &[T]) {
        for (position, value) in at.positions().into_iter().zip(values) {
            self.values[position] = *value;
        }
    }

    fn upload(&mut self, gpu: &Gpu) {
        let bytes: &[u8] = bytemuck::cast_slice(&self.values);
        let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("pool"),
            size: bytes.len() as u64,
            usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&buffer, 0, bytes);
        self.buffer = Some(buffer);
    }

    fn view(&self, at: &Place) -> BufferView {
        BufferView::new(self.buffer.as_ref().unwrap(), T::DTYPE, &at.shape)
            .with_strides(&at.strides)
            .at(at.offset)
    }

    /// The elements at a place, after checking that nothing else has changed but at `others`.
    fn taken(&self, gpu: &Gpu, at: &Place, others: &[&Place], what: &str) -> Vec<T> {
        let buffer = self.buffer.as_ref().unwrap();
        let encoder = gpu.device().create_command_encoder(&Default::default());
        let bytes = gpu.read_back(encoder, buffer, buffer.size()).unwrap().wait().unwrap();
        let now: Vec<T> = bytemuck::pod_collect_to_vec(&bytes);
        let mut may = vec![false; now.len()];
        for p in std::iter::once(at).chain(others.iter().copied()) {
            p.positions().into_iter().for_each(|i| may[i] = true);
        }
        for (i, (a, b)) in now.iter().zip(&self.values).enumerate() {
            assert!(
                may[i] || bytemuck::bytes_of(a) == bytemuck::bytes_of(b),
                "{what}: element {i} of the pool was written"
            );
        }
        at.positions().into_iter().map(|i| now[i]).collect()
    }
}

fn record(gpu: &Gpu, record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
}

/// x, y and upstream of one pool: disjoint, at odd offsets, with gaps; or y in the place of x.
fn views_of_activation<T: Element>(adapter: &Adapter, kind: ActivationKind, backward: bool, x: &Place, y: &Place) {
    let gpu = adapter.gpu();
    let what = format!("{}: {} {} x at {x:?}, y at {y:?}", adapter.name, kind.name(), T::DTYPE);
    let mut random = Random::new(x.offset as u64);
    let count = x.shape.iter().product();
    let mut values = || -> Vec<T> {
        (0..count)
            .map(|_| T::from_f64(Fill::Wide.pair(&mut random).0))
            .collect()
    };
    let (xs, gs) = (values(), values());
    let g = place(&x.shape, &macheps::rows::contiguous_strides(&x.shape), 6001);
    let mut pool = Pool::<T>::new(8000);
    pool.fill(x, &xs);
    // Indices that share an element have one value.
    let xs: Vec<T> = x.positions().into_iter().map(|i| pool.values[i]).collect();
    pool.fill(&g, &gs);
    pool.upload(gpu);
    let activation = Activation::new(gpu, kind, T::DTYPE);
    let bound = if backward {
        activation.bind_backward(&ActivationGradientViews {
            x: pool.view(x),
            upstream: pool.view(&g),
            dx: pool.view(y),
        })
    } else {
        activation.bind(&ActivationViews {
            x: pool.view(x),
            y: pool.view(y),
        })
    }
    .unwrap_or_else(|e| panic!("{what}: {e}"));
    record(gpu, |encoder| bound.record(encoder));
    let got = pool.taken(gpu, y, &[], &what);
    activation::check_results(kind, &xs, backward.then_some(gs.as_slice()), &got)
        .unwrap()
        .unwrap_or_else(|m| panic!("{what}: {m}"));
}

#[test]
fn views_of_any_offset_and_stride() {
    fn all<T: Element>(adapter: &Adapter) {
        let kinds = ActivationKind::ALL;
        let cases = [
            // Whole, aligned; odd offsets; gaps after rows; transposed; every third element; in place; three dimensions.
            (place(&[8, 24], &[24, 1], 0), place(&[8, 24], &[24, 1], 1024)),
            (place(&[191], &[1], 3), place(&[191], &[1], 1001)),
            (place(&[7, 13], &[17, 1], 5), place(&[7, 13], &[19, 1], 1003)),
            (place(&[9, 11], &[1, 9], 1), place(&[9, 11], &[11, 1], 1001)),
            (place(&[100], &[3], 2), place(&[100], &[2], 1001)),
            (place(&[7, 13], &[15, 1], 1), place(&[7, 13], &[15, 1], 1)),
            (
                place(&[3, 5, 7], &[101, 17, 2], 1),
                place(&[3, 5, 7], &[1, 21, 3], 2001),
            ),
            (place(&[4, 50], &[0, 1], 7), place(&[4, 50], &[52, 1], 1001)),
            (place(&[], &[], 9), place(&[], &[], 1001)),
        ];
        for (i, (x, y)) in cases.iter().enumerate() {
            // A pipeline is dear on software drivers: the functions take turns.
            views_of_activation::<T>(adapter, kinds[i % 3], i % 2 == 0, x, y);
            views_of_activation::<T>(adapter, kinds[(i + 1) % 3], i % 2 == 1, x, y);
        }
    }
    for adapter in adapters::all("views_of_any_offset_and_stride") {
        all::<f32>(adapter);
        all::<f16>(adapter);
        all::<bf16>(adapter);
    }
}

/// Binary cross-entropy on views: logits with gaps, gradient in their place or elsewhere, weights that broadcast, a workspace.
fn views_of_bce<T: Element>(adapter: &Adapter, reduction: LossReduction, in_place: bool) {
    let gpu = adapter.gpu();
    let what = format!(
        "{}: {} {} in place {in_place}",
        adapter.name,
        reduction.name(),
        T::DTYPE
    );
    let (rows, columns) = (19, 33);
    let shape = [rows, columns];
    let x = place(&shape, &[37, 1], 3);
    let grad = if in_place {
        x.clone()
    } else {
        place(&shape, &[1, 20], 1001)
    };
    let mut random = Random::new(7);
    let mut floats = |n: usize| -> Vec<f32> { (0..n).map(|_| random.unit() as f32).collect() };
    let (targets, weights, pos) = (floats(rows * columns), floats(rows), floats(columns));
    let upstreams = floats(if reduction == LossReduction::None {
        rows * columns
    } else {
        1
    });
    let xs: Vec<T> = (0..rows * columns)
        .map(|_| T::from_f64(random.normal() * 5.0))
        .collect();
    let each = reduction == LossReduction::None;
    let loss_shape: &[usize] = if each { &shape } else { &[] };
    let (target, weight, pos_weight) = (
        place(&shape, &[1, 19], 1),
        place(&[rows, 1], &[2, 1], 1001),
        place(&[columns], &[1], 1101),
    );
    let upstream = place(loss_shape, if each { &[33, 1] } else { &[] }, 2001);
    let loss = place(loss_shape, if each { &[35, 1] } else { &[] }, 3003);
    let mut logits = Pool::<T>::new(2000);
    logits.fill(&x, &xs);
    logits.upload(gpu);
    let mut pool = Pool::<f32>::new(4096);
    pool.fill(&target, &targets);
    pool.fill(&weight, &weights);
    pool.fill(&pos_weight, &pos);
    pool.fill(&upstream, &upstreams);
    pool.upload(gpu);
    let options = BceOptions { reduction };
    let bce = BceWithLogits::new(gpu, T::DTYPE, options);
    let mut views = BceViews::new(logits.view(&x), pool.view(&target));
    views.weight = Some(pool.view(&weight));
    views.pos_weight = Some(pool.view(&pos_weight));
    views.upstream = Some(pool.view(&upstream));
    views.loss = Some(pool.view(&loss));
    views.grad = Some(logits.view(&grad));
    let need = bce.workspace_size(&views).unwrap();
    assert_eq!(need > 0, !each, "{what}");
    let workspace = gpu.create_buffer("workspace", need + 256, Usage::STORAGE).unwrap();
    views.workspace = Some((workspace, 256));
    let bound = bce.bind(&views).unwrap_or_else(|e| panic!("{what}: {e}"));
    record(gpu, |encoder| bound.record(encoder));
    let input = BceInput {
        x: &xs,
        target: &targets,
        shape: &shape,
        weight: Some(Weights {
            values: &weights,
            shape: &[rows, 1],
        }),
        pos_weight: Some(Weights {
            values: &pos,
            shape: &[columns],
        }),
    };
    let got = pool.taken(gpu, &loss, &[], &what);
    bce_with_logits::check_losses(&input, &options, &got)
        .unwrap()
        .unwrap_or_else(|m| panic!("{what}: {m}"));
    let got = logits.taken(gpu, &grad, &[], &what);
    bce_with_logits::check_gradients(&input, Some(&upstreams), &options, &got)
        .unwrap()
        .unwrap_or_else(|m| panic!("{what}: gradient: {m}"));
}

#[test]
fn views_of_losses() {
    for adapter in adapters::all("views_of_losses") {
        views_of_bce::<f32>(adapter, LossReduction::Mean, true);
        views_of_bce::<f32>(adapter, LossReduction::None, false);
        views_of_bce::<f16>(adapter, LossReduction::None, true);
        views_of_bce::<bf16>(adapter, LossReduction::Sum, false);
    }
}

#[test]
fn targets_stored_as_the_logits() {
    for adapter in adapters::all("targets_stored_as_the_logits") {
        let gpu = adapter.gpu();
        let context = &adapter.context;
        let xs: Vec<f16> = (0..64).map(|i| f16::from_f32(i as f32 * 0.3 - 9.0)).collect();
        let targets: Vec<f16> = (0..64).map(|i| f16::from_f32((i % 5) as f32 * 0.25)).collect();
        let (x, target) = (
            context.upload(&xs, &[64]).unwrap(),
            context.upload(&targets, &[64]).unwrap(),
        );
        let loss = context.upload(&[0f32; 64], &[64]).unwrap();
        let options = BceOptions {
            reduction: LossReduction::None,
        };
        let mut views = BceViews::new(x.view().unwrap(), target.view().unwrap());
        views.loss = loss.view();
        let bound = BceWithLogits::new(gpu, DType::F16, options).bind(&views).unwrap();
        record(gpu, |encoder| bound.record(encoder));
        let wide: Vec<f32> = targets.iter().map(|t| t.to_f32()).collect();
        let input = BceInput::new(&xs, &wide, &[64]);
        let got = loss.download().unwrap();
        bce_with_logits::check_losses(&input, &options, &got)
            .unwrap()
            .unwrap_or_else(|m| panic!("{m}"));
    }
}

/// 1 MiB bindings and 64 workgroups a dimension: more than one window, and grids of two dimensions.
#[test]
fn several_windows() {
    for adapter in limited("several_windows", small) {
        let context = &adapter.context;
        let run = |outcome: macheps::Result<Result<_, macheps::accuracy::Mismatch>>| {
            let _: macheps::accuracy::MaxError = outcome.unwrap().unwrap_or_else(|m| panic!("{}: {m}", adapter.name));
        };
        for (backward, len) in [(false, 700_001), (true, 300_001)] {
            let case = Case {
                kind: ActivationKind::Softplus,
                backward,
                dtype: DType::F32,
                len,
                fill: Fill::Wide,
            };
            run(case.run(context));
        }
        for (reduction, shape) in [(LossReduction::Mean, [30_001, 21]), (LossReduction::None, [3, 100_001])] {
            let case = BceCase {
                reduction,
                weighted: true,
                soft: true,
                ..BceCase::new(DType::F32, &shape)
            };
            run(case.run(context));
        }
        // A view of which a few elements already span a binding.
        let gpu = adapter.gpu();
        let (x, y) = (place(&[200_000], &[3], 1), place(&[200_000], &[1], 0));
        let xs: Vec<f32> = (0..200_000).map(|i| (i % 4001) as f32 * 0.05 - 100.0).collect();
        let (mut from, mut to) = (Pool::<f32>::new(600_000), Pool::<f32>::new(200_000));
        from.fill(&x, &xs);
        from.upload(gpu);
        to.upload(gpu);
        let views = ActivationViews {
            x: from.view(&x),
            y: to.view(&y),
        };
        let bound = Activation::new(gpu, ActivationKind::Sigmoid, DType::F32)
            .bind(&views)
            .unwrap();
        assert!(bound.dispatches() > 2);
        record(gpu, |encoder| bound.record(encoder));
        let got = to.taken(gpu, &y, &[], &adapter.name);
        activation::check_results(ActivationKind::Sigmoid, &xs, None, &got)
            .unwrap()
            .unwrap_or_else(|m| panic!("{}: {m}", adapter.name));
    }
}

#[test]
fn embedded_calls_that_cannot_be_served() {
    let Some(adapter) = adapters::all("embedded_calls_that_cannot_be_served").first() else {
        return;
    };
    let gpu = adapter.gpu();
    let buffer = gpu.create_buffer("x", 4096, Usage::STORAGE).unwrap();
    let other = gpu.create_buffer("y", 4096, Usage::STORAGE).unwrap();
    let useless = gpu.create_buffer("z", 4096, Usage::COPY_DST).unwrap();
    let view = |buffer: &wgpu::Buffer, shape: &[usize]| BufferView::new(buffer, DType::F32, shape);
    let sigmoid = Activation::new(gpu, ActivationKind::Sigmoid, DType::F32);
    let forward = |x: BufferView, y: BufferView| sigmoid.bind(&ActivationViews { x, y }).err();
    let x = || view(&buffer, &[16, 16]);
    let y = || view(&other, &[16, 16]);
    assert!(forward(x(), y()).is_none() && forward(x(), x()).is_none());
    assert!(matches!(forward(x(), view(&other, &[256])), Some(Error::Shape { .. })));
    assert!(matches!(forward(x(), y().at(1000)), Some(Error::Shape { .. })));
    assert!(matches!(
        forward(x(), y().with_strides(&[0, 1])),
        Some(Error::Shape { .. })
    ));
    assert!(matches!(forward(x(), x().at(8)), Some(Error::Aliased { .. })));
    assert!(matches!(
        forward(x(), view(&useless, &[16, 16])),
        Some(Error::BufferUsage { .. })
    ));
    let half = BufferView::new(&other, DType::F16, &[16, 16]);
    assert!(matches!(forward(x(), half.clone()), Some(Error::DTypeMismatch { .. })));
    let gradient = ActivationGradientViews {
        x: x(),
        upstream: y(),
        dx: y(),
    };
    assert!(matches!(
        sigmoid.bind_backward(&gradient).err(),
        Some(Error::Aliased { .. })
    ));

    let bce = BceWithLogits::new(gpu, DType::F32, BceOptions::default());
    let base = || BceViews {
        loss: Some(view(&other, &[1]).at(600)),
        ..BceViews::new(x(), y())
    };
    assert!(bce.bind(&base()).is_ok());
    assert!(matches!(
        bce.bind(&BceViews::new(x(), y())).err(),
        Some(Error::Shape { .. })
    ));
    let refused = |change: fn(&mut BceViews, &wgpu::Buffer, &wgpu::Buffer)| {
        let mut views = base();
        change(&mut views, &buffer, &other);
        bce.bind(&views).err()
    };
    let shape = |e: Option<Error>| assert!(matches!(e, Some(Error::Shape { .. })), "{e:?}");
    let aliased = |e: Option<Error>| assert!(matches!(e, Some(Error::Aliased { .. })), "{e:?}");
    shape(refused(|v, b, _| v.target = BufferView::new(b, DType::F32, &[256])));
    shape(refused(|v, b, _| {
        v.weight = Some(BufferView::new(b, DType::F32, &[15]))
    }));
    shape(refused(|v, _, o| {
        v.loss = Some(BufferView::new(o, DType::F32, &[2]).at(600))
    }));
    shape(refused(|v, b, _| {
        v.grad = Some(v.x.clone());
        v.upstream = Some(BufferView::new(b, DType::F32, &[2]).at(600));
    }));
    shape(refused(|v, b, _| v.workspace = Some((b.clone(), 100))));
    shape(refused(|v, b, _| v.workspace = Some((b.clone(), 4096))));
    aliased(refused(|v, b, _| v.workspace = Some((b.clone(), 0))));
    aliased(refused(|v, _, o| v.loss = Some(BufferView::new(o, DType::F32, &[1]))));
    aliased(refused(|v, _, o| {
        v.grad = Some(BufferView::new(o, DType::F32, &[16, 16]))
    }));
    let mut mixed = base();
    mixed.target = half;
    assert!(matches!(bce.bind(&mixed).err(), Some(Error::DTypeMismatch { .. })));
    mixed = base();
    mixed.loss = Some(BufferView::new(&other, DType::F16, &[1]).at(1200));
    assert!(matches!(bce.bind(&mixed).err(), Some(Error::DTypeMismatch { .. })));
}

fn expect_caught(name: &'static str, edits: &'static [(&'static str, &'static str, &'static str)], case: &BceCase) {
    let bug = Bug { name, edits };
    let gpus = all_gpus(name);
    let caught = caught(&bug, &gpus, |context| {
        case.run(context).expect("the case runs").map(|_| ())
    });
    assert_eq!(caught.len(), gpus.len(), "{name}: caught only on {caught:?}");
}

fn expect_caught_activation(
    name: &'static str,
    edits: &'static [(&'static str, &'static str, &'static str)],
    kind: ActivationKind,
    backward: bool,
) {
    let bug = Bug { name, edits };
    let cases = [Fill::Wide, Fill::Ordinary].map(|fill| Case {
        kind,
        backward,
        dtype: DType::F32,
        len: 4001,
        fill,
    });
    let gpus = all_gpus(name);
    let caught = caught(&bug, &gpus, |context| {
        cases
            .iter()
            .try_for_each(|case| case.run(context).expect("the case runs").map(|_| ()))
    });
    assert_eq!(caught.len(), gpus.len(), "{name}: caught only on {caught:?}");
}

fn loss_case(reduction: LossReduction) -> BceCase {
    BceCase {
        wanted: Wanted::Loss,
        reduction,
        weighted: true,
        soft: true,
        ..BceCase::new(DType::F32, &[61, 37])
    }
}

#[test]
fn softplus_without_the_max_split() {
    expect_caught_activation(
        "softplus without the max split",
        &[(
            LOGISTIC,
            "return select(value, linear, abs(x) > vec4<f32>(104.0));",
            "return log(1.0 + exp(x));",
        )],
        ActivationKind::Softplus,
        false,
    );
}

#[test]
fn slope_as_s_times_one_minus_s() {
    expect_caught_activation(
        "slope as s (1 - s)",
        &[(
            BACKWARD,
            "y = sigmoid_slope_times4(g, v, r, zero);",
            "let s = opaque4(sigmoid_times4(negative, vec4<f32>(1.0), v, r, zero), zero); y = s * opaque4(1.0 - s, zero) * g;",
        )],
        ActivationKind::Sigmoid,
        true,
    );
}

#[test]
fn gradient_of_log_sigmoid_on_the_wrong_side() {
    expect_caught_activation(
        "log_sigmoid's gradient as sigmoid(x)",
        &[(
            BACKWARD,
            "let below = select(negative, !negative, vec4<bool>(KIND == LOG_SIGMOID));",
            "let below = negative;",
        )],
        ActivationKind::LogSigmoid,
        true,
    );
}

#[test]
fn rounding_of_one_plus_exp_dropped() {
    expect_caught_activation(
        "rounding error of 1 + exp(-|x|) dropped",
        &[(
            LOGISTIC,
            "Pair4(s.high, opaque4(s.low + tail.low, zero))",
            "Pair4(s.high, vec4<f32>(0.0))",
        )],
        ActivationKind::Softplus,
        false,
    );
}

#[test]
fn last_quad_skipped() {
    expect_caught_activation(
        "incomplete quads skipped",
        &[(
            ELEMENTWISE,
            "select(0u, min(4u, end - min(first, end)), exists)",
            "select(0u, 4u, exists && first + 4u <= end)",
        )],
        ActivationKind::Sigmoid,
        false,
    );
}

#[test]
fn tail_mask_dropped() {
    expect_caught(
        "tail mask of the sum dropped",
        &[(
            BCE,
            "let exists = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(quad.count);",
            "let exists = vec4<bool>(true);",
        )],
        &loss_case(LossReduction::Sum),
    );
}

#[test]
fn weight_dropped() {
    expect_caught(
        "weight dropped from the loss",
        &[(
            BCE,
            "opaque4(value, params.zero) * i.weight,",
            "opaque4(value, params.zero),",
        )],
        &loss_case(LossReduction::Mean),
    );
    expect_caught(
        "weight dropped from the gradient",
        &[(
            BCE,
            "opaque4(opaque4(upstream * params.scale, params.zero) * i.weight, params.zero)",
            "opaque4(upstream * params.scale, params.zero)",
        )],
        &BceCase {
            wanted: Wanted::Gradient,
            ..loss_case(LossReduction::Mean)
        },
    );
}

/// Inputs and results fit f32; sums and products on the way do not.
#[test]
fn intermediates_beyond_the_range_of_f32() {
    type Four = [f32; 4];
    // Logits, targets, weights, pos_weights, upstream gradients.
    let cases: &[(&str, Four, Four, Four, Four, Four)] = &[
        (
            "losses whose sum is infinite",
            [1.5e38; 4],
            [0.0; 4],
            [1.0; 4],
            [1.0; 4],
            [1.0; 4],
        ),
        (
            "signs",
            [-3e38, 3e38, -2e38, 2e38],
            [1.0, 0.0, 1.0, 0.5],
            [1.0, -1.0, 1.0, 1.0],
            [1.0; 4],
            [1.0; 4],
        ),
        (
            "huge weights",
            [0.5, -1.0, 2.0, 0.0],
            [0.0, 1.0, 0.25, 1.0],
            [3e38, 2e38, 1e38, 2e38],
            [1.0; 4],
            [0.5; 4],
        ),
        (
            "huge and tiny",
            [0.5, -1.0, 2.0, 0.0],
            [1.0; 4],
            [1e-38, 2e-37, 3e-38, 1e-36],
            [3e38, 1e38, 2e38, 1e38],
            [1.0; 4],
        ),
        (
            "tiny weights",
            [0.5, -1.0, 2.0, 0.0],
            [0.0, 1.0, 0.25, 1.0],
            [2e-38, 3e-38, 2e-38, 4e-38],
            [2.0; 4],
            [3e38, 1e38, 1e37, 2e38],
        ),
        (
            "losses lost without their weights",
            [-95.0, 100.0, -120.0, 130.0],
            [0.0, 1.0, 0.0, 1.0],
            [1e38; 4],
            [1.0; 4],
            [1.0; 4],
        ),
        (
            "tiny upstream",
            [0.5, -1.0, 2.0, 0.0],
            [0.0, 1.0, 0.25, 1.0],
            [3e38, 1e38, 1e37, 2e38],
            [1.0; 4],
            [1e-38, 1e-40, 2e-38, 3e-39],
        ),
        (
            "tiny targets",
            [-90.0, -40.0, 2.0, 0.0],
            [1e-38, 2e-20, 1e-30, 3e-38],
            [1e30, 1e10, 1.0, 1e38],
            [1.0, 1e20, 1.0, 1.0],
            [1.0; 4],
        ),
    ];
    let mut wrong = Vec::new();
    for adapter in adapters::all("intermediates beyond the range of f32") {
        for (device, context) in [("cpu", &Context::cpu()), (&adapter.name, &adapter.context)] {
            for reduction in LossReduction::ALL {
                for (name, x, target, weight, positive, upstream) in cases {
                    let options = BceOptions { reduction };
                    let input = BceInput {
                        weight: Some(Weights {
                            values: weight,
                            shape: &[4],
                        }),
                        pos_weight: Some(Weights {
                            values: positive,
                            shape: &[4],
                        }),
                        ..BceInput::new(x, target, &[4])
                    };
                    let upstream = if reduction == LossReduction::None {
                        &upstream[..]
                    } else {
                        &upstream[..1]
                    };
                    let got =
                        bce_with_logits::forward_backward(context, &input, Some(upstream), &options).expect("runs");
                    let losses = bce_with_logits::check_losses(&input, &options, &got.loss).expect("valid");
                    let gradients = bce_with_logits::check_gradients(&input, Some(upstream), &options, &got.grad);
                    for outcome in [losses, gradients.expect("valid")] {
                        let place = format!("{device} {} {name}", reduction.name());
                        wrong.extend(outcome.err().map(|m| format!("{place}: {m}")));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{wrong:#?}", wrong.len());
}

#[test]
fn pos_weight_on_the_wrong_term() {
    expect_caught(
        "pos_weight on the negative term",
        &[
            (
                BCE,
                "let a = opaque4(1.0 - label, params.zero);",
                "let a = opaque4(positive * (1.0 - label), params.zero);",
            ),
            (BCE, "let b = opaque4(positive * label, params.zero);", "let b = label;"),
        ],
        &loss_case(LossReduction::Mean),
    );
}

#[test]
fn upstream_or_mean_dropped_from_the_gradient() {
    let case = BceCase {
        wanted: Wanted::Gradient,
        ..loss_case(LossReduction::Mean)
    };
    expect_caught(
        "upstream gradient dropped",
        &[(BCE, "opaque4(upstream * params.scale, params.zero)", "params.scale")],
        &case,
    );
    expect_caught(
        "gradient of the mean not divided",
        &[(BCE, "opaque4(upstream * params.scale, params.zero)", "upstream")],
        &case,
    );
}
