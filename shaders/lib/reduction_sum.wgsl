// Sums that neither overflow nor lose what is tiny (needs reduction_rows, error_free, elementary): terms x, |x|, x w or x x
// go, by magnitude, into one of three pairs (sum, error): as they are, times 2^-160, or times 2^174. NaN and infinities are
// counted by their bits and take no part in the arithmetic.

// Elements as they are loaded, and what a chunk leaves behind.
alias Four = vec4<f32>;

struct Record {
    a: vec4<u32>,
    b: vec4<u32>,
}

const FLAG_NAN: u32 = 1u;
const FLAG_INF: u32 = 2u;
const FLAG_NEG_INF: u32 = 4u;
// Terms from 2^-80 to 2^94 are ordinary: neither 2^31 of them nor their error terms leave the normal range.
const LOWEST: i32 = -80;
const HIGHEST: i32 = 93;
// Brings the least product of two floats, 2^-298, and 2^31 of the largest terms below 2^-80 into the normal range.
const SMALL: i32 = 174;

struct Sum {
    mid: vec2<f32>,
    big: vec2<f32>,
    small: vec2<f32>,
    flags: u32,
}

fn sum_merge(a: Sum, b: Sum) -> Sum {
    return Sum(
        pair_merge(a.mid, b.mid, params.zero),
        pair_merge(a.big, b.big, params.zero),
        pair_merge(a.small, b.small, params.zero),
        a.flags | b.flags,
    );
}

fn exchange_pair(v: vec2<f32>, at: u32, bit: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(exchange(bitcast<vec2<u32>>(v), at, bit));
}

fn sum_team(v: Sum, at: u32) -> Sum {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        let other = Sum(
            exchange_pair(result.mid, at, bit),
            exchange_pair(result.big, at, bit),
            exchange_pair(result.small, at, bit),
            exchange(vec2<u32>(result.flags, 0u), at, bit).x,
        );
        result = sum_merge(result, other);
    }
    return result;
}

// Largest magnitude met, as bits.
var<private> largest: u32;

// A term a * b that is not ordinary, given by bits.
fn add_odd(sum: Sum, a: u32, b: u32) -> Sum {
    var result = sum;
    let ma = a & 0x7fffffffu;
    let mb = b & 0x7fffffffu;
    let sign = (a ^ b) & 0x80000000u;
    if ma >= 0x7f800000u || mb >= 0x7f800000u {
        let bad = ma > 0x7f800000u || mb > 0x7f800000u || ma == 0u || mb == 0u;
        result.flags |= select(select(FLAG_NEG_INF, FLAG_INF, sign == 0u), FLAG_NAN, bad);
        return result;
    }
    if ma == 0u || mb == 0u {
        return result;
    }
    let fa = m_frexp_bits(ma);
    let fb = m_frexp_bits(mb);
    let p = two_product(bitcast<f32>(u32(fa.x) | sign), bitcast<f32>(fb.x), params.zero);
    let e = fa.y + fb.y;
    var shift = 0;
    if e > HIGHEST {
        shift = -160;
    } else if e < LOWEST {
        shift = SMALL;
    }
    let factor = bitcast<f32>(u32(e + shift + 127) << 23u);
    let term = vec2<f32>(opaque(p.x * factor, params.zero), opaque(p.y * factor, params.zero));
    if shift < 0 {
        result.big = pair_merge(result.big, term, params.zero);
    } else if shift > 0 {
        result.small = pair_merge(result.small, term, params.zero);
    } else {
        result.mid = pair_merge(result.mid, term, params.zero);
    }
    return result;
}

fn add_odd4(sum: Sum, a: vec4<u32>, b: vec4<u32>, odd: vec4<bool>) -> Sum {
    // Written out: some drivers count the iterations of all loops together.
    var result = sum;
    if odd.x {
        result = add_odd(result, a.x, b.x);
    }
    if odd.y {
        result = add_odd(result, a.y, b.y);
    }
    if odd.z {
        result = add_odd(result, a.z, b.z);
    }
    if odd.w {
        result = add_odd(result, a.w, b.w);
    }
    return result;
}

