//! Pruning on every adapter and on the CPU path: the oracle's threshold and mask, whatever the driver does with subnormals; NaN;
//! views; windows; repeats; chains; matrices; planted bugs.

use crate::adapters;
use crate::gpu_planted::{Bug, all_gpus, limited};
use macheps::ops::prune::cases::{Case, Fill, verify_cases};
use macheps::ops::prune::{prune, prune_checked, pruned_count, reference};
use macheps::{BufferView, Context, CrossCheck, DType, Error, Gpu, Prune, PruneReport, PruneViews, f16, wgpu};

const PRUNE: &str = include_str!("../../shaders/prune.wgsl");

fn contexts(test: &str) -> Vec<(String, Context)> {
    let gpus = adapters::all(test).iter().map(|a| (a.name.clone(), a.context.clone()));
    [("cpu".to_string(), Context::cpu())].into_iter().chain(gpus).collect()
}

#[test]
fn cases_agree_with_the_oracle() {
    for (name, context) in contexts("prune cases") {
        for case in verify_cases() {
            let (got, verdict) = case.run(&context).unwrap();
            assert_eq!(verdict, Ok(()), "{name}: {case:?}");
            let dropped = got.mask.len() - got.kept;
            assert!(
                dropped >= pruned_count(case.sparsity, got.mask.len()),
                "{name}: {case:?}"
            );
        }
    }
}

#[test]
fn exact_by_hand() {
    let inf = f32::INFINITY;
    let tiny = f32::from_bits(1);
    let x = [-0.0, inf, 3.0, -tiny, -3.0, 0.0, 2.0 * tiny, -inf];
    let rows: [(f64, f32, usize); 8] = [
        (0.0, -inf, 8),
        (0.12, -inf, 8),
        // The zeros tie, and go together.
        (0.125, 0.0, 6),
        (0.375, tiny, 5),
        (0.5, 2.0 * tiny, 4),
        (0.625, 3.0, 2),
        (0.875, inf, 0),
        (1.0, inf, 0),
    ];
    for (name, context) in contexts("prune by hand") {
        for (sparsity, threshold, kept) in rows {
            let got = prune(&context, &x, &[2, 4], sparsity).unwrap();
            assert_eq!((got.threshold, got.kept), (threshold, kept), "{name}: {sparsity}");
            assert_eq!(
                got.mask.iter().filter(|kept| **kept).count(),
                kept,
                "{name}: {sparsity}"
            );
        }
        let got = prune(&context, &x, &[2, 4], 0.375).unwrap();
        let a = got.to_csr(&x[..], 2, 4);
        assert!(
            matches!(a, Err(Error::Csr { row: 0, .. })),
            "{name}: infinities are no entries"
        );
        let finite = [1.0f32, -0.5, 0.0, 4.0, 0.25, -2.0];
        let a = prune(&context, &finite, &[3, 2], 0.5)
            .unwrap()
            .to_csr(&finite, 3, 2)
            .unwrap();
        assert_eq!(
            a.iter().collect::<Vec<_>>(),
            [(0, 0, 1.0), (1, 1, 4.0), (2, 1, -2.0)],
            "{name}"
        );
        let wrong = prune(&context, &finite, &[3, 2], 0.5).unwrap().to_csr(&finite, 3, 3);
        assert!(matches!(wrong, Err(Error::Shape { .. })));
    }
}

#[test]
fn what_cannot_be_pruned_is_refused() {
    for (name, context) in contexts("prune errors") {
        let x = [1.0f32, f32::NAN, 2.0, f32::NAN];
        let refused = prune(&context, &x, &[4], 0.5);
        assert!(
            matches!(refused, Err(Error::NotANumber { index: 1, .. })),
            "{name}: {refused:?}"
        );
        for sparsity in [-0.1, 1.1, f64::NAN] {
            let refused = prune(&context, &x[..1], &[1], sparsity);
            assert!(
                matches!(refused, Err(Error::Option { name: "sparsity", .. })),
                "{name}: {refused:?}"
            );
        }
        assert!(matches!(prune(&context, &x, &[3], 0.5), Err(Error::Shape { .. })));
    }
}

/// Runs a bound pruning `times` times; its report and, where there is one, the words of the mask's buffer.
fn run(
    gpu: &Gpu,
    dtype: DType,
    sparsity: f64,
    x: &BufferView,
    mask: Option<&BufferView>,
    times: usize,
) -> (PruneReport, Vec<u32>) {
    let prune = Prune::new(gpu, dtype, sparsity).unwrap();
    let state = prune.create_state().unwrap();
    let views = PruneViews {
        x: x.clone(),
        mask: mask.cloned(),
        state: (state.clone(), 0),
    };
    let bound = prune.bind(&views).unwrap();
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for _ in 0..times {
        bound.record(&mut encoder);
    }
    let mut outputs = vec![(&state, 12)];
    if let Some(mask) = mask {
        outputs.push((mask.buffer(), mask.buffer().size()));
    }
    let bytes = gpu.read_back_all(encoder, &outputs).unwrap().wait().unwrap();
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
    (PruneReport::from_state(&words).unwrap(), words[3..].to_vec())
}

