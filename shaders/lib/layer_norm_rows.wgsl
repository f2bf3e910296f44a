// Rows of layer_norm and rms_norm: parameters, where rows lie, their statistics, and what is written (needs reduce and
// layer_norm_weight*, _bias*, _upstream*). RMS says which of the two, WHOLE that rows end on multiples of four elements.
//
// A row is scaled by the power of two that brings its largest magnitude near 1, so that neither sums nor squares leave the
// range; the scale returns when results are written. Sums are pairs (sum, error). The mean is a pair, differences from it
// are pairs, and squares are summed without their rounding, so of the statistics only the reciprocal root is rounded.

struct Params {
    // Row dimensions, innermost first, and the strides of the tensors along them, in elements.
    sizes: vec4<u32>,
    x_strides: vec4<u32>,
    y_strides: vec4<u32>,
    upstream_strides: vec4<u32>,
    weight_strides: vec4<u32>,
    bias_strides: vec4<u32>,
    // Element of the binding at which row 0 begins, and from one element of a row to the next: x, y, upstream, weight.
    bases: vec4<u32>,
    steps: vec4<u32>,
    bias_base: u32,
    bias_step: u32,
    // Record of row 0 in the binding of the row records.
    record_base: u32,
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Rows of this dispatch (for split rows: chunks), their length, workgroups along x, number of row 0 among all rows.
    rows: u32,
    len: u32,
    grid_x: u32,
    first_row: u32,
    // Split rows: chunks a row has in all, the first of them in this dispatch, elements a chunk.
    chunks: u32,
    first_chunk: u32,
    chunk_len: u32,
    // eps = (eps.x + eps.y) * 4^eps_half, with eps.x in [1, 4) or 0.
    eps_half: i32,
    // Reciprocals as pairs: of the length of a row and of a chunk; of the last chunk.
    inverse: vec2<f32>,
    inverse_chunk: vec2<f32>,
    inverse_last: vec2<f32>,
    eps: vec2<f32>,
}

@group(0) @binding(0) var<uniform> params: Params;

// What stands in for a row without one: no value, and no half exponent is as low.
const NONE: i32 = -1000;

const ORDINARY: u32 = 0u;
const NOT_A_NUMBER: u32 = 1u;
// A row of rms_norm with an infinity and no NaN: x / inf.
const INFINITE: u32 = 2u;

// Where a row begins in each tensor.
struct Row {
    x: u32,
    y: u32,
    upstream: u32,
    weight: u32,
    bias: u32,
}

fn along(index: vec4<u32>, strides: vec4<u32>) -> u32 {
    let at = index * strides;
    return at.x + at.y + at.z + at.w;
}

fn locate_row(row: u32) -> Row {
    let a = row / params.sizes.x;
    let b = a / params.sizes.y;
    let c = b / params.sizes.z;
    let index = vec4<u32>(row % params.sizes.x, a % params.sizes.y, b % params.sizes.z, c);
    return Row(
        params.bases.x + along(index, params.x_strides),
        params.bases.y + along(index, params.y_strides),
        params.bases.z + along(index, params.upstream_strides),
        params.bases.w + along(index, params.weight_strides),
        params.bias_base + along(index, params.bias_strides),
    );
}

// Which of four elements starting at j lie below `end`.
fn inside4(j: u32, end: u32) -> vec4<bool> {
    if WHOLE {
        return vec4<bool>(true);
    }
    return vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(end);
}

// How many of the four elements from j on lie below `end`, where at least one does.
fn present(j: u32, end: u32) -> u32 {
    return select(min(4u, end - j), 4u, WHOLE);
}

// The one NaN that kernels write in place of any other.
fn canonical4(v: vec4<f32>) -> vec4<f32> {
    let magnitude = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
    return select(v, vec4<f32>(nan_f32()), magnitude > vec4<u32>(0x7f800000u));
}

// 2^k for a normal number.
fn power_of_two(k: i32) -> f32 {
    return bitcast<f32>(u32(k + 127) << 23u);
}

// v * 2^k for |k| up to 200, rounded only where the result leaves the range.
fn scale_by4(v: vec4<f32>, k: i32) -> vec4<f32> {
    let first = clamp(k, -100, 100);
    let once = opaque4(v * power_of_two(first), params.zero);
    return opaque4(once * power_of_two(clamp(k - first, -100, 100)), params.zero);
}

// Product of two pairs.
fn pair_product(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    let p = two_product(a.x, b.x, params.zero);
    let cross = opaque(a.x * b.y, params.zero) + opaque(a.y * b.x, params.zero);
    return fast_two_sum(p.x, opaque(p.y + opaque(cross, params.zero), params.zero), params.zero);
}

