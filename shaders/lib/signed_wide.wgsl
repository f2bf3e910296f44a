// Numbers of either sign, infinities and NaN among them, as a significand of two words times a power of two (needs wide):
// what a product or a sum passes through may lie far outside the range of f32.

// Exponents of what is not finite and of 0: above and below all others.
const SPECIAL: i32 = 1000;
const NOTHING: i32 = -1000;

fn nothing_wide() -> Wide {
    return Wide(0.0, 0.0, NOTHING);
}

// 2^k for a power by which something falls; never 0, so that infinity stays what it is.
fn lowered(k: i32) -> f32 {
    return power_of_two(clamp(k, -126, 0));
}

fn signed_wide(x: f32, zero: u32) -> Wide {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    if magnitude >= 0x7f800000u {
        return Wide(x, 0.0, SPECIAL);
    }
    if magnitude == 0u {
        return nothing_wide();
    }
    let w = wide_from(bitcast<f32>(magnitude), zero);
    return Wide(bitcast<f32>(bitcast<u32>(w.high) | (u ^ magnitude)), 0.0, w.exponent);
}

// A pair (sum, error) below 2^126 times 2^exponent.
fn signed_normal(v: vec2<f32>, exponent: i32, zero: u32) -> Wide {
    if !is_finite(v.x) {
        return Wide(v.x, 0.0, SPECIAL);
    }
    let pair = two_sum(v.x, v.y, zero);
    let w = wide_normal(pair.x, pair.y, exponent, zero);
    return Wide(w.high, w.low, select(w.exponent, NOTHING, w.high == 0.0));
}

fn signed_mul(a: Wide, b: Wide, zero: u32) -> Wide {
    let p = opaque(a.high * b.high, zero);
    if !is_finite(p) {
        return Wide(p, 0.0, SPECIAL);
    }
    if p == 0.0 {
        return nothing_wide();
    }
    return wide_mul(a, b, zero);
}

fn signed_add(a: Wide, b: Wide, zero: u32) -> Wide {
    if !is_finite(a.high) || !is_finite(b.high) {
        return Wide(opaque(a.high + b.high, zero), 0.0, SPECIAL);
    }
    let w = wide_add(a, b, zero);
    return Wide(w.high, w.low, select(w.exponent, NOTHING, w.high == 0.0));
}

// The significand as one number.
fn significand(a: Wide, zero: u32) -> f32 {
    return opaque(select(a.high, a.high + a.low, is_finite(a.high)), zero);
}

// Rounds once; NaN becomes the canonical one.
fn signed_f32(a: Wide, zero: u32) -> f32 {
    let s = bitcast<u32>(significand(a, zero));
    let magnitude = s & 0x7fffffffu;
    if magnitude >= 0x7f800000u {
        return bitcast<f32>(select(s, 0x7fc00000u, magnitude > 0x7f800000u));
    }
    if magnitude == 0u {
        return 0.0;
    }
    let bits = assemble4(vec4<f32>(bitcast<f32>(magnitude)), vec4<i32>(a.exponent)).x;
    return bitcast<f32>(bits | (s ^ magnitude));
}

// Four numbers s * 2^e, |s| in [1, 4) or 0, or what is not finite.
struct Charge4 {
    s: vec4<f32>,
    e: vec4<i32>,
}

fn charges_of(s: vec4<f32>, e: vec4<i32>) -> Charge4 {
    let magnitude = bitcast<vec4<u32>>(s) & vec4<u32>(0x7fffffffu);
    let some = select(e, vec4<i32>(NOTHING), magnitude == vec4<u32>(0u));
    return Charge4(s, select(some, vec4<i32>(SPECIAL), magnitude >= vec4<u32>(0x7f800000u)));
}

// Four floats by significand, in [1, 2), and exponent.
fn parted4(x: vec4<f32>) -> Charge4 {
    let u = bitcast<vec4<u32>>(x);
    let magnitude = u & vec4<u32>(0x7fffffffu);
    let parts = parts4(magnitude);
    let s = bitcast<vec4<f32>>(parts.fraction | vec4<u32>(0x3f800000u) | (u ^ magnitude));
    let ordinary = (magnitude != vec4<u32>(0u)) & (magnitude < vec4<u32>(0x7f800000u));
    return charges_of(select(x, s, ordinary), parts.exponent - vec4<i32>(127));
}

fn product4(a: vec4<f32>, b: vec4<f32>, zero: u32) -> Charge4 {
    let p = parted4(a);
    let q = parted4(b);
    return charges_of(opaque4(p.s * q.s, zero), p.e + q.e);
}

fn highest4(e: vec4<i32>) -> i32 {
    return max(max(e.x, e.y), max(e.z, e.w));
}

fn lowered4(k: vec4<i32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(clamp(k, vec4<i32>(-126), vec4<i32>(0)) + vec4<i32>(127)) << vec4<u32>(23u));
}

// s * 2^k in two steps, so that a subnormal result is rounded once.
fn raised4(s: vec4<f32>, k: vec4<i32>, zero: u32) -> vec4<f32> {
    let bounded = clamp(k, vec4<i32>(-250), vec4<i32>(250));
    let half = bounded >> vec4<u32>(1u);
    let first = bitcast<vec4<f32>>(vec4<u32>(half + vec4<i32>(127)) << vec4<u32>(23u));
    let second = bitcast<vec4<f32>>(vec4<u32>(bounded - half + vec4<i32>(127)) << vec4<u32>(23u));
    return opaque4(opaque4(s * first, zero) * second, zero);
}

// A sum that keeps its unit as high as its largest term: (high + low) * 2^unit. The unit of no term at all is NOTHING.
struct Scaled {
    pair: vec2<f32>,
    unit: i32,
}

fn no_sum() -> Scaled {
    return Scaled(vec2<f32>(0.0), NOTHING);
}

fn pair_lowered(pair: vec2<f32>, k: i32, zero: u32) -> vec2<f32> {
    let factor = lowered(k);
    return vec2<f32>(opaque(pair.x * factor, zero), opaque(pair.y * factor, zero));
}

fn scaled_merge(a: Scaled, b: Scaled, zero: u32) -> Scaled {
    let unit = max(a.unit, b.unit);
    let x = pair_lowered(a.pair, a.unit - unit, zero);
    return Scaled(pair_merge(x, pair_lowered(b.pair, b.unit - unit, zero), zero), unit);
}
