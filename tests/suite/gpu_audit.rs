//! The audit on every adapter: the oracle's counts, whatever the driver does with subnormals and NaN; views; windows;
//! repeated recording; a planted bug.

use crate::adapters;
use crate::gpu_planted::{Bug, all_gpus, limited};
use macheps::ops::audit::cases::{Case, Fill, verify_cases};
use macheps::ops::audit::{Audit, TensorAudit, reference};
use macheps::{BufferView, Context, DType, Error, Gpu, wgpu};

const AUDIT: &str = include_str!("../../shaders/audit.wgsl");

/// Runs a bound audit `times` times in one submission and reads its counters.
fn counts(gpu: &Gpu, view: &BufferView, times: usize) -> macheps::Result<TensorAudit> {
    let audit = Audit::new(gpu);
    let counts = audit.create_counts()?;
    let bound = audit.bind(view, &counts, 0)?;
    let mut encoder = gpu.device().create_command_encoder(&Default::default());
    for _ in 0..times {
        bound.record(&mut encoder);
    }
    let bytes = gpu.read_back(encoder, &counts, Audit::counts_size())?.wait()?;
    let elements = view.shape().iter().product::<usize>() as u64;
    TensorAudit::from_counts(view.dtype(), elements, bytemuck::cast_slice(&bytes))
}

#[test]
fn cases_agree_with_the_oracle() {
    for adapter in adapters::all("audit cases") {
        for case in verify_cases() {
            let (got, want) = case.run(&adapter.context).unwrap();
            assert_eq!(got, want, "{}: {case:?}", adapter.name);
        }
    }
}

#[test]
fn views_and_repeats() {
    let case = Case {
        dtype: DType::F32,
        len: 30 * 40 * 50,
        fill: Fill::Bits,
    };
    let values = case.data::<f32>();
    for adapter in adapters::all("audit of views") {
        let gpu = adapter.gpu();
        let buffer = gpu.upload("audit test", bytemuck::cast_slice(&values)).unwrap();
        // A part of each dimension, turned: element [i][j][k] is that of [k][i][j] from an offset on.
        let (shape, strides, offset) = ([19, 33, 7], [50, 1, 2000], 2000 + 3 * 50 + 5);
        let view = BufferView::new(&buffer, DType::F32, &shape)
            .at(offset)
            .with_strides(&strides);
        let mut picked = Vec::new();
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                for k in 0..shape[2] {
                    picked.push(values[offset + i * strides[0] + j * strides[1] + k * strides[2]]);
                }
            }
        }
        assert_eq!(
            counts(gpu, &view, 1).unwrap(),
            reference::audit(&picked),
            "{}",
            adapter.name
        );
        let whole = BufferView::new(&buffer, DType::F32, &[30, 40, 50]);
        // Every recording begins with counters at 0.
        assert_eq!(
            counts(gpu, &whole, 3).unwrap(),
            reference::audit(&values),
            "{}",
            adapter.name
        );
        // The same bytes as bf16, from an odd element on.
        let halves: &[macheps::bf16] = bytemuck::cast_slice(&values);
        let odd = BufferView::new(&buffer, DType::Bf16, &[40_001]).at(7);
        assert_eq!(
            counts(gpu, &odd, 1).unwrap(),
            reference::audit(&halves[7..40_008]),
            "{}",
            adapter.name
        );
        let empty = BufferView::new(&buffer, DType::F32, &[0, 4]);
        assert_eq!(counts(gpu, &empty, 1).unwrap(), TensorAudit::empty(DType::F32));
    }
}

#[test]
fn large_tensors_go_by_windows() {
    let gpus = limited("audit windows", |limits| {
        limits.max_storage_buffer_binding_size = 1 << 20;
        limits.max_compute_workgroups_per_dimension = 64;
    });
    let case = Case {
        dtype: DType::F32,
        len: 1_000_003,
        fill: Fill::Bits,
    };
    for (name, gpu) in gpus {
        let (got, want) = case.run(&Context::from_gpu(gpu)).unwrap();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn wrong_counters_are_refused() {
    let Some(adapter) = adapters::all("audit errors").first() else {
        return;
    };
    let gpu = adapter.gpu();
    let audit = Audit::new(gpu);
    let counts = audit.create_counts().unwrap();
    let buffer = gpu.upload("audit test", &[0; 64]).unwrap();
    let view = BufferView::new(&buffer, DType::F32, &[16]);
    assert!(matches!(audit.bind(&view, &counts, 4), Err(Error::Shape { .. })));
    assert!(matches!(audit.bind(&view, &counts, 256), Err(Error::Shape { .. })));
    assert!(matches!(audit.bind(&view, &buffer, 0), Err(Error::Shape { .. })));
    let long = BufferView::new(&buffer, DType::F32, &[17]);
    assert!(matches!(audit.bind(&long, &counts, 0), Err(Error::Shape { .. })));
    let unfit = gpu.create_buffer("unfit", 4096, wgpu::BufferUsages::COPY_DST).unwrap();
    assert!(matches!(audit.bind(&view, &unfit, 0), Err(Error::BufferUsage { .. })));
}

#[test]
fn planted_bugs_are_caught() {
    let bugs = [
        Bug {
            name: "histogram bin off by one",
            edits: &[(AUDIT, "(a >> 23u) + 22u", "(a >> 23u) + 23u")],
        },
        Bug {
            name: "tail of the tensor dropped",
            edits: &[(AUDIT, "j < params.len; j += WG", "j + WG <= params.len; j += WG")],
        },
        Bug {
            name: "counters not cleared",
            edits: &[(
                AUDIT,
                "atomicStore(&counts[slot], 0u)",
                "atomicStore(&counts[slot], 1u)",
            )],
        },
        Bug {
            name: "subnormals of f16 taken for zeros",
            edits: &[(AUDIT, "if magnitude == 0u {", "if magnitude < 0x400u {")],
        },
    ];
    let gpus = all_gpus("audit bugs");
    for bug in &bugs {
        let dtype = if bug.name.contains("f16") {
            DType::F16
        } else {
            DType::F32
        };
        let case = Case {
            dtype,
            len: 5001,
            fill: Fill::Gradients,
        };
        for (name, gpu) in &gpus {
            let (got, want) = case.run(&Context::from_gpu(gpu.clone())).unwrap();
            assert_eq!(got, want, "{name}");
            let (got, want) = case.run(&Context::from_gpu(bug.plant(gpu))).unwrap();
            assert_ne!(got, want, "{}: not caught on {name}", bug.name);
        }
    }
}
