// Elementary functions of f32 from addition, multiplication and integer operations alone (needs bits.wgsl and
// error_free.wgsl), because the builtins of drivers are wrong by up to 10^9 ulp and in their special values.
// Bounds against the exact value, where that is a normal number: exp, expm1, log1p, tanh, sigmoid 2 ulp; log, div 1 ulp.
// They hold with reassociation, contraction and flushing of subnormals allowed, and with a builtin division of 2.5 ulp.
// Subnormal arguments of log and div are read exactly; subnormal results may be flushed.
// `zero` is the run-time 0u of `opaque`. Specials are taken on bits; every NaN result is the canonical one.

// y * 2^k for k in [-200, 200], |y| in [2^-24, 2^24]; one rounding, in the second step, where the result is subnormal.
fn m_scale2(y: f32, k: i32, zero: u32) -> f32 {
    let k1 = k >> 1u;
    let s1 = bitcast<f32>(u32(k1 + 127) << 23u);
    let s2 = bitcast<f32>(u32(k - k1 + 127) << 23u);
    // Hidden in between: s1 * s2 on its own may be outside the range.
    return opaque(y * s1, zero) * s2;
}

// exp(x) = (high + low) * 2^exponent.
struct MExpParts {
    high: f32,
    low: f32,
    exponent: i32,
}

// Cody-Waite reduction x = k ln 2 + r + r_low, for |x| <= 104: (r, r_low, k). 355/512 has 9 bits: k * 355/512 is exact.
fn m_exp_reduce(x: f32, zero: u32) -> vec3<f32> {
    let k = floor(x * 1.44269504 + 0.5);
    let high = opaque(x - k * 0.693359375, zero);
    let low = opaque(k * 2.1219444e-4, zero);
    let r = opaque(high + low, zero);
    return vec3<f32>(r, low - opaque(r - high, zero), k);
}

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: minimax, 2^-31.9 of r.
fn m_exp_tail(r: f32) -> f32 {
    var q = 1.991486351e-4;
    q = q * r + 1.394152059e-3;
    q = q * r + 8.333272301e-3;
    q = q * r + 4.166634753e-2;
    q = q * r + 0.1666666716;
    return q * r + 0.5;
}

// For |x| <= 104; high = fl(high + low), relative error of the pair about 2^-27.
fn m_exp_parts(x: f32, zero: u32) -> MExpParts {
    let t = m_exp_reduce(x, zero);
    let y = opaque(1.0 + t.x, zero);
    let rest = opaque(t.x - opaque(y - 1.0, zero), zero);
    let tail = opaque(rest + (m_exp_tail(t.x) * (t.x * t.x) + t.y), zero);
    let p = fast_two_sum(y, tail, zero);
    return MExpParts(p.x, p.y, i32(t.z));
}

fn m_exp(x: f32, zero: u32) -> f32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    // Beyond 104 the result is 0 or infinity at any rounding.
    if magnitude > 0x42d00000u {
        if magnitude > 0x7f800000u {
            return nan_f32();
        }
        return select(0.0, inf_f32(), u == magnitude);
    }
    let k = floor(x * 1.44269504 + 0.5);
    let r = opaque(opaque(x - k * 0.693359375, zero) + k * 2.1219444e-4, zero);
    var q = 1.395108178e-3;
    q = q * r + 8.369239047e-3;
    q = q * r + 4.166619852e-2;
    q = q * r + 0.1666651666;
    q = q * r + 0.5;
    let p = opaque(r + q * (r * r), zero);
    return m_scale2(1.0 + p, i32(k), zero);
}

fn m_expm1(x: f32, zero: u32) -> f32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    if magnitude < 0x33000000u {
        // |x| < 2^-25: keeps -0 and subnormals.
        return x;
    }
    if u != magnitude && magnitude > 0x41c80000u && magnitude <= 0x7f800000u {
        return -1.0;
    }
    if magnitude > 0x42d00000u {
        return select(inf_f32(), nan_f32(), magnitude > 0x7f800000u);
    }
    // e^x - 1 = 2^k * ((1 - 2^-k) + (e^r - 1)); the sum of the two leading terms keeps its error.
    let t = m_exp_reduce(x, zero);
    let k = i32(t.z);
    let c = 1.0 - bitcast<f32>(u32(max(127 - k, 0)) << 23u);
    let y = opaque(c + t.x, zero);
    let rest = opaque(t.x - opaque(y - c, zero), zero);
    let tail = opaque(rest + (m_exp_tail(t.x) * (t.x * t.x) + t.y), zero);
    return m_scale2(opaque(y + tail, zero), k, zero);
}