// Largest ordered key of a row and largest complement of one; 0 where there is no element.
fn extremes4(x: vec4<f32>, inside: vec4<bool>) -> vec2<u32> {
    let keys = ordered4(x);
    let above = select(vec4<u32>(0u), keys, inside);
    let below = select(vec4<u32>(0u), ~keys, inside);
    return vec2<u32>(max(max(above.x, above.y), max(above.z, above.w)), max(max(below.x, below.y), max(below.z, below.w)));
}

fn team_extremes(v: vec2<u32>, at: u32) -> vec2<u32> {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        result = max(result, exchange(result, at, bit));
    }
    return result;
}

// A row's class and scale: its elements are x = scaled * 2^e with |scaled| below 4.
struct Scale {
    status: u32,
    // All elements are equal.
    constant: bool,
    e: i32,
    factor: f32,
    // Elements below the normal range count, so they are not left to a multiplication that may flush them.
    tiny: bool,
    lift: f32,
}

fn row_scale(extremes: vec2<u32>) -> Scale {
    let top = unordered_bits(extremes.x);
    let bottom = unordered_bits(~extremes.y);
    let magnitude = max(top & 0x7fffffffu, bottom & 0x7fffffffu);
    var scale: Scale;
    scale.constant = extremes.x == ~extremes.y;
    scale.status = ORDINARY;
    if is_nan_bits(top) {
        scale.status = NOT_A_NUMBER;
    } else if magnitude == 0x7f800000u {
        scale.status = select(NOT_A_NUMBER, INFINITE, RMS);
    }
    let field = i32(magnitude >> 23u);
    scale.e = min(field - 127, 126);
    if field == 0 {
        scale.e = select(i32(firstLeadingBit(magnitude)) - 149, 0, magnitude == 0u);
    }
    scale.factor = power_of_two(min(-scale.e, 127));
    scale.tiny = scale.e < -60;
    scale.lift = power_of_two(clamp(-149 - scale.e, -126, 0));
    return scale;
}

// Elements over 2^e, exactly where it matters.
fn scaled4(x: vec4<f32>, scale: Scale) -> vec4<f32> {
    let plain = opaque4(x * scale.factor, params.zero);
    if !scale.tiny {
        return plain;
    }
    let bits = bitcast<vec4<u32>>(x);
    let magnitude = bits & vec4<u32>(0x7fffffffu);
    let lifted = bitcast<vec4<u32>>(vec4<f32>(magnitude) * scale.lift) | (bits & vec4<u32>(0x80000000u));
    return select(plain, opaque4(bitcast<vec4<f32>>(lifted), params.zero), magnitude < vec4<u32>(0x00800000u));
}

// Difference from the mean as a pair; for rms_norm the element itself.
fn centred4(scaled: vec4<f32>, mean: vec2<f32>) -> Pair4 {
    if RMS {
        return Pair4(scaled, vec4<f32>(0.0));
    }
    let t = two_sum4(scaled, vec4<f32>(-mean.x), params.zero);
    return two_sum4(t.high, opaque4(t.low - mean.y, params.zero), params.zero);
}

// What the results of a row follow from. With x = scaled * 2^e: 1 / sqrt(variance + eps) = r * 2^-f, and the
// normalised element is (scaled - mean) * r * 2^(e - f).
struct Stats {
    scale: Scale,
    mean: vec2<f32>,
    r: vec2<f32>,
    f: i32,
    k: i32,
}

// Half the exponent of a positive normal number, rounded down.
fn half_exponent(v: f32) -> i32 {
    return (i32(bitcast<u32>(v) >> 23u) - 127) >> 1u;
}

// A pair times 4^h for h <= 0; 0 where that would fall out of the range.
fn quarter(v: vec2<f32>, h: i32) -> vec2<f32> {
    return select(vec2<f32>(0.0), v * power_of_two(max(2 * h, -100)), h >= -50);
}

// 1 / sqrt(t) as a pair, for t in [1, 16).
fn reciprocal_root(t: vec2<f32>) -> vec2<f32> {
    let rough = inverseSqrt(t.x);
    let better = opaque(rough * (1.5 - 0.5 * t.x * rough * rough), params.zero);
    // One more step of Newton's, the residual 1 - t r^2 without rounding.
    let square = two_product(better, better, params.zero);
    let product = two_product(t.x, square.x, params.zero);
    let head = opaque(1.0 - product.x, params.zero);
    let rest = opaque(t.x * square.y, params.zero) + opaque(t.y * square.x, params.zero);
    let residual = opaque(head - product.y, params.zero) - opaque(rest, params.zero);
    return fast_two_sum(better, opaque(0.5 * better * opaque(residual, params.zero), params.zero), params.zero);
}

