// Collectives over teams of TEAM neighbouring positions (a power of two; needs exchange_*.wgsl, error_free.wgsl). Every
// invocation of the workgroup takes part and every one of a team gets the result. The tree is fixed: the highest bit
// of the position first. Each step begins with its own barrier, so calls may follow each other.

fn team_max(v: u32, at: u32) -> u32 {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        result = max(result, exchange(vec2<u32>(result, 0u), at, bit).x);
    }
    return result;
}

fn team_count(v: u32, at: u32) -> u32 {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        result += exchange(vec2<u32>(result, 0u), at, bit).x;
    }
    return result;
}

// Sum of pairs (sum, error).
fn team_sum(v: vec2<f32>, at: u32, zero: u32) -> vec2<f32> {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        let other = bitcast<vec2<f32>>(exchange(bitcast<vec2<u32>>(result), at, bit));
        result = pair_merge(result, other, zero);
    }
    return result;
}

// The four components of a Pair4 as one pair.
fn fold4(v: Pair4, zero: u32) -> vec2<f32> {
    let even = pair_merge(vec2<f32>(v.high.x, v.low.x), vec2<f32>(v.high.z, v.low.z), zero);
    let odd = pair_merge(vec2<f32>(v.high.y, v.low.y), vec2<f32>(v.high.w, v.low.w), zero);
    return pair_merge(even, odd, zero);
}

// A pair as one number; an infinite or NaN sum has no meaningful error term.
fn pair_value(v: vec2<f32>) -> f32 {
    return select(v.x, v.x + v.y, is_finite(v.x));
}
