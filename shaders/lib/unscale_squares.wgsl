// Sums of squares with an exponent of their own (needs wide.wgsl and error_free.wgsl), and the worst class met.

// (high + low) * 4^exponent; worst: 0 all finite, 1 an infinity, 2 a NaN.
struct Squares {
    exponent: i32,
    worst: u32,
    high: f32,
    low: f32,
}

// The same in four lanes while elements come in.
struct Running {
    exponent: i32,
    worst: u32,
    sum: Pair4,
}

// Below every exponent that an element has.
const NO_EXPONENT: i32 = -1000;

fn no_squares() -> Running {
    return Running(NO_EXPONENT, 0u, Pair4(vec4<f32>(0.0), vec4<f32>(0.0)));
}

// Adds the squares of four elements, given without their signs.
fn add_squares(state: Running, magnitude: vec4<u32>, zero: u32) -> Running {
    let largest = max(max(magnitude.x, magnitude.y), max(magnitude.z, magnitude.w));
    if largest == 0u {
        return state;
    }
    if largest >= 0x7f800000u {
        // No sum is asked for any more.
        return Running(state.exponent, max(state.worst, select(1u, 2u, largest > 0x7f800000u)), state.sum);
    }
    let parts = parts4(magnitude);
    let top = max(max(parts.exponent.x, parts.exponent.y), max(parts.exponent.z, parts.exponent.w)) - 127;
    var next = state;
    if top > state.exponent {
        let k = down(2 * (top - state.exponent));
        next.exponent = top;
        next.sum = Pair4(opaque4(state.sum.high * k, zero), opaque4(state.sum.low * k, zero));
    }
    // Relative to 2^exponent an element lies below 2; what is below 2^-62 does not count beside the largest.
    let relative = parts.exponent - vec4<i32>(next.exponent);
    let bits = (vec4<u32>(max(relative, vec4<i32>(0))) << vec4<u32>(23u)) | parts.fraction;
    let counts = (magnitude != vec4<u32>(0u)) & (relative > vec4<i32>(64));
    let y = opaque4(select(vec4<f32>(0.0), bitcast<vec4<f32>>(bits), counts), zero);
    next.sum = pair_add_positive4(next.sum, opaque4(y * y, zero), zero);
    return next;
}

fn settle_squares(state: Running, zero: u32) -> Squares {
    let sum = fold4(state.sum, zero);
    return Squares(state.exponent, state.worst, sum.x, sum.y);
}

fn merge_squares(a: Squares, b: Squares, zero: u32) -> Squares {
    let exponent = max(a.exponent, b.exponent);
    let ka = down(2 * (exponent - a.exponent));
    let kb = down(2 * (exponent - b.exponent));
    let sum = pair_merge(
        vec2<f32>(opaque(a.high * ka, zero), opaque(a.low * ka, zero)),
        vec2<f32>(opaque(b.high * kb, zero), opaque(b.low * kb, zero)),
        zero,
    );
    return Squares(exponent, max(a.worst, b.worst), sum.x, sum.y);
}

// As fold4 of reduce.wgsl, which needs a team.
fn fold4(v: Pair4, zero: u32) -> vec2<f32> {
    let even = pair_merge(vec2<f32>(v.high.x, v.low.x), vec2<f32>(v.high.z, v.low.z), zero);
    let odd = pair_merge(vec2<f32>(v.high.y, v.low.y), vec2<f32>(v.high.w, v.low.w), zero);
    return pair_merge(even, odd, zero);
}
