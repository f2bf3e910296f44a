//! The WGSL library on every adapter: elementary functions against f64, error-free transforms against exact arithmetic,
//! 16-bit conversions against all of their inputs.

use crate::gpus::gpus;
use macheps::DType;
use macheps::gpu::Gpu;

const LIBRARY: &str = concat!(
    include_str!("../../shaders/lib/bits.wgsl"),
    include_str!("../../shaders/lib/error_free.wgsl"),
    include_str!("../../shaders/lib/elementary.wgsl"),
    include_str!("../../shaders/lib/round16.wgsl"),
);

/// Evaluates a WGSL expression of `x`, `y` (f32), `u`, `w` (their bits) and `zero`, of type u32, for every pair of operands.
fn evaluate(gpu: &Gpu, expression: &str, xs: &[u32], ys: &[u32]) -> Vec<u32> {
    let source = format!(
        "{LIBRARY}
@group(0) @binding(0) var<uniform> params: vec4<u32>;
@group(0) @binding(1) var<storage, read_write> xs: array<u32>;
@group(0) @binding(2) var<storage, read_write> ys: array<u32>;
@compute @workgroup_size(64)
fn evaluate(@builtin(global_invocation_id) id: vec3<u32>) {{
    if id.x < params.y {{
        let zero = params.x;
        let u = xs[id.x];
        let w = ys[id.x];
        let x = bitcast<f32>(u);
        let y = bitcast<f32>(w);
        ys[id.x] = {expression};
    }}
}}
"
    );
    let mut results = Vec::with_capacity(xs.len());
    for (xs, ys) in xs.chunks(1 << 20).zip(ys.chunks(1 << 20)) {
        let params = [0, xs.len() as u32, 0, 0];
        let bindings: [(&str, &[u8]); 3] = [
            ("params", bytemuck::cast_slice(&params)),
            ("xs", bytemuck::cast_slice(xs)),
            ("ys", bytemuck::cast_slice(ys)),
        ];
        let workgroups = xs.len().div_ceil(64) as u32;
        let bytes = gpu
            .run_once(&source, "evaluate", &bindings, "ys", workgroups)
            .expect("the kernel runs");
        results.extend(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<u32>));
    }
    results
}

fn random_bits(seed: u64, count: usize) -> Vec<u32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let mixed = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed >> 32) as u32
        })
        .collect()
}

/// Where something changes: in IEEE's classes, in the functions' ranges, in the pieces that they are computed by.
fn boundaries() -> Vec<f32> {
    let powers = [
        -149, -126, -60, -25, -24, -23, -12, -11, -1, 0, 1, 11, 12, 23, 24, 25, 60, 126, 127,
    ];
    let mut at: Vec<f32> = powers.iter().map(|&p| 2f64.powi(p) as f32).collect();
    at.extend([0.0, f32::MAX, f32::INFINITY, f32::MIN_POSITIVE]);
    // exp and its kin: overflow, smallest normal, 0, largest |x| treated, expm1 = -1, tanh = 1, and where k changes.
    at.extend([
        88.722_84, 87.336_55, 103.972_08, 104.0, 25.0, 17.328_68, 16.635_53, 10.0, 9.010_914, 0.625,
    ]);
    at.extend((0..150).map(|k| ((f64::from(k) + 0.5) * std::f64::consts::LN_2) as f32));
    at.extend((1..64).map(|k| (f64::from(k) * 0.5 * std::f64::consts::LN_2) as f32));
    // log and log1p: where the exponent changes.
    at.extend([1.0 / 3.0, 2.0 / 3.0, 4.0 / 3.0, 8.0 / 3.0, 0.5, 1.5, 0.75]);
    at
}

/// At least 1.3 million f32: all bit patterns at a stride, dense rows over the ordinary ranges, and 129 neighbours of every boundary.
fn samples() -> Vec<u32> {
    let mut bits: Vec<u32> = (0..u64::from(u32::MAX)).step_by(4093).map(|b| b as u32).collect();
    bits.extend((0..200_000).map(|i| (-110.0 + i as f32 * 0.0011).to_bits()));
    bits.extend((0..100_000).map(|i| (0.4 + i as f32 * 1.3e-5).to_bits()));
    for boundary in boundaries() {
        for b in [boundary, -boundary] {
            bits.extend((0..129).map(|i| b.to_bits().wrapping_add(i).wrapping_sub(64)));
        }
    }
    bits.extend([
        0x7fc0_0000,
        0x7f80_0001,
        0xffc0_0000,
        0xff80_0001,
        0x7fff_ffff,
        0xffff_ffff,
    ]);
    bits
}

