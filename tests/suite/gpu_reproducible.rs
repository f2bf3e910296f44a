//! Reproducible sums on every adapter: the bits of the CPU path at every length, storage type, order, cutting and window.

use crate::adapters;
use crate::gpu_planted::{Bug, all_gpus, caught, limited};
use crate::reproducible::{AnyBits, bits, computed, hard, rows_meet_bits};
use macheps::accuracy::Mismatch;
use macheps::element::{Element, bf16, f16};
use macheps::ops::reduction::cases::{Case, Data, Fill};
use macheps::ops::reduction::reproducible;
use macheps::{Context, CrossCheck, DType, ReductionKind as Kind, ReductionOptions, SumMode};
use std::collections::HashMap;

const STATE: &str = include_str!("../../shaders/lib/reduction_state_reproducible.wgsl");

fn case(kind: Kind, dtype: DType, shape: &[usize], axes: Option<&[isize]>) -> Case {
    let mut case = Case::new(kind, dtype, shape, axes);
    case.options.mode = SumMode::Reproducible;
    case
}

fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut random = AnyBits(seed);
    (0..len).map(|_| T::from_f32(random.finite())).collect()
}

#[test]
fn reproducible_sums_meet_literals() {
    for adapter in adapters::all("reproducible sums meet literals") {
        for (name, x, want) in hard() {
            let got = reproducible::sum(&adapter.context, &x).unwrap();
            assert_eq!(bits(got), bits(want), "{}: {name}", adapter.name);
            let w = vec![1.0; x.len()];
            let cpu = computed(&Context::cpu(), &x, &w);
            if !adapter.is("gl") {
                assert_eq!(computed(&adapter.context, &x, &w), cpu, "{}: {name}", adapter.name);
            }
        }
    }
}

/// Bits of results at all lengths are those of the CPU path. With MACHEPS_BITS_FILE their digests are also held to those of earlier
/// runs at other subgroup widths.
#[test]
fn reproducible_bits_are_those_of_the_cpu() {
    fn run<T: Element>(name: &str, context: &Context, len: usize, dot: bool, lines: &mut Vec<String>) {
        let (mut x, w) = (values::<T>(len, len as u64 + 3), values::<T>(len, 7));
        let cpu = Context::cpu();
        let got = bits(reproducible::sum(context, &x).unwrap());
        assert_eq!(
            got,
            bits(reproducible::sum(&cpu, &x).unwrap()),
            "{name}: sum of {len} {}",
            T::DTYPE
        );
        if len < 200_000 {
            AnyBits(17).shuffle(&mut x);
            assert_eq!(got, bits(reproducible::sum(context, &x).unwrap()), "{name}: shuffled");
        }
        lines.push(format!("{name} reproducible {len} {} {got:08x}", T::DTYPE));
        if dot && len < 200_000 {
            let all = computed(context, &x, &w);
            assert_eq!(all, computed(&cpu, &x, &w), "{name}: {len} {}", T::DTYPE);
            lines.push(format!("{name} reproducible_dot {len} {} {:08x}", T::DTYPE, all[2]));
        }
    }
    let mut lines = Vec::new();
    for adapter in adapters::all("reproducible bits") {
        let (name, context) = (&adapter.name, &adapter.context);
        for len in [0usize, 1, 63, 64, 65, 100_003, 1 << 22] {
            if len > 1 << 20 && adapter.is("gl") {
                continue;
            }
            run::<f32>(name, context, len, !adapter.is("gl"), &mut lines);
            if len < 1 << 20 && !adapter.is("gl") {
                run::<f16>(name, context, len, false, &mut lines);
                run::<bf16>(name, context, len, adapter.is("llvmpipe"), &mut lines);
            }
        }
    }
    let Some(path) = std::env::var_os("MACHEPS_BITS_FILE").map(std::path::PathBuf::from) else {
        return;
    };
    // A file of its own beside the given one, which other tests write.
    let path = path.with_extension("reproducible");
    let earlier = std::fs::read_to_string(&path).unwrap_or_default();
    let known: HashMap<&str, &str> = earlier.lines().filter_map(|l| l.rsplit_once(' ')).collect();
    let mut fresh = earlier.clone();
    for line in &lines {
        let (key, got) = line.rsplit_once(' ').unwrap();
        match known.get(key) {
            None => fresh.push_str(&format!("{line}\n")),
            Some(before) => assert_eq!(*before, got, "{key}"),
        }
    }
    std::fs::write(&path, fresh).unwrap();
}

