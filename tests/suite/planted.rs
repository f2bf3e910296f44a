//! Bugs planted in the shaders by text replacement: the same case passes on the kernel as it is and is caught on the
//! broken one. What these tests prove is that the suite's cases and bounds would see such a mistake.

use crate::adapters;
use macheps::gpu::Capabilities;
use macheps::ops::softmax::bounds::Mismatch;
use macheps::ops::softmax::cases::{Case, Data, Fill};
use macheps::{Context, CrossCheck, DType, Error, Gpu, SoftmaxInput, SoftmaxKind, SoftmaxOptions, Strategy};

const SOFTMAX: &str = include_str!("../../shaders/softmax.wgsl");
const SPLIT: &str = include_str!("../../shaders/softmax_split.wgsl");
const MATH: &str = include_str!("../../shaders/lib/softmax_math.wgsl");
const ROWS: &str = include_str!("../../shaders/lib/softmax_rows.wgsl");
const QUADS: &str = include_str!("../../shaders/lib/softmax_quads.wgsl");
const BITS: &str = include_str!("../../shaders/lib/bits.wgsl");
const ERROR_FREE: &str = include_str!("../../shaders/lib/error_free.wgsl");
const ROUND16: &str = include_str!("../../shaders/lib/round16.wgsl");
const EXCHANGE: &str = include_str!("../../shaders/lib/exchange_workgroup.wgsl");

/// A mistake: in this source, this text becomes that.
pub struct Bug {
    /// In words.
    pub name: &'static str,
    /// Source, text, replacement.
    pub edits: &'static [(&'static str, &'static str, &'static str)],
}

impl Bug {
    /// The device with the bug in its shaders.
    pub fn plant(&self, gpu: &Gpu) -> Gpu {
        for (source, from, _) in self.edits {
            let found = source.matches(from).count();
            assert_eq!(
                found, 1,
                "{}: the text to break occurs {found} times: {from}",
                self.name
            );
        }
        let edits: Vec<_> = self.edits.iter().map(|(_, from, to)| (*from, *to)).collect();
        gpu.with_shader_edits(&edits)
    }
}

fn case(kind: SoftmaxKind, dtype: DType, shape: &[usize], fill: Fill, strategy: Strategy) -> Case {
    Case {
        fill,
        strategy: Some(strategy),
        ..Case::new(kind, dtype, shape)
    }
}

pub type Verdict = Result<(), Mismatch>;

/// Runs the case on the device as it is and with the bug, over the adapters. Returns where the bug was caught.
pub fn caught(bug: &Bug, gpus: &[(String, Gpu)], run: impl Fn(&Context) -> Verdict) -> Vec<String> {
    let mut caught = Vec::new();
    for (name, gpu) in gpus {
        if let Err(m) = run(&Context::from_gpu(gpu.clone())) {
            panic!("{}: {name} fails without the bug: {m}", bug.name);
        }
        match run(&Context::from_gpu(bug.plant(gpu))) {
            Err(_) => caught.push(name.clone()),
            Ok(()) => eprintln!("{}: not seen on {name}", bug.name),
        }
    }
    caught
}

fn run_case(case: &Case) -> impl Fn(&Context) -> Verdict + '_ {
    |context| match case.run(context) {
        Ok(verdict) => verdict.map(|_| ()),
        Err(e) => panic!("{}: {e}", case.detail()),
    }
}

pub fn all_gpus(test: &str) -> Vec<(String, Gpu)> {
    adapters::all(test)
        .iter()
        .map(|a| (a.name.clone(), a.gpu().clone()))
        .collect()
}

fn expect_caught(bug: &Bug, case: &Case) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, run_case(case));
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

fn narrowed(gpus: Vec<(String, Gpu)>, narrow: fn(&mut Capabilities)) -> Vec<(String, Gpu)> {
    gpus.into_iter()
        .map(|(name, gpu)| (name, gpu.with_capabilities(narrow)))
        .collect()
}

