//! What happens around the arithmetic: lost devices, many threads, other executors, borrowed devices, what recording
//! creates, memory, and the same bits on every run.

use crate::adapters;
use macheps::ops::softmax::bounds::Quantity;
use macheps::ops::softmax::cases::{Case, Fill};
use macheps::{
    BufferView, Context, ContextOptions, DType, DeviceSelector, Error, Gpu, MaskedRows, OnDeviceLost, Softmax,
    SoftmaxInput, SoftmaxKind, SoftmaxOptions, SoftmaxViews, Strategy,
};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 101) as f32 * 0.07 - 3.0).collect()
}

/// A context with a device that no other test has, on the same adapter.
pub fn own_context(adapter: &adapters::Adapter) -> Context {
    let wanted = adapter.gpu().info();
    let info = macheps::devices()
        .into_iter()
        .find(|d| d.name == wanted.name && d.backend == wanted.backend)
        .expect("an adapter listed before");
    let options = ContextOptions {
        device: DeviceSelector::Index(info.index),
        ..Default::default()
    };
    Context::with_options(options).expect("an adapter that opened before")
}

/// Runs `work` on a thread of its own; fails unless it ends, without panic, within ten seconds.
fn within_ten_seconds<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(work());
    });
    receiver
        .recv_timeout(Duration::from_secs(10))
        .unwrap_or_else(|e| panic!("{what}: {e}"))
}

fn expect_lost<T>(what: &str, outcome: macheps::Result<T>) {
    match outcome {
        Err(Error::DeviceLost { .. }) => {}
        Err(e) => panic!("{what}: not DeviceLost but {e}"),
        Ok(_) => panic!("{what}: worked on a destroyed device"),
    }
}

#[test]
fn destroyed_before_work() {
    for adapter in adapters::all("destroyed_before_work") {
        let name = adapter.name.clone();
        let context = own_context(adapter);
        within_ten_seconds(&adapter.name, move || {
            let x = values(60);
            let tensor = context.upload(&x, &[6, 10]).expect("the device still lives");
            context.gpu().expect("a GPU").device().destroy();
            expect_lost(&name, macheps::softmax(&context, &x, &[6, 10]));
            expect_lost(&name, context.upload(&x, &[6, 10]));
            expect_lost(&name, tensor.download());
            let mut chain = context.chain();
            let options = SoftmaxOptions::default();
            expect_lost(&name, chain.softmax(SoftmaxKind::Softmax, &tensor, None, &options));
            expect_lost(&name, chain.submit());
            expect_lost(&name, context.gpu().expect("a GPU").probe());
            expect_lost(&name, block_on(macheps::softmax_async(&context, &x, &[6, 10])));
            assert!(context.gpu().expect("a GPU").is_lost());
            // The same loss, answered by the CPU.
            let patient = context.with_on_device_lost(OnDeviceLost::FinishOnCpu);
            let y = macheps::softmax(&patient, &x, &[6, 10]).expect("finishes on the CPU");
            assert_eq!(y, macheps::softmax(&Context::cpu(), &x, &[6, 10]).expect("CPU"));
            let y = block_on(macheps::logsumexp_async(&patient, &x, &[6, 10])).expect("finishes on the CPU");
            assert_eq!(y, macheps::logsumexp(&Context::cpu(), &x, &[6, 10]).expect("CPU"));
        });
    }
}

