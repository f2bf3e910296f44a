//! Mixed precision on every adapter: loss scaler, unscaling, optimizers; and bugs planted in their shaders.

use crate::adapters::{self, Adapter};
use crate::gpu_planted::{Bug, all_gpus, caught, limited};
use crate::mixed_precision::{Machine, bad_steps, dynamics};
use macheps::ops::optimizer::bounds::Mismatch;
use macheps::ops::optimizer::cases::{Case as OptimizerCase, Optimizer, nesterov, verify_cases as optimizer_cases};
use macheps::ops::unscale::cases::{Case, Fill, verify_cases};
use macheps::ops::unscale::{bounds, reference};
use macheps::{
    AdamW, AdamWOptions, AdamWViews, BufferView, Context, DType, Element, Error, Gpu, Gradient, LossScaler,
    LossScalerOptions, Sgd, SgdOptions, SgdViews, Unscale, UnscaleOptions, UnscaleViews, f16, unscale, wgpu,
};

const UNSCALE: &str = include_str!("../../shaders/unscale.wgsl");
const UNSCALE_STATE: &str = include_str!("../../shaders/unscale_state.wgsl");
const SQUARES: &str = include_str!("../../shaders/lib/unscale_squares.wgsl");
const OPTIMIZER: &str = include_str!("../../shaders/optimizer.wgsl");
const ADVANCE: &str = include_str!("../../shaders/optimizer_advance.wgsl");

fn upload<T: Element>(gpu: &Gpu, values: &[T]) -> wgpu::Buffer {
    gpu.upload("test", bytemuck::cast_slice(values)).unwrap()
}

fn view<T: Element>(gpu: &Gpu, values: &[T]) -> BufferView {
    BufferView::new(&upload(gpu, values), T::DTYPE, &[values.len()])
}

/// Copies a buffer of values to the host.
fn download<T: Element>(gpu: &Gpu, buffer: &wgpu::Buffer, count: usize) -> Vec<T> {
    use wgpu::BufferUsages as U;
    let bytes = ((count * T::DTYPE.size()) as u64).next_multiple_of(4);
    let staging = gpu.create_buffer("test", bytes, U::COPY_DST | U::MAP_READ).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, bytes);
    gpu.queue().submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |r| r.unwrap());
    gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
    let mapped = staging.get_mapped_range(..).unwrap();
    bytemuck::pod_collect_to_vec::<u8, T>(&mapped[..count * T::DTYPE.size()])
}

fn submit(gpu: &Gpu, record: impl FnOnce(&mut wgpu::CommandEncoder)) {
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
}

fn each(test: &str, run: impl Fn(&Adapter, &Gpu)) {
    for adapter in adapters::all(test) {
        run(adapter, adapter.gpu());
    }
}

#[test]
fn every_case_of_unscaling() {
    each("every_case_of_unscaling", |adapter, _| {
        let mut worst = 0f64;
        for case in verify_cases() {
            let error = case
                .run(&adapter.context)
                .unwrap()
                .unwrap_or_else(|m| panic!("{}: {case:?}: {m}", adapter.name));
            worst = worst.max(error.of_bound);
        }
        eprintln!("{}: unscale within {worst:.2} of the bound", adapter.name);
    });
}

#[test]
fn every_case_of_optimizers() {
    each("every_case_of_optimizers", |adapter, _| {
        for case in optimizer_cases() {
            let error = case
                .run(&adapter.context)
                .unwrap()
                .unwrap_or_else(|m| panic!("{}: {case:?}: {m}", adapter.name));
            eprintln!("{}: {case:?}: {:.2} of the bound", adapter.name, error.of_bound);
        }
    });
}

#[test]
fn a_thousand_steps_stay_by_the_oracle() {
    each("a_thousand_steps_stay_by_the_oracle", |adapter, _| {
        for (optimizer, bad_step) in [
            (Optimizer::Sgd(nesterov()), None),
            (Optimizer::AdamW(AdamWOptions::default()), Some(500)),
        ] {
            let case = OptimizerCase {
                optimizer,
                dtype: DType::F32,
                count: 64,
                steps: 1000,
                bad_step,
            };
            let error = case.run(&adapter.context).unwrap();
            let error = error.unwrap_or_else(|m| panic!("{}: {case:?}: {m}", adapter.name));
            eprintln!("{}: 1000 steps, {:.3} of the bound", adapter.name, error.of_bound);
        }
    });
}

