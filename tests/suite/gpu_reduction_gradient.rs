//! Gradients of reductions on every adapter: all kinds, views, small limits, tensors on the device, and bugs planted in the
//! shaders. GL and SwiftShader take the kinds that stand for the others.

use crate::adapters::{self, Adapter};
use crate::gpu_planted::{Bug, all_gpus, caught};
use crate::gpu_reduction::{Failures, buffer, bytes_of, limited, read, thorough};
use crate::gpu_windows::limited as limited_to;
use crate::reduction::run_gradient_literals;
use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::reduction::cases::{Case, Fill, verify_cases};
use macheps::ops::reduction::{backward, check_backward};
use macheps::{
    BufferView, Context, CrossCheck, Error, Reduction, ReductionGradientViews, ReductionInput, ReductionKind as Kind,
    ReductionOptions,
};

const GRADIENT: &str = include_str!("../../shaders/reduction_gradient.wgsl");
const OF_VARIANCE: &str = include_str!("../../shaders/lib/reduction_gradient_variance.wgsl");
const OF_EXTREME: &str = include_str!("../../shaders/lib/reduction_gradient_extreme.wgsl");
const OF_SUM: &str = include_str!("../../shaders/lib/reduction_gradient_sum.wgsl");
const STATE_EXTREME: &str = include_str!("../../shaders/lib/reduction_state_extreme.wgsl");
const STATE_VARIANCE: &str = include_str!("../../shaders/lib/reduction_state_variance.wgsl");

/// Kinds that stand for the others: one of each way.
const TYPICAL: [Kind; 4] = [Kind::Mean, Kind::Variance, Kind::NormL2, Kind::Max];

fn case(kind: Kind, dtype: DType, shape: &[usize], axes: &[isize], fill: Fill) -> Case {
    Case {
        fill,
        backward: true,
        ..Case::new(kind, dtype, shape, Some(axes))
    }
}

#[test]
fn meets_the_oracle() {
    let mut failures = Failures(Vec::new());
    for adapter in adapters::all("gradients of reductions meet the oracle") {
        for case in verify_cases().into_iter().filter(|c| c.backward) {
            if thorough(adapter) || (case.dtype == DType::F32 && TYPICAL.contains(&case.kind)) {
                failures.run(&adapter.name, &adapter.context, &case);
            }
        }
    }
    failures.done();
}

#[test]
fn meets_literals() {
    for adapter in adapters::all("gradients of reductions meet literals") {
        if !adapter.is("gl") {
            run_gradient_literals(&adapter.context);
        }
    }
}

/// Odd offsets and strides, in one pool and apart; what is not the output stays as it was.
fn views_of<T: Element>(adapter: &Adapter, kind: Kind, pool: bool) {
    let gpu = adapter.gpu();
    let (rows, len, pitch) = (7usize, 53usize, 60usize);
    let case = case(kind, T::DTYPE, &[rows, len], &[1], Fill::Ordinary);
    let data = case.data::<T>();
    let sentinel = T::from_f32(-77.0);
    let upstream = data.upstream.clone().unwrap();
    let (x_at, g_at) = (5, 5 + rows * pitch + 1);
    let (dx_at, ws_at) = (g_at + rows * 3 + 2, 4096usize);
    let mut values = vec![sentinel; 8192];
    for r in 0..rows {
        values[x_at + r * pitch..][..len].copy_from_slice(&data.x[r * len..][..len]);
        values[g_at + r * 3] = upstream[r];
    }
    let source = buffer(gpu, &bytes_of(&values));
    let target = if pool {
        source.clone()
    } else {
        buffer(gpu, &bytes_of(&values))
    };
    let reduction = Reduction::new(gpu, kind, T::DTYPE, case.options.clone()).unwrap();
    let x = BufferView::new(&source, T::DTYPE, &[rows, len])
        .with_strides(&[pitch, 1])
        .at(x_at);
    let need = reduction.workspace_size_backward(&x).unwrap();
    let workspace_at = (ws_at * T::DTYPE.size()) as u64;
    assert!(need <= 2048);
    let views = ReductionGradientViews {
        second: kind.takes_two().then(|| x.clone()),
        workspace: Some((target.clone(), workspace_at)),
        ..ReductionGradientViews::new(
            x,
            BufferView::new(&source, T::DTYPE, &[rows, 1])
                .with_strides(&[3, 1])
                .at(g_at),
            // Transposed, with a gap.
            BufferView::new(&target, T::DTYPE, &[rows, len])
                .with_strides(&[1, rows + 1])
                .at(dx_at),
        )
    };
    let bound = reduction.bind_backward(&views).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bound.record(&mut encoder);
    bound.record(&mut encoder);
    gpu.queue().submit([encoder.finish()]);
    let (after, before, size) = (read(gpu, &target), bytes_of(&values), T::DTYPE.size());
    let mut dx = vec![T::default(); rows * len];
    for i in 0..values.len() {
        let place = i * size..(i + 1) * size;
        let (r, j) = (i.wrapping_sub(dx_at) % (rows + 1), i.wrapping_sub(dx_at) / (rows + 1));
        if i >= dx_at && r < rows && j < len {
            dx[r * len + j] = bytemuck::pod_read_unaligned(&after[place]);
        } else if i < ws_at {
            let name = &adapter.name;
            assert_eq!(after[place.clone()], before[place], "{name}: element {i} was written");
        }
    }
    let input = ReductionInput {
        x: &data.x,
        shape: &[rows, len],
        second: kind.takes_two().then_some(&data.x[..]),
    };
    check_backward(kind, &input, &upstream, &case.options, &dx)
        .unwrap_or_else(|e| panic!("{}: {kind} {}: {e}", adapter.name, T::DTYPE));
}