#[test]
fn destroyed_during_work() {
    for adapter in adapters::all("destroyed_during_work") {
        let name = adapter.name.clone();
        let context = own_context(adapter);
        within_ten_seconds(&adapter.name, move || {
            let shape = [256usize, 512];
            let x = values(256 * 512);
            let first = context.upload(&x, &shape).expect("upload");
            // The pipeline is built before the clock matters.
            macheps::softmax(&context, &x, &shape).expect("the device lives");
            let device = context.gpu().expect("a GPU").device().clone();
            let destroyer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(150));
                device.destroy();
            });
            // Chains until the device is gone; whatever the loss interrupts says so.
            let start = Instant::now();
            let outcome = loop {
                let round = || -> macheps::Result<Vec<f32>> {
                    let mut chain = context.chain();
                    let mut tensor = first.clone();
                    for _ in 0..20 {
                        tensor = chain.softmax(SoftmaxKind::Softmax, &tensor, None, &SoftmaxOptions::default())?;
                    }
                    chain.submit()?;
                    tensor.download()
                };
                if let Err(e) = round() {
                    break Err::<(), _>(e);
                }
                assert!(start.elapsed() < Duration::from_secs(9), "{name}: never noticed");
            };
            expect_lost(&name, outcome);
            destroyer.join().expect("destroying does not panic");
            let patient = context.clone().with_on_device_lost(OnDeviceLost::FinishOnCpu);
            let y = macheps::softmax(&patient, &x, &shape).expect("finishes on the CPU");
            assert_eq!(y, macheps::softmax(&Context::cpu(), &x, &shape).expect("CPU"));
        });
    }
}

/// One-shots in flight on several threads while the device goes: each gives a right answer or the typed error.
#[test]
fn destroyed_under_one_shots() {
    for adapter in adapters::all("destroyed_under_one_shots") {
        let name = adapter.name.clone();
        let context = own_context(adapter);
        within_ten_seconds(&adapter.name, move || {
            let shape = [64usize, 300];
            let x = values(64 * 300);
            let right = macheps::softmax(&context, &x, &shape).expect("the device lives");
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        loop {
                            match macheps::softmax(&context, &x, &shape) {
                                Ok(y) => assert_eq!(y, right),
                                Err(Error::DeviceLost { .. }) => break,
                                Err(e) => panic!("{name}: {e}"),
                            }
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(100));
                context.gpu().expect("a GPU").device().destroy();
            });
        });
    }
}

#[test]
fn destroyed_after_work() {
    for adapter in adapters::all("destroyed_after_work") {
        let name = adapter.name.clone();
        let context = own_context(adapter);
        within_ten_seconds(&adapter.name, move || {
            let x = values(60);
            let tensor = context.upload(&x, &[6, 10]).expect("upload");
            let mut chain = context.chain();
            let y = chain
                .softmax(SoftmaxKind::Softmax, &tensor, None, &SoftmaxOptions::default())
                .expect("bound");
            chain.submit().expect("submitted");
            assert_eq!(y.download().expect("done").len(), 60);
            context.gpu().expect("a GPU").device().destroy();
            expect_lost(&name, y.download());
            expect_lost(&name, context.gpu().expect("a GPU").wait_idle());
            // Everything that is left is dropped here.
        });
    }
}

#[test]
fn eight_threads_share_a_context() {
    for adapter in adapters::all("eight_threads_share_a_context") {
        // The same device with no pipeline built yet, so that threads build the same ones at once.
        let context = Context::from_gpu(adapter.gpu().with_capabilities(|_| ()));
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for t in 0..8usize {
                let (context, start) = (&context, &start);
                scope.spawn(move || {
                    start.wait();
                    for turn in 0..4 {
                        let case = Case {
                            fill: [Fill::Ordinary, Fill::Special, Fill::Spread][(t + turn) % 3],
                            ..Case::new(SoftmaxKind::Softmax, DType::F32, &[5 + 3 * t + turn, 63 - 2 * turn])
                        };
                        match case.run(context) {
                            Ok(Ok(_)) => {}
                            Ok(Err(m)) => panic!("{}: thread {t}: {m}", adapter.name),
                            Err(e) => panic!("{}: thread {t}: {e}", adapter.name),
                        }
                    }
                });
            }
        });
        let built = context.gpu().map_or(0, Gpu::kernel_count);
        assert_eq!(
            built, 1,
            "{}: rows of 57 to 63 elements share one pipeline",
            adapter.name
        );
    }
}