/// A constant gradient makes both corrected moments 1 at every step, so that AdamW's weights follow from its definition by hand.
#[test]
fn adamw_with_a_constant_gradient() {
    let o = AdamWOptions::default();
    let mut want = 1.0f64;
    for _ in 0..3 {
        want = want * (1.0 - 1e-3 * 0.01) - 1e-3 / (1.0 + 1e-8);
    }
    each("adamw_with_a_constant_gradient", |adapter, gpu| {
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(1.0)).unwrap();
        let gradient = view(gpu, &[1.0f32; 4]);
        let weight = upload(gpu, &[1.0f32; 4]);
        // What the moments hold before the first step does not matter.
        let garbage = [f32::NAN; 4];
        let views = AdamWViews {
            weight: BufferView::new(&weight, DType::F32, &[4]),
            gradient: gradient.clone(),
            first_moment: view(gpu, &garbage),
            second_moment: view(gpu, &garbage),
            copy: None,
        };
        let unscale = scaler.bind(&[gradient]).unwrap();
        let adamw = AdamW::new(o).unwrap().bind(&scaler, &[views]).unwrap();
        submit(gpu, |encoder| {
            for _ in 0..3 {
                unscale.record(encoder);
                adamw.record(encoder);
                scaler.record_update(encoder);
            }
        });
        for got in download::<f32>(gpu, &weight, 4) {
            assert!(
                (f64::from(got) - want).abs() < 3.0 * 2f64.powi(-24),
                "{}: {got} {want}",
                adapter.name
            );
        }
        let state = adamw.read().unwrap();
        assert_eq!(state.steps, 3);
        for (pair, beta) in [(state.power1, o.beta1), (state.power2, o.beta2)] {
            let power = f64::from(pair[0]) + f64::from(pair[1]);
            assert!(
                (power / beta.powi(3) - 1.0).abs() < 1e-12,
                "{}: {power:e}",
                adapter.name
            );
        }
        // Steps of a schedule, and of a checkpoint: rate 0 leaves the weights but for nothing.
        let before = download::<f32>(gpu, &weight, 4);
        adamw.set_learning_rate(0.0).unwrap();
        submit(gpu, |encoder| adamw.record(encoder));
        assert_eq!(download::<f32>(gpu, &weight, 4), before);
        adamw.write(&state).unwrap();
        assert_eq!(adamw.read().unwrap(), state);
        assert!(adamw.set_learning_rate(-1.0).is_err());
    });
}

#[test]
fn powers_of_beta_hold_for_long() {
    each("powers_of_beta_hold_for_long", |adapter, gpu| {
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(1.0)).unwrap();
        let adamw = AdamW::new(AdamWOptions::default()).unwrap().bind(&scaler, &[]).unwrap();
        for _ in 0..2 {
            submit(gpu, |encoder| (0..1000).for_each(|_| adamw.record(encoder)));
        }
        let state = adamw.read().unwrap();
        assert_eq!(state.steps, 2000);
        let power = f64::from(state.power2[0]) + f64::from(state.power2[1]);
        let want = 0.999f64.powi(2000);
        assert!(
            (power / want - 1.0).abs() < 1e-10,
            "{}: {power:e} {want:e}",
            adapter.name
        );
        // 0.9^2000 is far below every correction.
        assert_eq!(state.power1, [0.0, 0.0]);
    });
}

#[test]
fn the_scale_moves_as_the_state_machine_on_the_device() {
    let options = &dynamics();
    each("the_scale_moves_as_the_state_machine_on_the_device", |adapter, gpu| {
        // SwiftShader and GL take longer a dispatch than the others.
        let count = if adapter.is("gl") { 2_000 } else { 10_000 };
        for &options in options {
            let scaler = LossScaler::new(gpu, options).unwrap();
            let good = scaler.bind(&[view(gpu, &[1.0f32])]).unwrap();
            let bad = scaler.bind(&[view(gpu, &[f32::INFINITY])]).unwrap();
            let mut machine = Machine::new(options);
            for part in bad_steps(count).chunks(count / 10) {
                submit(gpu, |encoder| {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    for &is_bad in part {
                        if is_bad { &bad } else { &good }.record_pass(&mut pass);
                        scaler.record_update_pass(&mut pass);
                    }
                });
                part.iter().for_each(|&is_bad| machine.step(is_bad));
                let state = scaler.read().unwrap();
                assert_eq!(state.scale.to_bits(), machine.scale.to_bits(), "{}", adapter.name);
                assert_eq!(
                    (state.growth_tracker, state.steps, state.skipped),
                    (machine.tracker, machine.steps, machine.skipped),
                    "{}",
                    adapter.name
                );
            }
            // A checkpoint is taken up.
            let kept = scaler.read().unwrap();
            let other = LossScaler::new(gpu, options).unwrap();
            other.write(&kept).unwrap();
            assert_eq!(other.read().unwrap(), kept);
        }
    });
}