/// Checks results against exact values: the class always, `bound` ulp where the exact value is a normal number; a
/// subnormal one may have been flushed. Returns the largest error.
fn check(
    name: &str,
    gpu: &Gpu,
    xs: &[u32],
    ys: &[u32],
    results: &[u32],
    exact: impl Fn(f64, f64) -> f64,
    bound: f64,
) -> f64 {
    let mut worst = (0.0, 0.0, 0.0, 0.0);
    for ((&x, &y), &bits) in xs.iter().zip(ys).zip(results) {
        let (x, y, got) = (f32::from_bits(x), f32::from_bits(y), f32::from_bits(bits));
        let want = exact(f64::from(x), f64::from(y));
        let place = || {
            format!(
                "{name}({x:e} = {:#010x}, {y:e}) is {got:e} in place of {want:e} on {}",
                x.to_bits(),
                gpu.info().label()
            )
        };
        if want.is_nan() {
            assert_eq!(bits, 0x7fc0_0000, "{}", place());
            continue;
        }
        if want == 0.0 || want.is_infinite() {
            assert!(
                f64::from(got) == want && got.is_sign_negative() == want.is_sign_negative(),
                "{}",
                place()
            );
            continue;
        }
        assert!(!got.is_nan(), "{}", place());
        let ulp = DType::F32.ulp(want);
        // Infinity stands for the power of two that comes after the largest number.
        let value = if got.is_infinite() {
            2f64.powi(128).copysign(f64::from(got))
        } else {
            f64::from(got)
        };
        let ulp = if want.abs() > f64::from(f32::MAX) {
            DType::F32.ulp(f64::from(f32::MAX))
        } else {
            ulp
        };
        let error = if got.is_infinite() && want.abs() >= 2f64.powi(128) && (got < 0.0) == (want < 0.0) {
            0.0
        } else {
            (value - want).abs() / ulp
        };
        if want.abs() < f64::from(f32::MIN_POSITIVE) {
            assert!(got == 0.0 || error <= 2.0, "{}", place());
        } else if error > worst.0 {
            worst = (error, f64::from(x), f64::from(y), f64::from(got));
        }
    }
    let (error, x, y, got) = worst;
    assert!(
        error <= bound,
        "{name}: {error:.3} ulp at ({x:e}, {y:e}), {got:e}, on {}",
        gpu.info().label()
    );
    error
}

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 {
        x.exp() / (1.0 + x.exp())
    } else {
        1.0 / (1.0 + (-x).exp())
    }
}

#[test]
fn elementary_functions_hold_their_bounds() {
    // f64's own exp is 0 or infinity only far outside of f32's range, so that the classes follow from it.
    type Exact = fn(f64, f64) -> f64;
    let functions: [(&str, Exact, f64); 6] = [
        ("m_exp", |x, _| x.exp(), 2.0),
        ("m_expm1", |x, _| x.exp_m1(), 2.0),
        ("m_log", |x, _| x.ln(), 1.0),
        ("m_log1p", |x, _| x.ln_1p(), 2.0),
        ("m_tanh", |x, _| x.tanh(), 2.0),
        ("m_sigmoid", |x, _| sigmoid(x), 2.0),
    ];
    let xs = samples();
    assert!(xs.len() > 1_000_000);
    for gpu in gpus() {
        for (name, exact, bound) in functions {
            let results = evaluate(gpu, &format!("bitcast<u32>({name}(x, zero))"), &xs, &xs);
            let worst = check(name, gpu, &xs, &xs, &results, exact, bound);
            eprintln!("{name}: {worst:.3} ulp on {}", gpu.info().label());
        }
    }
}