/// Wakes the thread that waits.
struct Unpark(std::thread::Thread, AtomicUsize);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

/// An executor of one future on one thread: polls when woken and at no other time.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let unpark = Arc::new(Unpark(std::thread::current(), AtomicUsize::new(1)));
    let waker = Waker::from(unpark.clone());
    let mut context = std::task::Context::from_waker(&waker);
    let start = Instant::now();
    loop {
        if unpark.1.swap(0, Ordering::SeqCst) > 0
            && let Poll::Ready(output) = future.as_mut().poll(&mut context)
        {
            return output;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "nobody wakes the future");
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

#[test]
fn async_twins_run_under_another_executor() {
    use macheps::ops::softmax as op;
    let listed = block_on(macheps::devices_async());
    for adapter in adapters::all("async_twins_run_under_another_executor") {
        let wanted = adapter.gpu().info();
        let index = listed
            .iter()
            .position(|d| d.name == wanted.name && d.backend == wanted.backend)
            .expect("an adapter listed before");
        let options = ContextOptions {
            device: DeviceSelector::Index(index),
            ..Default::default()
        };
        let ctx = block_on(Context::with_options_async(options)).expect("opens");
        let (x, shape) = (values(24 * 50), [24usize, 50]);
        let o = SoftmaxOptions::default();
        let input = SoftmaxInput::new(&x, &shape);
        let kind = SoftmaxKind::LogSoftmax;
        block_on(async {
            let y = macheps::softmax_async(&ctx, &x, &shape).await.expect("softmax");
            assert_eq!(y, macheps::softmax(&ctx, &x, &shape).expect("softmax"));
            let y = macheps::logsumexp_async(&ctx, &x, &shape).await.expect("logsumexp");
            assert_eq!(y, macheps::logsumexp(&ctx, &x, &shape).expect("logsumexp"));
            let y = macheps::log_softmax_async(&ctx, &x, &shape).await.expect("log_softmax");
            assert_eq!(y, op::forward_async(&ctx, kind, &input, &o).await.expect("forward"));
            let g = op::backward_async(&ctx, kind, &input, &y, &o).await.expect("backward");
            assert_eq!(g, op::backward(&ctx, kind, &input, &y, &o).expect("backward"));
            let tensor = ctx.upload(&x, &shape).expect("upload");
            assert_eq!(tensor.download_async().await.expect("download"), x);
            // Two in flight at once, the later one awaited first.
            let (a, b) = futures::future::join(
                macheps::softmax_async(&ctx, &x, &shape),
                macheps::softmax_async(&ctx, &x[..50], &[1, 50]),
            )
            .await;
            assert_eq!(a.expect("a")[..50], b.expect("b")[..]);
        });
    }
    let y = block_on(macheps::softmax_async(&Context::cpu(), &[0.0f32; 4], &[4])).expect("CPU");
    assert_eq!(y, [0.25; 4]);
}

/// Numbers of live objects of a device: buffers, bind groups, their layouts, pipelines, pipeline layouts, modules, query
/// sets and memory allocations.
pub fn live_objects(device: &wgpu::Device) -> [isize; 8] {
    let hal = device.get_internal_counters().hal;
    [
        hal.buffers.read(),
        hal.bind_groups.read(),
        hal.bind_group_layouts.read(),
        hal.compute_pipelines.read(),
        hal.pipeline_layouts.read(),
        hal.shader_modules.read(),
        hal.query_sets.read(),
        hal.memory_allocations.read(),
    ]
}

#[test]
fn recording_creates_nothing() {
    for adapter in adapters::all("recording_creates_nothing") {
        let context = own_context(adapter);
        let gpu = context.gpu().expect("a GPU");
        let device = gpu.device();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let x = gpu.upload("x", bytemuck::cast_slice(&values(20_480))).expect("upload");
        let y = gpu.create_buffer("y", 4 * 20_480, usage).expect("buffer");
        // Three pipelines and a workspace among them.
        let softmax = Softmax::new(gpu, SoftmaxKind::Softmax, DType::F32, SoftmaxOptions::default())
            .expect("valid")
            .with_strategy(Strategy::Split);
        let shape = [2, 10_240];
        let views = SoftmaxViews::new(
            BufferView::new(&x, DType::F32, &shape),
            BufferView::new(&y, DType::F32, &shape),
        );
        let bound = softmax.bind(&views).expect("bound");
        assert!(bound.dispatches() >= 3);
        let mut encoder = device.create_command_encoder(&Default::default());
        let before = live_objects(device);
        let kernels = gpu.kernel_count();
        assert!(
            before[..6].iter().all(|&n| n > 0),
            "{}: nothing is counted",
            adapter.name
        );
        for _ in 0..50 {
            bound.record(&mut encoder);
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for _ in 0..50 {
                bound.record_pass(&mut pass);
            }
        }
        assert_eq!(live_objects(device), before, "{}", adapter.name);
        assert_eq!(gpu.kernel_count(), kernels);
        gpu.queue().submit([encoder.finish()]);
        gpu.wait_idle().expect("done");
    }
}

#[test]
fn borrowed_devices_keep_their_callbacks() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    for under_test in adapters::all("borrowed_devices_keep_their_callbacks") {
        let name = &under_test.name;
        let info = under_test.gpu().info();
        let adapter = found
            .iter()
            .find(|a| a.get_info().name == info.name && a.get_info().backend.to_string() == info.backend)
            .expect("an adapter listed before");
        let descriptor = wgpu::DeviceDescriptor {
            required_features: macheps::required_features(adapter),
            required_limits: macheps::recommended_limits(adapter),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("opens");
        let (errors, losses, maps) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        let count = errors.clone();
        device.on_uncaptured_error(Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let count = losses.clone();
        device.set_device_lost_callback(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
        });

        // This mapping is ready at once, and its callback comes with the first poll or submission of anybody's.
        let mine = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let count = maps.clone();
        mine.map_async(wgpu::MapMode::Read, .., move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });

        let gpu = Gpu::borrow(&device, &queue);
        let softmax = Softmax::new(&gpu, SoftmaxKind::Softmax, DType::F32, SoftmaxOptions::default()).expect("valid");
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4 * 4 * 8,
            usage,
            mapped_at_creation: false,
        });
        let x = values(32);
        queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&x));
        let view = BufferView::new(&buffer, DType::F32, &[4, 8]);
        let bound = softmax
            .bind(&SoftmaxViews::new(view.clone(), view.clone()))
            .expect("bound in place");
        let mut encoder = device.create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        // What is refused is refused by a typed error, not through the owner's handler.
        assert!(
            softmax
                .bind(&SoftmaxViews::new(view.clone(), view.clone().at(4)))
                .is_err()
        );
        let huge = gpu.create_buffer("huge", u64::MAX / 4, usage);
        assert!(matches!(huge, Err(Error::Limit { .. })), "{name}: {huge:?}");
        assert_eq!(errors.load(Ordering::SeqCst), 0, "{name}");
        assert_eq!(maps.load(Ordering::SeqCst), 0, "{name}: somebody polled or submitted");

        queue.submit([encoder.finish()]);
        let y = gpu
            .read_back(device.create_command_encoder(&Default::default()), &buffer, 128)
            .and_then(|r| r.wait())
            .expect("read back");
        assert_eq!(maps.load(Ordering::SeqCst), 1, "{name}");
        let y: Vec<f32> = bytemuck::pod_collect_to_vec(&y);
        let sums: Vec<f32> = y.chunks(8).map(|row| row.iter().sum()).collect();
        assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-6), "{name}: {sums:?}");

        // The owner's handlers are still in place.
        let _refused = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        assert_eq!(
            errors.load(Ordering::SeqCst),
            1,
            "{name}: the owner's error handler is gone"
        );
        device.destroy();
        let _ = device.poll(wgpu::PollType::Poll);
        assert_eq!(
            losses.load(Ordering::SeqCst),
            1,
            "{name}: the owner's lost callback is gone"
        );
        // Nobody told the borrower, yet it finds out.
        let context = Context::from_gpu(gpu);
        expect_lost(name, macheps::softmax(&context, &x, &[4, 8]));
        expect_lost(name, context.upload(&x, &[4, 8]));
        assert_eq!(
            errors.load(Ordering::SeqCst),
            1,
            "{name}: the owner's handler heard of it"
        );
    }
}