#[test]
fn reproducible_rows_over_any_axes() {
    for adapter in adapters::all("reproducible rows") {
        if adapter.is("llvmpipe") || !adapter.gpu().capabilities().software {
            rows_meet_bits::<f32>(&adapter.name, &adapter.context, &[Kind::Sum, Kind::Mean, Kind::Dot]);
            rows_meet_bits::<f16>(&adapter.name, &adapter.context, &[Kind::Sum]);
            rows_meet_bits::<bf16>(&adapter.name, &adapter.context, &[Kind::Mean]);
        } else {
            rows_meet_bits::<f32>(&adapter.name, &adapter.context, &[Kind::Mean]);
        }
    }
}

#[test]
fn many_of_the_largest_cancel_on_devices() {
    let mut x = vec![f32::MAX; 1 << 20];
    x.extend(vec![-f32::MAX; 1 << 20]);
    x.push(f32::from_bits(3));
    for adapter in adapters::all("many of the largest") {
        if !adapter.is("gl") {
            let sum = reproducible::sum(&adapter.context, &x).unwrap();
            assert_eq!(sum.to_bits(), 3, "{}", adapter.name);
        }
    }
}

/// Cut in one stage and in two, whole and by windows of small devices; views with strides go through the same plan.
#[test]
fn reproducible_bits_do_not_depend_on_cuts_and_windows() {
    let data = Data {
        x: values::<f32>(400_000, 23),
        second: None,
        upstream: None,
    };
    for (shape, axes) in [(&[400_000usize][..], 0), (&[4, 100_000], 1), (&[1000, 400], 0)] {
        let mut case = case(Kind::Mean, DType::F32, shape, Some(&[axes]));
        let want: Vec<u32> = case
            .compute(&Context::cpu(), &data)
            .unwrap()
            .iter()
            .map(|v| v.to_bits())
            .collect();
        let mut meets = |name: &str, context: &Context, chunks: &[Option<usize>]| {
            for &chunk in chunks {
                case.chunk = chunk;
                let got: Vec<u32> = case
                    .compute(context, &data)
                    .unwrap()
                    .iter()
                    .map(|v| v.to_bits())
                    .collect();
                assert!(got == want, "{name}: {shape:?} in chunks of {chunk:?}");
            }
        };
        for adapter in adapters::all("reproducible sums in chunks") {
            if !adapter.is("gl") {
                meets(
                    &adapter.name,
                    &adapter.context,
                    &[None, Some(4), Some(100), Some(20_000)],
                );
            }
        }
        if axes == 0 {
            let small = limited("reproducible sums through windows", |l| {
                l.max_storage_buffer_binding_size = 1 << 20;
                l.max_compute_workgroups_per_dimension = 64;
            });
            for (name, gpu) in small.into_iter().filter(|(name, _)| name != "gl") {
                meets(&name, &Context::from_gpu(gpu), &[None, Some(100)]);
            }
        }
    }
}

#[test]
fn reproducible_chains_are_checked() {
    for adapter in adapters::all("reproducible chains") {
        let context = adapter.context.clone().with_cross_check(CrossCheck::Full);
        let x: Vec<f32> = (0..130 * 61).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e20).collect();
        let tensor = context.upload(&x, &[130, 61]).unwrap();
        let options = ReductionOptions {
            mode: SumMode::Reproducible,
            ..ReductionOptions::over(&[1])
        };
        let mut chain = context.chain();
        let y = chain.reduce(Kind::Sum, &tensor, None, &options).unwrap();
        chain.submit().unwrap();
        let cpu = macheps::ops::reduction::sum(&Context::cpu(), &x, &[130, 61], &options).unwrap();
        assert_eq!(y.download().unwrap(), cpu, "{}", adapter.name);
    }
}

