// Arithmetic of the softmax family (needs bits, error_free). With m the maximum of a row and d = x - m:
//   S = sum exp(d) = c + T,   c = number of entries equal to m,   T = sum over the others.
// Holding T apart keeps log S = log1p(T) right when one entry dominates. exp is kept as a pair and scaled last.
// Cody-Waite range reduction and log1p series after fdlibm; error-free transforms after Knuth and Dekker.

// ln 2 = LN2_HIGH - LN2_LOW; the high part has ten significant bits, so products with small integers are exact.
const LN2_HIGH: f32 = 0.693359375;
const LN2_LOW: f32 = 2.12194440e-4;
// Below m by more than this an entry adds nothing that f32 could hold, even 2^24 times; -inf is below it too.
const FAR_BELOW: f32 = -132.0;
// T is carried times 2^64, so that no term of it is subnormal: some drivers flush those.
const T_SCALE: f32 = 18446744073709551616.0;
const T_UNSCALE: f32 = 5.4210108624275222e-20;

// 2^k for -126 <= k <= 127.
fn exp2_int(k: i32) -> f32 {
    return bitcast<f32>(u32(k + 127) << 23u);
}

fn exp2_int4(k: vec4<i32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(k + vec4<i32>(127)) << vec4<u32>(23u));
}

// x - m with its rounding error: where the difference is not finite or far below, the error term is 0.
fn difference4(x: vec4<f32>, m: f32, zero: u32) -> Pair4 {
    let t = two_sum4(x, vec4<f32>(-m), zero);
    return Pair4(t.high, select(vec4<f32>(0.0), t.low, t.high >= vec4<f32>(-3.0e38)));
}

// exp(d) = (y + l) * 2^k
struct ExpParts4 {
    y: vec4<f32>,
    l: vec4<f32>,
    k: vec4<i32>,
}

fn exp_parts4(d: Pair4, zero: u32) -> ExpParts4 {
    let near = d.high >= vec4<f32>(-140.0);
    let high = select(vec4<f32>(-140.0), d.high, near);
    let error = select(vec4<f32>(0.0), d.low, near);
    let kf = floor(high * 1.44269504 + 0.5);
    let rh = opaque4(high - kf * LN2_HIGH, zero);
    let low = opaque4(error + kf * LN2_LOW, zero);
    let r = opaque4(rh + low, zero);
    let rl = low - opaque4(r - rh, zero);
    let p = ((((r * 1.98412698e-4 + 1.38888890e-3) * r + 8.33333377e-3) * r + 4.16666679e-2) * r + 1.66666672e-1) * r + 0.5;
    let y = opaque4(r + 1.0, zero);
    let l = opaque4(r - opaque4(y - 1.0, zero), zero) + (p * r * r + rl);
    return ExpParts4(y, l, vec4<i32>(kf));
}

// exp(d) * 2^64 as one rounded number, for d <= 0; 0 where far below.
fn exp_scaled4(d: Pair4, zero: u32) -> vec4<f32> {
    let e = exp_parts4(d, zero);
    let v = (e.y + e.l) * exp2_int4(max(e.k, vec4<i32>(-190)) + vec4<i32>(64));
    return select(vec4<f32>(0.0), v, d.high >= vec4<f32>(FAR_BELOW));
}

// What a row comes to.
struct RowStats {
    // The maximum, or the value that fills the row where `special` is set.
    top: f32,
    special: bool,
    // No entry takes part, or all of them are -inf.
    nothing: bool,
    // log S as a pair.
    log_s: vec2<f32>,
    // 1 / S as a pair, the first part with 12 significant bits.
    inverse: vec2<f32>,
}

// S = c + T as a normalised pair, from T times 2^64.
fn row_total(count: f32, t: vec2<f32>, zero: u32) -> vec2<f32> {
    let c = opaque(count * T_SCALE, zero);
    let sum = two_sum(c, t.x, zero);
    let s = fast_two_sum(sum.x, opaque(sum.y + t.y, zero), zero);
    return s * T_UNSCALE;
}