/// The adapters once more, each with a device of these limits.
pub fn limited(test: &str, limit: fn(&mut wgpu::Limits)) -> Vec<(String, Gpu)> {
    let limited = crate::gpu_windows::limited(test, limit);
    limited.into_iter().map(|a| (a.name.clone(), a.gpu().clone())).collect()
}

/// 61 columns: no multiple of four.
fn small(kind: SoftmaxKind, fill: Fill) -> Case {
    case(kind, DType::F32, &[24, 61], fill, Strategy::Short)
}

#[test]
fn tail_mask_dropped() {
    let bug = Bug {
        name: "tail mask dropped",
        edits: &[(
            QUADS,
            "return vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(end);",
            "return vec4<bool>(true);",
        )],
    };
    expect_caught(&bug, &small(SoftmaxKind::Softmax, Fill::Ordinary));
}

#[test]
fn last_column_skipped() {
    let bug = Bug {
        name: "last column skipped",
        edits: &[(
            SOFTMAX,
            "row.visible = visible_entries(params.first_row + number, len);",
            "row.visible = visible_entries(params.first_row + number, len) - min(len, 1u);",
        )],
    };
    // Of logsumexp, so that it is the sum that shows it.
    expect_caught(&bug, &small(SoftmaxKind::LogSumExp, Fill::Ordinary));
}

#[test]
fn barrier_removed() {
    let before = Bug {
        name: "barrier before the write removed",
        edits: &[(
            EXCHANGE,
            "    workgroupBarrier();\n    exchange_space[at] = v;\n",
            "    exchange_space[at] = v;\n",
        )],
    };
    let after = Bug {
        name: "barrier after the write removed",
        edits: &[(
            EXCHANGE,
            "    exchange_space[at] = v;\n    workgroupBarrier();\n",
            "    exchange_space[at] = v;\n",
        )],
    };
    // A team of 256: wider than any subgroup, so that its parts do not run in lock-step.
    let case = case(
        SoftmaxKind::Softmax,
        DType::F32,
        &[4, 8192],
        Fill::Ordinary,
        Strategy::Workgroup,
    );
    let gpus = narrowed(all_gpus(before.name), |c| c.subgroup = 1);
    for bug in [&before, &after] {
        let caught = caught(bug, &gpus, run_case(&case));
        // A race shows without fail only where a driver runs the parts of a workgroup one after the other.
        let software = gpus.iter().any(|(_, gpu)| gpu.capabilities().software);
        assert!(!software || !caught.is_empty(), "{}: caught nowhere", bug.name);
    }
}

#[test]
fn maximum_seeded() {
    let bug = Bug {
        name: "maximum seeded with -1e30",
        edits: &[(
            QUADS,
            "    var top = 0u;\n    for (var block = 0u; block < blocks; block += 1u) {\n        for (var a",
            "    var top = ordered(-1.0e30);\n    for (var block = 0u; block < blocks; block += 1u) {\n        for (var a",
        )],
    };
    // Rows that are all -inf.
    expect_caught(&bug, &small(SoftmaxKind::LogSumExp, Fill::Special));
    // Rows that lie below the seed.
    let case = small(SoftmaxKind::Softmax, Fill::Ordinary);
    let data = Data {
        x: (0..24 * 61).map(|i| -2.0e30 - 1.0e24 * (i % 7) as f32).collect(),
        mask: None,
        upstream: None,
    };
    expect_caught_with(&bug, &case, &data);
}

fn expect_caught_with(bug: &Bug, case: &Case, data: &Data<f32>) {
    let gpus = all_gpus(bug.name);
    let caught = caught(bug, &gpus, |context| {
        let y = case.compute(context, data).expect("the case runs");
        let accuracy = case.accuracy(context).expect("a strategy that serves");
        case.judge(data, &y, accuracy).expect("a valid case").map(|_| ())
    });
    assert!(gpus.is_empty() || !caught.is_empty(), "{}: caught nowhere", bug.name);
}