// Elements of a quad as bits of the two factors of their terms, and which of them are ordinary, and which are not.
struct Terms {
    a: vec4<u32>,
    b: vec4<u32>,
    ordinary: vec4<bool>,
    odd: vec4<bool>,
}

fn terms_of(quad: Quad) -> Terms {
    var ua = bitcast<vec4<u32>>(quad.x);
    let ma = ua & vec4<u32>(0x7fffffffu);
    if ABSOLUTE {
        ua = ma;
    }
    var ub = vec4<u32>(0x3f800000u);
    if PRODUCT {
        ub = select(ua, bitcast<vec4<u32>>(quad.w), vec4<bool>(TWO));
    }
    let mb = ub & vec4<u32>(0x7fffffffu);
    let ea = ma >> vec4<u32>(23u);
    let eb = mb >> vec4<u32>(23u);
    let lowest = vec4<u32>(u32(254 + LOWEST));
    let in_range = (ea + eb - lowest) <= vec4<u32>(u32(HIGHEST - LOWEST));
    let normal = (ea - vec4<u32>(1u) < vec4<u32>(254u)) & (eb - vec4<u32>(1u) < vec4<u32>(254u));
    let ordinary = quad.inside & in_range & normal;
    let nothing = ((ma == vec4<u32>(0u)) & (mb < vec4<u32>(0x7f800000u)))
        | ((mb == vec4<u32>(0u)) & (ma < vec4<u32>(0x7f800000u)));
    return Terms(ua, ub, ordinary, quad.inside & !ordinary & !nothing);
}

// Ordinary factors, the others as 0. Hidden, or the driver may drop what only NaN and infinity would need.
fn taken4(u: vec4<u32>, ordinary: vec4<bool>) -> vec4<f32> {
    return bitcast<vec4<f32>>(select(vec4<u32>(0u), u, ordinary) ^ vec4<u32>(params.zero));
}

// Sum over a chunk, in every lane of the team.
fn sweep_sum(chunk: Chunk, lane: u32, at: u32) -> Sum {
    var mids: array<Pair4, ACC>;
    var odds: array<Sum, ACC>;
    largest = 0u;
    var met_odd = false;
    let blocks = block_count(chunk.quads);
    let eight = block_length();
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            // Eight terms a component are summed plainly; what they come to is added error-free.
            var plain = vec4<f32>(0.0);
            for (var k = 0u; k < eight; k += 1u) {
                let q = quad_number(block, k, a, lane);
                if q < chunk.quads {
                    let quad = load_quad(chunk, q);
                    let terms = terms_of(quad);
                    met_odd |= any(terms.odd);
                    if VARIANCE {
                        let u = bitcast<vec4<u32>>(quad.x) & vec4<u32>(0x7fffffffu);
                        let seen = select(vec4<u32>(0u), u, quad.inside);
                        largest = max(largest, max(max(seen.x, seen.y), max(seen.z, seen.w)));
                    }
                    let x = taken4(terms.a, terms.ordinary);
                    if COMPENSATED && PRODUCT {
                        let p = two_product4(x, taken4(terms.b, terms.ordinary), params.zero);
                        mids[a] = pair_merge4(mids[a], p, params.zero);
                    } else if COMPENSATED {
                        mids[a] = pair_add4(mids[a], x, params.zero);
                    } else if PRODUCT {
                        plain += x * taken4(terms.b, terms.ordinary);
                    } else {
                        plain += x;
                    }
                }
            }
            if !COMPENSATED {
                mids[a] = pair_add4(mids[a], opaque4(plain, params.zero), params.zero);
            }
        }
    }
    if met_odd {
        // Once more for the terms left out, in the same order; apart, so that the loop above stays small.
        let steps = blocks * 8u * ACC;
        for (var step = 0u; step < steps; step += 1u) {
            let q = step * TEAM + lane;
            if q < chunk.quads {
                let terms = terms_of(load_quad(chunk, q));
                if any(terms.odd) {
                    odds[step % ACC] = add_odd4(odds[step % ACC], terms.a, terms.b, terms.odd);
                }
            }
        }
    }
    for (var a = 0u; a < ACC; a += 1u) {
        odds[a].mid = pair_merge(odds[a].mid, fold4(mids[a], params.zero), params.zero);
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            odds[a] = sum_merge(odds[a], odds[a + half]);
        }
    }
    return sum_team(odds[0], at);
}

