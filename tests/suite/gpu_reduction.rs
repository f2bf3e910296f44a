//! Reductions on every adapter: all kinds of rows, whole and cut, several axes, columns, views, small limits, the bits that runs
//! and subgroup widths must share, and bugs planted in the shaders. GL and SwiftShader, which compile a pipeline several times
//! slower, take f32 and the kinds that stand for the others.

use crate::adapters::{self, Adapter};
use crate::gpu_planted::{Bug, all_gpus, caught};
use crate::reduction::{run_hard_rows, run_literals, run_onnx, run_strd};
use macheps::accuracy::check;
use macheps::element::{DType, Element, bf16, f16};
use macheps::ops::reduction::cases::{Case, Data, Fill, bound_of, verify_cases};
use macheps::ops::reduction::reference;
use macheps::wgpu::{self, BufferUsages as Usage};
use macheps::{
    BufferView, Context, CrossCheck, Error, Gpu, Reduction, ReductionKind as Kind, ReductionOptions, ReductionViews,
    SumMode,
};

const REDUCTION: &str = include_str!("../../shaders/reduction.wgsl");
const ROWS: &str = include_str!("../../shaders/lib/reduction_rows.wgsl");
const SUM: &str = include_str!("../../shaders/lib/reduction_sum.wgsl");
const STATE_SUM: &str = include_str!("../../shaders/lib/reduction_state_sum.wgsl");
const STATE_VARIANCE: &str = include_str!("../../shaders/lib/reduction_state_variance.wgsl");
const STATE_EXTREME: &str = include_str!("../../shaders/lib/reduction_state_extreme.wgsl");

/// Takes everything.
pub fn thorough(adapter: &Adapter) -> bool {
    !adapter.is("swiftshader") && !adapter.is("gl")
}

/// Kinds that stand for the others: one of each state.
const TYPICAL: [Kind; 4] = [Kind::Sum, Kind::Variance, Kind::NormL2, Kind::ArgMax];

pub struct Failures(pub Vec<String>);

impl Failures {
    pub fn run(&mut self, adapter: &str, context: &Context, case: &Case) {
        let outcome = match case.run(context) {
            Ok(Ok(_)) => return,
            Ok(Err(m)) => m.to_string(),
            Err(e) => e.to_string(),
        };
        self.0.push(format!(
            "{adapter}: {} {} {:?}, {}: {outcome}",
            case.kind,
            case.dtype,
            case.shape,
            case.detail()
        ));
    }

    pub fn done(self) {
        let n = self.0.len();
        assert!(n == 0, "{n} failures:\n{}", self.0[..n.min(30)].join("\n"));
    }
}

fn case(kind: Kind, shape: &[usize], axes: Option<&[isize]>, fill: Fill) -> Case {
    Case {
        fill,
        ..Case::new(kind, DType::F32, shape, axes)
    }
}

#[test]
fn meets_the_oracle() {
    let mut failures = Failures(Vec::new());
    for adapter in adapters::all("reductions meet the oracle") {
        for case in verify_cases() {
            let taken = thorough(adapter) || (case.dtype == DType::F32 && TYPICAL.contains(&case.kind));
            if taken && !case.backward {
                failures.run(&adapter.name, &adapter.context, &case);
            }
        }
    }
    failures.done();
}

#[test]
fn meets_literals_and_data() {
    for adapter in adapters::all("reductions meet literals") {
        let context = &adapter.context;
        run_literals(context);
        if adapter.is("gl") {
            continue;
        }
        run_onnx::<f32>(&adapter.name, context);
        run_onnx::<f16>(&adapter.name, context);
        run_hard_rows::<f32>(&adapter.name, context);
        run_strd(&format!("NIST StRD on {}", adapter.name), context);
        if thorough(adapter) {
            run_hard_rows::<f16>(&adapter.name, context);
            run_hard_rows::<bf16>(&adapter.name, context);
        }
    }
}