/// Kilobytes of memory that this process holds.
fn resident_kilobytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Tells the test below that this is its process.
const ALONE: &str = "MACHEPS_TEST_ALONE";

/// Body of [`contexts_do_not_pile_up`], which runs it in a process of its own so that other tests' memory does not count.
#[test]
fn contexts_one_after_the_other() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    let Some(adapter) = macheps::devices().into_iter().find(|d| d.name.contains("llvmpipe")) else {
        return;
    };
    let x = values(12);
    let once = || {
        let options = ContextOptions {
            device: DeviceSelector::Index(adapter.index),
            ..Default::default()
        };
        let context = Context::with_options(options).expect("opens");
        let y = macheps::softmax(&context, &x, &[3, 4]).expect("softmax");
        assert!((y.iter().sum::<f32>() - 3.0).abs() < 1e-5);
    };
    (0..20).for_each(|_| once());
    let before = resident_kilobytes();
    (0..100).for_each(|_| once());
    let after = resident_kilobytes();
    if let Some((before, after)) = before.zip(after) {
        println!("resident: {before} kB after 20 contexts, {after} kB after 120");
        // What a context holds while it lives is above 10 MB; a hundred of them would be seen.
        assert!(after < before + 16_384, "memory grew from {before} to {after} kB");
    }
}

