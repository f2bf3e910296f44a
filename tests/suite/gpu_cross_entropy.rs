//! Losses over classes on every adapter: one-shots and embedded calls, strategies by name, views, windows, the bytes moved, and
//! planted bugs, all against the oracle.

use crate::adapters::{self, Adapter};
use crate::gpu_planted::{Bug, all_gpus, caught};
use crate::gpu_windows::{limited, small};
use macheps::element::{bf16, f16};
use macheps::ops::cross_entropy::cases::{Case, Data, Targets, verify_cases};
use macheps::ops::cross_entropy::{
    CrossEntropy, CrossEntropyOutput, CrossEntropyViews, Labels, LossKind, LossReduction, RowSums, TargetTensor,
    TargetView,
};
use macheps::ops::softmax::cases::Fill;
use macheps::{BufferView, Context, CrossCheck, CrossEntropyOptions, DType, Element, Error, Gpu, Strategy, wgpu};

const ROWS: &str = include_str!("../../shaders/lib/cross_entropy_rows.wgsl");
const SUMS: &str = include_str!("../../shaders/lib/cross_entropy_sums.wgsl");
const SUMS_KEEP: &str = include_str!("../../shaders/lib/cross_entropy_sums_keep.wgsl");
const SUMS_REUSE: &str = include_str!("../../shaders/lib/cross_entropy_sums_reuse.wgsl");
const LABELS: &str = include_str!("../../shaders/lib/cross_entropy_labels.wgsl");
const SIGNED_WIDE: &str = include_str!("../../shaders/lib/signed_wide.wgsl");
const QUADS: &str = include_str!("../../shaders/lib/softmax_quads.wgsl");
const GRADIENT: &str = include_str!("../../shaders/lib/cross_entropy_gradient.wgsl");
const REDUCED: &str = include_str!("../../shaders/lib/cross_entropy_reduced.wgsl");
const CLASS_WEIGHT: &str = include_str!("../../shaders/lib/cross_entropy_class_weight.wgsl");
const MAIN: &str = include_str!("../../shaders/cross_entropy.wgsl");
const SPLIT: &str = include_str!("../../shaders/cross_entropy_split.wgsl");
const REDUCE: &str = include_str!("../../shaders/cross_entropy_reduce.wgsl");

/// What failed, all of it at once.
#[derive(Default)]
struct Failures(Vec<String>, usize);

impl Failures {
    fn note(&mut self, name: &str, case: &Case, outcome: macheps::Result<Result<(), String>>) {
        self.1 += 1;
        let what = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(wrong)) => wrong,
            Err(e) => e.to_string(),
        };
        self.0.push(format!(
            "{name}: {} {:?} {} [{}]: {what}",
            case.name(),
            case.shape,
            case.dtype,
            case.detail()
        ));
    }

    fn done(self) {
        let shown: Vec<&String> = self.0.iter().take(12).collect();
        assert!(self.0.is_empty(), "{} of {} fail:\n{shown:#?}", self.0.len(), self.1);
    }
}

fn options(reduction: LossReduction) -> CrossEntropyOptions {
    CrossEntropyOptions {
        reduction,
        ..Default::default()
    }
}

/// How an embedded call is made.
#[derive(Clone, Copy, Debug, Default)]
struct How {
    strategy: Option<Strategy>,
    in_place: bool,
    /// Rows lie further apart than they are long, from an odd offset on, in one buffer with others.
    padded: bool,
    /// Loss and gradient by two calls, the second with what rows came to in the first.
    kept: bool,
}

/// Where a tensor lies in a buffer of its own: the shape with a longer last dimension, from an offset on.
struct Place {
    offset: usize,
    strides: Vec<usize>,
    len: usize,
}

impl Place {
    fn of(shape: &[usize], padded: bool) -> Place {
        let mut wide = shape.to_vec();
        if let Some(last) = wide.last_mut().filter(|_| padded) {
            *last += 3;
        }
        let strides: Vec<usize> = (0..wide.len()).map(|d| wide[d + 1..].iter().product()).collect();
        let offset = if padded { 5 } else { 0 };
        Place {
            offset,
            strides,
            len: offset + wide.iter().product::<usize>() + if padded { 7 } else { 0 },
        }
    }

    fn at(&self, shape: &[usize], index: usize) -> usize {
        let mut rest = index;
        let mut at = self.offset;
        for d in (0..shape.len()).rev() {
            at += rest % shape[d] * self.strides[d];
            rest /= shape[d];
        }
        at
    }

    fn spread<T: Element>(&self, shape: &[usize], values: &[T]) -> Vec<T> {
        let mut all = vec![T::from_f64(7.0); self.len];
        for (i, v) in values.iter().enumerate() {
            all[self.at(shape, i)] = *v;
        }
        all
    }

    fn view(&self, buffer: &wgpu::Buffer, dtype: DType, shape: &[usize]) -> BufferView {
        BufferView::new(buffer, dtype, shape)
            .at(self.offset)
            .with_strides(&self.strides)
    }

    /// The tensor's values; whatever lies around them must be as it was.
    fn gather<T: Element>(&self, shape: &[usize], all: &[T]) -> Vec<T> {
        let count: usize = shape.iter().product();
        let mut inside = vec![false; all.len()];
        let values = (0..count)
            .map(|i| {
                let at = self.at(shape, i);
                inside[at] = true;
                all[at]
            })
            .collect();
        for (at, v) in all.iter().enumerate().take(self.len) {
            assert!(
                inside[at] || v.to_f32() == 7.0,
                "element {at} beside the tensor was written"
            );
        }
        values
    }
}

fn upload<T: Element>(gpu: &Gpu, values: &[T]) -> wgpu::Buffer {
    gpu.upload("test", bytemuck::cast_slice(values)).expect("upload")
}

fn read(gpu: &Gpu, bound: impl FnOnce(&mut wgpu::CommandEncoder), buffers: &[(&wgpu::Buffer, u64)]) -> Vec<Vec<u8>> {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound(&mut encoder);
    let bytes = gpu
        .read_back_all(encoder, buffers)
        .expect("readback")
        .wait()
        .expect("wait");
    let mut rest = bytes.as_slice();
    let mut parts = Vec::new();
    for (_, len) in buffers {
        let (part, after) = rest.split_at(len.next_multiple_of(4) as usize);
        parts.push(part[..*len as usize].to_vec());
        rest = after;
    }
    parts
}

fn decode<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytemuck::pod_collect_to_vec(bytes)
}

