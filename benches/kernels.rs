//! Criterion benchmarks: a group per operation, a line per shape and storage type, on the CPU path and every adapter found.
//!
//!     cargo bench --bench kernels
//!     MACHEPS_BENCH_DEVICE=llvmpipe cargo bench --bench kernels -- 'softmax/'
//!
//! `MACHEPS_BENCH_DEVICE` keeps the devices whose name or backend contains it (`cpu` is the CPU path). Each result is compared
//! with the oracle once before it is timed. The throughput counts every input read once and every output written once; the
//! group `copy` moves as many bytes by the device's own copy, which is what to compare with. `macheps bench` has larger shapes.

use criterion::{BenchmarkId, Criterion, Throughput};
use macheps::bench::{Prepared, Workload};
use macheps::ops::layer_norm::bounds::Quantity as NormQuantity;
use macheps::ops::softmax::bounds::Quantity;
use macheps::ops::softmax::cases::Case as SoftmaxCase;
use macheps::ops::{
    activation, audit, bce_with_logits, cross_entropy, layer_norm, optimizer, prune, reduction, spmv, unscale,
};
use macheps::{
    ActivationKind, Context, ContextOptions, DType, DeviceSelector, Gpu, LossKind, NormKind, ReductionKind, wgpu,
};
use macheps::{SoftmaxKind, SumMode};
use std::time::{Duration, Instant};

/// A row on chip, many short rows, an odd length, one long row: small enough for a software driver.
const SHAPES: [&[usize]; 4] = [&[1024, 1024], &[16_384, 64], &[4096, 77], &[1, 1_048_576]];

/// Elements of what has no rows.
const LEN: usize = 1 << 20;

fn contexts() -> Vec<(String, Context)> {
    let wanted = std::env::var("MACHEPS_BENCH_DEVICE").unwrap_or_default().to_lowercase();
    let mut contexts = Vec::new();
    for info in macheps::devices() {
        let label = info.label();
        if !label.to_lowercase().contains(&wanted) {
            continue;
        }
        let options = ContextOptions {
            device: DeviceSelector::Index(info.index),
            ..Default::default()
        };
        match Context::with_options(options) {
            // Criterion makes folders of these names.
            Ok(context) => contexts.push((label.replace(['/', '\\'], "-"), context)),
            Err(e) => eprintln!("SKIPPED: {label}: {e}"),
        }
    }
    if contexts.is_empty() {
        eprintln!("SKIPPED: no device matches MACHEPS_BENCH_DEVICE={wanted}");
    }
    contexts
}

/// Seconds that `iterations` runs take: what the device says where it keeps time, else the wall.
fn time(prepared: &mut Prepared, iterations: u64) -> macheps::Result<Duration> {
    match prepared {
        Prepared::Cpu(call) => {
            let start = Instant::now();
            for _ in 0..iterations {
                call();
            }
            Ok(start.elapsed())
        }
        Prepared::Gpu(gpu, recording) => time_passes(gpu, iterations, |pass| recording.record_pass(pass)),
        Prepared::Passes(gpu, record) => time_passes(gpu, iterations, &*record),
    }
}