#[test]
fn takes_any_view() {
    for adapter in adapters::all("views of gradients of reductions") {
        for pool in [false, true] {
            views_of::<f32>(adapter, Kind::Variance, pool);
            views_of::<f16>(adapter, Kind::Max, pool);
            if thorough(adapter) {
                views_of::<bf16>(adapter, Kind::Dot, pool);
                views_of::<bf16>(adapter, Kind::NormL2, pool);
            }
        }
    }
}

#[test]
fn spreads_over_broadcast_views() {
    for adapter in adapters::all("gradients of broadcast views") {
        let gpu = adapter.gpu();
        let x = buffer(gpu, &bytes_of(&[3.0f32, -4.0, 12.0, 0.0]));
        let g = buffer(gpu, &bytes_of(&[13.0f32, 0.0, 0.0, 0.0]));
        let dx = buffer(gpu, &bytes_of(&[-1.0f32; 64]));
        // Five rows that are one, and one upstream gradient for all.
        let views = ReductionGradientViews::new(
            BufferView::new(&x, DType::F32, &[5, 3]).with_strides(&[0, 1]),
            BufferView::new(&g, DType::F32, &[5]).with_strides(&[0]),
            BufferView::new(&dx, DType::F32, &[5, 3]),
        );
        let reduction = Reduction::new(gpu, Kind::NormL2, DType::F32, ReductionOptions::over(&[1])).unwrap();
        let bound = reduction.bind_backward(&views).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        let got: Vec<f32> = bytemuck::pod_collect_to_vec(&read(gpu, &dx));
        assert_eq!(got[..15], [3.0, -4.0, 12.0].repeat(5), "{}", adapter.name);
        assert!(got[15..].iter().all(|&v| v == -1.0));
    }
}

#[test]
fn refuses_views() {
    for adapter in adapters::all("refused gradients of reductions") {
        let gpu = adapter.gpu();
        let pool = buffer(gpu, &[0; 4096]);
        let view = |shape: &[usize], at| BufferView::new(&pool, DType::F32, shape).at(at);
        let bind = |kind, views: &ReductionGradientViews| {
            let reduction = Reduction::new(gpu, kind, DType::F32, ReductionOptions::over(&[1])).unwrap();
            reduction.bind_backward(views).map(drop)
        };
        let right = ReductionGradientViews::new(view(&[3, 4], 0), view(&[3], 20), view(&[3, 4], 32));
        bind(Kind::Max, &right).unwrap();
        let unsupported = bind(Kind::ArgMax, &right);
        assert!(matches!(unsupported, Err(Error::Unsupported { .. })), "{unsupported:?}");
        for (kind, views) in [
            (
                Kind::Sum,
                ReductionGradientViews {
                    upstream: view(&[4], 20),
                    ..right.clone()
                },
            ),
            (
                Kind::Sum,
                ReductionGradientViews {
                    dx: view(&[4, 3], 32),
                    ..right.clone()
                },
            ),
            (Kind::Dot, right.clone()),
            (
                Kind::Max,
                ReductionGradientViews {
                    workspace: Some((pool.clone(), 4096 - 256 + 128)),
                    ..right.clone()
                },
            ),
        ] {
            assert!(matches!(bind(kind, &views), Err(Error::Shape { .. })));
        }
        let aliased = [
            ReductionGradientViews {
                dx: view(&[3, 4], 8),
                ..right.clone()
            },
            ReductionGradientViews {
                dx: view(&[3, 4], 12),
                ..right.clone()
            },
            ReductionGradientViews {
                workspace: Some((pool.clone(), 0)),
                ..right.clone()
            },
        ];
        for views in aliased {
            assert!(matches!(bind(Kind::Max, &views), Err(Error::Aliased { .. })));
        }
        let half = ReductionGradientViews {
            upstream: BufferView::new(&pool, DType::F16, &[3]).at(40),
            ..right
        };
        assert!(matches!(bind(Kind::Sum, &half), Err(Error::DTypeMismatch { .. })));
    }
}