/// Computes a case by the embedded grip; the status word comes with it.
fn embedded<T: Element>(
    gpu: &Gpu,
    case: &Case,
    data: &Data<T>,
    how: How,
) -> macheps::Result<(CrossEntropyOutput<T>, u32)> {
    let shape = &case.shape;
    let size = T::DTYPE.size() as u64;
    let place = Place::of(shape, how.padded);
    let x = upload(gpu, &place.spread(shape, &data.x));
    let target = match &data.probabilities {
        Some(p) => TargetView::Probabilities(place.view(&upload(gpu, &place.spread(shape, p)), T::DTYPE, shape)),
        None => {
            // Labels from an odd word on.
            let labels = std::iter::once(i32::MIN).chain(data.labels.iter().map(|&l| l as i32));
            let labels: Vec<i32> = labels.collect();
            TargetView::Labels {
                buffer: gpu.upload("labels", bytemuck::cast_slice(&labels))?,
                offset: 4,
            }
        }
    };
    let mut rows = shape.clone();
    rows.remove(usize::from(shape.len() > 1));
    if case.options.reduction != LossReduction::None {
        rows.clear();
    }
    let loss_place = Place::of(&rows, how.padded);
    let losses: usize = rows.iter().product();
    let loss = upload(gpu, &loss_place.spread(&rows, &vec![0.0f32; losses]));
    let xv = place.view(&x, T::DTYPE, shape);
    let mut views = CrossEntropyViews {
        loss: Some(loss_place.view(&loss, DType::F32, &rows)),
        ..CrossEntropyViews::new(xv.clone(), target)
    };
    views.weight = data.weight.as_ref().map(|w| {
        if how.padded {
            // Every third word of a buffer.
            let spread: Vec<f32> = w.iter().flat_map(|&w| [w, f32::NAN, f32::NAN]).collect();
            BufferView::new(&upload(gpu, &spread), DType::F32, &[w.len()]).with_strides(&[3])
        } else {
            BufferView::new(&upload(gpu, w), DType::F32, &[w.len()])
        }
    });
    views.upstream = data
        .upstream
        .as_ref()
        .map(|u| loss_place.view(&upload(gpu, &loss_place.spread(&rows, u)), DType::F32, &rows));
    let other = |_: ()| upload(gpu, &place.spread(shape, &vec![T::from_f64(0.0); data.x.len()]));
    let grad = case.gradient.then(|| if how.in_place { x.clone() } else { other(()) });
    views.grad = grad.as_ref().map(|g| place.view(g, T::DTYPE, shape));
    let log_prob = case.log_prob.then(|| other(()));
    views.log_prob = log_prob.as_ref().map(|g| place.view(g, T::DTYPE, shape));
    let mut kernel = CrossEntropy::new(gpu, case.kind, T::DTYPE, case.options)?;
    if let Some(strategy) = how.strategy {
        kernel = kernel.with_strategy(strategy);
    }
    let mut later = None;
    if how.kept {
        // Of a buffer's later part.
        let (offset, rows) = (
            96,
            data.labels
                .len()
                .max(data.x.len() / shape[usize::from(shape.len() > 1)]),
        );
        let usage = wgpu::BufferUsages::STORAGE;
        let buffer = gpu.create_buffer("sums", offset + rows as u64 * RowSums::BYTES_PER_ROW, usage)?;
        let second = CrossEntropyViews {
            loss: None,
            log_prob: None,
            row_sums: Some(RowSums::Reuse {
                buffer: buffer.clone(),
                offset,
            }),
            ..views.clone()
        };
        views.grad = None;
        views.upstream = None;
        views.row_sums = Some(RowSums::Keep { buffer, offset });
        later = case.gradient.then(|| kernel.bind(&second)).transpose()?;
    }
    let bound = kernel.bind(&views)?;
    let (status, at) = bound.status();
    assert_eq!(at, 0);
    let mut outputs = vec![(status, 4), (&loss, loss_place.len as u64 * 4)];
    outputs.extend(grad.as_ref().map(|g| (g, place.len as u64 * size)));
    outputs.extend(log_prob.as_ref().map(|g| (g, place.len as u64 * size)));
    let record = |encoder: &mut wgpu::CommandEncoder| {
        bound.record(encoder);
        if let Some(later) = &later {
            later.record(encoder);
        }
    };
    let parts = read(gpu, record, &outputs);
    let mut tensors = parts[2..].iter().map(|bytes| place.gather(shape, &decode::<T>(bytes)));
    let output = CrossEntropyOutput {
        loss: loss_place.gather(&rows, &decode::<f32>(&parts[1])),
        gradient: case.gradient.then(|| tensors.next().expect("a gradient")),
        log_prob: case.log_prob.then(|| tensors.next().expect("log-probabilities")),
    };
    Ok((output, decode_u32(&parts[0])))
}

fn decode_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn judged<T: Element>(gpu: &Gpu, case: &Case, how: How) -> macheps::Result<Result<(), String>> {
    let data = case.data::<T>();
    let (output, status) = embedded(gpu, case, &data, how)?;
    if status != 0 {
        return Ok(Err(format!("status {status}")));
    }
    Ok(case
        .judge(&data, &output)?
        .map(|_| ())
        .map_err(|m| format!("{m} ({how:?})")))
}

fn run_embedded(failures: &mut Failures, adapter: &Adapter, case: &Case, how: How) {
    let gpu = adapter.gpu();
    let outcome = match case.dtype {
        DType::F32 => judged::<f32>(gpu, case, how),
        DType::F16 => judged::<f16>(gpu, case, how),
        DType::Bf16 => judged::<bf16>(gpu, case, how),
    };
    failures.note(&adapter.name, case, outcome);
}

fn run_case(failures: &mut Failures, name: &str, context: &Context, case: &Case) {
    let outcome = case.run(context).map(|r| r.map(|_| ()).map_err(|m| m.to_string()));
    failures.note(name, case, outcome);
}

#[test]
fn one_shots_meet_their_bounds() {
    let mut failures = Failures::default();
    for adapter in adapters::all("one_shots_meet_their_bounds") {
        for (i, case) in verify_cases().into_iter().enumerate() {
            // Pipelines are dear there.
            if adapter.is("gl") && (case.dtype != DType::F32 || i % 3 > 0) {
                continue;
            }
            run_case(&mut failures, &adapter.name, &adapter.context, &case);
        }
    }
    failures.done();
}

fn case(dtype: DType, shape: &[usize]) -> Case {
    Case::new(LossKind::CrossEntropy, dtype, shape)
}