#[test]
fn exp_parts_are_a_better_exp() {
    let xs: Vec<u32> = (0..=400_000)
        .map(|i| (-104.0f32 + i as f32 * 0.00048).to_bits())
        .collect();
    let expression = "bitcast<u32>(m_scale2(m_exp_parts(x, zero).high, m_exp_parts(x, zero).exponent, zero))";
    for gpu in gpus() {
        let results = evaluate(gpu, expression, &xs, &xs);
        check("m_exp_parts", gpu, &xs, &xs, &results, |x, _| x.exp(), 1.0);
    }
}

#[test]
fn division_holds_its_bound_over_the_whole_range() {
    let mut xs = random_bits(1, 1 << 20);
    let mut ys = random_bits(2, 1 << 20);
    let mut corners = boundaries();
    corners.truncate(40);
    corners.extend([f32::NAN, 3.0, 7.0, 1e-40, 1e-45, 1.000_000_1, 0.999_999_94]);
    let signed: Vec<f32> = corners.iter().flat_map(|&c| [c, -c]).collect();
    for &a in &signed {
        for &b in &signed {
            xs.push(a.to_bits());
            ys.push(b.to_bits());
        }
    }
    // Quotients that lie close to a tie: neighbours of 1 against each other.
    for i in 0..300u32 {
        for j in 0..300u32 {
            xs.push(0x3f80_0000 - 150 + i);
            ys.push(0x3f80_0000 - 150 + j);
        }
    }
    for gpu in gpus() {
        let results = evaluate(gpu, "bitcast<u32>(m_div(x, y, zero))", &xs, &ys);
        let worst = check("m_div", gpu, &xs, &ys, &results, |a, b| a / b, 1.0);
        eprintln!("m_div: {worst:.4} ulp on {}", gpu.info().label());
    }
}

#[test]
fn exact_values_are_exact() {
    let cases: [(&str, f32, f32); 15] = [
        ("m_exp", 0.0, 1.0),
        ("m_exp", -0.0, 1.0),
        ("m_expm1", 0.0, 0.0),
        ("m_expm1", -0.0, -0.0),
        ("m_expm1", 1e-30, 1e-30),
        ("m_log", 1.0, 0.0),
        ("m_log1p", 0.0, 0.0),
        ("m_log1p", -0.0, -0.0),
        ("m_log1p", 1e-40, 1e-40),
        ("m_tanh", 0.0, 0.0),
        ("m_tanh", -0.0, -0.0),
        ("m_tanh", 1e-40, 1e-40),
        ("m_tanh", -20.0, -1.0),
        ("m_sigmoid", 0.0, 0.5),
        ("m_sigmoid", 40.0, 1.0),
    ];
    for gpu in gpus() {
        for (name, x, want) in cases {
            let x = [x.to_bits()];
            let got = evaluate(gpu, &format!("bitcast<u32>({name}(x, zero))"), &x, &x)[0];
            assert_eq!(
                got,
                want.to_bits(),
                "{name}({:e}) on {}",
                f32::from_bits(x[0]),
                gpu.info().label()
            );
        }
    }
}

/// Pairs whose sums and products f64 holds exactly.
fn pairs() -> (Vec<u32>, Vec<u32>) {
    let near = |bits: Vec<u32>| -> Vec<u32> {
        bits.into_iter()
            .map(|b| (b & 0x807f_ffff) | ((115 + (b >> 23) % 25) << 23))
            .collect()
    };
    (near(random_bits(3, 100_000)), near(random_bits(4, 100_000)))
}