#[test]
fn views_repeats_and_nan() {
    let case = Case {
        dtype: DType::F32,
        shape: vec![30, 40, 50],
        fill: Fill::Bits,
        sparsity: 0.7,
    };
    let values = case.data::<f32>();
    for adapter in adapters::all("prune views") {
        let (gpu, name) = (adapter.gpu(), &adapter.name);
        let buffer = gpu.upload("prune test", bytemuck::cast_slice(&values)).unwrap();
        // A part of each dimension, turned; the mask in the order of the view, with sentinels around and between.
        let (shape, strides, offset) = ([19usize, 33, 7], [50usize, 1, 2000], 2000 + 3 * 50 + 5);
        let x = BufferView::new(&buffer, DType::F32, &shape)
            .at(offset)
            .with_strides(&strides);
        let (row, plane) = (9usize, 9 * 33);
        let words = vec![77u32; 5 + 19 * plane];
        let mask_buffer = gpu.upload("prune mask", bytemuck::cast_slice(&words)).unwrap();
        let mask = BufferView::new(&mask_buffer, DType::F32, &shape)
            .at(5)
            .with_strides(&[plane, row, 1]);
        let (report, got) = run(gpu, DType::F32, 0.7, &x, Some(&mask), 2);
        let mut picked = Vec::new();
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                for k in 0..shape[2] {
                    picked.push(values[offset + i * strides[0] + j * strides[1] + k * strides[2]]);
                }
            }
        }
        let (want, threshold) = reference::prune(&picked, 0.7);
        assert_eq!(f64::from(report.threshold), threshold, "{name}");
        let mut expected = words.clone();
        for (e, &kept) in want.iter().enumerate() {
            let (i, j, k) = (e / (33 * 7), e / 7 % 33, e % 7);
            expected[5 + i * plane + j * row + k] = u32::from(kept);
        }
        assert!(got[..expected.len()] == expected, "{name}: mask");
        assert_eq!(
            report.kept as usize,
            want.iter().filter(|kept| **kept).count(),
            "{name}"
        );
        assert_eq!(report.nans, 0);
        // The same bytes as bf16 from an odd element on, NaNs among them: those are above infinity.
        let halves: &[macheps::bf16] = bytemuck::cast_slice(&values);
        let odd = BufferView::new(&buffer, DType::Bf16, &[40_001]).at(7);
        let (report, _) = run(gpu, DType::Bf16, 0.25, &odd, None, 1);
        let mut keys: Vec<u16> = halves[7..40_008].iter().map(|v| v.to_bits() & 0x7fff).collect();
        keys.sort_unstable();
        let nans = keys.iter().filter(|key| **key > 0x7f80).count();
        assert!(nans > 0);
        assert_eq!(report.nans as usize, nans, "{name}");
        assert_eq!(
            report.threshold.to_bits() >> 16,
            u32::from(keys[pruned_count(0.25, 40_001) - 1]),
            "{name}"
        );
        let (empty, _) = run(
            gpu,
            DType::F32,
            0.5,
            &BufferView::new(&buffer, DType::F32, &[0, 4]),
            None,
            1,
        );
        assert_eq!((empty.threshold, empty.kept, empty.nans), (f32::NEG_INFINITY, 0, 0));
    }
}

#[test]
fn one_pool_and_wrong_views() {
    let Some(adapter) = adapters::all("prune pool").first() else {
        return;
    };
    let gpu = adapter.gpu();
    let values: Vec<f32> = (0..6000).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.1).collect();
    let pool = gpu.upload("prune pool", bytemuck::cast_slice(&values)).unwrap();
    let x = BufferView::new(&pool, DType::F32, &[1000]);
    let mask = BufferView::new(&pool, DType::F32, &[1000]).at(1000);
    let prune = Prune::new(gpu, DType::F32, 0.5).unwrap();
    let bind = |x: &BufferView, mask: &BufferView, offset| {
        prune.bind(&PruneViews {
            x: x.clone(),
            mask: Some(mask.clone()),
            state: (pool.clone(), offset),
        })
    };
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    bind(&x, &mask, 8192).unwrap().record(&mut encoder);
    let bytes = gpu.read_back(encoder, &pool, pool.size()).unwrap().wait().unwrap();
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
    let (want, _) = reference::prune(&values[..1000], 0.5);
    assert!(
        words[1000..2000]
            .iter()
            .zip(&want)
            .all(|(word, kept)| *word == u32::from(*kept))
    );
    assert!(matches!(bind(&x, &mask, 0), Err(Error::Aliased { .. })));
    assert!(matches!(bind(&x, &mask, 8196), Err(Error::Shape { .. })));
    assert!(matches!(bind(&x, &mask, 23_808), Err(Error::Shape { .. })));
    assert!(matches!(bind(&x, &x, 8192), Err(Error::Aliased { .. })));
    let short = BufferView::new(&pool, DType::F32, &[999]).at(1000);
    assert!(matches!(bind(&x, &short, 8192), Err(Error::Shape { .. })));
    let halves = BufferView::new(&pool, DType::F16, &[1000]);
    assert!(matches!(bind(&halves, &mask, 8192), Err(Error::DTypeMismatch { .. })));
}