// (high + low) * 2^exponent with |high| in [1, 2), or 0.
struct Scaled {
    high: f32,
    low: f32,
    exponent: i32,
}

fn scaled_pair(v: vec2<f32>, k: i32) -> vec2<f32> {
    return vec2<f32>(opaque(m_scale2(v.x, k, params.zero), params.zero), opaque(m_scale2(v.y, k, params.zero), params.zero));
}

// The three pairs of finite terms as one number.
fn sum_total(sum: Sum) -> Scaled {
    var v = fast_two_sum(sum.mid.x, sum.mid.y, params.zero);
    let big = fast_two_sum(sum.big.x, sum.big.y, params.zero);
    let small = fast_two_sum(sum.small.x, sum.small.y, params.zero);
    var e = 0;
    if big.x != 0.0 {
        v = pair_merge(big, scaled_pair(v, -160), params.zero);
        e = 160;
    } else if small.x != 0.0 {
        if v.x == 0.0 {
            v = small;
            e = -SMALL;
        } else {
            v = pair_merge(v, scaled_pair(small, -SMALL), params.zero);
        }
    }
    v = fast_two_sum(v.x, v.y, params.zero);
    let magnitude = bitcast<u32>(v.x) & 0x7fffffffu;
    if magnitude < 0x00800000u {
        return Scaled(0.0, 0.0, 0);
    }
    let own = m_frexp_bits(magnitude).y;
    v = scaled_pair(v, -own);
    return Scaled(v.x, v.y, e + own);
}

// Divided by a number given as a pair.
fn scaled_over(s: Scaled, divisor: vec2<f32>) -> f32 {
    let r = m_recip_parts(divisor.x, divisor.y, params.zero);
    return opaque(m_times_recip(s.high, s.low, r, params.zero), params.zero);
}

fn times_power(v: f32, exponent: i32) -> f32 {
    return m_scale2(v, clamp(exponent, -200, 200), params.zero);
}

// Square root of a number in [1, 4) given as a pair: the builtin's is refined by its exact residual.
fn root(high: f32, low: f32) -> f32 {
    let y = opaque(sqrt(high), params.zero);
    let p = two_product(y, y, params.zero);
    let r = opaque(opaque(high - p.x, params.zero) - p.y, params.zero) + low;
    return y + opaque(r / (2.0 * y), params.zero);
}

// Square root; its significand is from 1 to 2, or 0.
fn scaled_root(s: Scaled) -> Scaled {
    if s.high == 0.0 {
        return Scaled(0.0, 0.0, 0);
    }
    let odd = (s.exponent & 1) != 0;
    let factor = select(1.0, 2.0, odd);
    let half = (s.exponent - select(0, 1, odd)) / 2;
    return Scaled(root(s.high * factor, s.low * factor), 0.0, half);
}

fn root_scaled(s: Scaled) -> f32 {
    if s.high == 0.0 {
        return 0.0;
    }
    let r = scaled_root(s);
    return times_power(r.high, r.exponent);
}

fn log_scaled(s: Scaled) -> f32 {
    if s.high == 0.0 {
        return neg_inf_f32();
    }
    if s.high < 0.0 {
        return nan_f32();
    }
    let v = bitcast<u32>(s.high);
    let e = m_log_exponent(v);
    let m = bitcast<f32>(v - (bitcast<u32>(e) << 23u));
    let f = opaque(m - 1.0, params.zero);
    let c = s.low * bitcast<f32>(u32(127 - e) << 23u);
    return m_log_core(f, f32(e + s.exponent), c / m, params.zero);
}