#[test]
fn meets_the_oracle_at_boundaries() {
    let mut failures = Failures(Vec::new());
    for adapter in adapters::all("reductions at boundary lengths") {
        let lengths: &[usize] = if thorough(adapter) {
            &[
                0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 199, 256, 257, 511, 512, 513, 2048, 2049,
                100_003,
            ]
        } else {
            &[0, 1, 3, 63, 64, 65, 199, 513, 100_003]
        };
        for kind in [Kind::Sum, Kind::Variance, Kind::ArgMax] {
            for &len in lengths {
                if len == 0 && kind.needs_elements() {
                    continue;
                }
                failures.run(
                    &adapter.name,
                    &adapter.context,
                    &case(kind, &[3, len], Some(&[1]), Fill::Shifted),
                );
            }
            for columns in [31usize, 32, 33, 67] {
                failures.run(
                    &adapter.name,
                    &adapter.context,
                    &case(kind, &[50, columns], Some(&[0]), Fill::Shifted),
                );
            }
        }
    }
    failures.done();
}

/// Rows in pieces: merged by Chan's formula, by error-free sums, by keys; in one stage and in two.
#[test]
fn merges_chunks() {
    let mut failures = Failures(Vec::new());
    for adapter in adapters::all("merged chunks") {
        for kind in Kind::ALL {
            if !thorough(adapter) && !TYPICAL.contains(&kind) {
                continue;
            }
            let fills: &[Fill] = if kind == Kind::LogSum {
                &[Fill::Positive]
            } else {
                &[Fill::Shifted, Fill::Extreme, Fill::Special, Fill::Ties]
            };
            for &fill in fills {
                for (shape, axes, chunk) in [
                    (&[3usize, 5000][..], Some(&[1isize][..]), 64),
                    (&[20_011], None, 4),
                    (&[4, 5, 6, 35], Some(&[1, 3]), 8),
                    (&[70, 40], Some(&[0]), 16),
                ] {
                    let cut = Case {
                        chunk: Some(chunk),
                        ..case(kind, shape, axes, fill)
                    };
                    failures.run(&adapter.name, &adapter.context, &cut);
                }
            }
        }
    }
    failures.done();
}

#[test]
fn takes_any_axes() {
    let mut failures = Failures(Vec::new());
    let shape = [3usize, 4, 5, 2, 7];
    for adapter in adapters::all("reductions over any axes") {
        for mask in 1u32..32 {
            let axes: Vec<isize> = (0..5).filter(|d| mask >> d & 1 == 1).map(|d| d as isize).collect();
            failures.run(
                &adapter.name,
                &adapter.context,
                &case(Kind::ArgMin, &shape, Some(&axes), Fill::Ties),
            );
            if thorough(adapter) {
                failures.run(
                    &adapter.name,
                    &adapter.context,
                    &case(Kind::Dot, &shape, Some(&axes), Fill::Ordinary),
                );
            }
        }
    }
    failures.done();
}

#[test]
fn bits_do_not_depend_on_the_subgroup_or_the_run() {
    for adapter in adapters::all("bits of reductions") {
        for kind in [Kind::Sum, Kind::Dot, Kind::Variance, Kind::NormL2] {
            for shape in [&[5usize, 61][..], &[3, 20_001]] {
                let case = case(kind, shape, Some(&[-1]), Fill::Extreme);
                let data = case.data::<f32>();
                let bits = |context: &Context| -> Vec<u32> {
                    let y = case.compute(context, &data).unwrap();
                    y.iter().map(|v| v.to_bits()).collect()
                };
                let first = bits(&adapter.context);
                assert_eq!(first, bits(&adapter.context), "{}: another run of {kind}", adapter.name);
                // Hardware drivers take wider teams without subgroups.
                if adapter.gpu().capabilities().software {
                    let without = Context::from_gpu(adapter.gpu().with_capabilities(|c| c.subgroup = 1));
                    assert_eq!(first, bits(&without), "{}: {kind} without subgroups", adapter.name);
                }
            }
        }
    }
}

pub fn buffer(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("pool"),
        size: bytes.len() as u64,
        usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue().write_buffer(&buffer, 0, bytes);
    buffer
}

