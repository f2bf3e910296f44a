// Positive numbers as a significand of two words times a power of two (needs bits.wgsl, error_free.wgsl): nothing
// overflows, nothing is flushed, and about 44 bits hold. And the multiplication of a tensor's elements by such a number.
// Bits, not comparisons, decide about subnormal numbers, since drivers flush them in arithmetic.

// (high + low) * 2^exponent with high in [1, 2); high = 0 for the number 0.
struct Wide {
    high: f32,
    low: f32,
    exponent: i32,
}

// 2^k for k from -126 to 127.
fn power_of_two(k: i32) -> f32 {
    return bitcast<f32>(u32(k + 127) << 23u);
}

// 2^-k for k >= 0; 0 from 2^-121 on.
fn down(k: i32) -> f32 {
    return select(power_of_two(-min(k, 120)), 0.0, k > 120);
}

// Brings high, positive and far from the ends of the range, into [1, 2).
fn wide_normal(high: f32, low: f32, exponent: i32, zero: u32) -> Wide {
    let pair = fast_two_sum(high, low, zero);
    let bits = bitcast<u32>(pair.x) & 0x7fffffffu;
    if bits == 0u {
        return Wide(0.0, 0.0, 0);
    }
    let k = clamp(i32(bits >> 23u) - 127, -126, 126);
    let unit = power_of_two(-k);
    return Wide(opaque(pair.x * unit, zero), opaque(pair.y * unit, zero), exponent + k);
}

// A finite float that is not negative, subnormal ones too.
fn wide_from(x: f32, zero: u32) -> Wide {
    let bits = bitcast<u32>(x) & 0x7fffffffu;
    if bits < 0x00800000u {
        return wide_normal(f32(bits), 0.0, -149, zero);
    }
    let significand = bitcast<f32>((bits & 0x7fffffu) | 0x3f800000u);
    return Wide(significand, 0.0, i32(bits >> 23u) - 127);
}

fn wide_mul(a: Wide, b: Wide, zero: u32) -> Wide {
    let p = two_product(a.high, b.high, zero);
    let low = opaque(p.y + opaque(a.high * b.low + a.low * b.high, zero), zero);
    return wide_normal(p.x, low, a.exponent + b.exponent, zero);
}

// b is not 0. The quotient may be off by some units; its residual is exact and makes up for it.
fn wide_div(a: Wide, b: Wide, zero: u32) -> Wide {
    let q = opaque(a.high / b.high, zero);
    let p = two_product(q, b.high, zero);
    let left = opaque(opaque(a.high - p.x, zero) - p.y, zero);
    let rest = opaque(left + opaque(a.low - q * b.low, zero), zero);
    return wide_normal(q, opaque(rest / b.high, zero), a.exponent - b.exponent, zero);
}

fn wide_sqrt(a: Wide, zero: u32) -> Wide {
    if a.high == 0.0 {
        return a;
    }
    // An even exponent halves.
    let odd = a.exponent & 1;
    let unit = power_of_two(odd);
    let high = opaque(a.high * unit, zero);
    let y = opaque(sqrt(high), zero);
    let p = two_product(y, y, zero);
    let left = opaque(opaque(high - p.x, zero) - p.y, zero);
    let rest = opaque(left + a.low * unit, zero);
    return wide_normal(y, opaque(rest / (2.0 * y), zero), (a.exponent - odd) / 2, zero);
}

fn wide_add(a: Wide, b: Wide, zero: u32) -> Wide {
    if a.high == 0.0 {
        return b;
    }
    if b.high == 0.0 {
        return a;
    }
    let exponent = max(a.exponent, b.exponent);
    let ka = down(exponent - a.exponent);
    let kb = down(exponent - b.exponent);
    let sum = pair_merge(
        vec2<f32>(opaque(a.high * ka, zero), opaque(a.low * ka, zero)),
        vec2<f32>(opaque(b.high * kb, zero), opaque(b.low * kb, zero)),
        zero,
    );
    return wide_normal(sum.x, sum.y, exponent, zero);
}

// Rounds to nearest; overflow becomes infinity, subnormal results are exact on every device.
fn wide_to_f32(a: Wide, zero: u32) -> f32 {
    let s = opaque(a.high + a.low, zero);
    let bits = assemble4(vec4<f32>(s), vec4<i32>(a.exponent)).x;
    return bitcast<f32>(select(bits, 0u, a.high == 0.0));
}

// Bits of s * 2^e for s in [1, 4], rounded to nearest even where the result is subnormal.
fn assemble4(s: vec4<f32>, e: vec4<i32>) -> vec4<u32> {
    let b = bitcast<vec4<u32>>(s);
    let biased = vec4<i32>(b >> vec4<u32>(23u)) + e;
    let fraction = b & vec4<u32>(0x7fffffu);
    let normal = (vec4<u32>(clamp(biased, vec4<i32>(1), vec4<i32>(254))) << vec4<u32>(23u)) | fraction;
    let shift = vec4<u32>(clamp(vec4<i32>(1) - biased, vec4<i32>(1), vec4<i32>(25)));
    let whole = fraction | vec4<u32>(0x800000u);
    let half = vec4<u32>(1u) << (shift - vec4<u32>(1u));
    let tie = (whole >> shift) & vec4<u32>(1u);
    let subnormal = (whole + half - vec4<u32>(1u) + tie) >> shift;
    let finite = select(normal, subnormal, biased < vec4<i32>(1));
    return select(finite, vec4<u32>(0x7f800000u), biased > vec4<i32>(254));
}

// Magnitudes as significands in [1, 2), as bits, and biased exponents, below 1 for subnormal numbers. 0 stands as the least.
struct Parts4 {
    fraction: vec4<u32>,
    exponent: vec4<i32>,
}

fn parts4(magnitude: vec4<u32>) -> Parts4 {
    // The integer that a subnormal number's bits are is a normal float.
    let tiny = magnitude < vec4<u32>(0x00800000u);
    let v = select(magnitude, bitcast<vec4<u32>>(vec4<f32>(magnitude)), tiny);
    let exponent = vec4<i32>(v >> vec4<u32>(23u)) - select(vec4<i32>(0), vec4<i32>(149), tiny);
    return Parts4(v & vec4<u32>(0x7fffffu), exponent);
}

// x * f rounded once (to about 2^-40 of a unit): exact for a power of two. NaN becomes the canonical one.
fn scale4(x: vec4<f32>, f: Wide, zero: u32) -> vec4<f32> {
    let u = bitcast<vec4<u32>>(x);
    let magnitude = u & vec4<u32>(0x7fffffffu);
    let parts = parts4(magnitude);
    let m = bitcast<vec4<f32>>(parts.fraction | vec4<u32>(0x3f800000u));
    let p = two_product4(m, vec4<f32>(f.high), zero);
    let s = opaque4(p.high + opaque4(p.low + m * f.low, zero), zero);
    let product = assemble4(s, parts.exponent + vec4<i32>(f.exponent - 127));
    let finite = select(product, vec4<u32>(0u), magnitude == vec4<u32>(0u)) | (u ^ magnitude);
    let special = select(u, vec4<u32>(0x7fc00000u), magnitude > vec4<u32>(0x7f800000u));
    return bitcast<vec4<f32>>(select(finite, special, magnitude >= vec4<u32>(0x7f800000u)));
}