#[test]
fn transforms_are_free_of_error() {
    let (xs, ys) = pairs();
    let both = |a: f64, b: f64| (a.abs() >= b.abs()).then_some(a + b);
    type Exact<'a> = &'a dyn Fn(f64, f64) -> Option<f64>;
    let cases: [(&str, Exact); 6] = [
        ("two_sum(x, y, zero)", &|a, b| Some(a + b)),
        ("fast_two_sum(x, y, zero)", &both),
        ("two_product(x, y, zero)", &|a, b| Some(a * b)),
        (
            "two_sum4(vec4<f32>(1.0, x, 2.0, x), vec4<f32>(x, y, x, 3.0), zero)",
            &|a, b| Some(a + b),
        ),
        (
            "fast_two_sum4(vec4<f32>(1.0, x, 2.0, x), vec4<f32>(x, y, x, 3.0), zero)",
            &both,
        ),
        (
            "two_product4(vec4<f32>(1.0, x, 2.0, x), vec4<f32>(x, y, x, 3.0), zero)",
            &|a, b| Some(a * b),
        ),
    ];
    for gpu in gpus() {
        for (call, exact) in cases {
            let (high, low) = if call.contains('4') {
                (".high.y", ".low.y")
            } else {
                (".x", ".y")
            };
            let highs = evaluate(gpu, &format!("bitcast<u32>({call}{high})"), &xs, &ys);
            let lows = evaluate(gpu, &format!("bitcast<u32>({call}{low})"), &xs, &ys);
            for (i, (high, low)) in highs.into_iter().zip(lows).enumerate() {
                let (a, b) = (f64::from(f32::from_bits(xs[i])), f64::from(f32::from_bits(ys[i])));
                let Some(want) = exact(a, b) else { continue };
                let (high, low) = (f32::from_bits(high), f32::from_bits(low));
                let place = format!("{call} of {a:e}, {b:e} on {}", gpu.info().label());
                assert_eq!(high, want as f32, "{place}");
                assert_eq!(f64::from(high) + f64::from(low), want, "{place}");
            }
        }
    }
}

#[test]
fn compensated_sums_keep_what_naive_ones_lose() {
    // 2^24 + 1 + ... + 1 - 2^24, sixteen ones: a naive sum loses them all.
    let chain = |start: &str, step: &str, end: &str| {
        let mut text = start.to_string();
        for term in ["1.0"; 16] {
            text = step.replace("STATE", &text).replace("TERM", term);
        }
        end.replace("STATE", &step.replace("STATE", &text).replace("TERM", "y"))
    };
    let cases = [
        chain(
            "vec2<f32>(x, 0.0)",
            "kahan_add(STATE, TERM, zero)",
            "bitcast<u32>(STATE.x)",
        ),
        chain(
            "vec2<f32>(x, 0.0)",
            "pair_add(STATE, TERM, zero)",
            "bitcast<u32>(pair_merge(STATE, vec2<f32>(0.0), zero).x + pair_merge(STATE, vec2<f32>(0.0), zero).y)",
        ),
        chain(
            "Pair4(vec4<f32>(x), vec4<f32>(0.0))",
            "kahan_add4(STATE, vec4<f32>(TERM), zero)",
            "bitcast<u32>(STATE.high.z)",
        ),
        chain(
            "Pair4(vec4<f32>(x), vec4<f32>(0.0))",
            "pair_add4(STATE, vec4<f32>(TERM), zero)",
            "bitcast<u32>(STATE.high.w + STATE.low.w)",
        ),
    ];
    let big = 2f32.powi(24);
    for gpu in gpus() {
        for expression in &cases {
            let got = evaluate(gpu, expression, &[big.to_bits()], &[(-big).to_bits()])[0];
            assert_eq!(f32::from_bits(got), 16.0, "{expression} on {}", gpu.info().label());
        }
    }
}

#[test]
fn ordered_integers_follow_the_numbers() {
    let mut values = vec![
        f32::NEG_INFINITY,
        f32::MIN,
        -2.0,
        -1.0,
        -f32::MIN_POSITIVE,
        -1e-40,
        -1e-45,
        0.0,
    ];
    values.extend([
        1e-45,
        1e-40,
        f32::MIN_POSITIVE,
        1.0,
        1.000_000_1,
        2.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ]);
    let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
    for gpu in gpus() {
        let keys = evaluate(gpu, "ordered(x)", &bits, &bits);
        assert!(
            keys[0] > 0 && keys.is_sorted_by(|a, b| a < b),
            "{keys:x?} on {}",
            gpu.info().label()
        );
        let back = evaluate(gpu, "unordered_bits(ordered(x))", &bits, &bits);
        assert_eq!(back, bits);
        // Zeros tie, and a NaN of either sign or any payload is the largest.
        let odd = [(-0.0f32).to_bits(), 0xffc0_0000, 0x7f80_0001];
        let keys = evaluate(gpu, "ordered4(vec4<f32>(y, x, y, y)).y", &odd, &odd);
        assert_eq!(keys, [0x8000_0000, u32::MAX, u32::MAX]);
        let maximum = evaluate(
            gpu,
            "bitcast<u32>(unordered(max(ordered(x), ordered(y))))",
            &[0xffc0_1234, 0xff80_0000],
            &[0x7f80_0000, 0xff80_0000],
        );
        assert_eq!(maximum, [0x7fc0_0000, 0xff80_0000]);
    }
}