#[test]
fn overflow_in_any_tensor_skips_the_step_everywhere() {
    each("overflow_in_any_tensor_skips_the_step_everywhere", |adapter, gpu| {
        let scaler = LossScaler::new(gpu, LossScalerOptions::default()).unwrap();
        let n = 13;
        let sizes: Vec<usize> = (0..n).map(|i| 5 + 7 * i).collect();
        let gradients: Vec<Vec<f16>> = sizes.iter().map(|&s| vec![f16::from_f32(1.0); s]).collect();
        let views: Vec<BufferView> = gradients.iter().map(|g| view(gpu, g)).collect();
        let tensors: Vec<SgdViews> = views
            .iter()
            .zip(&sizes)
            .map(|(gradient, &s)| SgdViews {
                weight: view(gpu, &vec![1.0f32; s]),
                gradient: gradient.clone(),
                momentum: Some(view(gpu, &vec![0.25f32; s])),
                copy: Some(view(gpu, &vec![f16::from_f32(7.0); s])),
            })
            .collect();
        let unscale = scaler.bind(&views).unwrap();
        let sgd = Sgd::new(nesterov()).unwrap().bind(&scaler, &tensors).unwrap();
        let all = |tensors: &[SgdViews]| -> Vec<(Vec<f32>, Vec<f32>, Vec<f16>)> {
            tensors
                .iter()
                .zip(&sizes)
                .map(|(t, &s)| {
                    (
                        download(gpu, buffer(&t.weight), s),
                        download(gpu, buffer(t.momentum.as_ref().unwrap()), s),
                        download(gpu, buffer(t.copy.as_ref().unwrap()), s),
                    )
                })
                .collect()
        };
        let before = all(&tensors);
        for (i, bad) in [(0, f16::INFINITY), (n / 2, f16::NEG_INFINITY), (n - 1, f16::NAN)] {
            let mut broken = gradients[i].clone();
            *broken.last_mut().unwrap() = bad;
            let even = |v: &[f16]| -> Vec<u8> {
                let mut bytes = bytemuck::cast_slice::<f16, u8>(v).to_vec();
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                bytes
            };
            gpu.queue().write_buffer(buffer(&views[i]), 0, &even(&broken));
            submit(gpu, |encoder| {
                unscale.record(encoder);
                sgd.record(encoder);
                scaler.record_update(encoder);
            });
            let state = scaler.read().unwrap();
            assert!(state.found_nonfinite, "{}: tensor {i}", adapter.name);
            assert_eq!(state.norm.is_nan(), bad.is_nan(), "{}", adapter.name);
            assert_eq!(all(&tensors), before, "{}: tensor {i}", adapter.name);
            gpu.queue().write_buffer(buffer(&views[i]), 0, &even(&gradients[i]));
        }
        let state = scaler.read().unwrap();
        assert_eq!((state.scale, state.steps, state.skipped), (8192.0, 0, 3));
        assert_eq!(sgd.read().unwrap().steps, 0);
        submit(gpu, |encoder| {
            unscale.record(encoder);
            sgd.record(encoder);
            scaler.record_update(encoder);
        });
        assert_eq!(sgd.read().unwrap().steps, 1);
        let after = all(&tensors);
        assert!(
            after.iter().zip(&before).all(|(a, b)| a.0[0] != b.0[0]),
            "{}",
            adapter.name
        );
    });
}

/// The buffer that a view of these tests was made of: it fills it.
fn buffer(view: &BufferView) -> &wgpu::Buffer {
    view.buffer()
}

