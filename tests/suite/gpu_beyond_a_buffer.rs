//! Host data that pass the largest buffer of a device: one-shots do them in parts, and what comes out is held to the same oracle
//! and the same bounds. Devices are opened with buffers of 256 KiB and bindings of 64 KiB. Also 2^31 elements seen through a view.

use crate::adapters::{self, Adapter};
use crate::gpu_windows::limited;
use macheps::ops::cross_entropy::cases::{Case, Targets};
use macheps::ops::cross_entropy::{
    self, CrossEntropyInput, LossKind, LossReduction, Wanted, compute, compute_async, gradient_in_place,
};
use macheps::ops::reduction::cases::{Case as ReductionCase, Fill};
use macheps::ops::reduction::{self, ReductionInput, arg_reduce_async, reduce_async};
use macheps::{
    BufferView, Context, CrossCheck, CrossEntropyOptions, DType, Error, Reduction, ReductionKind as Kind,
    ReductionOptions, ReductionViews, SumMode, wgpu,
};

const BUFFER: u64 = 1 << 18;

fn narrow(limits: &mut wgpu::Limits) {
    limits.max_buffer_size = BUFFER;
    limits.max_storage_buffer_binding_size = 1 << 16;
}

/// Takes everything; the other drivers compile slowly.
fn thorough(adapter: &Adapter) -> bool {
    !adapter.is("swiftshader") && !adapter.is("gl")
}

fn beyond(dtype: DType, shape: &[usize]) -> bool {
    (shape.iter().product::<usize>() * dtype.size()) as u64 > BUFFER
}

fn note<M: std::fmt::Display>(failures: &mut Vec<String>, what: &str, outcome: macheps::Result<Result<(), M>>) {
    match outcome {
        Ok(Ok(())) => (),
        Ok(Err(wrong)) => failures.push(format!("{what}: {wrong}")),
        Err(e) => failures.push(format!("{what}: {e}")),
    }
}

fn options(reduction: LossReduction) -> CrossEntropyOptions {
    CrossEntropyOptions {
        reduction,
        ..Default::default()
    }
}

/// Cases of the losses, those for every driver first.
fn loss_cases() -> Vec<Case> {
    let of = |kind, dtype, shape: &[usize], options| Case {
        targets: Targets::SomeIgnored,
        options,
        ..Case::new(kind, dtype, shape)
    };
    let logits = |shape: &[usize], options| of(LossKind::CrossEntropy, DType::F32, shape, options);
    let [none, mean, sum] = LossReduction::ALL.map(options);
    let with_z = |options| CrossEntropyOptions {
        z_loss: 0.01,
        label_smoothing: 0.1,
        ..options
    };
    vec![
        Case {
            weighted: true,
            log_prob: true,
            ..logits(&[601, 500], with_z(mean))
        },
        of(LossKind::NllLoss, DType::F32, &[601, 500], mean),
        logits(&[601, 500], none),
        logits(&[601, 500], with_z(sum)),
        Case {
            targets: Targets::Probabilities,
            weighted: true,
            ..logits(&[601, 500], with_z(mean))
        },
        Case {
            targets: Targets::AllIgnored,
            ..logits(&[601, 500], mean)
        },
        Case {
            weighted: true,
            ..of(LossKind::NllLoss, DType::F32, &[601, 500], none)
        },
        // Rows across two inner dimensions, cut along the first alone.
        Case {
            weighted: true,
            ..logits(&[41, 30, 17, 19], with_z(mean))
        },
        logits(&[41, 30, 17, 19], none),
        // Parts with an odd number of 16-bit elements.
        Case {
            log_prob: true,
            ..of(LossKind::CrossEntropy, DType::Bf16, &[601, 999], mean)
        },
        of(LossKind::CrossEntropy, DType::F16, &[601, 999], none),
        // Rows longer than a binding; rows of which labels and workspace take more than the logits.
        Case {
            weighted: true,
            ..logits(&[31, 20_000], with_z(mean))
        },
        of(LossKind::CrossEntropy, DType::Bf16, &[100_003, 2], mean),
    ]
}