#[test]
fn classes_are_told_by_bits() {
    let xs = samples();
    let expression = "select(0u, 1u, is_nan(x)) | select(0u, 2u, is_inf(x)) | select(0u, 4u, is_finite(x))";
    for gpu in gpus() {
        let got = evaluate(gpu, expression, &xs, &xs);
        for (&x, got) in xs.iter().zip(got) {
            let x = f32::from_bits(x);
            let want = u32::from(x.is_nan()) | (u32::from(x.is_infinite()) << 1) | (u32::from(x.is_finite()) << 2);
            assert_eq!(got, want, "{:#x} on {}", x.to_bits(), gpu.info().label());
        }
        let constants = evaluate(
            gpu,
            "bitcast<u32>(select(select(inf_f32(), neg_inf_f32(), u == 1u), nan_f32(), u == 2u))",
            &[0, 1, 2],
            &[0, 1, 2],
        );
        assert_eq!(constants, [0x7f80_0000, 0xff80_0000, 0x7fc0_0000]);
    }
}

/// f32 inputs for narrowing: bit patterns at a stride, every f16 and bf16, every midpoint between neighbours with the f32 on
/// either side of it, and the edges.
fn narrowing() -> Vec<u32> {
    let mut bits: Vec<u32> = (0..u64::from(u32::MAX)).step_by(6007).map(|b| b as u32).collect();
    for h in 0..=u16::MAX {
        let x = half::f16::from_bits(h).to_f32();
        bits.push(x.to_bits());
        let next = half::f16::from_bits(h.wrapping_add(1)).to_f32();
        let tie = ((f64::from(x) + f64::from(next)) / 2.0) as f32;
        bits.extend([
            tie.to_bits(),
            tie.to_bits().wrapping_add(1),
            tie.to_bits().wrapping_sub(1),
        ]);
        let b = u32::from(h) << 16;
        bits.extend([b, b | 0x7fff, b | 0x8000, b | 0x8001, b | 0xffff]);
    }
    bits.extend(
        [
            65519.996f32,
            65520.0,
            65536.0,
            5.960_464_5e-8,
            2.980_232_2e-8,
            2.980_232_6e-8,
        ]
        .map(f32::to_bits),
    );
    bits
}

fn same16(name: &str, input: u32, got: u32, want: u16, is_nan: bool, canonical: u32, gpu: &Gpu) {
    let want = if is_nan { canonical } else { u32::from(want) };
    assert_eq!(
        got,
        want,
        "{name} of {:e} = {input:#010x} on {}",
        f32::from_bits(input),
        gpu.info().label()
    );
}

#[test]
fn narrowing_rounds_to_nearest_even() {
    let xs = narrowing();
    for gpu in gpus() {
        let f16 = evaluate(gpu, "f16_from_f32(x)", &xs, &xs);
        let bf16 = evaluate(gpu, "bf16_from_f32(x)", &xs, &xs);
        for ((&x, f16), bf16) in xs.iter().zip(f16).zip(bf16) {
            let value = f32::from_bits(x);
            same16(
                "f16",
                x,
                f16,
                half::f16::from_f32(value).to_bits(),
                value.is_nan(),
                0x7e00,
                gpu,
            );
            same16(
                "bf16",
                x,
                bf16,
                half::bf16::from_f32(value).to_bits(),
                value.is_nan(),
                0x7fc0,
                gpu,
            );
        }
    }
}