#[test]
fn norms_at_the_ends_of_the_range() {
    each("norms_at_the_ends_of_the_range", |adapter, _| {
        let context = &adapter.context;
        for (value, count, scale) in [
            (3e38f32, 1usize, 1.0f32),
            (1e38, 9, 1.0),
            (1e38, 100, 4.0),
            (1e-38, 10_000, 1.0),
            (1e-45, 1, 1.0),
            (1e-45, 9001, 0.25),
            (3e38, 400, 1.0),
        ] {
            let mut g = vec![value; count];
            let want = reference::unscale(&[vec![f64::from(value); count]], scale.into(), None);
            let report = unscale(context, &mut [Gradient::from(&mut g)], scale, None).unwrap();
            assert!(!report.found_nonfinite);
            bounds::check(&[report.norm], &[want.norm], &[bounds::norm(want.norm)])
                .unwrap_or_else(|m| panic!("{}: {value:e} x {count}: {m}", adapter.name));
        }
        // A norm beyond f32 is still clipped by.
        let mut g = vec![3e38f32; 400];
        let report = unscale(context, &mut [Gradient::from(&mut g)], 1.0, Some(20.0)).unwrap();
        assert_eq!(report.norm, f32::INFINITY);
        assert!((g[0] - 1.0).abs() < 1e-6, "{}: {}", adapter.name, g[0]);
    });
}

#[test]
fn one_encoder_twice_and_the_same_bits_every_time() {
    each("one_encoder_twice_and_the_same_bits_every_time", |adapter, gpu| {
        let values: Vec<f32> = (0..20_011).map(|i| ((i * 37 % 1009) as f32 - 500.0) * 1e-3).collect();
        let run = |together: bool| -> (Vec<f32>, u32) {
            let scaler = LossScaler::new(gpu, LossScalerOptions::constant(4.0)).unwrap();
            let gradient = view(gpu, &values);
            let weight = upload(gpu, &values);
            let views = AdamWViews {
                weight: BufferView::new(&weight, DType::F32, &[values.len()]),
                gradient: gradient.clone(),
                first_moment: view(gpu, &vec![0f32; values.len()]),
                second_moment: view(gpu, &vec![0f32; values.len()]),
                copy: None,
            };
            let options = UnscaleOptions { max_norm: Some(1.0) };
            let unscale = Unscale::new(&scaler, options).unwrap();
            let unscale = unscale.bind(&UnscaleViews::new(&[gradient])).unwrap();
            let adamw = AdamW::new(Default::default()).unwrap().bind(&scaler, &[views]).unwrap();
            let step = |encoder: &mut wgpu::CommandEncoder| {
                unscale.record(encoder);
                adamw.record(encoder);
                scaler.record_update(encoder);
            };
            if together {
                submit(gpu, |encoder| {
                    step(encoder);
                    step(encoder);
                });
            } else {
                submit(gpu, step);
                submit(gpu, step);
            }
            (
                download(gpu, &weight, values.len()),
                scaler.read().unwrap().norm.to_bits(),
            )
        };
        let first = run(true);
        assert_eq!(run(true), first, "{}", adapter.name);
        assert_eq!(run(false), first, "{}", adapter.name);
    });
}