// log(2^e * (1 + f) + correction * 2^e) for f in [-1/3, 1/3], f settled and correction of the order of 2^-24.
fn m_log_core(f: f32, e: f32, correction: f32, zero: u32) -> f32 {
    var p = 0.1235861257;
    p = p * f - 0.1284719110;
    p = p * f + 0.1066121459;
    p = p * f - 0.1219527125;
    p = p * f + 0.1431285143;
    p = p * f - 0.1667961627;
    p = p * f + 0.1999930590;
    p = p * f - 0.2499981970;
    p = p * f + 0.3333333731;
    let tail = opaque((f * f) * (p * f - 0.5), zero);
    // e * 355/512 is exact and 0 or larger than f, so that the error of the leading sum is exact, too.
    let high = e * 0.693359375;
    let y = opaque(high + f, zero);
    let rest = opaque(f - opaque(y - high, zero), zero);
    return y + opaque(rest + (tail + (correction - e * 2.1219444e-4)), zero);
}

// Exponent e such that 2^-e times the positive normal number with these bits lies in [2/3, 4/3).
fn m_log_exponent(u: u32) -> i32 {
    return (bitcast<i32>(u) - 0x3f2aaaab) >> 23u;
}

fn m_log(x: f32, zero: u32) -> f32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    if magnitude == 0u {
        return neg_inf_f32();
    }
    if u >= 0x7f800000u {
        return select(nan_f32(), inf_f32(), u == 0x7f800000u);
    }
    var v = u;
    var shift = 0u;
    if v < 0x00800000u {
        shift = 23u - firstLeadingBit(v);
        v = v << shift;
    }
    let e = m_log_exponent(v);
    let f = opaque(bitcast<f32>(v - (bitcast<u32>(e) << 23u)) - 1.0, zero);
    return m_log_core(f, f32(e - i32(shift)), 0.0, zero);
}

fn m_log1p(x: f32, zero: u32) -> f32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    if magnitude < 0x33000000u {
        // |x| < 2^-25: keeps -0 and subnormals.
        return x;
    }
    if u >= 0xbf800000u {
        return select(nan_f32(), neg_inf_f32(), u == 0xbf800000u);
    }
    if magnitude >= 0x7f800000u {
        return select(inf_f32(), nan_f32(), magnitude > 0x7f800000u);
    }
    if magnitude < 0x3eaaaaabu {
        return m_log_core(x, 0.0, 0.0, zero);
    }
    // 1 + x = s + c exactly; log(s + c) = log(s) + c / s to first order, which is enough as |c| <= 2^-24 s.
    let one_is_larger = magnitude < 0x3f800000u;
    let larger = select(x, 1.0, one_is_larger);
    let smaller = select(1.0, x, one_is_larger);
    let s = fast_two_sum(larger, smaller, zero);
    let v = bitcast<u32>(s.x);
    let e = m_log_exponent(v);
    let m = bitcast<f32>(v - (bitcast<u32>(e) << 23u));
    let f = opaque(m - 1.0, zero);
    let c = s.y * bitcast<f32>(u32(max(127 - e, 0)) << 23u);
    return m_log_core(f, f32(e), c / m, zero);
}

// 1 / (high + low) = x + y, where x has 12 bits, for high in [2^-60, 2^60] and |low| <= 2^-23 high.
// One residual, exact in 12-bit halves, so that the quality of the builtin division does not matter.
fn m_recip_parts(high: f32, low: f32, zero: u32) -> vec2<f32> {
    let r0 = opaque(1.0 / high, zero);
    let ra = bitcast<f32>(bitcast<u32>(r0) & 0xfffff000u);
    let d = split12(high, zero);
    let res0 = opaque(1.0 - d.x * ra, zero);
    let res1 = opaque(res0 - d.y * ra, zero);
    let res2 = opaque(res1 - low * ra, zero);
    return vec2<f32>(ra, opaque(res2 * r0, zero));
}

// (high + low) * (r.x + r.y) with one rounding that counts; high has any 24 bits, r from m_recip_parts.
fn m_times_recip(high: f32, low: f32, r: vec2<f32>, zero: u32) -> f32 {
    let h = split12(high, zero);
    let tail = opaque(h.x * r.y + opaque(h.y + low, zero) * (r.x + r.y), zero);
    return opaque(h.x * r.x, zero) + tail;
}