pub fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
    let encoder = gpu.device().create_command_encoder(&Default::default());
    gpu.read_back(encoder, buffer, buffer.size()).unwrap().wait().unwrap()
}

pub fn bytes_of<T: Element>(values: &[T]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|v| {
            if T::DTYPE.size() == 4 {
                v.to_f32().to_bits().to_le_bytes().to_vec()
            } else {
                half_bytes(*v)
            }
        })
        .collect()
}

fn half_bytes<T: Element>(v: T) -> Vec<u8> {
    let bits = if T::DTYPE == DType::F16 {
        f16::from_f32(v.to_f32()).to_bits()
    } else {
        bf16::from_f32(v.to_f32()).to_bits()
    };
    bits.to_le_bytes().to_vec()
}

/// Views with offsets and strides, in one pool and apart; what is not the output stays as it was.
fn views_of<T: Element>(adapter: &Adapter, kind: Kind, pool: bool) {
    let gpu = adapter.gpu();
    let (rows, len, offset, pitch) = (7usize, 53usize, 5usize, 60usize);
    let sentinel = T::from_f32(-77.0);
    let case = Case::new(kind, T::DTYPE, &[rows, len], Some(&[1]));
    let data = case.data::<T>();
    let mut values = vec![sentinel; offset + rows * pitch + 65];
    for r in 0..rows {
        for j in 0..len {
            values[offset + r * pitch + j] = data.x[r * len + j];
        }
    }
    let y_at = values.len() - 40;
    let source = buffer(gpu, &bytes_of(&values));
    let target = if pool {
        source.clone()
    } else {
        buffer(gpu, &bytes_of(&values))
    };
    let x = BufferView::new(&source, T::DTYPE, &[rows, len])
        .with_strides(&[pitch, 1])
        .at(offset);
    // Every third element, from an odd place on.
    let y = BufferView::new(&target, T::DTYPE, &[rows])
        .with_strides(&[3])
        .at(y_at + 1);
    let reduction = Reduction::new(gpu, kind, T::DTYPE, case.options.clone()).unwrap();
    let cut = reduction.clone().with_chunk(16);
    for reduction in [reduction, cut] {
        let bound = reduction.bind(&ReductionViews::new(x.clone(), y.clone())).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        bound.record(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        let after = read(gpu, &target);
        let before = bytes_of(&values);
        let size = T::DTYPE.size();
        let mut got = Vec::new();
        for i in 0..values.len() {
            let place = i * size..(i + 1) * size;
            let written = i > y_at && (i - y_at - 1) % 3 == 0 && (i - y_at - 1) / 3 < rows;
            if written {
                let bytes = &after[place];
                got.push(match T::DTYPE {
                    DType::F32 => T::from_f32(f32::from_le_bytes(bytes.try_into().unwrap())),
                    DType::F16 => T::from_f32(f16::from_le_bytes(bytes.try_into().unwrap()).to_f32()),
                    DType::Bf16 => T::from_f32(bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32()),
                });
            } else {
                assert_eq!(
                    after[place.clone()],
                    before[place],
                    "{}: element {i} was written",
                    adapter.name
                );
            }
        }
        let rows = reference::forward(kind, &data.x, None, &case.shape, &case.options).unwrap();
        let want: Vec<f64> = rows.iter().map(|r| r.value).collect();
        let bounds: Vec<f64> = rows.iter().map(|r| bound_of(&case, r)).collect();
        check(&got, &want, &bounds).unwrap_or_else(|m| panic!("{}: {kind} {}: {m}", adapter.name, T::DTYPE));
    }
}

#[test]
fn takes_any_view() {
    for adapter in adapters::all("views of reductions") {
        for pool in [false, true] {
            views_of::<f32>(adapter, Kind::Variance, pool);
            views_of::<f16>(adapter, Kind::Sum, pool);
            if thorough(adapter) {
                views_of::<bf16>(adapter, Kind::Max, pool);
            }
        }
    }
}

#[test]
fn refuses_views() {
    for adapter in adapters::all("views that reductions refuse") {
        let gpu = adapter.gpu();
        let pool = buffer(gpu, &[0u8; 4096]);
        let other = buffer(gpu, &[0u8; 4096]);
        let view = |shape: &[usize]| BufferView::new(&pool, DType::F32, shape);
        let out = |shape: &[usize]| BufferView::new(&other, DType::F32, shape);
        let sum = Reduction::new(gpu, Kind::Sum, DType::F32, ReductionOptions::over(&[1])).unwrap();
        let bind = |x, y| sum.bind(&ReductionViews::new(x, y)).map(|b| b.dispatches());
        assert_eq!(bind(view(&[4, 8]), out(&[4])).unwrap(), 1);
        assert_eq!(bind(view(&[4, 8]), out(&[4, 1])).unwrap(), 1);
        assert_eq!(bind(view(&[0, 8]), out(&[0])).unwrap(), 0);
        assert!(matches!(bind(view(&[4, 8]), out(&[8])), Err(Error::Shape { .. })));
        assert!(matches!(bind(view(&[4, 8]), view(&[4])), Err(Error::Aliased { .. })));
        assert!(matches!(bind(view(&[4, 8000]), out(&[4])), Err(Error::Shape { .. })));
        assert!(matches!(
            bind(view(&[4, 8]), out(&[4]).with_strides(&[0])),
            Err(Error::Shape { .. })
        ));
        let half = BufferView::new(&pool, DType::F16, &[4, 8]);
        assert!(matches!(bind(half, out(&[4])), Err(Error::DTypeMismatch { .. })));
        let max = Reduction::new(gpu, Kind::Max, DType::F32, ReductionOptions::over(&[1])).unwrap();
        let nothing = ReductionViews::new(view(&[4, 0]), out(&[4]));
        assert!(matches!(max.bind(&nothing), Err(Error::Shape { .. })));
        let cut = sum.clone().with_chunk(4);
        let need = cut.workspace_size(&view(&[4, 64]), None).unwrap();
        assert_eq!(need, 4 * 16 * 32);
        let small = buffer(gpu, &[0u8; 1024]);
        let views = ReductionViews {
            workspace: Some((small, 0)),
            ..ReductionViews::new(view(&[4, 64]), out(&[4]))
        };
        assert!(matches!(cut.bind(&views), Err(Error::Shape { .. })));
    }
}

/// Sixteen million times 0.001 in bf16, one element repeated.
#[test]
fn sums_a_broadcast_view() {
    for adapter in adapters::all("a broadcast sum") {
        let gpu = adapter.gpu();
        let n = if thorough(adapter) { 1 << 24 } else { 1 << 22 };
        let value = bf16::from_f32(0.001);
        let source = buffer(gpu, &bytes_of(&[value, value]));
        let target = buffer(gpu, &[0u8; 16]);
        let sum = Reduction::new(gpu, Kind::Sum, DType::Bf16, ReductionOptions::default()).unwrap();
        let views = ReductionViews::new(
            BufferView::new(&source, DType::Bf16, &[n]).with_strides(&[0]),
            BufferView::new(&target, DType::Bf16, &[]),
        );
        let bound = sum.bind(&views).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        bound.record(&mut encoder);
        gpu.queue().submit([encoder.finish()]);
        let got = bf16::from_le_bytes(read(gpu, &target)[..2].try_into().unwrap());
        let exact = f64::from(value.to_f32()) * n as f64;
        let row = reference::Row {
            value: exact,
            magnitude: exact,
            sum: exact,
            count: n,
            ..Default::default()
        };
        let case = Case::new(Kind::Sum, DType::Bf16, &[n], None);
        check(&[got], &[exact], &[bound_of(&case, &row)]).unwrap_or_else(|m| panic!("{}: {m}", adapter.name));
    }
}

/// Every adapter once more, with bindings of 1 MiB and 64 workgroups a dimension.
pub fn limited(test: &str) -> Vec<Adapter> {
    crate::gpu_windows::limited(test, |limits| {
        limits.max_storage_buffer_binding_size = 1 << 20;
        limits.max_compute_workgroups_per_dimension = 64;
    })
}

#[test]
fn fits_small_limits() {
    let mut failures = Failures(Vec::new());
    for adapter in limited("reductions within small limits") {
        for kind in [Kind::Sum, Kind::Variance, Kind::ArgMax] {
            for (shape, axes) in [
                (&[600_001usize][..], None),
                (&[2, 400_001], Some(&[1isize][..])),
                (&[300_000, 3], Some(&[0])),
                (&[10_000, 64], Some(&[0])),
                (&[70_000, 3], Some(&[1])),
                (&[600, 1000], Some(&[1])),
                (&[9, 10_000, 2], Some(&[0, 2])),
            ] {
                if kind == Kind::Sum || thorough(&adapter) {
                    failures.run(&adapter.name, &adapter.context, &case(kind, shape, axes, Fill::Shifted));
                }
            }
        }
    }
    failures.done();
}

#[test]
fn chains_and_cross_checks() {
    for adapter in adapters::all("chains of reductions") {
        let context = adapter.context.clone().with_cross_check(CrossCheck::Full);
        let x: Vec<f32> = (0..600).map(|i| (i * 37 % 101) as f32 * 0.25 - 7.0).collect();
        let tensor = context.upload(&x, &[20, 30]).unwrap();
        let mut chain = context.chain();
        let norms = chain
            .reduce(Kind::NormL2, &tensor, None, &ReductionOptions::over(&[1]))
            .unwrap();
        let largest = chain
            .reduce(Kind::Max, &norms, None, &ReductionOptions::default())
            .unwrap();
        let dot = chain
            .reduce(Kind::Dot, &tensor, Some(&tensor), &ReductionOptions::default())
            .unwrap();
        assert!(
            chain
                .reduce(Kind::ArgMax, &tensor, None, &ReductionOptions::default())
                .is_err()
        );
        assert!(
            chain
                .arg_reduce(Kind::Max, &tensor, &ReductionOptions::default())
                .is_err()
        );
        let at = chain
            .arg_reduce(Kind::ArgMax, &tensor, &ReductionOptions::over(&[1]))
            .unwrap();
        let half = context.upload(&x.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>(), &[20, 30]);
        let half_at = chain
            .arg_reduce(Kind::ArgMin, &half.unwrap(), &ReductionOptions::default())
            .unwrap();
        chain.submit().unwrap();
        let norms = norms.download().unwrap();
        assert_eq!(
            largest.download().unwrap()[0],
            norms.iter().copied().fold(0.0, f32::max)
        );
        assert_eq!((norms.len(), dot.shape()), (20, &[][..]));
        // The last of several largest elements comes first in this search, which goes backwards.
        let first = |row: &[f32]| (0..30).rev().max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap() as u32;
        assert_eq!(at.download().unwrap(), x.chunks(30).map(first).collect::<Vec<_>>());
        let smallest = x.iter().position(|v| x.iter().all(|w| v <= w)).unwrap();
        assert_eq!(
            (half_at.download().unwrap(), half_at.shape()),
            (vec![smallest as u32], &[][..])
        );
    }
}

fn expect_caught(bug: &Bug, case: &Case) {
    let data = case.data::<f32>();
    expect_caught_on(bug, case, &data);
}

fn expect_caught_on(bug: &Bug, case: &Case, data: &Data<f32>) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, |context| match case.run_on(context, data) {
        Ok(verdict) => verdict.map(|_| ()),
        Err(e) => panic!("{}: {e}", case.detail()),
    });
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