#[test]
fn slices_of_a_pool_and_what_lies_between() {
    each("slices_of_a_pool_and_what_lies_between", |adapter, gpu| {
        let (n, gap) = (517, 3);
        // Two gradients of f16 at odd places of one buffer, unscaled in place: what lies around them stays.
        let mut pool = vec![f16::from_f32(9.0); 2 * n + 3 * gap];
        for (i, v) in pool.iter_mut().enumerate() {
            if (gap..gap + n).contains(&i) || (2 * gap + n..2 * gap + 2 * n).contains(&i) {
                *v = f16::from_f32(i as f32);
            }
        }
        let buffer = upload(gpu, &pool);
        let at = |offset| BufferView::new(&buffer, DType::F16, &[n]).at(offset);
        let slices = [at(gap), at(2 * gap + n)];
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(2.0)).unwrap();
        let unscale = Unscale::new(&scaler, UnscaleOptions::default()).unwrap();
        let bound = unscale.bind(&UnscaleViews::in_place(&slices)).unwrap();
        submit(gpu, |encoder| bound.record(encoder));
        let got = download::<f16>(gpu, &buffer, pool.len());
        for (i, (g, p)) in got.iter().zip(&pool).enumerate() {
            let inside = (gap..gap + n).contains(&i) || (2 * gap + n..2 * gap + 2 * n).contains(&i);
            let want = if inside { f16::from_f32(p.to_f32() / 2.0) } else { *p };
            assert_eq!(g.to_bits(), want.to_bits(), "{}: element {i}", adapter.name);
        }
        // From 16 bits to f32, beside each other in different buffers, with clipping.
        let wide = upload(gpu, &vec![0f32; n + 2]);
        let options = UnscaleOptions { max_norm: Some(1.0) };
        let bound = Unscale::new(&scaler, options)
            .unwrap()
            .bind(&UnscaleViews {
                gradients: vec![at(gap)],
                unscaled: Some(vec![BufferView::new(&wide, DType::F32, &[n]).at(1)]),
                workspace: None,
            })
            .unwrap();
        submit(gpu, |encoder| bound.record(encoder));
        let got = download::<f32>(gpu, &wide, n + 2);
        let input: Vec<f64> = download::<f16>(gpu, &buffer, pool.len())[gap..gap + n]
            .iter()
            .map(|v| v.to_f64())
            .collect();
        let want = reference::unscale(&[input], 2.0, Some(1.0));
        let allowed: Vec<f64> = want.values[0]
            .iter()
            .map(|&v| bounds::gradient(DType::F32, v, 2.0, true))
            .collect();
        bounds::check(&got[1..=n], &want.values[0], &allowed).unwrap_or_else(|m| panic!("{}: {m}", adapter.name));
        assert_eq!((got[0], got[n + 1]), (0.0, 0.0));
        // What overlaps, has gaps, or fits no type, is refused.
        let bind = |gradients: Vec<BufferView>, unscaled: Option<Vec<BufferView>>| {
            unscale
                .bind(&UnscaleViews {
                    gradients,
                    unscaled,
                    workspace: None,
                })
                .map(drop)
        };
        assert!(matches!(
            bind(vec![at(0)], Some(vec![at(1)])),
            Err(Error::Aliased { .. })
        ));
        let gaps = at(0).with_strides(&[2]);
        assert!(matches!(bind(vec![gaps], None), Err(Error::Unsupported { .. })));
        assert!(matches!(bind(vec![at(3 * n)], None), Err(Error::Shape { .. })));
        let narrow = BufferView::new(&wide, DType::Bf16, &[n]);
        assert!(matches!(
            bind(vec![at(0)], Some(vec![narrow])),
            Err(Error::DTypeMismatch { .. })
        ));
        assert!(matches!(bind(vec![at(0)], Some(vec![])), Err(Error::Shape { .. })));
        let small = Unscale::new(&scaler, UnscaleOptions::default()).unwrap();
        let workspace = gpu.create_buffer("test", 16, wgpu::BufferUsages::UNIFORM).unwrap();
        let refused = small.bind(&UnscaleViews {
            workspace: Some((workspace, 0)),
            ..UnscaleViews::new(&[at(0)])
        });
        assert!(matches!(refused, Err(Error::BufferUsage { .. })));
        assert_eq!(small.workspace_size(&[at(0), at(0)]).unwrap(), 32);
    });
}

#[test]
fn windows_of_small_devices() {
    let gpus = limited("windows_of_small_devices", |limits| {
        limits.max_storage_buffer_binding_size = 1 << 20;
        limits.max_compute_workgroups_per_dimension = 16;
    });
    for (name, gpu) in gpus {
        let context = Context::from_gpu(gpu.clone());
        // 600,000 elements are 2.3 MiB of f32: three windows; and the chunks of the later ones find their places.
        let case = Case {
            fill: Fill::LastNan,
            ..Case::new(DType::F32, &[600_001, 10])
        };
        case.run(&context).unwrap().unwrap_or_else(|m| panic!("{name}: {m}"));
        let case = Case {
            max_norm: Some(1.0),
            fill: Fill::Spread,
            ..Case::new(DType::F16, &[600_001])
        };
        case.run(&context).unwrap().unwrap_or_else(|m| panic!("{name}: {m}"));
        let case = OptimizerCase {
            optimizer: Optimizer::Sgd(SgdOptions::default()),
            dtype: DType::F16,
            count: 300_001,
            steps: 1,
            bad_step: None,
        };
        case.run(&context).unwrap().unwrap_or_else(|m| panic!("{name}: {m}"));
    }
}