/// Every strategy with shapes that it serves.
const STRATEGIES: [(Strategy, &[&[usize]]); 7] = [
    (Strategy::Short, &[&[24, 61], &[7, 1], &[5, 64]]),
    (Strategy::OnChip, &[&[9, 1000], &[5, 77]]),
    (Strategy::Subgroup, &[&[9, 1003], &[3, 5000]]),
    (Strategy::Workgroup, &[&[5, 3001]]),
    (Strategy::Online, &[&[5, 3002]]),
    (Strategy::Split, &[&[3, 20_001], &[2, 8192]]),
    (Strategy::Columns, &[&[3, 33, 5], &[2, 100, 2, 3]]),
];

fn strategies(reduction: LossReduction, change: impl Fn(&mut Case), test: &str) {
    let mut failures = Failures::default();
    for adapter in adapters::all(test) {
        // GL compiles for seconds; in-row, in-chunk and column forms are one each.
        for (strategy, shapes) in STRATEGIES.into_iter().step_by(if adapter.is("gl") { 3 } else { 1 }) {
            let dear = adapter.is("gl") || adapter.is("swiftshader");
            for (i, shape) in shapes.iter().take(if dear { 1 } else { 9 }).enumerate() {
                let mut case = Case {
                    options: options(reduction),
                    ..case(if i == 1 { DType::Bf16 } else { DType::F32 }, shape)
                };
                change(&mut case);
                let how = How {
                    strategy: Some(strategy),
                    in_place: i == 0,
                    padded: false,
                    kept: false,
                };
                run_embedded(&mut failures, adapter, &case, how);
            }
        }
    }
    failures.done();
}

#[test]
fn strategies_with_labels() {
    let some = |case: &mut Case| {
        case.targets = Targets::SomeIgnored;
        case.fill = Fill::Special;
    };
    strategies(LossReduction::None, some, "strategies_with_labels");
}

#[test]
fn strategies_with_everything() {
    let all = |case: &mut Case| {
        case.targets = Targets::SomeIgnored;
        case.weighted = true;
        case.fill = Fill::Rising;
        case.options.label_smoothing = 0.1;
        case.options.z_loss = 1e-3;
        case.log_prob = true;
    };
    strategies(LossReduction::Mean, all, "strategies_with_everything");
}

#[test]
fn strategies_with_probabilities() {
    let soft = |case: &mut Case| {
        case.targets = Targets::Probabilities;
        case.fill = Fill::Masked;
    };
    strategies(LossReduction::Mean, soft, "strategies_with_probabilities");
}

#[test]
fn strategies_of_nll_loss() {
    let mut failures = Failures::default();
    for adapter in adapters::all("strategies_of_nll_loss") {
        for (strategy, shapes) in STRATEGIES {
            let case = Case {
                options: options(LossReduction::Mean),
                targets: Targets::SomeIgnored,
                weighted: true,
                ..Case::new(LossKind::NllLoss, DType::F32, shapes[0])
            };
            let how = How {
                strategy: Some(strategy),
                in_place: true,
                padded: false,
                kept: false,
            };
            run_embedded(&mut failures, adapter, &case, how);
        }
    }
    failures.done();
}

#[test]
fn gradients_later_than_their_losses() {
    let mut failures = Failures::default();
    let changes: [fn(&mut Case); 4] = [
        |case| {
            case.targets = Targets::SomeIgnored;
            case.fill = Fill::Special;
            case.options.reduction = LossReduction::None;
        },
        |case| {
            case.weighted = true;
            case.targets = Targets::SomeIgnored;
            case.options.label_smoothing = 0.2;
            case.options.z_loss = 1e-3;
        },
        |case| {
            case.targets = Targets::Probabilities;
            case.options.reduction = LossReduction::Sum;
        },
        |case| case.kind = LossKind::NllLoss,
    ];
    for adapter in adapters::all("gradients_later_than_their_losses") {
        for (turn, (strategy, shapes)) in STRATEGIES.into_iter().enumerate() {
            for (i, change) in changes.iter().enumerate() {
                // GL compiles for seconds; elsewhere every strategy meets two of the changes, and every change several strategies.
                let skipped = if adapter.is("gl") { turn != i } else { turn % 2 != i % 2 };
                if skipped {
                    continue;
                }
                let mut case = case(if turn == 2 { DType::F16 } else { DType::F32 }, shapes[0]);
                change(&mut case);
                let how = How {
                    strategy: Some(strategy),
                    in_place: turn == 1,
                    padded: i == 1,
                    kept: true,
                };
                run_embedded(&mut failures, adapter, &case, how);
                // That strategy sums in another way where the gradient is not made in the same call.
                if case.dtype == DType::F32 && strategy != Strategy::Subgroup {
                    let data = case.data::<f32>();
                    let gradient = |kept| {
                        let (output, _) = embedded(adapter.gpu(), &case, &data, How { kept, ..how }).unwrap();
                        let bits = output.gradient.expect("a gradient").into_iter().map(f32::to_bits);
                        bits.collect::<Vec<_>>()
                    };
                    assert!(
                        gradient(true) == gradient(false),
                        "{} {strategy}: {case:?} differs from a gradient made with its loss",
                        adapter.name
                    );
                }
            }
        }
    }
    failures.done();
}

#[test]
fn sums_of_another_row() {
    let how = How {
        kept: true,
        ..How::default()
    };
    let edits = [
        ("sums[row.sums] = KeptTotals(", "sums[row.sums / 2u * 2u] = KeptTotals("),
        ("let kept = sums[row.sums];", "let kept = sums[max(row.sums, 1u) - 1u];"),
        ("totals.mass, totals.unit, 0u)", "vec2<f32>(1.0, 0.0), totals.unit, 0u)"),
    ];
    for (from, _) in edits {
        assert_eq!([SUMS_KEEP, SUMS_REUSE].concat().matches(from).count(), 1, "{from}");
    }
    for adapter in adapters::all("sums_of_another_row") {
        // GL runs the same arithmetic as llvmpipe and takes long to compile.
        for edit in edits.iter().filter(|_| !adapter.is("gl")) {
            let gpu = adapter.gpu().with_shader_edits(&[*edit]);
            let verdict = judged::<f32>(&gpu, &ordinary(), how).expect("the case runs");
            assert!(verdict.is_err(), "{}: not seen: {}", adapter.name, edit.1);
        }
    }
}

#[test]
fn views_with_offsets_and_strides() {
    let mut failures = Failures::default();
    for adapter in adapters::all("views_with_offsets_and_strides") {
        for dtype in DType::ALL {
            for (shape, targets) in [
                (&[13usize, 77][..], Targets::SomeIgnored),
                (&[3, 10, 6], Targets::SomeIgnored),
                (&[6, 50], Targets::Probabilities),
                (&[40], Targets::Labels),
            ] {
                for in_place in [true, false] {
                    if adapter.is("gl") && (in_place || dtype == DType::F16) {
                        continue;
                    }
                    let case = Case {
                        options: options(LossReduction::None),
                        targets,
                        weighted: true,
                        log_prob: !in_place,
                        ..case(dtype, shape)
                    };
                    let how = How {
                        strategy: None,
                        in_place,
                        padded: true,
                        kept: false,
                    };
                    run_embedded(&mut failures, adapter, &case, how);
                }
            }
        }
    }
    failures.done();
}

