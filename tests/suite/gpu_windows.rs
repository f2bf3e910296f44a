//! Problems larger than a binding or a grid, on devices opened with small limits: 1 MiB a storage binding, 64 workgroups a
//! dimension.

use crate::adapters::{self, Adapter};
use crate::gpu_softmax::{Failures, case_of};
use macheps::element::DType;
use macheps::ops::softmax::bounds::Quantity;
use macheps::ops::softmax::cases::{Case, Fill, MaskShape};
use macheps::{BufferView, Context, Gpu, Softmax, SoftmaxKind, SoftmaxOptions, SoftmaxViews, Strategy, wgpu};
use std::time::Duration;

/// Every adapter under test once more, with these limits in place of its own.
pub fn limited(test: &str, narrow: impl Fn(&mut wgpu::Limits)) -> Vec<Adapter> {
    let wanted = adapters::all(test);
    if wanted.is_empty() {
        return Vec::new();
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let compute = wgpu::DownlevelFlags::COMPUTE_SHADERS;
    found
        .iter()
        .filter(|a| a.get_downlevel_capabilities().flags.contains(compute))
        .filter_map(|adapter| {
            let mut limits = macheps::recommended_limits(adapter);
            narrow(&mut limits);
            let features = macheps::required_features(adapter);
            let gpu = Gpu::open_with(adapter, features, limits, Duration::from_secs(300));
            let gpu = pollster::block_on(gpu).unwrap();
            let name = adapters::short_name(gpu.info());
            wanted.iter().any(|a| a.is(&name)).then(|| Adapter {
                name,
                context: Context::from_gpu(gpu),
            })
        })
        .collect()
}

/// 1 MiB a storage binding, 64 workgroups a dimension.
pub fn small(limits: &mut wgpu::Limits) {
    limits.max_storage_buffer_binding_size = 1 << 20;
    limits.max_compute_workgroups_per_dimension = 64;
}

const SOFTMAX: Quantity = Quantity::Forward(SoftmaxKind::Softmax);
const SOFTMAX_BACKWARD: Quantity = Quantity::Backward(SoftmaxKind::Softmax);

/// Dispatches that softmax of a tensor takes.
fn dispatches(gpu: &Gpu, shape: &[usize], axis: isize) -> usize {
    let count: usize = shape.iter().product();
    let buffer = |usage| gpu.create_buffer("x", count as u64 * 4, usage).unwrap();
    let view = || BufferView::new(&buffer(wgpu::BufferUsages::STORAGE), DType::F32, shape);
    let options = SoftmaxOptions {
        axis,
        ..Default::default()
    };
    let softmax = Softmax::new(gpu, SoftmaxKind::Softmax, DType::F32, options).unwrap();
    softmax.bind(&SoftmaxViews::new(view(), view())).unwrap().dispatches()
}

#[test]
fn rows_over_several_windows() {
    let mut failures = Failures::default();
    for adapter in limited("rows_over_several_windows", small) {
        let gpu = adapter.gpu();
        assert!(dispatches(gpu, &[600, 1000], -1) >= 3);
        let mut run = |case: Case| failures.run_case(&adapter.name, &adapter.context, &case);
        let full = !adapter.is("swiftshader") && !adapter.is("gl");
        // 2.4 MB each: rows in windows, also those of a mask with a row for each.
        for quantity in [SOFTMAX, SOFTMAX_BACKWARD] {
            run(case_of(quantity, DType::F32, &[600, 1000], Fill::Ordinary));
            run(Case {
                mask: MaskShape::Trailing,
                options: SoftmaxOptions {
                    causal: Some(500),
                    ..Default::default()
                },
                ..case_of(quantity, DType::F32, &[2, 300, 999], Fill::Ordinary)
            });
        }
        run(case_of(SOFTMAX, DType::F16, &[1200, 999], Fill::Ordinary));
        // One value a row, 1.2 MB of them.
        run(case_of(
            Quantity::Forward(SoftmaxKind::LogSumExp),
            DType::F32,
            &[300_001, 3],
            Fill::Ordinary,
        ));
        // Across an inner dimension: windows of columns.
        let across = |quantity, shape: &[usize], axis| Case {
            options: SoftmaxOptions {
                axis,
                ..Default::default()
            },
            ..case_of(quantity, DType::F32, shape, Fill::Ordinary)
        };
        run(across(SOFTMAX, &[7, 50, 1500], 1));
        if full {
            run(across(SOFTMAX_BACKWARD, &[7, 50, 1500], 1));
            run(across(Quantity::Forward(SoftmaxKind::LogSumExp), &[19, 14_000], 0));
            run(case_of(
                Quantity::Backward(SoftmaxKind::LogSumExp),
                DType::Bf16,
                &[1200, 999],
                Fill::Spread,
            ));
        }
    }
    failures.done();
}

#[test]
fn rows_longer_than_a_binding() {
    let mut failures = Failures::default();
    for adapter in limited("rows_longer_than_a_binding", small) {
        let full = !adapter.is("swiftshader") && !adapter.is("gl");
        let mut run = |quantity, shape: &[usize], axis, causal, fill| {
            let options = SoftmaxOptions {
                axis,
                causal,
                ..Default::default()
            };
            let case = Case {
                options,
                ..case_of(quantity, DType::F32, shape, fill)
            };
            failures.run_case(&adapter.name, &adapter.context, &case);
        };
        for quantity in [SOFTMAX, SOFTMAX_BACKWARD, Quantity::Forward(SoftmaxKind::LogSumExp)] {
            if !full && quantity != SOFTMAX {
                continue;
            }
            run(quantity, &[2, 400_001], -1, None, Fill::Spread);
            run(quantity, &[2, 2, 300_001], -1, Some(270_000), Fill::Ordinary);
            // Along an axis with a stride: 3.6 MB between the ends of a row, then 2.5 MB in rows of moderate length.
            run(quantity, &[300_000, 3], 0, None, Fill::Ordinary);
            run(quantity, &[10_000, 64], 0, None, Fill::Ordinary);
            // Rows whose records do not fit the workspace together, the second shape with a dimension outside the axis; causal
            // needs their numbers.
            run(quantity, &[200, 9000], 0, None, Fill::Ordinary);
            run(quantity, &[2, 200, 4100], 1, None, Fill::Masked);
            // Nine elements, of which no more than four fit a binding, and many such rows beside each other.
            run(quantity, &[9, 32_768], 0, None, Fill::Spread);
        }
    }
    failures.done();
}

#[test]
fn rows_beyond_one_grid_dimension() {
    let mut failures = Failures::default();
    for adapter in limited("rows_beyond_one_grid_dimension", small) {
        let mut run = |quantity, rows: usize, len: usize, strategy| {
            let case = Case {
                strategy,
                ..case_of(quantity, DType::F32, &[rows, len], Fill::Ordinary)
            };
            failures.run_case(&adapter.name, &adapter.context, &case);
        };
        run(SOFTMAX, 70_000, 3, None);
        run(SOFTMAX_BACKWARD, 70_000, 3, None);
        // 4,096 workgroups are all that a dispatch has; with a row each that is 4,096 rows.
        run(SOFTMAX, 5000, 65, Some(Strategy::Workgroup));
        // Chunks and merged rows go over the second dimension, too.
        run(SOFTMAX, 5000, 33, Some(Strategy::Split));
        run(
            Quantity::Forward(SoftmaxKind::LogSumExp),
            5000,
            33,
            Some(Strategy::Split),
        );
    }
    failures.done();
}