#[test]
fn contexts_do_not_pile_up() {
    if !adapters::all("contexts_do_not_pile_up")
        .iter()
        .any(|a| a.is("llvmpipe"))
    {
        adapters::skipped("contexts_do_not_pile_up", "no llvmpipe");
        return;
    }
    let this = std::env::current_exe().expect("a path");
    let name = concat!(module_path!(), "::contexts_one_after_the_other");
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    let mut child = std::process::Command::new(this);
    child
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .env("WGPU_BACKEND", "vulkan");
    // Every context looks for adapters; the other drivers would take most of the time.
    let drivers = std::env::var("VK_DRIVER_FILES").unwrap_or_default();
    let ours: Vec<&str> = drivers.split(':').filter(|d| d.contains("lvp")).collect();
    if !ours.is_empty() {
        child.env("VK_DRIVER_FILES", ours.join(":"));
    }
    let output = child.output().expect("this binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find(|l| l.contains("resident:"));
    eprintln!("contexts: {}", figures.unwrap_or("memory is not known here"));
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_same_bits_on_every_run() {
    for adapter in adapters::all("the_same_bits_on_every_run") {
        let bits = |shape: &[usize], strategy: Strategy| -> Option<Vec<u32>> {
            let serves = strategy.serves(adapter.gpu().capabilities(), shape[1], 1, false);
            serves.then(|| {
                let case = Case {
                    fill: Fill::Spread,
                    strategy: Some(strategy),
                    ..Case::new(SoftmaxKind::Softmax, DType::F32, shape)
                };
                let data = case.data::<f32>();
                let run = || -> Vec<u32> {
                    let y = case.compute(&adapter.context, &data).expect("the case runs");
                    y.iter().map(|v| v.to_bits()).collect()
                };
                let first = run();
                for _ in 0..4 {
                    assert!(run() == first, "{}: {strategy} differs from run to run", adapter.name);
                }
                first
            })
        };
        // Rows that every strategy takes, and rows long enough to need several steps of each.
        let short = Strategy::ALL.map(|s| bits(&[70, 61], s).expect("all serve short rows"));
        let [first, second, third, ..] = &short;
        assert!(
            first == second && second == third,
            "{}: short, subgroup, on_chip",
            adapter.name
        );
        for strategy in Strategy::ALL {
            let served = bits(&[3, 9001], strategy).is_some();
            let limited = matches!(strategy, Strategy::Short | Strategy::OnChip);
            assert_eq!(served, !limited, "{}: {strategy}", adapter.name);
        }
    }
}

/// Without subgroups and without native f16: workgroup memory and packed words.
#[test]
fn degraded_devices_are_right() {
    for adapter in adapters::all("degraded_devices_are_right") {
        if !adapter.is("llvmpipe") {
            continue;
        }
        let gpu = adapter.gpu().with_capabilities(|c| {
            c.subgroup = 1;
            c.shader_f16 = false;
            c.timestamps = false;
        });
        let context = Context::from_gpu(gpu);
        let attention = SoftmaxOptions {
            scale: 0.125,
            causal: Some(0),
            masked_rows: MaskedRows::Zero,
            ..Default::default()
        };
        let base = |dtype, shape: &[usize], fill| Case {
            fill,
            ..Case::new(SoftmaxKind::Softmax, dtype, shape)
        };
        let cases = [
            base(DType::F16, &[24, 61], Fill::Special),
            base(DType::F16, &[24, 60], Fill::Ordinary),
            base(DType::F16, &[2, 1003], Fill::Spread),
            base(DType::F32, &[5, 1003], Fill::Spread),
            base(DType::F32, &[2, 20_001], Fill::Ordinary),
            Case {
                options: attention,
                quantity: Quantity::Backward(SoftmaxKind::Softmax),
                ..base(DType::F16, &[3, 17, 17], Fill::Ordinary)
            },
            Case {
                options: SoftmaxOptions {
                    axis: 0,
                    ..Default::default()
                },
                ..base(DType::F16, &[33, 7], Fill::Masked)
            },
        ];
        for case in cases {
            match case.run(&context) {
                Ok(Ok(_)) => {}
                Ok(Err(m)) => panic!("{:?} {}: {m}", case.shape, case.detail()),
                Err(e) => panic!("{:?} {}: {e}", case.shape, case.detail()),
            }
        }
    }
}

#[test]
fn everything_may_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Context>();
    crosses::<Gpu>();
    crosses::<Softmax>();
    // Everything that is bound.
    crosses::<macheps::ops::activation::BoundActivation>();
    crosses::<macheps::ops::audit::BoundAudit>();
    crosses::<macheps::ops::bce_with_logits::BoundBce>();
    crosses::<macheps::ops::cross_entropy::BoundCrossEntropy>();
    crosses::<macheps::ops::layer_norm::BoundLayerNorm>();
    crosses::<macheps::ops::optimizer::BoundOptimizer>();
    crosses::<macheps::ops::prune::BoundPrune>();
    crosses::<macheps::ops::reduction::BoundReduction>();
    crosses::<macheps::ops::softmax::BoundSoftmax>();
    crosses::<macheps::ops::spmv::BoundSpmv>();
    crosses::<macheps::ops::unscale::BoundUnscale>();
    crosses::<macheps::solve::conjugate_gradient::BoundConjugateGradient>();
    crosses::<macheps::solve::relaxation::BoundRelaxation>();
    crosses::<macheps::solve::GridStencil>();
    crosses::<macheps::Tensor<f32>>();
    crosses::<macheps::Chain<'static>>();
    crosses::<BufferView>();
    crosses::<SoftmaxViews>();
    crosses::<Error>();
    crosses::<macheps::DeviceInfo>();
    crosses::<macheps::gpu::Kernel>();
    crosses::<macheps::gpu::Recording>();
    crosses::<macheps::gpu::Readback>();
}