#[test]
fn master_weights_do_not_stall_on_the_device() {
    each("master_weights_do_not_stall_on_the_device", |adapter, gpu| {
        // At 4 an f16 sum of 0.001 stands still; here it goes on.
        let scaler = LossScaler::new(gpu, LossScalerOptions::constant(1024.0)).unwrap();
        let gradient = view(gpu, &[f16::from_f32(-1.024)]);
        let (weight, copy) = (upload(gpu, &[4.0f32]), upload(gpu, &[f16::from_f32(4.0)]));
        let sgd = Sgd::new(SgdOptions {
            learning_rate: 1.0,
            ..Default::default()
        })
        .unwrap();
        let views = SgdViews {
            weight: BufferView::new(&weight, DType::F32, &[1]),
            gradient: gradient.clone(),
            momentum: None,
            copy: Some(BufferView::new(&copy, DType::F16, &[1])),
        };
        let bound = sgd.bind(&scaler, &[views]).unwrap();
        let unscale = scaler.bind(&[gradient]).unwrap();
        let steps = 400;
        submit(gpu, |encoder| {
            for _ in 0..steps {
                unscale.record(encoder);
                bound.record(encoder);
            }
        });
        let step = f16::from_f32(1.024).to_f64() / 1024.0;
        let want = 4.0 + f64::from(steps) * step;
        let w = download::<f32>(gpu, &weight, 1)[0];
        assert!(
            (f64::from(w) - want).abs() < f64::from(steps) * 2f64.powi(-22),
            "{}: {w} {want}",
            adapter.name
        );
        assert_eq!(download::<f16>(gpu, &copy, 1)[0], f16::from_f32(w), "{}", adapter.name);
        assert_eq!(f16::from_f32(f16::from_f32(4.0).to_f32() + 0.001), f16::from_f32(4.0));
    });
}

fn expect_caught(bug: &Bug, run: impl Fn(&Context) -> Result<(), Mismatch>) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, run);
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

fn unscaling(case: Case) -> impl Fn(&Context) -> Result<(), Mismatch> {
    move |context| case.run(context).unwrap().map(drop)
}

fn optimizing(case: OptimizerCase) -> impl Fn(&Context) -> Result<(), Mismatch> {
    move |context| case.run(context).unwrap().map(drop)
}

fn adamw(steps: u64, bad_step: Option<u64>) -> OptimizerCase {
    OptimizerCase {
        optimizer: Optimizer::AdamW(AdamWOptions::default()),
        dtype: DType::F16,
        count: 64,
        steps,
        bad_step,
    }
}

#[test]
fn a_tensor_missed() {
    let bug = Bug {
        name: "unscale misses the last tensor",
        edits: &[(UNSCALE_STATE, "i < params.partials;", "i + 1u < params.partials;")],
    };
    let case = Case {
        fill: Fill::LastNan,
        ..Case::new(DType::F32, &[40, 40])
    };
    expect_caught(&bug, unscaling(case));
    expect_caught(&bug, unscaling(Case::new(DType::F32, &[40, 40])));
}

#[test]
fn norm_without_an_exponent() {
    let bug = Bug {
        name: "norm without scaling",
        edits: &[(SQUARES, "parts.exponent - vec4<i32>(next.exponent)", "parts.exponent")],
    };
    let case = Case {
        fill: Fill::Huge,
        ..Case::new(DType::F32, &[40])
    };
    expect_caught(&bug, unscaling(case));
}

#[test]
fn norm_accumulated_in_sixteen_bits() {
    let bug = Bug {
        name: "f16 accumulator of the norm",
        edits: &[(
            SQUARES,
            "next.sum = pair_add_positive4(next.sum, opaque4(y * y, zero), zero);",
            "let s = next.sum.high + y * y;
    next.sum = Pair4(vec4<f32>(unpack2x16float(pack2x16float(s.xy)), unpack2x16float(pack2x16float(s.zw))), vec4<f32>(0.0));",
        )],
    };
    expect_caught(&bug, unscaling(Case::new(DType::F16, &[9000])));
}