#[test]
fn sum_not_compensated() {
    let bug = Bug {
        name: "sum not compensated",
        edits: &[(
            ERROR_FREE,
            "    let t = fast_two_sum4(max(state.high, x), min(state.high, x), zero);\n    return Pair4(t.high, opaque4(state.low + t.low, zero));",
            "    return Pair4(opaque4(state.high + x, zero), state.low);",
        )],
    };
    let case = case(
        SoftmaxKind::Softmax,
        DType::F32,
        &[1, 65_536],
        Fill::Ordinary,
        Strategy::Subgroup,
    );
    // Equal terms round to the same side for as long as the sum stays in a binade.
    let data = Data {
        x: (0..65_536).map(|j| if j == 77 { 0.0 } else { -0.7 }).collect(),
        mask: None,
        upstream: None,
    };
    expect_caught_with(&bug, &case, &data);
}

#[test]
fn rounding_of_the_difference_dropped() {
    let bug = Bug {
        name: "rounding of x - max dropped",
        edits: &[(
            MATH,
            "return Pair4(t.high, select(vec4<f32>(0.0), t.low, t.high >= vec4<f32>(-3.0e38)));",
            "return Pair4(t.high, vec4<f32>(0.0));",
        )],
    };
    expect_caught(&bug, &small(SoftmaxKind::Softmax, Fill::Spread));
}

#[test]
fn builtin_exp_used() {
    let bug = Bug {
        name: "builtin exp used",
        edits: &[
            (
                MATH,
                "let v = (e.y + e.l) * exp2_int4(max(e.k, vec4<i32>(-190)) + vec4<i32>(64));",
                "let v = exp(d.high) * (d.low + 1.0) * T_SCALE;",
            ),
            (
                MATH,
                "let v = opaque4(opaque4(p * exp2_int4(e.k - later), zero) * weight, zero) * exp2_int4(later);",
                "let v = exp(d.high) * (d.low + 1.0) * whole * weight;",
            ),
        ],
    };
    expect_caught(&bug, &small(SoftmaxKind::Softmax, Fill::Spread));
}

#[test]
fn rows_merged_without_rescaling() {
    let bug = Bug {
        name: "merge of split rows without rescaling",
        edits: &[(
            SPLIT,
            "let e = exp_scaled4(difference4(vec4<f32>(unordered(part.top)), m, params.zero), params.zero).x;",
            "let e = T_SCALE;",
        )],
    };
    expect_caught(
        &bug,
        &case(
            SoftmaxKind::LogSumExp,
            DType::F32,
            &[2, 20_001],
            Fill::Ordinary,
            Strategy::Split,
        ),
    );
}

#[test]
fn store_truncates() {
    let f16 = Bug {
        name: "f16 store truncates",
        edits: &[(
            ROUND16,
            "return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);",
            "return sign | (r >> 13u);",
        )],
    };
    let bf16 = Bug {
        name: "bf16 store truncates",
        edits: &[(
            ROUND16,
            "let rounded = (u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u;",
            "let rounded = u >> 16u;",
        )],
    };
    for (bug, dtype) in [(f16, DType::F16), (bf16, DType::Bf16)] {
        expect_caught(
            &bug,
            &case(SoftmaxKind::Softmax, dtype, &[24, 61], Fill::Ordinary, Strategy::Short),
        );
    }
}

#[test]
fn second_grid_dimension_ignored() {
    let bug = Bug {
        name: "row index without the second grid dimension",
        edits: &[(SOFTMAX, "(inv.group.x + inv.group.y * params.grid_x)", "inv.group.x")],
    };
    // One row a workgroup, 64 workgroups a dimension.
    let case = case(
        SoftmaxKind::Softmax,
        DType::F32,
        &[150, 40],
        Fill::Ordinary,
        Strategy::Workgroup,
    );
    let gpus = limited(bug.name, |l| l.max_compute_workgroups_per_dimension = 64);
    let caught = caught(&bug, &gpus, run_case(&case));
    assert_eq!(caught.len(), gpus.len(), "{}: caught only on {caught:?}", bug.name);
}