// log(c + T) as a pair. S in [1, 1.414) means c = 1, and then log1p(T) is taken of T itself.
fn row_log(s: vec2<f32>, t: vec2<f32>, zero: u32) -> vec2<f32> {
    let u = bitcast<u32>(s.x);
    let k = i32(u - 0x3f3504f3u) >> 23u;
    let down = exp2_int(-k);
    let mantissa = opaque(s.x * down - 1.0, zero);
    let split = fast_two_sum(mantissa, opaque(s.y * down, zero), zero);
    // Joined before it is scaled down: the error term on its own may be subnormal then, and lost where those are flushed.
    let joined = fast_two_sum(t.x, t.y, zero);
    let direct = vec2<f32>(opaque(joined.x * T_UNSCALE, zero), opaque(joined.y * T_UNSCALE, zero));
    let f = select(split, direct, k == 0);
    // log1p(f) = f - f^2/2 + q (f^2/2 + R(q^2)), q = f / (2 + f)
    let q = f.x / (2.0 + f.x);
    let z = q * q;
    let series = z * (0.666666687 + z * (0.400000006 + z * (0.285714298 + z * (0.222222224 + z * 0.181818187))));
    let square = two_product(f.x, f.x, zero);
    let half = opaque(-0.5 * square.x, zero);
    let head = two_sum(f.x, half, zero);
    let slope = f.y / (1.0 + f.x);
    let rest = q * (0.5 * square.x + series) - 0.5 * square.y;
    let tail = opaque(head.y + opaque(rest + slope, zero), zero);
    let kf = f32(k);
    let sum = two_sum(opaque(kf * LN2_HIGH, zero), head.x, zero);
    let low = opaque(sum.y + opaque(tail - kf * LN2_LOW, zero), zero);
    let result = two_sum(sum.x, low, zero);
    // For subnormal T the split of T * T has no meaning; log1p(T) is T there.
    return select(result, vec2<f32>(f.x, 0.0), k == 0 && f.x < 1.0e-18);
}

// 1 / S as a pair; right also where the driver's division is off by some ulp.
fn row_inverse(s: vec2<f32>, zero: u32) -> vec2<f32> {
    let estimate = 1.0 / s.x;
    let high = bitcast<f32>(bitcast<u32>(estimate) & 0xfffff000u);
    let parts = split12(s.x, zero);
    let residual = opaque(opaque(1.0 - parts.x * high, zero) - parts.y * high, zero) - s.y * high;
    return vec2<f32>(high, residual * estimate);
}

// weight * exp(d) / S. The exponent comes last, so that a probability below the normal range does not lose a large weight;
// in two steps, so that a subnormal result is rounded once where the driver keeps subnormals.
fn softmax_times4(d: Pair4, weight: vec4<f32>, stats: RowStats, zero: u32) -> vec4<f32> {
    let e = exp_parts4(d, zero);
    let yh = bitcast<vec4<f32>>(bitcast<vec4<u32>>(e.y) & vec4<u32>(0xfffff000u));
    let yl = opaque4(e.y - yh, zero) + e.l;
    let whole = stats.inverse.x + stats.inverse.y;
    let p = yh * stats.inverse.x + (yh * stats.inverse.y + yl * whole);
    let later = e.k / vec4<i32>(2);
    let v = opaque4(opaque4(p * exp2_int4(e.k - later), zero) * weight, zero) * exp2_int4(later);
    return select(vec4<f32>(0.0), v, d.high >= vec4<f32>(FAR_BELOW));
}

// exp(d) / S
fn softmax4(d: Pair4, stats: RowStats, zero: u32) -> vec4<f32> {
    return softmax_times4(d, vec4<f32>(1.0), stats, zero);
}

// d - log S
fn log_softmax4(d: Pair4, stats: RowStats, zero: u32) -> vec4<f32> {
    return opaque4(d.high - stats.log_s.x, zero) + opaque4(d.low - stats.log_s.y, zero);
}

// m + log S
fn logsumexp(stats: RowStats, zero: u32) -> f32 {
    let t = two_sum(stats.top, stats.log_s.x, zero);
    return t.x + (t.y + stats.log_s.y);
}