#[test]
fn packed_words_hold_two() {
    let (xs, ys) = (random_bits(5, 10_000), random_bits(6, 10_000));
    for gpu in gpus() {
        for (name, narrow, unpack) in [
            ("f16", "f16_from_f32", "unpack_f16"),
            ("bf16", "bf16_from_f32", "unpack_bf16"),
        ] {
            let words = evaluate(gpu, &format!("pack_{name}(vec2<f32>(x, y))"), &xs, &ys);
            let low = evaluate(gpu, &format!("{narrow}(x)"), &xs, &ys);
            let high = evaluate(gpu, &format!("{narrow}(y)"), &xs, &ys);
            for (i, &word) in words.iter().enumerate() {
                assert_eq!(word, low[i] | (high[i] << 16), "{name} on {}", gpu.info().label());
            }
            let same = evaluate(gpu, &format!("pack_{name}({unpack}(u))"), &words, &words);
            assert_eq!(same, words, "{name} on {}", gpu.info().label());
        }
    }
}

#[test]
fn widening_is_exact_for_every_pattern() {
    let all: Vec<u32> = (0..=u32::from(u16::MAX)).collect();
    for gpu in gpus() {
        let f16 = evaluate(gpu, "bitcast<u32>(f32_from_f16(u))", &all, &all);
        let bf16 = evaluate(gpu, "bitcast<u32>(f32_from_bf16(u))", &all, &all);
        for (bits, (f16, bf16)) in (0..=u16::MAX).zip(f16.into_iter().zip(bf16)) {
            let want = half::f16::from_bits(bits).to_f32();
            let want = if want.is_nan() { 0x7fc0_0000 } else { want.to_bits() };
            assert_eq!(f16, want, "f16 {bits:#06x} on {}", gpu.info().label());
            assert_eq!(
                bf16,
                u32::from(bits) << 16,
                "bf16 {bits:#06x} on {}",
                gpu.info().label()
            );
        }
    }
}

/// Tensors of a file of the shared test data, by name, or `None` with a SKIPPED line.
fn shared(file: &str, names: &[&str]) -> Option<Vec<Vec<u32>>> {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");
    let folder = std::env::var("MACHEPS_SHARED_DATA").unwrap_or_else(|_| here.into());
    let path = std::path::Path::new(&folder).join("hard_rows").join(file);
    let Ok(bytes) = std::fs::read(&path) else {
        crate::adapters::skipped(file, &format!("no {}", path.display()));
        return None;
    };
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let tensor = |name: &&str| {
        tensors
            .tensor(name)
            .expect("the tensor is there")
            .data()
            .chunks_exact(4)
            .map(bytemuck::pod_read_unaligned)
            .collect()
    };
    Some(names.iter().map(tensor).collect())
}

/// Files of the hard rows that are tested here.
pub const CONVERSIONS: [&str; 2] = ["f32_to_16bit.safetensors", "f16_all_to_f32.safetensors"];

#[test]
fn conversions_agree_with_the_shared_data() {
    if let Some(data) = shared(CONVERSIONS[0], &["f32_bits", "f16_bits", "bf16_bits"]) {
        for gpu in gpus() {
            let f16 = evaluate(gpu, "f16_from_f32_bits(u)", &data[0], &data[0]);
            let bf16 = evaluate(gpu, "bf16_from_f32_bits(u)", &data[0], &data[0]);
            for (i, &x) in data[0].iter().enumerate() {
                let is_nan = f32::from_bits(x).is_nan();
                same16("f16", x, f16[i], data[1][i] as u16, is_nan, 0x7e00, gpu);
                same16("bf16", x, bf16[i], data[2][i] as u16, is_nan, 0x7fc0, gpu);
            }
        }
    }
    if let Some(data) = shared(CONVERSIONS[1], &["f16_bits", "f32_bits"]) {
        let halves: Vec<u32> = data[0].iter().map(|h| h & 0xffff).collect();
        for gpu in gpus() {
            let got = evaluate(gpu, "f32_bits_from_f16(u)", &halves, &halves);
            for (i, (&got, &want)) in got.iter().zip(&data[1]).enumerate() {
                let both_nan = f32::from_bits(got).is_nan() && f32::from_bits(want).is_nan();
                assert!(
                    got == want || both_nan,
                    "f16 {:#06x} on {}",
                    halves[i],
                    gpu.info().label()
                );
            }
        }
    }
}