#[test]
fn nan_lost_in_the_maximum() {
    let bug = Bug {
        name: "NaN lost in max",
        edits: &[(
            BITS,
            "return select(key, 0xffffffffu, magnitude > 0x7f800000u);",
            "return select(key, 0u, magnitude > 0x7f800000u);",
        )],
    };
    expect_caught(&bug, &small(SoftmaxKind::Softmax, Fill::Special));
}

#[test]
fn window_off_by_a_row() {
    let bug = Bug {
        name: "window offset off by one row",
        edits: &[(
            ROWS,
            "params.bases.x + at.x + at.y + at.z + at.w,",
            "params.bases.x + select(0u, params.len, params.first_row > 0u) + at.x + at.y + at.z + at.w,",
        )],
    };
    // 2.4 MB of rows through bindings of 1 MiB.
    let case = case(
        SoftmaxKind::LogSumExp,
        DType::F32,
        &[600, 1000],
        Fill::Ordinary,
        Strategy::Subgroup,
    );
    let gpus = limited(bug.name, |l| l.max_storage_buffer_binding_size = 1 << 20);
    let caught = caught(&bug, &gpus, run_case(&case));
    assert_eq!(caught.len(), gpus.len(), "{}: caught only on {caught:?}", bug.name);
}

/// Cross-check names the element, in one-shots and chains, over all rows and over samples.
#[test]
fn cross_check_names_the_element() {
    // Element 10 of one row, off by more than any bound.
    const INTACT: &str = "        v = results4(z, stats, dot, upstream);\n";
    let shape = [130usize, 61];
    let len = shape[1];
    let x: Vec<f32> = (0..shape[0] * len).map(|i| (i * 37 % 101) as f32 * 0.05).collect();
    for adapter in adapters::all("cross_check_names_the_element") {
        // The last row is among the samples, row 63 is not: every second one is.
        for (row, sampled) in [(129usize, true), (63, false)] {
            let broken = format!(
                "{INTACT}        if row.y == params.bases.y + {row}u * params.len && j == 8u {{\n            v.z = v.z * 1.001;\n        }}\n"
            );
            assert_eq!(ROWS.matches(INTACT).count(), 1);
            let gpu = adapter.gpu().with_shader_edits(&[(INTACT, &broken)]);
            for how in [CrossCheck::Full, CrossCheck::Sampled] {
                let context = Context::from_gpu(gpu.clone()).with_cross_check(how);
                let (kind, options) = (SoftmaxKind::Softmax, SoftmaxOptions::default());
                let input = SoftmaxInput::new(&x, &shape);
                let one_shot = macheps::ops::softmax::forward(&context, kind, &input, &options).map(|_| ());
                let tensor = context.upload(&x, &shape).expect("upload");
                let chained = context.chain().softmax(kind, &tensor, None, &options).map(|_| ());
                for outcome in [one_shot, chained] {
                    match outcome {
                        Err(Error::Mismatch {
                            kernel,
                            index,
                            gpu,
                            cpu,
                            bound,
                        }) => {
                            assert_eq!((kernel, index), ("softmax", row * len + 10), "{}", adapter.name);
                            assert!((gpu - cpu).abs() > bound && (gpu / cpu - 1.001).abs() < 1e-5);
                        }
                        Ok(()) => assert!(how == CrossCheck::Sampled && !sampled, "{} missed it", adapter.name),
                        Err(e) => panic!("{}: {e}", adapter.name),
                    }
                }
            }
        }
        // The kernel as it is passes.
        let context = adapter.context.clone().with_cross_check(CrossCheck::Full);
        macheps::softmax(&context, &x, &shape).expect("no mismatch without the bug");
    }
}