#[test]
fn large_vocabularies() {
    let mut failures = Failures::default();
    for adapter in adapters::all("large_vocabularies").iter().filter(|a| !a.is("gl")) {
        let dear = adapter.is("swiftshader");
        for fill in [Fill::Ordinary, Fill::Dominated, Fill::Spread] {
            let smoothed = Case {
                options: CrossEntropyOptions {
                    label_smoothing: 0.1,
                    z_loss: 1e-4,
                    ..options(LossReduction::Mean)
                },
                fill,
                ..case(DType::F32, &[2, 128_256])
            };
            run_case(&mut failures, &adapter.name, &adapter.context, &smoothed);
            if dear {
                break;
            }
            let wide = Case {
                fill,
                ..case(DType::Bf16, &[1, 1 << 20])
            };
            run_case(&mut failures, &adapter.name, &adapter.context, &wide);
            // Rows one by one, not in chunks.
            let rows = Case {
                fill,
                ..case(DType::F32, &[12, 50_257])
            };
            run_case(&mut failures, &adapter.name, &adapter.context, &rows);
        }
    }
    failures.done();
}

#[test]
fn windows_of_small_devices() {
    let mut failures = Failures::default();
    for adapter in limited("windows_of_small_devices", small) {
        let full = !adapter.is("swiftshader") && !adapter.is("gl");
        let mut run = |case: Case| run_case(&mut failures, &adapter.name, &adapter.context, &case);
        let some = |shape: &[usize]| Case {
            targets: Targets::SomeIgnored,
            ..case(DType::F32, shape)
        };
        // Rows in windows, their weights in none.
        run(Case {
            weighted: true,
            ..some(&[600, 1000])
        });
        // Labels, losses and records beyond a binding, and 74 blocks of rows.
        run(some(&[300_001, 3]));
        run(Case {
            options: options(LossReduction::None),
            ..some(&[300_001, 3])
        });
        // Rows beyond a binding, with weights that are.
        let summed = CrossEntropyOptions {
            label_smoothing: 0.1,
            ..options(LossReduction::Sum)
        };
        run(Case {
            weighted: true,
            options: summed,
            ..some(&[2, 300_001])
        });
        if full {
            run(Case {
                targets: Targets::Probabilities,
                ..some(&[2, 300_001])
            });
            // Across inner dimensions.
            run(some(&[7, 50, 1500]));
            run(some(&[1, 10_000, 64]));
        }
    }
    failures.done();
}

#[test]
fn labels_out_of_range_are_reported() {
    for adapter in adapters::all("labels_out_of_range_are_reported") {
        let gpu = adapter.gpu();
        for (shape, strategy) in [(&[6usize, 5][..], Strategy::Short), (&[6, 9000], Strategy::Split)] {
            let classes = shape[1];
            let x: Vec<f32> = (0..6 * classes).map(|i| (i * 7 % 11) as f32).collect();
            let bad = classes as i32;
            let labels = [0i32, -100, 4, bad, 2, -1];
            let xb = upload(gpu, &x);
            let grad = upload(gpu, &x);
            let loss = upload(gpu, &[0.0f32; 6]);
            let kernel = CrossEntropy::new(gpu, LossKind::CrossEntropy, DType::F32, options(LossReduction::None))
                .expect("valid options")
                .with_strategy(strategy);
            let view = BufferView::new(&xb, DType::F32, shape);
            let bytes = kernel.workspace_size(&view).expect("a size");
            let workspace = upload(gpu, &vec![0.0f32; bytes as usize / 4]);
            let bind = |labels: &[i32]| {
                let target = TargetView::Labels {
                    buffer: gpu.upload("labels", bytemuck::cast_slice(labels)).expect("upload"),
                    offset: 0,
                };
                let views = CrossEntropyViews {
                    loss: Some(BufferView::new(&loss, DType::F32, &[6])),
                    grad: Some(BufferView::new(&grad, DType::F32, shape)),
                    workspace: Some((workspace.clone(), 0)),
                    ..CrossEntropyViews::new(view.clone(), target)
                };
                kernel.bind(&views).expect("bind")
            };
            let good = bind(&[0, 1, 2, 3, 4, -100]);
            let outputs = [(&workspace, 4), (&loss, 24), (&grad, (6 * classes * 4) as u64)];
            let parts = read(gpu, |e| good.record(e), &outputs);
            assert_eq!(decode_u32(&parts[0]), 0, "{}", adapter.name);
            let wrong = bind(&labels);
            let parts = read(gpu, |e| wrong.record(e), &outputs);
            // The first of the two.
            assert_eq!(decode_u32(&parts[0]), 4, "{} {strategy}", adapter.name);
            let nan: Vec<bool> = decode::<f32>(&parts[1]).iter().map(|l| l.is_nan()).collect();
            assert_eq!(nan, [false, false, false, true, false, true]);
            let gradient = decode::<f32>(&parts[2]);
            for (row, nan) in nan.into_iter().enumerate() {
                let row = &gradient[row * classes..][..classes];
                assert!(row.iter().all(|g| g.is_nan() == nan));
            }
            assert!(gradient[classes..2 * classes].iter().all(|&g| g == 0.0));
            // It stays.
            let parts = read(gpu, |e| good.record(e), &outputs);
            assert_eq!(decode_u32(&parts[0]), 4);
            assert!(decode::<f32>(&parts[1]).iter().all(|l| l.is_finite()));
        }
    }
}

#[test]
fn the_same_bits_on_every_run_and_width() {
    for adapter in adapters::all("the_same_bits_on_every_run_and_width") {
        let shapes: &[&[usize]] = if adapter.is("llvmpipe") {
            &[&[70, 61], &[11, 1000], &[9, 3001], &[2, 20_001]]
        } else {
            &[&[11, 1000]]
        };
        for shape in shapes {
            let case = Case {
                targets: Targets::SomeIgnored,
                weighted: true,
                options: CrossEntropyOptions {
                    label_smoothing: 0.1,
                    ..options(LossReduction::Mean)
                },
                ..case(DType::F32, shape)
            };
            let data = case.data::<f32>();
            let bits = |gpu: &Gpu| {
                let (output, _) = embedded(gpu, &case, &data, How::default()).expect("the case runs");
                let gradient = output.gradient.expect("a gradient");
                let all: Vec<u32> = output.loss.iter().chain(&gradient).map(|v| v.to_bits()).collect();
                all
            };
            let first = bits(adapter.gpu());
            assert_eq!(first, bits(adapter.gpu()), "{} {shape:?}", adapter.name);
            if adapter.gpu().capabilities().subgroup >= 8 {
                let narrow = adapter.gpu().with_capabilities(|c| c.subgroup = 4);
                assert!(first == bits(&narrow), "{} {shape:?} at width 4", adapter.name);
            }
        }
    }
}

