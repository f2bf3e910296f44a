// Error-free transforms (needs bits.wgsl). Every intermediate goes through `opaque`, because compilers cancel the
// error term algebraically. Arguments must be settled: loaded from memory, or themselves results of `opaque` or of
// these functions; an open expression would be reassociated into them. All results are settled.
// Exact as long as nothing overflows and no error term falls below the normal range.

// a + b = x + y exactly, for any a and b.
fn two_sum(a: f32, b: f32, zero: u32) -> vec2<f32> {
    let s = opaque(a + b, zero);
    let bv = opaque(s - a, zero);
    let av = opaque(s - bv, zero);
    let da = opaque(a - av, zero);
    let db = opaque(b - bv, zero);
    return vec2<f32>(s, opaque(da + db, zero));
}

// The same for |a| >= |b| or a = 0.
fn fast_two_sum(a: f32, b: f32, zero: u32) -> vec2<f32> {
    let s = opaque(a + b, zero);
    let bv = opaque(s - a, zero);
    return vec2<f32>(s, opaque(b - bv, zero));
}

// x = high + low: the upper 12 bits of the significand and the rest, both exact.
fn split12(x: f32, zero: u32) -> vec2<f32> {
    let high = bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
    return vec2<f32>(high, opaque(x - high, zero));
}

// a * b = x + y exactly: the partial products of 12-bit halves are exact, with or without contraction.
fn two_product(a: f32, b: f32, zero: u32) -> vec2<f32> {
    let p = opaque(a * b, zero);
    let sa = split12(a, zero);
    let sb = split12(b, zero);
    let e0 = opaque(sa.x * sb.x - p, zero);
    let e1 = opaque(e0 + sa.x * sb.y, zero);
    let e2 = opaque(e1 + sa.y * sb.x, zero);
    return vec2<f32>(p, opaque(e2 + sa.y * sb.y, zero));
}

// Kahan summation: state (sum, carry), where sum - carry is the better value. Start at (first term, 0) or (0, 0).
fn kahan_add(state: vec2<f32>, x: f32, zero: u32) -> vec2<f32> {
    let y = opaque(x - state.y, zero);
    let t = opaque(state.x + y, zero);
    let dt = opaque(t - state.x, zero);
    return vec2<f32>(t, opaque(dt - y, zero));
}

// Pair summation: state (sum, error), where sum + error is the value; TwoSum a step, errors added up plainly.
fn pair_add(state: vec2<f32>, x: f32, zero: u32) -> vec2<f32> {
    let t = two_sum(state.x, x, zero);
    return vec2<f32>(t.x, opaque(state.y + t.y, zero));
}

// Sum of two pairs (sum, error). Symmetric in its arguments bit for bit, so butterfly reductions may use it.
fn pair_merge(a: vec2<f32>, b: vec2<f32>, zero: u32) -> vec2<f32> {
    let t = two_sum(a.x, b.x, zero);
    return vec2<f32>(t.x, opaque(t.y + opaque(a.y + b.y, zero), zero));
}

// Four transforms side by side: `high` holds the rounded results, `low` the errors (or carries).
struct Pair4 {
    high: vec4<f32>,
    low: vec4<f32>,
}

fn two_sum4(a: vec4<f32>, b: vec4<f32>, zero: u32) -> Pair4 {
    let s = opaque4(a + b, zero);
    let bv = opaque4(s - a, zero);
    let av = opaque4(s - bv, zero);
    let da = opaque4(a - av, zero);
    let db = opaque4(b - bv, zero);
    return Pair4(s, opaque4(da + db, zero));
}

fn fast_two_sum4(a: vec4<f32>, b: vec4<f32>, zero: u32) -> Pair4 {
    let s = opaque4(a + b, zero);
    let bv = opaque4(s - a, zero);
    return Pair4(s, opaque4(b - bv, zero));
}

fn split12_4(x: vec4<f32>, zero: u32) -> Pair4 {
    let high = bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) & vec4<u32>(0xfffff000u));
    return Pair4(high, opaque4(x - high, zero));
}

fn two_product4(a: vec4<f32>, b: vec4<f32>, zero: u32) -> Pair4 {
    let p = opaque4(a * b, zero);
    let sa = split12_4(a, zero);
    let sb = split12_4(b, zero);
    let e0 = opaque4(sa.high * sb.high - p, zero);
    let e1 = opaque4(e0 + sa.high * sb.low, zero);
    let e2 = opaque4(e1 + sa.low * sb.high, zero);
    return Pair4(p, opaque4(e2 + sa.low * sb.low, zero));
}

fn kahan_add4(state: Pair4, x: vec4<f32>, zero: u32) -> Pair4 {
    let y = opaque4(x - state.low, zero);
    let t = opaque4(state.high + y, zero);
    let dt = opaque4(t - state.high, zero);
    return Pair4(t, opaque4(dt - y, zero));
}

fn pair_add4(state: Pair4, x: vec4<f32>, zero: u32) -> Pair4 {
    let t = two_sum4(state.high, x, zero);
    return Pair4(t.high, opaque4(state.low + t.low, zero));
}

fn pair_merge4(a: Pair4, b: Pair4, zero: u32) -> Pair4 {
    let t = two_sum4(a.high, b.high, zero);
    return Pair4(t.high, opaque4(t.low + opaque4(a.low + b.low, zero), zero));
}

// pair_add4 for sums and terms that are not negative: the larger operand comes first, so FastTwoSum is exact.
fn pair_add_positive4(state: Pair4, x: vec4<f32>, zero: u32) -> Pair4 {
    let t = fast_two_sum4(max(state.high, x), min(state.high, x), zero);
    return Pair4(t.high, opaque4(state.low + t.low, zero));
}