#[test]
fn weights_accumulated_in_sixteen_bits() {
    let bug = Bug {
        name: "f16 accumulator of the weights",
        edits: &[(
            OPTIMIZER,
            "    w_store4(params.w_base + e, 1u, n, w);",
            "    w_store4(params.w_base + e, 1u, n, vec4<f32>(
        decode16(encode16(w.x)), decode16(encode16(w.y)), decode16(encode16(w.z)), decode16(encode16(w.w))
    ));",
        )],
    };
    expect_caught(&bug, optimizing(adamw(2, None)));
}

#[test]
fn scale_grows_after_a_bad_step() {
    let bug = Bug {
        name: "scaler grows after a bad step",
        edits: &[(
            UNSCALE_STATE,
            "scaler.scale = max(opaque(scale * params.backoff_factor, params.zero), params.min_scale);
        scaler.growth_tracker = 0u;",
            "scaler.scale = opaque(scale * params.growth_factor, params.zero);",
        )],
    };
    expect_caught(&bug, scaler_dynamics);
    let bug = Bug {
        name: "a bad step does not end the row of good ones",
        edits: &[(
            UNSCALE_STATE,
            "params.min_scale);
        scaler.growth_tracker = 0u;",
            "params.min_scale);",
        )],
    };
    expect_caught(&bug, scaler_dynamics);
}

/// A short run of the scaler against the state machine.
fn scaler_dynamics(context: &Context) -> Result<(), Mismatch> {
    let gpu = context.gpu().unwrap();
    let options = LossScalerOptions {
        growth_interval: 3,
        ..Default::default()
    };
    let scaler = LossScaler::new(gpu, options).unwrap();
    let good = scaler.bind(&[view(gpu, &[1.0f32])]).unwrap();
    let bad = scaler.bind(&[view(gpu, &[f32::NAN])]).unwrap();
    let mut machine = Machine::new(options);
    for (index, is_bad) in [false, false, true, false, false, false].into_iter().enumerate() {
        submit(gpu, |encoder| {
            if is_bad { &bad } else { &good }.record(encoder);
            scaler.record_update(encoder);
        });
        machine.step(is_bad);
        let got = scaler.read().unwrap().scale;
        bounds::check(&[got], &[f64::from(machine.scale)], &[0.0]).map_err(|m| Mismatch { index, ..m })?;
    }
    Ok(())
}

#[test]
fn bias_correction_dropped() {
    for (name, edits) in [
        (
            "first bias correction dropped",
            &[(
                ADVANCE,
                "wide_to_f32(wide_div(rate, correction(power1), zero), zero)",
                "state.learning_rate",
            )],
        ),
        (
            "second bias correction dropped",
            &[(
                ADVANCE,
                "wide_to_f32(wide_div(Wide(1.0, 0.0, 0), root, zero), zero)",
                "1.0",
            )],
        ),
    ] {
        expect_caught(&Bug { name, edits }, optimizing(adamw(3, None)));
    }
}

#[test]
fn verdict_ignored() {
    let bug = Bug {
        name: "optimizer steps whatever the verdict",
        edits: &[(
            OPTIMIZER,
            "fn adamw(inv: Invocation) {
    if scaler.found_nonfinite != 0u {",
            "fn adamw(inv: Invocation) {
    if false {",
        )],
    };
    expect_caught(&bug, optimizing(adamw(3, Some(2))));
    let bug = Bug {
        name: "a bad step is counted",
        edits: &[(ADVANCE, "if scaler.found_nonfinite != 0u {", "if false {")],
    };
    expect_caught(&bug, optimizing(adamw(3, Some(2))));
}

#[test]
fn gradients_not_unscaled() {
    let bug = Bug {
        name: "optimizer takes scaled gradients",
        edits: &[(
            OPTIMIZER,
            "return scale4(g_load4(params.g_base + e, 1u, n), factor, params.zero);",
            "return g_load4(params.g_base + e, 1u, n);",
        )],
    };
    expect_caught(&bug, optimizing(adamw(2, None)));
    let bug = Bug {
        name: "last quad not unscaled",
        edits: &[(
            UNSCALE,
            "let end = min(begin + WG * 16u * BLOCKS, params.elements);",
            "let end = min(begin + WG * 16u * BLOCKS, params.elements - 1u);",
        )],
    };
    expect_caught(&bug, unscaling(Case::new(DType::F32, &[41])));
}