fn m_tanh(x: f32, zero: u32) -> f32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    let sign = u & 0x80000000u;
    if magnitude > 0x7f800000u {
        return nan_f32();
    }
    if magnitude >= 0x41200000u {
        return bitcast<f32>(sign | 0x3f800000u);
    }
    if magnitude < 0x39800000u {
        // |x| < 2^-12: x - x^3 / 3 rounds to x or its neighbour; keeps -0 and subnormals.
        return x;
    }
    if magnitude < 0x3f200000u {
        // Below 0.625 an odd polynomial.
        let z = x * x;
        var p = 2.147210296e-3;
        p = p * z - 8.182330988e-3;
        p = p * z + 2.170283347e-2;
        p = p * z - 5.394718051e-2;
        p = p * z + 0.1333320886;
        p = p * z - 0.3333333135;
        return x + opaque(x * (z * p), zero);
    }
    // 1 - 2 / (e^(2|x|) + 1), the denominator as a pair.
    let e = m_exp_parts(2.0 * bitcast<f32>(magnitude), zero);
    let eh = opaque(m_scale2(e.high, e.exponent, zero), zero);
    let el = m_scale2(e.low, e.exponent, zero);
    let d = fast_two_sum(eh, 1.0, zero);
    let r = m_recip_parts(d.x, opaque(d.y + el, zero), zero);
    let t = opaque(1.0 - 2.0 * r.x, zero) - 2.0 * r.y;
    return bitcast<f32>(bitcast<u32>(t) | sign);
}

// 1 / (1 + e^-x), as e^x / (1 + e^x) for negative x: without cancellation, and right in the lower tail.
fn m_sigmoid(x: f32, zero: u32) -> f32 {
    let u = bitcast<u32>(x);
    let magnitude = u & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return nan_f32();
    }
    if magnitude > 0x42d00000u {
        return select(0.0, 1.0, u == magnitude);
    }
    let e = m_exp_parts(-bitcast<f32>(magnitude), zero);
    let eh = opaque(m_scale2(e.high, e.exponent, zero), zero);
    let el = m_scale2(e.low, e.exponent, zero);
    let d = fast_two_sum(1.0, eh, zero);
    let r = m_recip_parts(d.x, opaque(d.y + el, zero), zero);
    if u == magnitude {
        return r.x + r.y;
    }
    return m_scale2(opaque(m_times_recip(e.high, e.low, r, zero), zero), e.exponent, zero);
}

// Significand in [1, 2) as f32 bits (x) and exponent (y) of a finite number that is not 0, given without its sign.
fn m_frexp_bits(magnitude: u32) -> vec2<i32> {
    var v = magnitude;
    var shift = 0;
    if v < 0x00800000u {
        shift = 23 - i32(firstLeadingBit(v));
        v = v << u32(shift);
    }
    return vec2<i32>(bitcast<i32>((v & 0x7fffffu) | 0x3f800000u), i32(v >> 23u) - 127 - shift);
}

// a / b over the whole exponent range, subnormal arguments included, with IEEE's special values.
fn m_div(a: f32, b: f32, zero: u32) -> f32 {
    let ua = bitcast<u32>(a);
    let ub = bitcast<u32>(b);
    let sign = (ua ^ ub) & 0x80000000u;
    let ma = ua & 0x7fffffffu;
    let mb = ub & 0x7fffffffu;
    let a_special = ma == 0u || ma >= 0x7f800000u;
    let b_special = mb == 0u || mb >= 0x7f800000u;
    if a_special || b_special {
        // Of 0, finite and infinity no two alike but finite ones meet here, or the quotient is NaN.
        if ma > 0x7f800000u || mb > 0x7f800000u || (a_special && ma == mb) {
            return nan_f32();
        }
        let infinite = ma == 0x7f800000u || mb == 0u;
        return bitcast<f32>(select(sign, sign | 0x7f800000u, infinite));
    }
    let fa = m_frexp_bits(ma);
    let fb = m_frexp_bits(mb);
    let r = m_recip_parts(bitcast<f32>(fb.x), 0.0, zero);
    let q = opaque(m_times_recip(bitcast<f32>(fa.x), 0.0, r, zero), zero);
    // Beyond 2^200 either way the result is infinity or 0 as much as at it.
    let k = clamp(fa.y - fb.y, -200, 200);
    return bitcast<f32>(bitcast<u32>(m_scale2(q, k, zero)) | sign);
}