fn cut(kind: Kind, shape: &[usize], fill: Fill) -> Case {
    Case {
        chunk: Some(64),
        ..case(kind, shape, Some(&[1]), fill)
    }
}

#[test]
fn planted_square_minus_square() {
    let bug = Bug {
        name: "variance as E[x^2] - E[x]^2",
        edits: &[(
            STATE_VARIANCE,
            "shift = opaque(times_power(mean, total.exponent - exponent), params.zero);",
            "shift = 0.0;",
        )],
    };
    expect_caught(&bug, &case(Kind::Variance, &[4, 3000], Some(&[1]), Fill::Shifted));
}

#[test]
fn planted_merge_without_delta() {
    let bug = Bug {
        name: "Chan's merge without the delta term",
        edits: &[(STATE_VARIANCE, "m2 = pair_add(m2, between, params.zero);", "")],
    };
    expect_caught(&bug, &cut(Kind::Variance, &[3, 1000], Fill::Ordinary));
}

#[test]
fn planted_norm_without_scaling() {
    let bug = Bug {
        name: "norm without scaling",
        edits: &[(
            SUM,
            "let ordinary = quad.inside & in_range & normal;",
            "let ordinary = quad.inside & (ea < vec4<u32>(255u));",
        )],
    };
    expect_caught(&bug, &case(Kind::NormL2, &[4, 61], Some(&[1]), Fill::Large));
    expect_caught(&bug, &case(Kind::NormL2, &[4, 61], Some(&[1]), Fill::Tiny));
}

