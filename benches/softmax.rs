//! Criterion benchmarks: a group per operation, a line per shape and storage type, on the CPU path and every adapter found.
//!
//!     cargo bench --bench softmax
//!     MACHEPS_BENCH_DEVICE=llvmpipe cargo bench --bench softmax -- 'softmax/'
//!
//! `MACHEPS_BENCH_DEVICE` keeps the devices whose name or backend contains it (`cpu` is the CPU path). Each result is compared
//! with the oracle once before it is timed. The throughput counts every input read once and every output written once; the
//! group `copy` moves as many bytes by the device's own copy, which is what to compare with. `macheps bench` has larger shapes.

use criterion::{BenchmarkId, Criterion, Throughput};
use macheps::bench::Prepared;
use macheps::bench::Workload;
use macheps::ops::softmax::bounds::Quantity;
use macheps::ops::softmax::cases::Case;
use macheps::{Context, ContextOptions, DType, DeviceSelector, SoftmaxKind};
use std::time::{Duration, Instant};

/// A row on chip, many short rows, an odd length, one long row: small enough for a software driver.
const SHAPES: [&[usize]; 4] = [&[1024, 1024], &[16_384, 64], &[4096, 77], &[1, 1_048_576]];

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
        Prepared::Gpu(gpu, recording) => {
            let mut total = 0.0;
            let mut left = iterations;
            while left > 0 {
                // Bounded submissions: watchdogs count the time of one.
                let now = left.min(100);
                total += gpu
                    .time(|pass| {
                        for _ in 0..now {
                            recording.record_pass(pass);
                        }
                    })?
                    .seconds;
                left -= now;
            }
            Ok(Duration::from_secs_f64(total))
        }
    }
}

fn cases() -> Vec<Case> {
    let forward = SoftmaxKind::ALL.map(Quantity::Forward);
    let quantities = forward.into_iter().chain([Quantity::Backward(SoftmaxKind::Softmax)]);
    let mut cases = Vec::new();
    for quantity in quantities {
        let (Quantity::Forward(kind) | Quantity::Backward(kind)) = quantity;
        for shape in SHAPES {
            cases.push(Case {
                quantity,
                ..Case::new(kind, DType::F32, shape)
            });
        }
    }
    for dtype in [DType::F16, DType::Bf16] {
        cases.push(Case::new(SoftmaxKind::Softmax, dtype, SHAPES[0]));
    }
    cases
}

fn softmax_family(criterion: &mut Criterion) {
    let contexts = contexts();
    for case in cases() {
        let mut group = criterion.benchmark_group(Workload::op(&case));
        group.throughput(Throughput::Bytes(Workload::bytes(&case)));
        for (label, context) in &contexts {
            let line = format!("{} {}", Workload::shape(&case), case.dtype);
            let mut prepared = None;
            group.bench_function(BenchmarkId::new(label, line), |bencher| {
                // Only what the filter lets through is made ready and compared with the oracle.
                let ready = prepared.get_or_insert_with(|| match case.prepare(context) {
                    Ok(ready) => ready,
                    Err(e) => panic!("{label}: {e}"),
                });
                bencher.iter_custom(|iterations| time(ready, iterations).unwrap_or_else(|e| panic!("{label}: {e}")));
            });
        }
        group.finish();
    }
}

fn copy(criterion: &mut Criterion) {
    let contexts = contexts();
    let bytes = Case::new(SoftmaxKind::Softmax, DType::F32, SHAPES[0]).bytes();
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
    softmax_family(&mut criterion);
    copy(&mut criterion);
    criterion.final_summary();
}