#[test]
fn chains_and_cross_checks() {
    for adapter in adapters::all("chains_and_cross_checks") {
        let context = adapter.context.clone().with_cross_check(CrossCheck::Full);
        let case = Case {
            targets: Targets::SomeIgnored,
            weighted: true,
            ..case(DType::F16, &[9, 40])
        };
        let data = case.data::<f16>();
        let x = context.upload(&data.x, &case.shape).expect("upload");
        let labels = Labels::upload(&context, &data.labels, &[9]).expect("upload");
        let weight = context
            .upload(data.weight.as_deref().expect("weights"), &[40])
            .expect("upload");
        let target = TargetTensor::Labels(&labels);
        let mut chain = context.chain();
        let kind = LossKind::CrossEntropy;
        let (loss, grad) = chain
            .cross_entropy(kind, &x, target, Some(&weight), None, &case.options)
            .expect("no mismatch");
        let alone = chain
            .cross_entropy_loss(kind, &x, target, Some(&weight), &case.options)
            .expect("no mismatch");
        chain.submit().expect("submit");
        assert_eq!(loss.download().expect("loss"), alone.download().expect("loss"));
        assert_eq!((loss.shape(), grad.shape()), (&[][..], &case.shape[..]));
        run_checked(&context, &case);
    }
}

fn run_checked(context: &Context, case: &Case) {
    case.run(context)
        .expect("no mismatch in the cross-check")
        .expect("within the bound");
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(adapter) = adapters::all("what_does_not_fit_is_refused").first() else {
        return;
    };
    let gpu = adapter.gpu();
    let x = upload(gpu, &[0.0f32; 64]);
    let labels = gpu.upload("labels", &[0; 64]).expect("upload");
    let kernel =
        CrossEntropy::new(gpu, LossKind::CrossEntropy, DType::F32, options(LossReduction::None)).expect("valid");
    let target = || TargetView::Labels {
        buffer: labels.clone(),
        offset: 0,
    };
    let view = |shape: &[usize]| BufferView::new(&x, DType::F32, shape);
    let base = || CrossEntropyViews::new(view(&[4, 8]), target());
    let refused = |views: CrossEntropyViews| kernel.bind(&views).err().expect("an error");
    let shape = |e: Error| assert!(matches!(e, Error::Shape { .. }), "{e}");
    shape(refused(CrossEntropyViews::new(view(&[]), target())));
    shape(refused(CrossEntropyViews::new(view(&[4, 0]), target())));
    shape(refused(CrossEntropyViews::new(view(&[65, 1]), target())));
    shape(refused(CrossEntropyViews {
        loss: Some(view(&[3]).at(40)),
        ..base()
    }));
    shape(refused(CrossEntropyViews {
        weight: Some(view(&[7]).at(40)),
        ..base()
    }));
    shape(refused(CrossEntropyViews {
        workspace: Some((labels.clone(), 0)),
        ..base()
    }));
    shape(refused(CrossEntropyViews::new(
        view(&[4, 8]),
        TargetView::Labels {
            buffer: labels.clone(),
            offset: 52,
        },
    )));
    let aliased = |e: Error| assert!(matches!(e, Error::Aliased { .. }), "{e}");
    aliased(refused(CrossEntropyViews {
        grad: Some(view(&[4, 8]).at(1)),
        ..base()
    }));
    aliased(refused(CrossEntropyViews {
        loss: Some(view(&[4])),
        ..base()
    }));
    let e = refused(CrossEntropyViews {
        log_prob: Some(BufferView::new(&x, DType::F16, &[4, 8]).at(64)),
        ..base()
    });
    assert!(matches!(e, Error::DTypeMismatch { what: "log_prob", .. }), "{e}");
    let nll = CrossEntropy::new(gpu, LossKind::NllLoss, DType::F32, options(LossReduction::None)).expect("valid");
    let soft = CrossEntropyViews::new(view(&[2, 8]), TargetView::Probabilities(view(&[2, 8]).at(16)));
    assert!(matches!(nll.bind(&soft).err(), Some(Error::Unsupported { .. })));
    let forced = kernel.clone().with_strategy(Strategy::OnChip);
    let strided = CrossEntropyViews::new(view(&[2, 8]).with_strides(&[1, 2]), target());
    assert!(matches!(forced.bind(&strided).err(), Some(Error::Unsupported { .. })));
    let larger = gpu.upload("labels", &[0; 256]).expect("upload");
    let base = || {
        let target = TargetView::Labels {
            buffer: larger.clone(),
            offset: 0,
        };
        CrossEntropyViews::new(view(&[4, 8]), target)
    };
    let sums = |offset| RowSums::Keep {
        buffer: larger.clone(),
        offset,
    };
    shape(refused(CrossEntropyViews {
        row_sums: Some(sums(160)),
        ..base()
    }));
    shape(refused(CrossEntropyViews {
        row_sums: Some(sums(16)),
        ..base()
    }));
    aliased(refused(CrossEntropyViews {
        row_sums: Some(sums(0)),
        ..base()
    }));
    let e = refused(CrossEntropyViews {
        grad: Some(view(&[4, 8])),
        row_sums: Some(sums(128)),
        ..base()
    });
    assert!(matches!(e, Error::Unsupported { .. }), "{e}");
    let e = refused(CrossEntropyViews {
        loss: Some(view(&[4]).at(40)),
        row_sums: Some(RowSums::Reuse {
            buffer: larger.clone(),
            offset: 128,
        }),
        ..base()
    });
    assert!(matches!(e, Error::Unsupported { .. }), "{e}");
    // No rows: the sum is 0 and the mean NaN.
    for (reduction, want) in [(LossReduction::Sum, 0.0f32), (LossReduction::Mean, f32::NAN)] {
        let case = Case {
            options: options(reduction),
            gradient: false,
            ..case(DType::F32, &[0, 8])
        };
        let (output, _) = embedded(gpu, &case, &case.data::<f32>(), How::default()).expect("runs");
        assert_eq!(output.loss[0].to_bits(), want.to_bits());
    }
}