#[test]
fn planted_last_tie() {
    let bug = Bug {
        name: "argmax takes the last tie",
        edits: &[(STATE_EXTREME, "    if b.key > a.key {\n", "    if b.key >= a.key {\n")],
    };
    expect_caught(&bug, &case(Kind::ArgMax, &[4, 61], Some(&[1]), Fill::Ties));
    let between = Bug {
        name: "argmax merges ties to the last",
        edits: &[(STATE_EXTREME, "b.index < a.index", "b.index > a.index")],
    };
    expect_caught(&between, &case(Kind::ArgMax, &[4, 61], Some(&[1]), Fill::Ties));
}

#[test]
fn planted_plain_sum() {
    let bug = Bug {
        name: "sum without its error terms",
        edits: &[(
            SUM,
            "mids[a] = pair_add4(mids[a], opaque4(plain, params.zero), params.zero);",
            "mids[a].high += plain;",
        )],
    };
    // 0.1 over and over: all roundings go one way.
    let case = case(Kind::Sum, &[10, 100_000], Some(&[1]), Fill::Ordinary);
    let data = Data {
        x: vec![0.1f32; 1_000_000],
        second: None,
        upstream: None,
    };
    expect_caught_on(&bug, &case, &data);
    let bug = Bug {
        name: "compensated sum not compensated",
        edits: &[(
            SUM,
            "mids[a] = pair_add4(mids[a], x, params.zero);",
            "mids[a].high += x;",
        )],
    };
    let mut compensated = case.clone();
    compensated.options.mode = SumMode::Compensated;
    expect_caught_on(&bug, &compensated, &data);
}

#[test]
fn planted_tail() {
    let bug = Bug {
        name: "tail mask dropped",
        edits: &[(
            ROWS,
            "quad.inside = vec4<bool>(true, n > 1u, n > 2u, n > 3u);",
            "quad.inside = vec4<bool>(true);",
        )],
    };
    expect_caught(&bug, &case(Kind::Sum, &[4, 61], Some(&[1]), Fill::Ordinary));
}

#[test]
fn planted_records() {
    let bug = Bug {
        name: "last record of a group left out",
        edits: &[(
            REDUCTION,
            "select(0u, min(params.fan, params.records - first), live)",
            "select(0u, min(params.fan, params.records - first) - 1u, live)",
        )],
    };
    let long = Case {
        chunk: Some(4),
        ..case(Kind::Sum, &[20_000], None, Fill::Positive)
    };
    expect_caught(&bug, &long);
    let bug = Bug {
        name: "infinities of both signs not seen",
        edits: &[(STATE_SUM, "|| s.flags == (FLAG_INF | FLAG_NEG_INF);", ";")],
    };
    expect_caught(&bug, &case(Kind::Sum, &[12, 61], Some(&[1]), Fill::Special));
}