#[test]
fn losses_in_parts() {
    let mut failures = Vec::new();
    for adapter in limited("losses beyond a buffer", narrow) {
        let cases = loss_cases();
        let taken = if thorough(&adapter) { cases.len() } else { 2 };
        for case in &cases[..taken] {
            assert!(beyond(case.dtype, &case.shape));
            let what = format!("{}: {} {:?} [{}]", adapter.name, case.name(), case.shape, case.detail());
            note(&mut failures, &what, case.run(&adapter.context).map(|r| r.map(|_| ())));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn losses_in_parts_are_one_call() {
    for adapter in limited("losses beyond a buffer are one call", narrow) {
        let context = adapter.context.clone().with_cross_check(CrossCheck::Sampled);
        let kind = LossKind::CrossEntropy;
        let case = Case {
            targets: Targets::SomeIgnored,
            weighted: true,
            ..Case::new(kind, DType::F32, &[601, 500])
        };
        let data = case.data::<f32>();
        let input = case.input(&data);
        let upstream = data.upstream.as_deref();
        let wanted = Wanted {
            gradient: true,
            upstream,
            ..Default::default()
        };
        let whole = compute(&context, kind, &input, &wanted, &case.options).unwrap();
        let again = pollster::block_on(compute_async(&context, kind, &input, &wanted, &case.options)).unwrap();
        assert_eq!(whole, again);
        let gradient = whole.gradient.unwrap();
        let mut x = data.x.clone();
        let loss = gradient_in_place(&context, kind, &mut x, &input, upstream, &case.options).unwrap();
        assert!(loss == whole.loss && x == gradient);
        let dx = cross_entropy::cross_entropy_backward(&context, &input, upstream.unwrap(), &case.options).unwrap();
        assert_eq!(dx, gradient);
        // Adding parts rounds once more than one call does, no more.
        let cpu = compute(&Context::cpu(), kind, &input, &wanted, &case.options).unwrap();
        assert!((cpu.loss[0] - loss[0]).abs() <= 4.0 * f32::EPSILON * cpu.loss[0].abs());

        // A label's row is counted through all parts.
        let mut labels = data.labels.clone();
        labels[577] = 500;
        let wrong = CrossEntropyInput::new(&data.x, &case.shape, &labels);
        let refused = compute(&context, kind, &wrong, &wanted, &case.options);
        assert!(
            matches!(
                refused,
                Err(Error::Label {
                    index: 577,
                    label: 500,
                    ..
                })
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn rows_beyond_a_buffer_are_refused() {
    for adapter in limited("rows beyond a buffer", narrow) {
        let x = vec![0.0f32; 70_000];
        for (shape, rows, says) in [
            (&[1, 70_000][..], 1, "one row"),
            (&[70_000], 1, "one row"),
            (&[1, 7, 10_000], 10_000, "one index of the first dimension"),
        ] {
            let labels = vec![0i64; rows];
            let input = CrossEntropyInput::new(&x, shape, &labels);
            let refused = cross_entropy::cross_entropy(&adapter.context, &input, &options(LossReduction::Mean));
            let need = 70_000 * 4;
            match refused {
                Err(Error::Limit { what, need: n, have }) => {
                    assert!(
                        what.contains(says) && n == need && have == BUFFER,
                        "{what}: {n} of {have}"
                    );
                }
                other => panic!("{shape:?}: {other:?}"),
            }
        }
    }
}

const SHAPES: [(&[usize], Option<&[isize]>); 9] = [
    // One row, rows that pass a buffer, rows that do not, columns, and dimensions that are reduced on both sides of one that stays.
    (&[700_001], None),
    (&[2000, 300], Some(&[0])),
    (&[3, 100_003], Some(&[1])),
    (&[2000, 300], Some(&[1])),
    (&[40, 50, 300], Some(&[0, 2])),
    (&[7, 40_001], Some(&[0])),
    // Results that pass a buffer, and records that pass a binding: rows in groups, the last ones copied together first.
    (&[150_000, 4], Some(&[1])),
    (&[64, 9000], Some(&[0])),
    (&[2, 64, 4100], Some(&[1])),
];

fn reduction(kind: Kind, shape: &[usize], axes: Option<&[isize]>, mode: SumMode, fill: Fill) -> ReductionCase {
    let mut case = ReductionCase {
        fill,
        ..ReductionCase::new(kind, DType::F32, shape, axes)
    };
    case.options.mode = mode;
    case
}

#[test]
fn reductions_in_pieces() {
    let mut failures = Vec::new();
    for adapter in limited("reductions beyond a buffer", narrow) {
        let mut run = |case: ReductionCase| {
            assert!(beyond(case.dtype, &case.shape));
            let what = format!(
                "{}: {} {} {:?} [{}]",
                adapter.name,
                case.kind,
                case.dtype,
                case.shape,
                case.detail()
            );
            note(&mut failures, &what, case.run(&adapter.context).map(|r| r.map(|_| ())));
        };
        for (i, (shape, axes)) in SHAPES.into_iter().enumerate() {
            for (kind, fill) in [
                (Kind::Sum, Fill::Positive),
                (Kind::ArgMax, Fill::Ordinary),
                (Kind::Variance, Fill::Shifted),
                (Kind::Dot, Fill::Ordinary),
            ] {
                if thorough(&adapter) || (kind == Kind::Sum && i < 3) || (kind == Kind::ArgMax && i == 0) {
                    run(reduction(kind, shape, axes, SumMode::Pairwise, fill));
                }
            }
        }
        if !thorough(&adapter) {
            continue;
        }
        for kind in Kind::ALL {
            run(reduction(kind, &[300_001], None, SumMode::Pairwise, Fill::Ordinary));
        }
        for kind in [Kind::Sum, Kind::Mean, Kind::Dot] {
            for mode in [SumMode::Compensated, SumMode::Reproducible] {
                run(reduction(kind, &[300_001], None, mode, Fill::Cancelling));
                run(reduction(kind, &[64, 2000], Some(&[0]), mode, Fill::Ordinary));
            }
        }
        for dtype in [DType::F16, DType::Bf16] {
            for kind in [Kind::Mean, Kind::ArgMin] {
                for (shape, axes) in [(&[700_001usize][..], None), (&[3001, 333], Some(&[1isize][..]))] {
                    run(ReductionCase {
                        dtype,
                        ..reduction(kind, shape, axes, SumMode::Pairwise, Fill::Positive)
                    });
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn reductions_in_pieces_are_one_call() {
    for adapter in limited("reductions beyond a buffer are one call", narrow) {
        let context = adapter.context.clone().with_cross_check(CrossCheck::Full);
        // The extreme comes last; what comes before must not cancel, or the sum would not miss it.
        let mut x: Vec<f32> = (0..300_001u32)
            .map(|i| {
                let size = f32::from_bits(0x3f80_0000 + (i / 2 * 977) % 0x0f00_0000);
                if i % 2 == 0 { size } else { -0.5 * size }
            })
            .collect();
        x[300_000] = 2.0e9;
        let shape = [x.len()];
        let exact = ReductionOptions {
            mode: SumMode::Reproducible,
            ..Default::default()
        };
        let input = ReductionInput::new(&x, &shape);
        let want = reduction::sum(&Context::cpu(), &x, &shape, &exact).unwrap();
        let got = reduction::sum(&context, &x, &shape, &exact).unwrap();
        assert_eq!(got[0].to_bits(), want[0].to_bits(), "{}", adapter.name);
        let later = pollster::block_on(reduce_async(&context, Kind::Sum, &input, &exact)).unwrap();
        assert_eq!(later, got);
        let options = ReductionOptions::default();
        assert_eq!(reduction::argmax(&context, &x, &shape, &options).unwrap(), [300_000]);
        let at = pollster::block_on(arg_reduce_async(&context, Kind::ArgMax, &input, &options)).unwrap();
        assert_eq!(at, [300_000]);
    }
}

/// 2^31 elements in 4 MiB: row i of the view begins at element 4 i.
#[test]
fn views_of_two_to_the_31_elements() {
    const ROWS: usize = 2048;
    const LEN: usize = 1 << 20;
    const ALL: usize = 4 * (ROWS - 1) + LEN;
    for adapter in adapters::all("views of 2^31 elements") {
        // Software drivers take seconds for it; one will do.
        if adapter.gpu().info().kind == macheps::DeviceKind::Software && !adapter.is("llvmpipe") {
            continue;
        }
        let gpu = adapter.gpu();
        let mut x: Vec<f32> = (0..ALL).map(|i| (i * 31 % 17) as f32 * 0.125).collect();
        // Only the very last index meets it.
        x[ALL - 1] = 9.0;
        let buffer = gpu.upload("x", bytemuck::cast_slice(&x)).unwrap();
        let result = |kind: Kind| {
            let view = BufferView::new(&buffer, DType::F32, &[ROWS, LEN]).with_strides(&[4, 1]);
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            let y = gpu.create_buffer("y", 4, usage).unwrap();
            let reduction = Reduction::new(gpu, kind, DType::F32, ReductionOptions::default()).unwrap();
            let views = ReductionViews::new(view, BufferView::new(&y, DType::F32, &[]));
            let bound = reduction.bind(&views).unwrap();
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            bound.record(&mut encoder);
            let bytes = gpu.read_back(encoder, &y, 4).unwrap().wait().unwrap();
            u32::from_ne_bytes(bytes[..4].try_into().unwrap())
        };
        assert_eq!(result(Kind::ArgMax), u32::MAX / 2, "{}", adapter.name);
        // Rows 0 to i / 4 have begun at element i; those that begin at i - LEN or before have ended.
        let times = |i: usize| (i / 4 + 1).min(ROWS) - i.checked_sub(LEN).map_or(0, |ended| ended / 4 + 1);
        let want: f64 = x.iter().enumerate().map(|(i, &v)| f64::from(v) * times(i) as f64).sum();
        let got = f64::from(f32::from_bits(result(Kind::Sum)));
        let bound = (31.0 + 4.0) * macheps::accuracy::U * want;
        assert!((got - want).abs() <= bound, "{}: {got} for {want}", adapter.name);
    }
}
