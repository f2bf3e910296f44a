// sigmoid, softplus and what their gradients and losses are made of, four at a time and without branches (needs bits.wgsl and
// error_free.wgsl). Everything rests on exp(-|x|), which neither overflows nor cancels, kept as a pair whose power of two
// is applied last. Where the exact value is a normal number: sigmoid, softplus 1 ulp. Range reduction and logarithm are
// those of elementary.wgsl; none of it leans on a builtin division better than 2.5 ulp.

// 2^k for -126 <= k <= 127.
fn two_to4(k: vec4<i32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(k + vec4<i32>(127)) << vec4<u32>(23u));
}

// With a = |x|, up to 256, where exp(-a) is 0 even times the largest number.
struct Logistic4 {
    // exp(-a) = (e.high + e.low) * 2^exponent, e.high within [0.7, 1.5].
    e: Pair4,
    exponent: vec4<i32>,
    // The same as f32 holds it.
    tail: Pair4,
    // 1 + exp(-a), in [1, 2].
    sum: Pair4,
}

fn logistic4(x: vec4<f32>, zero: u32) -> Logistic4 {
    // On bits, so that NaN comes out as a number; who calls puts it back.
    let a = bitcast<vec4<f32>>(min(bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu), vec4<u32>(0x43800000u)));
    let k = floor(a * -1.44269504 + 0.5);
    let high = opaque4(-a - k * 0.693359375, zero);
    let low = opaque4(k * 2.1219444e-4, zero);
    let r = opaque4(high + low, zero);
    let r_low = low - opaque4(r - high, zero);
    // (e^r - 1 - r) / r^2, as m_exp_tail.
    var q = r * 1.991486351e-4 + 1.394152059e-3;
    q = q * r + 8.333272301e-3;
    q = q * r + 4.166634753e-2;
    q = q * r + 0.1666666716;
    q = q * r + 0.5;
    let y = opaque4(r + 1.0, zero);
    let rest = opaque4(r - opaque4(y - 1.0, zero), zero);
    let e = fast_two_sum4(y, opaque4(rest + (q * (r * r) + r_low), zero), zero);
    let exponent = vec4<i32>(k);
    // In two steps, so that subnormal results are rounded once.
    let bounded = max(exponent, vec4<i32>(-200));
    let half = bounded >> vec4<u32>(1u);
    let first = two_to4(half);
    let second = two_to4(bounded - half);
    let tail = Pair4(
        opaque4(opaque4(e.high * first, zero) * second, zero),
        opaque4(opaque4(e.low * first, zero) * second, zero),
    );
    let s = fast_two_sum4(vec4<f32>(1.0), tail.high, zero);
    return Logistic4(e, exponent, tail, Pair4(s.high, opaque4(s.low + tail.low, zero)));
}

// log(1 + exp(-a)), relative error 2^-24: not lost where exp(-a) is tiny.
fn logistic_log4(v: Logistic4, zero: u32) -> Pair4 {
    // log(1 + f) with f = exp(-a) below 1/3, else ln 2 + log(sum / 2).
    let large = v.tail.high >= vec4<f32>(0.333333333);
    let f = opaque4(select(v.tail.high, v.sum.high * 0.5 - 1.0, large), zero);
    let correction = select(v.tail.low, v.sum.low, large) / v.sum.high;
    let one = select(vec4<f32>(0.0), vec4<f32>(1.0), large);
    // The series of m_log_core.
    var p = f * 0.1235861257 - 0.1284719110;
    p = p * f + 0.1066121459;
    p = p * f - 0.1219527125;
    p = p * f + 0.1431285143;
    p = p * f - 0.1667961627;
    p = p * f + 0.1999930590;
    p = p * f - 0.2499981970;
    p = p * f + 0.3333333731;
    let rest = opaque4((f * f) * (p * f - 0.5), zero);
    let high = one * 0.693359375;
    let y = opaque4(high + f, zero);
    let lost = opaque4(f - opaque4(y - high, zero), zero);
    let low = opaque4(lost + (rest + (correction - one * 2.1219444e-4)), zero);
    return fast_two_sum4(y, low, zero);
}

// softplus(x) = max(x, 0) + log(1 + exp(-|x|)), from that logarithm; of NaN anything.
fn softplus_of4(x: vec4<f32>, rest: Pair4, zero: u32) -> vec4<f32> {
    let linear = select(vec4<f32>(0.0), x, x > vec4<f32>(0.0));
    let t = two_sum4(linear, rest.high, zero);
    let value = t.high + opaque4(t.low + rest.low, zero);
    // Beyond 104 the logarithm is below half of the smallest f32, and infinity has no rounding error.
    return select(value, linear, abs(x) > vec4<f32>(104.0));
}

// 1 / (1 + exp(-a)) as a pair whose first part has 12 bits, as m_recip_parts.
fn logistic_recip4(v: Logistic4, zero: u32) -> Pair4 {
    let r0 = opaque4(1.0 / v.sum.high, zero);
    let ra = bitcast<vec4<f32>>(bitcast<vec4<u32>>(r0) & vec4<u32>(0xfffff000u));
    let d = split12_4(v.sum.high, zero);
    let res0 = opaque4(1.0 - d.high * ra, zero);
    let res1 = opaque4(res0 - d.low * ra, zero);
    let res2 = opaque4(res1 - v.sum.low * ra, zero);
    return Pair4(ra, opaque4(res2 * r0, zero));
}

// (p.high + p.low) * (r.high + r.low) as a pair, for r from logistic_recip4.
fn times_recip4(p: Pair4, r: Pair4, zero: u32) -> Pair4 {
    let h = split12_4(p.high, zero);
    let low = opaque4(h.high * r.low + opaque4(h.low + p.low, zero) * (r.high + r.low), zero);
    return fast_two_sum4(opaque4(h.high * r.high, zero), low, zero);
}

// p * 2^k * w, for p of the order of 1 and -370 <= k <= 0, without overflow or underflow that the result does not have.
fn scaled_product4(p: vec4<f32>, k: vec4<i32>, w: vec4<f32>, zero: u32) -> vec4<f32> {
    let near = max(k, vec4<i32>(-60));
    let far = max(k - near, vec4<i32>(-240));
    let half = far >> vec4<u32>(1u);
    let q = opaque4(opaque4(p * two_to4(near), zero) * w, zero);
    return opaque4(opaque4(q * two_to4(half), zero) * two_to4(far - half), zero);
}

fn is_negative4(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x80000000u)) != vec4<u32>(0u);
}

// w * sigmoid(x) where `negative` is the sign of x; the other sign gives w * sigmoid(-x).
fn sigmoid_times4(negative: vec4<bool>, w: vec4<f32>, v: Logistic4, r: Pair4, zero: u32) -> vec4<f32> {
    let small = times_recip4(v.e, r, zero);
    let below = scaled_product4(small.high, v.exponent, w, zero);
    let above = opaque4(r.high + r.low, zero) * w;
    return select(above, below, negative);
}

// w * sigmoid(x) * sigmoid(-x), the derivative of sigmoid.
fn sigmoid_slope_times4(w: vec4<f32>, v: Logistic4, r: Pair4, zero: u32) -> vec4<f32> {
    let p = times_recip4(times_recip4(v.e, r, zero), r, zero);
    return scaled_product4(p.high, v.exponent, w, zero);
}

fn is_nan4(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}

fn is_inf4(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) == vec4<u32>(0x7f800000u);
}