#[test]
fn chains_and_checks() {
    let values: Vec<f16> = Case {
        dtype: DType::F16,
        shape: vec![33, 61],
        fill: Fill::Close,
        sparsity: 0.6,
    }
    .data();
    let (want, threshold) = reference::prune(&values, 0.6);
    for (name, context) in contexts("prune chains") {
        let context = context.with_cross_check(CrossCheck::Full);
        let x = context.upload(&values, &[33, 61]).unwrap();
        let mut chain = context.chain();
        let (mask, t) = chain.prune(&x, 0.6).unwrap();
        chain.submit().unwrap();
        assert_eq!(mask.shape(), [33, 61]);
        let mask: Vec<bool> = mask.download().unwrap().into_iter().map(|word| word == 1).collect();
        assert!(mask == want, "{name}");
        assert_eq!(
            t.download().unwrap().into_iter().map(f64::from).collect::<Vec<_>>(),
            [threshold],
            "{name}"
        );
        assert!(prune_checked(&context, &values, &[33, 61], 0.6).is_ok());
        let later = pollster::block_on(macheps::prune_async(&context, &values, &[33, 61], 0.6));
        assert_eq!(later.unwrap().mask, want);
    }
}

#[test]
fn large_tensors_go_by_windows() {
    let gpus = limited("prune windows", |limits| {
        limits.max_storage_buffer_binding_size = 1 << 20;
        limits.max_compute_workgroups_per_dimension = 64;
    });
    let case = Case {
        dtype: DType::F32,
        shape: vec![900_001],
        fill: Fill::Bits,
        sparsity: 0.9,
    };
    for (name, gpu) in gpus {
        let (_, verdict) = case.run(&Context::from_gpu(gpu)).unwrap();
        assert_eq!(verdict, Ok(()), "{name}");
    }
}

/// Each bug with a case on which it shows everywhere.
#[test]
fn planted_bugs_are_caught() {
    let bugs = [
        Bug {
            name: "k-th magnitude off by one",
            edits: &[(
                PRUNE,
                "            if open && rank - below <= found {",
                "            if open && rank - below < found {",
            )],
        },
        Bug {
            name: "digits from the bottom first",
            edits: &[(
                PRUNE,
                "let shift = select(10u, 0u, chosen == 2u);",
                "let shift = select(0u, 10u, chosen == 2u);",
            )],
        },
        Bug {
            name: "last quad of a chunk dropped",
            edits: &[(
                PRUNE,
                "            let v = x_load4(element_of(X, quad), step_of(X), quad.count);\n            for (var lane = 0u; lane < quad.count; lane += 1u) {\n                examine(",
                "            let v = x_load4(element_of(X, quad), step_of(X), quad.count);\n            for (var lane = 0u; lane < select(quad.count, 0u, quad.first + 4u >= params.chunk); lane += 1u) {\n                examine(",
            )],
        },
        Bug {
            name: "counters not cleared between digits",
            edits: &[(
                PRUNE,
                "        atomicStore(&state[first + at], 0u);",
                "        atomicStore(&state[first + at], 1u);",
            )],
        },
        Bug {
            name: "ties kept",
            edits: &[(PRUNE, "& 0x7fffffffu) > threshold)", "& 0x7fffffffu) >= threshold)")],
        },
    ];
    let gpus = all_gpus("prune bugs");
    for bug in &bugs {
        let case = Case {
            dtype: DType::F32,
            shape: vec![2111],
            fill: Fill::Close,
            sparsity: 0.5,
        };
        let mut caught = 0;
        for (name, gpu) in &gpus {
            let (_, verdict) = case.run(&Context::from_gpu(gpu.clone())).unwrap();
            assert_eq!(verdict, Ok(()), "{name}");
            let (_, verdict) = case.run(&Context::from_gpu(bug.plant(gpu))).unwrap();
            caught += usize::from(verdict.is_err());
        }
        assert_eq!(caught, gpus.len(), "{}: caught on {caught} of {}", bug.name, gpus.len());
    }
}

#[test]
fn buffers_without_their_usages_are_refused() {
    let Some(adapter) = adapters::all("prune usages").first() else {
        return;
    };
    let gpu = adapter.gpu();
    let unfit = gpu.create_buffer("unfit", 16384, wgpu::BufferUsages::COPY_DST).unwrap();
    let x = BufferView::new(&gpu.upload("x", &[0; 64]).unwrap(), DType::F32, &[16]);
    let prune = Prune::new(gpu, DType::F32, 0.5).unwrap();
    let refused = prune.bind(&PruneViews {
        x,
        mask: None,
        state: (unfit, 0),
    });
    assert!(matches!(refused.map(|_| ()), Err(Error::BufferUsage { .. })));
}