/// Loads and stores of the logits, counted by a build of the shaders that counts them, and the memory beside them.
#[test]
fn bytes_moved() {
    const LOAD: &str = "return x_load4(row.x + j * params.steps.x, params.steps.x, present(j, end));";
    const STORE: &str = "y_store4(row.y + j * params.steps.y, params.steps.y, n, v);";
    const HEAD: &str =
        "stand in the third vector of `head`.\n@group(0) @binding(8) var<storage, read_write> head: array<vec4<u32>>;";
    const SCALES: &str = "let inverse = head[2];";
    // Nothing else reads or writes them.
    let all = [ROWS, SUMS, LABELS, QUADS, GRADIENT, REDUCED, MAIN, SPLIT, REDUCE].concat();
    for (text, count) in [
        ("x_load4(", 1),
        ("y_store4(", 1),
        ("x_load(", 0),
        ("x_data[", 0),
        ("y_data[", 0),
    ] {
        assert_eq!(all.matches(text).count(), count, "{text}");
    }
    for text in [LOAD, STORE, HEAD] {
        assert_eq!(all.matches(text).count(), 1, "{text}");
    }
    assert!(REDUCED.contains(SCALES));
    let load = format!("atomicAdd(&head[40], present(j, end));\n    {LOAD}");
    let store = format!("atomicAdd(&head[41], n);\n    {STORE}");
    let head = HEAD.replace("array<vec4<u32>>", "array<atomic<u32>>");
    let edits = [
        (LOAD, load.as_str()),
        (STORE, store.as_str()),
        (HEAD, head.as_str()),
        (
            SCALES,
            "let inverse = vec4<u32>(atomicLoad(&head[8]), atomicLoad(&head[9]), atomicLoad(&head[10]), atomicLoad(&head[11]));",
        ),
    ];
    for adapter in adapters::all("bytes_moved") {
        let gpu = adapter.gpu().with_shader_edits(&edits);
        for (strategy, shapes) in STRATEGIES {
            let shape = shapes[0];
            for (kind, dtype) in [
                (LossKind::CrossEntropy, DType::F32),
                (LossKind::CrossEntropy, DType::Bf16),
                (LossKind::NllLoss, DType::F32),
            ] {
                if adapter.is("gl") && (dtype, kind) != (DType::F32, LossKind::CrossEntropy) {
                    continue;
                }
                let count: usize = shape.iter().product();
                let rows = count / shape[1];
                let x = gpu.upload("x", &vec![0u8; count * dtype.size()]).expect("upload");
                let labels = gpu.upload("labels", &vec![0u8; rows * 4]).expect("upload");
                let kernel = CrossEntropy::new(&gpu, kind, dtype, options(LossReduction::Mean))
                    .expect("valid")
                    .with_strategy(strategy);
                let view = BufferView::new(&x, dtype, shape);
                let bytes = kernel.workspace_size(&view).expect("a size");
                let workspace = upload(&gpu, &vec![0.0f32; bytes as usize / 4]);
                let loss = upload(&gpu, &[0.0f32]);
                let target = TargetView::Labels {
                    buffer: labels,
                    offset: 0,
                };
                let views = CrossEntropyViews {
                    grad: Some(view.clone()),
                    loss: Some(BufferView::new(&loss, DType::F32, &[])),
                    workspace: Some((workspace.clone(), 0)),
                    ..CrossEntropyViews::new(view, target)
                };
                let bound = kernel.bind(&views).expect("bind");
                let parts = read(&gpu, |e| bound.record(e), &[(&workspace, 256)]);
                let word = |i: usize| f64::from(decode_u32(&parts[0][i * 4..])) / count as f64;
                let (loads, stores) = (word(40), word(41));
                adapters::say(&format!(
                    "{}: {} {strategy} {shape:?} {dtype}: {loads:.3} reads + {stores:.3} writes of the logits, \
                     {:.1} bytes of workspace a row and {} bytes at all",
                    adapter.name,
                    kind.name(),
                    (bytes as f64 - 512.0) / rows as f64,
                    512
                ));
                assert_eq!(stores, 1.0);
                let held = matches!(strategy, Strategy::Short | Strategy::OnChip | Strategy::Workgroup);
                match kind {
                    LossKind::CrossEntropy => assert_eq!(loads, if held { 1.0 } else { 2.0 }),
                    LossKind::NllLoss => assert!(loads * count as f64 <= 4.0 * rows as f64),
                }
                // 16 bytes a row and 32 a block of 4,096 rows; 40 a row and 40 a chunk where rows are split. Each part is
                // rounded up to 256.
                let split = if strategy == Strategy::Split {
                    40 * rows + 40 * rows * shape[1].div_ceil(8192)
                } else {
                    0
                };
                assert!(bytes <= (16 * rows + 32 * rows.div_ceil(4096) + split + 256 * 5) as u64);
            }
        }
    }
}

/// A case whose inputs and results fit f32, whatever the way between them.
struct Extreme {
    name: &'static str,
    case: Case,
    data: Data<f32>,
}

impl Extreme {
    fn new(name: &'static str, kind: LossKind, reduction: LossReduction, rows: &[&[f32]], labels: &[i64]) -> Extreme {
        let mut case = Case::new(kind, DType::F32, &[rows.len(), rows[0].len()]);
        case.options.reduction = reduction;
        let losses = if reduction == LossReduction::None {
            rows.len()
        } else {
            1
        };
        Extreme {
            name,
            case,
            data: Data {
                x: rows.concat(),
                labels: labels.to_vec(),
                probabilities: None,
                weight: None,
                upstream: Some(vec![1.0; losses]),
            },
        }
    }

    fn weights(mut self, weights: &[f32]) -> Extreme {
        self.data.weight = Some(weights.to_vec());
        self
    }

    fn shares(mut self, shares: &[f32]) -> Extreme {
        self.data.labels.clear();
        self.data.probabilities = Some(shares.to_vec());
        self
    }

    fn upstream(mut self, upstream: &[f32]) -> Extreme {
        self.data.upstream = Some(upstream.to_vec());
        self
    }

    fn smoothing(mut self, smoothing: f32) -> Extreme {
        self.case.options.label_smoothing = smoothing;
        self
    }

    fn z_loss(mut self, z: f32) -> Extreme {
        self.case.options.z_loss = z;
        self
    }

    fn judged(&self, output: &CrossEntropyOutput<f32>) -> Result<(), String> {
        let judged = self.case.judge(&self.data, output).expect("an answer");
        judged.map(|_| ()).map_err(|m| format!("{}: {m}", self.name))
    }
}