fn bit_verdict(case: &Case, data: &Data<f32>) -> impl Fn(&Context) -> Result<(), Mismatch> {
    let want = case.compute(&Context::cpu(), data).unwrap();
    let (case, data) = (case.clone(), data.clone());
    move |context| {
        let got = case.compute(context, &data).unwrap();
        match (0..want.len()).find(|&i| got[i].to_bits() != want[i].to_bits()) {
            None => Ok(()),
            Some(index) => Err(Mismatch {
                index,
                got: got[index].into(),
                want: want[index].into(),
                bound: 0.0,
            }),
        }
    }
}

fn expect_caught(bug: &Bug, data: Vec<f32>) {
    let case = Case {
        fill: Fill::Ordinary,
        ..case(Kind::Sum, DType::F32, &[data.len()], None)
    };
    let data = Data {
        x: data,
        second: None,
        upstream: None,
    };
    let gpus: Vec<_> = all_gpus(bug.name)
        .into_iter()
        .filter(|(name, _)| name != "gl")
        .collect();
    let caught = caught(bug, &gpus, bit_verdict(&case, &data));
    assert_eq!(caught.len(), gpus.len(), "{}: caught only on {caught:?}", bug.name);
}

#[test]
fn binned_sum_losing_a_carry() {
    expect_caught(
        &Bug {
            name: "binned sum losing a carry",
            edits: &[(
                STATE,
                "        carry = v >> LIMB;\n    }\n    space[TOP",
                "        carry = 0i;\n    }\n    space[TOP",
            )],
        },
        vec![1.99; 1000],
    );
    expect_caught(
        &Bug {
            name: "binned sum losing a carry where a team folds",
            edits: &[(
                STATE,
                "        state.limbs[j] = select(v & MASK, v, j == TOP);\n        carry = v >> LIMB;\n    }\n    state.flags",
                "        state.limbs[j] = select(v & MASK, v, j == TOP);\n        carry = 0u;\n    }\n    state.flags",
            )],
        },
        vec![1.99; 1000],
    );
    expect_caught(
        &Bug {
            name: "binned sum losing a carry where records merge",
            edits: &[(
                STATE,
                "        result.limbs[j] = select(v & MASK, v, j == TOP);\n        carry = v >> LIMB;",
                "        result.limbs[j] = select(v & MASK, v, j == TOP);\n        carry = 0u;",
            )],
        },
        vec![f32::from_bits(0x3fff_ffff); 1 << 20],
    );
}

#[test]
fn carries_moved_too_late() {
    expect_caught(
        &Bug {
            name: "limbs that overflow before carries move on",
            edits: &[(STATE, "const BLOCK: u32 = 31u;", "const BLOCK: u32 = 61u;")],
        },
        vec![f32::from_bits(0x3fff_ffff); 16_384],
    );
}

#[test]
fn sign_of_negative_limbs_dropped() {
    expect_caught(
        &Bug {
            name: "sign of negative limbs dropped",
            edits: &[(
                STATE,
                "let v = bitcast<i32>(space[j * WG + at]) + carry;\n        space[j * WG + at] = bitcast<u32>(v) & MASK;\n        carry = v >> LIMB;",
                "let v = bitcast<i32>(space[j * WG + at]) + carry;\n        space[j * WG + at] = bitcast<u32>(v) & MASK;\n        carry = bitcast<i32>(bitcast<u32>(v) >> LIMB);",
            )],
        },
        vec![3.0, -4.5, 0.25, -1.0e10],
    );
    expect_caught(
        &Bug {
            name: "sign of a term dropped",
            edits: &[(
                STATE,
                "add_piece(limb + 1u, f.x >> (LIMB - r), ma != a, at);",
                "add_piece(limb + 1u, f.x >> (LIMB - r), false, at);",
            )],
        },
        vec![3.0, -4.5, 0.25, -1.0e10],
    );
}

#[test]
fn sticky_bits_dropped() {
    expect_caught(
        &Bug {
            name: "what lies below the leading bits ignored",
            edits: &[(STATE, "more |= (state.limbs[j] &", "more = more && (state.limbs[j] &")],
        },
        vec![1.0, 2f32.powi(-24), f32::from_bits(1)],
    );
}