fn time_passes(gpu: &Gpu, iterations: u64, record: impl Fn(&mut wgpu::ComputePass<'_>)) -> macheps::Result<Duration> {
    let mut total = 0.0;
    let mut left = iterations;
    while left > 0 {
        // Bounded submissions: watchdogs count the time of one.
        let now = left.min(100);
        total += gpu.time(|pass| (0..now).for_each(|_| record(pass)))?.seconds;
        left -= now;
    }
    Ok(Duration::from_secs_f64(total))
}

/// The workloads of every operation; those of one name make a group.
fn cases() -> Vec<Box<dyn Workload>> {
    let mut all: Vec<Box<dyn Workload>> = Vec::new();
    let forward = SoftmaxKind::ALL.map(Quantity::Forward);
    for quantity in forward.into_iter().chain([Quantity::Backward(SoftmaxKind::Softmax)]) {
        let (Quantity::Forward(kind) | Quantity::Backward(kind)) = quantity;
        for shape in SHAPES {
            all.push(Box::new(SoftmaxCase {
                quantity,
                ..SoftmaxCase::new(kind, DType::F32, shape)
            }));
        }
    }
    for dtype in [DType::F16, DType::Bf16] {
        all.push(Box::new(SoftmaxCase::new(SoftmaxKind::Softmax, dtype, SHAPES[0])));
    }
    for kind in LossKind::ALL {
        for shape in SHAPES {
            all.push(Box::new(cross_entropy::cases::Case::new(kind, DType::F32, shape)));
        }
    }
    for dtype in DType::ALL {
        all.push(Box::new(bce_with_logits::cases::Case::new(dtype, SHAPES[0])));
    }
    for kind in ActivationKind::ALL {
        for backward in [false, true] {
            all.push(Box::new(activation::cases::Case {
                kind,
                backward,
                dtype: DType::F32,
                len: LEN,
                fill: activation::cases::Fill::Ordinary,
            }));
        }
    }
    for kind in ReductionKind::ALL {
        all.push(Box::new(reduction::cases::Case::new(
            kind,
            DType::F32,
            SHAPES[0],
            Some(&[-1]),
        )));
    }
    // Rows across memory, one long row, and the other ways to sum.
    for (shape, axes) in [(SHAPES[0], Some(&[0][..])), (SHAPES[3], None)] {
        for mode in [SumMode::Pairwise, SumMode::Reproducible] {
            let mut case = reduction::cases::Case::new(ReductionKind::Sum, DType::F32, shape, axes);
            case.options.mode = mode;
            all.push(Box::new(case));
        }
    }
    for kind in NormKind::ALL {
        for quantity in [NormQuantity::Forward(kind), NormQuantity::Backward(kind)] {
            for shape in [SHAPES[0], SHAPES[1]] {
                all.push(Box::new(layer_norm::cases::Case::new(quantity, DType::F32, shape)));
            }
        }
    }
    for dtype in DType::ALL {
        all.push(Box::new(unscale::cases::Case::new(dtype, &[LEN])));
        all.push(Box::new(audit::cases::Case {
            dtype,
            len: LEN,
            fill: audit::cases::Fill::Gradients,
        }));
    }
    for case in optimizer::cases::bench_cases(true) {
        all.push(Box::new(case));
    }
    for case in spmv::cases::bench_cases(true) {
        all.push(Box::new(case));
    }
    for case in prune::cases::bench_cases(true) {
        all.push(Box::new(case));
    }
    for case in macheps::solve::stencil::cases::bench_cases(true) {
        all.push(Box::new(case));
    }
    for case in macheps::solve::conjugate_gradient::cases::bench_cases(true) {
        all.push(Box::new(case));
    }
    all
}

fn kernels(criterion: &mut Criterion) {
    let contexts = contexts();
    let cases = cases();
    let mut names: Vec<&str> = Vec::new();
    for case in &cases {
        if !names.contains(&case.op()) {
            names.push(case.op());
        }
    }
    for name in names {
        let mut group = criterion.benchmark_group(name);
        for case in cases.iter().filter(|case| case.op() == name) {
            group.throughput(Throughput::Bytes(case.bytes()));
            for (label, context) in &contexts {
                let line = format!("{} {}", case.shape(), case.dtype());
                let mut prepared = None;
                group.bench_function(BenchmarkId::new(label, line), |bencher| {
                    // Only what the filter lets through is made ready and compared with the oracle.
                    let ready = prepared.get_or_insert_with(|| match case.prepare(context) {
                        Ok(ready) => ready,
                        Err(e) => panic!("{label}: {e}"),
                    });
                    bencher
                        .iter_custom(|iterations| time(ready, iterations).unwrap_or_else(|e| panic!("{label}: {e}")));
                });
            }
        }
        group.finish();
    }
}

fn copy(criterion: &mut Criterion) {
    let contexts = contexts();
    let bytes = SoftmaxCase::new(SoftmaxKind::Softmax, DType::F32, SHAPES[0]).bytes();
    let mut group = criterion.benchmark_group("copy");
    group.throughput(Throughput::Bytes(bytes));
    for (label, context) in &contexts {
        group.bench_function(BenchmarkId::new(label, format!("{bytes} bytes")), |bencher| {
            bencher.iter_custom(|iterations| {
                let speed =
                    macheps::bench::copy_speed(context, bytes, Duration::from_millis(5) * iterations.min(100) as u32)
                        .unwrap_or_else(|e| panic!("{label}: {e}"));
                Duration::from_secs_f64(bytes as f64 / (speed * 1e9) * iterations as f64)
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args();
    kernels(&mut criterion);
    copy(&mut criterion);
    criterion.final_summary();
}