/// Six rows of four logits, and labels.
const MODERATE: [[f32; 4]; 6] = [
    [0.25, -1.5, 0.75, 2.0],
    [-0.5, 0.125, 1.0, -2.0],
    [1.5, 1.25, -0.25, 0.0],
    [0.0, 3.0, -1.0, 0.5],
    [-2.5, 0.75, 0.5, 1.0],
    [0.375, -0.625, 2.25, -1.25],
];
const SIX: [i64; 6] = [0, 1, 2, 3, 0, 1];

fn extremes() -> Vec<Extreme> {
    use LossKind::{CrossEntropy as Ce, NllLoss as Nll};
    use LossReduction::{Mean, None, Sum};
    let six: Vec<&[f32]> = MODERATE.iter().map(|row| &row[..]).collect();
    let negative: Vec<[f32; 4]> = MODERATE.iter().map(|row| row.map(|v| -v.abs() - 0.125)).collect();
    let negative: Vec<&[f32]> = negative.iter().map(|row| &row[..]).collect();
    let huge = [1e38, 2e38, 3e38, 3e38];
    let tiny = [2e-38, 2e-38, 3e-38, 4e-38];
    let new = Extreme::new;
    let zeros = [0; 8];
    let far: &[f32] = &[0.0, 1.5e38];
    let square: &[f32] = &[1e19, 0.0];
    let long: Vec<f32> = (0..9001).map(|i| ((i * 37) % 101) as f32 * 0.03).collect();
    let mixed: Vec<f32> = (0..9001).map(|i| [3e38, 1e-3, 2e-38][i % 3]).collect();
    let one_hot: Vec<f32> = (0..24).map(|i| if i % 4 == 1 { 1.0 } else { 0.0 }).collect();
    vec![
        new("losses whose sum is infinite", Ce, Mean, &[far; 4], &zeros[..4]),
        new(
            "one loss beyond f32",
            Ce,
            Mean,
            &[&[-3e38, 3e38], &[0.0; 2], &[0.0; 2], &[0.0; 2]],
            &zeros[..4],
        ),
        new(
            "the same, smoothed",
            Ce,
            Mean,
            &[&[-3e38, 3e38], &[0.0; 2], &[0.0; 2]],
            &zeros[..3],
        )
        .smoothing(0.25),
        new("weights 1e38", Ce, Mean, &six, &SIX).weights(&[1e38; 4]),
        new("weights from 1e38 on", Ce, Mean, &six, &SIX).weights(&huge),
        new("weights 1e37, smoothed", Ce, Mean, &six, &SIX)
            .weights(&[1e37; 4])
            .smoothing(0.2),
        new("huge weights, smoothed", Ce, Mean, &six, &SIX)
            .weights(&huge)
            .smoothing(0.2),
        new("tiny weights", Ce, Mean, &six, &SIX).weights(&tiny),
        new("tiny weights, smoothed", Ce, Mean, &six, &SIX)
            .weights(&tiny)
            .smoothing(0.2),
        new("subnormal weights, smoothed", Ce, Mean, &six, &SIX)
            .weights(&[1e-40, 2e-40, 3e-41, 4e-40])
            .smoothing(0.2),
        new("tiny weights beside huge ones", Ce, Mean, &six, &[1; 6]).weights(&[3e38, 1e-38, 3e38, 1e38]),
        new("weights that cancel", Ce, Mean, &six, &SIX).weights(&[3e38, -1e38, 3e38, -2e38]),
        new("tiny shares beside huge ones", Ce, None, &six, &[])
            .weights(&[3e38, 1e-30, 3e38, 1e38])
            .shares(&one_hot)
            .upstream(&[1e30, 1.0, 1e-30, 3e30, 1e25, 1e38]),
        new("shares 1e38", Ce, Mean, &six, &[])
            .shares(&[3e37; 24])
            .upstream(&[1e-2]),
        new("huge weights, tiny upstream", Ce, None, &six, &SIX)
            .weights(&[1e37; 4])
            .upstream(&[1e-38, 1e-40, 2e-38, 1e-30, 1.0, 0.5]),
        new(
            "probability lost without its weight",
            Ce,
            None,
            &[&[0.0, -95.0], &[-125.0, 2.0]],
            &[0, 1],
        )
        .weights(&[1e38, 3e38]),
        new(
            "gradients that cancel",
            Ce,
            None,
            &[&[20.0, 0.0], &[0.0, 20.0]],
            &[0, 1],
        )
        .weights(&[3e38; 2])
        .upstream(&[100.0, 3e38]),
        new(
            "huge weights in long rows",
            Ce,
            Mean,
            &[&long, &long, &long],
            &[0, 3, 8998],
        )
        .weights(&mixed)
        .smoothing(0.125),
        new("tiny label beside them", Ce, Sum, &[&long, &long], &[2, 1]).weights(&mixed),
        new("squares whose sum is infinite", Ce, Mean, &[square; 8], &zeros).z_loss(3.0),
        new("square beyond f32", Ce, Mean, &[square; 8], &zeros).z_loss(1e20),
        new(
            "tiny z-loss of a huge square",
            Ce,
            Mean,
            &[square, &[3e38, 0.0]],
            &zeros[..2],
        )
        .z_loss(1e-39),
        new(
            "nll: losses whose sum is infinite",
            Nll,
            Mean,
            &[&[-1.5e38, 0.0][..]; 4],
            &zeros[..4],
        ),
        new("nll: weights 1e38", Nll, Mean, &negative, &SIX).weights(&huge),
        new("nll: tiny weights", Nll, Mean, &negative, &SIX).weights(&tiny),
        new(
            "nll: tiny weights of huge losses",
            Nll,
            Sum,
            &[&[-1e38, -1e-38], &[-2e38, -3.0]],
            &[0, 1],
        )
        .weights(&[2e-38, 3e38])
        .upstream(&[1e-3]),
    ]
}