#[test]
fn fits_small_limits() {
    let mut failures = Failures(Vec::new());
    for adapter in limited("gradients of reductions within small limits") {
        for kind in [Kind::Sum, Kind::Variance, Kind::Max] {
            for (shape, axes) in [
                (&[600_001usize][..], &[0isize][..]),
                (&[2, 400_001], &[1]),
                (&[300_000, 3], &[0]),
                (&[10_000, 64], &[0]),
                (&[70_000, 3], &[1]),
                (&[9, 10_000, 2], &[0, 2]),
            ] {
                if kind == Kind::Max || thorough(&adapter) {
                    let case = case(kind, DType::F32, shape, axes, Fill::Shifted);
                    failures.run(&adapter.name, &adapter.context, &case);
                }
            }
        }
    }
    failures.done();
}

#[test]
fn takes_what_is_beyond_a_buffer() {
    let narrow = |most| {
        move |limits: &mut macheps::wgpu::Limits| {
            limits.max_buffer_size = most;
            limits.max_storage_buffer_binding_size = 1 << 16;
        }
    };
    let mut failures = Failures(Vec::new());
    for adapter in limited_to("gradients beyond a buffer", narrow(1 << 18)) {
        for (kind, shape, axes) in [
            (Kind::Max, &[70, 1501][..], &[1isize][..]),
            (Kind::Variance, &[700, 150], &[0]),
            (Kind::Dot, &[5, 40, 6, 101], &[0, 2]),
            (Kind::NormL2, &[100_000, 2], &[1]),
            // A row of its own.
            (Kind::Mean, &[2, 70_001], &[1]),
        ] {
            if kind == Kind::Max || thorough(&adapter) {
                let case = case(kind, DType::F32, shape, axes, Fill::Ordinary);
                let data = case.data::<f32>();
                let input = ReductionInput {
                    x: &data.x,
                    shape,
                    second: data.second.as_deref(),
                };
                let upstream = data.upstream.as_deref().unwrap();
                let context = &adapter.context;
                let held = backward(context, kind, &input, upstream, &case.options)
                    .and_then(|dx| check_backward(kind, &input, upstream, &case.options, &dx));
                if let Err(e) = held {
                    failures.0.push(format!("{}: {kind} {shape:?}: {e}", adapter.name));
                }
            }
        }
    }
    failures.done();
}

#[test]
fn chains_and_cross_checks() {
    for adapter in adapters::all("chains of gradients of reductions") {
        let x: Vec<f32> = (0..600).map(|i| (i * 37 % 101) as f32 * 0.25 - 7.0).collect();
        let upstream: Vec<f32> = (0..20).map(|i| i as f32 * 0.5 - 3.0).collect();
        let kinds = [Kind::NormL2, Kind::Max];
        let options = ReductionOptions::over(&[1]);
        let run = |context: &Context, shape: &[usize]| -> Vec<Vec<f32>> {
            let tensor = context.upload(&x, &[20, 30]).unwrap();
            let g = context.upload(&upstream, shape).unwrap();
            let mut chain = context.chain();
            let found = kinds.map(|kind| chain.reduce_backward(kind, &tensor, None, &g, &options).unwrap());
            assert!(
                chain
                    .reduce_backward(Kind::Sum, &tensor, None, &tensor, &options)
                    .is_err()
            );
            chain.submit().unwrap();
            found.iter().map(|t| t.download().unwrap()).collect()
        };
        let plain = run(&adapter.context, &[20]);
        let checked = adapter.context.clone().with_cross_check(CrossCheck::Full);
        assert_eq!(plain, run(&checked, &[20, 1]));
        let input = ReductionInput::new(&x, &[20, 30]);
        for (kind, dx) in kinds.into_iter().zip(&plain) {
            assert_eq!(dx, &backward(&checked, kind, &input, &upstream, &options).unwrap());
        }
    }
}