// From the mean of a row and the sum of squares of differences from it, both of scaled elements.
fn row_stats(scale: Scale, mean: vec2<f32>, squares: vec2<f32>) -> Stats {
    var s = Stats(scale, mean, vec2<f32>(0.0), 0, 0);
    var variance = pair_product(squares, params.inverse);
    if !RMS && scale.constant {
        variance = vec2<f32>(0.0);
    }
    var half = 0;
    var place = NONE;
    if variance.x > 0.0 {
        half = half_exponent(variance.x);
        place = scale.e + half;
    }
    s.f = max(place, params.eps_half);
    s.k = scale.e - s.f;
    if s.f == NONE {
        // 0 / sqrt(0).
        s.scale.status = max(s.scale.status, NOT_A_NUMBER);
        s.f = 0;
        s.k = 0;
        return s;
    }
    let unit = variance * vec2<f32>(power_of_two(clamp(-2 * half, -126, 126)));
    let v = quarter(unit, place - s.f);
    let eps = quarter(params.eps, params.eps_half - s.f);
    let t = two_sum(opaque(v.x, params.zero), opaque(eps.x, params.zero), params.zero);
    s.r = reciprocal_root(fast_two_sum(t.x, opaque(t.y + opaque(v.y + eps.y, params.zero), params.zero), params.zero));
    return s;
}

// Four results of the forward pass.
fn normalised4(x: vec4<f32>, row: Row, j: u32, n: u32, s: Stats) -> vec4<f32> {
    if s.scale.status != ORDINARY {
        let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
        let lost = (bits >= vec4<u32>(0x7f800000u)) | vec4<bool>(s.scale.status == NOT_A_NUMBER);
        return select(vec4<f32>(0.0), vec4<f32>(nan_f32()), lost);
    }
    let d = centred4(scaled4(x, s.scale), s.mean);
    let p = opaque4(opaque4(d.high + d.low, params.zero) * s.r.x, params.zero);
    var v: vec4<f32>;
    if HAS_WEIGHT {
        let w = weight4(row, j, n);
        if s.k >= 0 {
            v = opaque4(p * power_of_two(s.k), params.zero) * w;
        } else {
            // The scale goes where neither factor leaves the range before the result does.
            let first = max(s.k, -100);
            let large = abs(w) >= vec4<f32>(1.0);
            let a = select(w, opaque4(w * power_of_two(first), params.zero), large);
            let b = select(scale_by4(p, s.k), scale_by4(p, s.k - first), large);
            v = a * b;
        }
    } else {
        v = scale_by4(p, s.k);
    }
    if HAS_BIAS {
        v = opaque4(v, params.zero) + bias4(row, j, n);
    }
    return v;
}

// The difference from the mean in units of 2^f: without r, but otherwise the normalised element.
fn deviation4(x: vec4<f32>, s: Stats) -> Pair4 {
    let d = centred4(scaled4(x, s.scale), s.mean);
    let unit = power_of_two(clamp(s.k, -126, 126));
    return Pair4(opaque4(d.high * unit, params.zero), opaque4(d.low * unit, params.zero));
}

// Upstream gradient times weight.
fn weighed4(row: Row, j: u32, n: u32) -> vec4<f32> {
    let g = upstream4(row, j, n);
    if HAS_WEIGHT {
        return opaque4(g * weight4(row, j, n), params.zero);
    }
    return g;
}

// What the gradient of a row takes off: the mean of the weighed upstream gradient, and the factor of the deviation.
struct Corrections {
    mean: f32,
    slope: f32,
}

fn corrections(dot: vec2<f32>, total: vec2<f32>, s: Stats) -> Corrections {
    var c = Corrections(0.0, 0.0);
    if is_finite(dot.x) {
        c.slope = pair_value(pair_product(pair_product(pair_product(dot, params.inverse), s.r), s.r));
    } else {
        c.slope = dot.x;
    }
    if !RMS {
        c.mean = select(total.x, pair_value(pair_product(total, params.inverse)), is_finite(total.x));
    }
    return c;
}

// Four elements of the gradient.
fn gradient4(x: vec4<f32>, row: Row, j: u32, n: u32, s: Stats, c: Corrections) -> vec4<f32> {
    if s.scale.status != ORDINARY {
        return vec4<f32>(nan_f32());
    }
    let d = deviation4(x, s);
    var v = weighed4(row, j, n);
    if !RMS {
        v = opaque4(v - c.mean, params.zero);
    }
    v = opaque4(v - opaque4(opaque4(d.high + d.low, params.zero) * c.slope, params.zero), params.zero);
    return scale_by4(opaque4(v * s.r.x, params.zero), -s.f);
}