#[test]
fn intermediates_beyond_the_range_of_f32() {
    let extremes = extremes();
    let cpu = Context::cpu();
    let mut wrong = Vec::new();
    for extreme in &extremes {
        let output = extreme.case.compute(&cpu, &extreme.data).expect("the case runs");
        wrong.extend(extreme.judged(&output).err().map(|e| format!("cpu: {e}")));
    }
    for adapter in adapters::all("intermediates beyond the range of f32") {
        for extreme in &extremes {
            let long = extreme.case.shape[1] > 1024;
            let own = if long { Strategy::Online } else { Strategy::OnChip };
            for strategy in [None, Some(Strategy::Columns), Some(Strategy::Split), Some(own)] {
                let gl = adapter.is("gl");
                if gl && strategy.is_some() || long && strategy == Some(Strategy::Columns) {
                    continue;
                }
                let how = How {
                    strategy,
                    ..How::default()
                };
                let output = embedded(adapter.gpu(), &extreme.case, &extreme.data, how)
                    .expect("the case runs")
                    .0;
                let judged = extreme.judged(&output).and_then(|()| {
                    // A gradient that is nothing but 0; what was flushed at a label may have its sign.
                    let classes = extreme.case.shape[1];
                    let negative = |i: usize, g: f32| {
                        g.to_bits() == 0x8000_0000 && extreme.data.labels[i / classes] as usize != i % classes
                    };
                    let gradient = output.gradient.iter().flatten().enumerate();
                    if extreme.case.kind == LossKind::NllLoss && gradient.into_iter().any(|(i, g)| negative(i, *g)) {
                        return Err(format!("{}: a zero is negative", extreme.name));
                    }
                    Ok(())
                });
                wrong.extend(judged.err().map(|e| format!("{} {strategy:?}: {e}", adapter.name)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{wrong:#?}", wrong.len());
}

#[test]
fn sums_in_a_fixed_unit() {
    let bug = Bug {
        name: "sums of rows in a fixed unit",
        edits: &[(SIGNED_WIDE, "let unit = max(a.unit, b.unit);", "let unit = 0;")],
    };
    let extremes = extremes();
    for name in [
        "losses whose sum is infinite",
        "weights 1e38",
        "squares whose sum is infinite",
    ] {
        let extreme = extremes.iter().find(|e| e.name == name).expect("a case");
        for (adapter, gpu) in all_gpus(bug.name).into_iter().filter(|(name, _)| name != "gl") {
            let run = |gpu: &Gpu| {
                let output = embedded(gpu, &extreme.case, &extreme.data, How::default());
                extreme.judged(&output.expect("the case runs").0)
            };
            assert_eq!(run(&gpu), Ok(()), "{adapter}");
            assert!(run(&bug.plant(&gpu)).is_err(), "{name}: not seen on {adapter}");
        }
    }
}

fn expect_caught(bug: &Bug, case: &Case) {
    // GL runs the same arithmetic as llvmpipe and takes long to compile.
    let gpus: Vec<_> = all_gpus(bug.name)
        .into_iter()
        .filter(|(name, _)| name != "gl")
        .collect();
    let caught = caught(bug, &gpus, |context| {
        case.run(context).expect("the case runs").map(|_| ())
    });
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

/// Some rows ignored, classes with weights, 61 of them.
fn ordinary() -> Case {
    Case {
        targets: Targets::SomeIgnored,
        weighted: true,
        ..case(DType::F32, &[24, 61])
    }
}

#[test]
fn gradient_of_ignored_rows_not_zeroed() {
    let bug = Bug {
        name: "gradient of ignored rows not zeroed",
        edits: &[(
            ROWS,
            "    if row.state == IGNORED {\n        return vec4<f32>(0.0);\n",
            "    if row.state == 77u {\n        return vec4<f32>(0.0);\n",
        )],
    };
    expect_caught(&bug, &ordinary());
}

#[test]
fn weight_left_out_of_the_divisor() {
    let bug = Bug {
        name: "weight left out of the mean's denominator",
        edits: &[(
            CLASS_WEIGHT,
            "return weight_data[params.more_bases.x + label * params.weight_step];",
            "return 1.0;",
        )],
    };
    expect_caught(&bug, &ordinary());
}

#[test]
fn ignored_rows_in_the_divisor() {
    let bug = Bug {
        name: "ignored rows counted in the mean's denominator",
        edits: &[(
            REDUCE,
            "if !ignored && label >= 0 && u32(label) < params.len {",
            "if ignored || (label >= 0 && u32(label) < params.len) {",
        )],
    };
    expect_caught(
        &bug,
        &Case {
            weighted: false,
            ..ordinary()
        },
    );
}

#[test]
fn smoothing_not_divided_by_the_classes() {
    let bug = Bug {
        name: "smoothing mass not divided by C",
        edits: &[(ROWS, "+ params.spread;", "+ params.spread * f32(params.len);")],
    };
    let mut case = ordinary();
    case.options.label_smoothing = 0.1;
    expect_caught(&bug, &case);
}

#[test]
fn upstream_gradient_dropped() {
    let bug = Bug {
        name: "upstream gradient dropped",
        edits: &[(GRADIENT, "return upstream_data[row.upstream];", "return 1.0;")],
    };
    expect_caught(&bug, &ordinary());
    expect_caught(
        &bug,
        &Case {
            options: options(LossReduction::None),
            ..ordinary()
        },
    );
}

#[test]
fn tail_mask_dropped() {
    let bug = Bug {
        name: "tail mask dropped in cross-entropy",
        edits: &[(
            QUADS,
            "return vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(end);",
            "return vec4<bool>(true);",
        )],
    };
    expect_caught(&bug, &ordinary());
}

#[test]
fn sums_left_behind_by_the_maximum() {
    let bug = Bug {
        name: "target's sum not moved to the new maximum",
        edits: &[(SUMS, "select(vec4<f32>(0.0), fall.high, risen)", "vec4<f32>(0.0)")],
    };
    let mut case = case(DType::F32, &[9, 3001]);
    case.fill = Fill::Rising;
    case.options.label_smoothing = 0.1;
    expect_caught(&bug, &case);
}

#[test]
fn chunks_left_behind_by_the_maximum() {
    let bug = Bug {
        name: "a chunk's sum not moved to the row's maximum",
        edits: &[(
            SPLIT,
            "dots[a] = pair_merge(dots[a], vec2<f32>(fall.high.x, fall.low.x), params.zero);",
            "dots[a] = pair_merge(dots[a], vec2<f32>(fall.high.x * 0.0, 0.0), params.zero);",
        )],
    };
    let mut case = case(DType::F32, &[2, 20_001]);
    case.fill = Fill::Rising;
    expect_caught(&bug, &case);
}

#[test]
fn first_bad_row_lost() {
    let bug = Bug {
        name: "label beyond the classes taken for one",
        edits: &[(LABELS, "label < 0 || u32(label) >= params.len", "label < 0")],
    };
    for (name, gpu) in all_gpus(bug.name) {
        let status = |gpu: &Gpu| {
            let case = Case {
                options: options(LossReduction::Sum),
                ..case(DType::F32, &[5, 7])
            };
            let mut data = case.data::<f32>();
            data.labels[2] = 7;
            embedded(gpu, &case, &data, How::default()).expect("runs").1
        };
        assert_eq!((status(&gpu), status(&bug.plant(&gpu))), (3, 0), "{name}");
    }
}