#[test]
fn cross_checks_name_the_element() {
    let bug = Bug {
        name: "the gradient's sign is lost",
        edits: &[(GRADIENT, "(ug ^ uv ^ ud) & vec4<u32>(0x80000000u)", "vec4<u32>(0u)")],
    };
    for (name, gpu) in all_gpus(bug.name) {
        let context = Context::from_gpu(bug.plant(&gpu)).with_cross_check(CrossCheck::Full);
        let input = ReductionInput::new(&[1.0f32, 2.0, -3.0, 4.0], &[2, 2]);
        let found = backward(
            &context,
            Kind::SumSquare,
            &input,
            &[1.0, 1.0],
            &ReductionOptions::over(&[1]),
        );
        assert!(
            matches!(
                found,
                Err(Error::Mismatch {
                    index: 2,
                    kernel: "sum_square_backward",
                    ..
                })
            ),
            "{name}: {found:?}"
        );
    }
}

fn expect_caught(bug: &Bug, case: &Case) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, |context| match case.run(context) {
        Ok(verdict) => verdict.map(|_| ()),
        Err(e) => panic!("{}: {e}", case.detail()),
    });
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

fn expect_caught_in(name: &'static str, source: &'static str, from: &'static str, to: &'static str, case: Case) {
    // Bugs live as long as the test.
    let edits: &'static [_] = Box::leak(Box::new([(source, from, to)]));
    expect_caught(&Bug { name, edits }, &case);
}

fn small(kind: Kind, fill: Fill) -> Case {
    case(kind, DType::F32, &[6, 61], &[1], fill)
}

#[test]
fn planted_upstream_dropped() {
    expect_caught_in(
        "the upstream gradient is dropped",
        GRADIENT,
        "gradient4(g, factor_of(quad))",
        "gradient4(vec4<f32>(1.0), factor_of(quad))",
        small(Kind::Sum, Fill::Ordinary),
    );
    expect_caught_in(
        "the upstream gradient of another row",
        GRADIENT,
        "let g = upstream_load4(element_of(UPSTREAM, quad)",
        "let g = upstream_load4(0u * element_of(UPSTREAM, quad)",
        small(Kind::Sum, Fill::Ordinary),
    );
}

#[test]
fn planted_division_dropped() {
    expect_caught_in(
        "mean's gradient is not divided by n",
        GRADIENT,
        "significand4(pd) * params.scale",
        "significand4(pd)",
        small(Kind::Mean, Fill::Ordinary),
    );
}

#[test]
fn planted_last_tie_takes_all() {
    expect_caught_in(
        "the last of several largest elements takes all",
        STATE_EXTREME,
        "b.index < a.index",
        "b.index > a.index",
        small(Kind::Max, Fill::Ties),
    );
    expect_caught_in(
        "every place of a quad takes all",
        OF_EXTREME,
        "vec4<u32>(0u, 1u, 2u, 3u) * step_of(INDEX)",
        "vec4<u32>(0u) * step_of(INDEX)",
        small(Kind::Max, Fill::Ordinary),
    );
}

#[test]
fn planted_mean_rounded() {
    expect_caught_in(
        "variance's mean is one f32",
        OF_VARIANCE,
        "opaque4(high, params.zero) - rest",
        "opaque4(high, params.zero) - 0.0 * rest",
        small(Kind::Variance, Fill::Shifted),
    );
    expect_caught_in(
        "the deviation of a row without a spread divides",
        OF_VARIANCE,
        "deviation == vec4<u32>(0u)",
        "vec4<bool>(false)",
        case(Kind::Std, DType::F32, &[24, 61], &[1], Fill::Special),
    );
    expect_caught_in(
        "variance's statistics forget their exponent",
        STATE_VARIANCE,
        "        bitcast<u32>(s.exponent),\n        bitcast<u32>(s.mean.x),",
        "        0u,\n        bitcast<u32>(s.mean.x),",
        small(Kind::Variance, Fill::Large),
    );
}

#[test]
fn planted_norm_exponent_lost() {
    expect_caught_in(
        "the norm's exponent is added",
        OF_SUM,
        "values_of(quad), -exponent",
        "values_of(quad), exponent",
        small(Kind::NormL2, Fill::Large),
    );
    expect_caught_in(
        "a norm at 0 divides",
        OF_SUM,
        "vec4<bool>(KIND == NORM_L2)",
        "vec4<bool>(false)",
        case(Kind::NormL2, DType::F32, &[24, 61], &[1], Fill::Special),
    );
}
