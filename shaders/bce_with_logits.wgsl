// Binary cross-entropy of logits: losses, their sum, and the gradient of the logits, in one reading. With a = 1 - target and
// b = pos_weight * target the loss is weight * (a softplus(x) + b softplus(-x)) and its gradient
// weight * (a sigmoid(x) - b sigmoid(-x)): for targets within [0, 1] no term of the loss cancels another.
//
// An invocation computes `rounds` quads of four elements. For sums a workgroup leaves one partial, a pair (sum, error) with a
// unit; a second dispatch of one workgroup adds the partials up. The tree depends on the shape alone.
//
// Elements whose factors are so large or small that a product of some of them might leave the range are odd: they are done one by
// one, with significands and exponents apart.
//
// Bindings: 0 params, 1 x, 2 target, 3 weight, 4 pos_weight, 5 upstream, 6 loss, 7 grad, 8 partials. Weights and upstream
// that are not given are bound to a 1 with stride 0. Barriers: only in the collectives of lib/reduce.wgsl, which all invocations
// reach.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read> target_data: array<target_unit>;
@group(0) @binding(3) var<storage, read> weight_data: array<weight_unit>;
@group(0) @binding(4) var<storage, read> pos_weight_data: array<pos_weight_unit>;
@group(0) @binding(5) var<storage, read> upstream_data: array<upstream_unit>;
@group(0) @binding(6) var<storage, read_write> loss_data: array<loss_unit>;
@group(0) @binding(7) var<storage, read_write> grad_data: array<grad_unit>;
@group(0) @binding(8) var<storage, read_write> partials: array<vec4<u32>>;

struct Inputs {
    x: vec4<f32>,
    weight: vec4<f32>,
    // Coefficients of softplus(x) and softplus(-x).
    a: vec4<f32>,
    b: vec4<f32>,
    bad: vec4<bool>,
    v: Logistic4,
    label: vec4<f32>,
    positive: vec4<f32>,
    odd: vec4<bool>,
}

// Which are finite and neither 0 nor of a magnitude from `least` to `most`; `least` is at least 1.
fn beyond4(x: vec4<f32>, least: u32, most: u32) -> vec4<bool> {
    let magnitude = bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu);
    // Differences below 0 are large.
    let low = magnitude - vec4<u32>(1u) < vec4<u32>(least - 1u);
    return low | (magnitude - vec4<u32>(most + 1u) < vec4<u32>(0x7f7fffffu - most));
}

fn infinite4(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x7f800000u);
}

// 2^-60, 2^-30 and 2^30: of such factors no product, and of 2^31 such losses no sum, passes 2^125.
const TINY: u32 = 0x21800000u;
const SMALL: u32 = 0x30800000u;
const LARGE: u32 = 0x4e800000u;

fn inputs4(quad: Quad) -> Inputs {
    let x = x_load4(element_of(X, quad), step_of(X), quad.count);
    let label = target_load4(element_of(LABEL, quad), step_of(LABEL), quad.count);
    let weight = weight_load4(element_of(WEIGHT, quad), step_of(WEIGHT), quad.count);
    let positive = pos_weight_load4(element_of(POS_WEIGHT, quad), step_of(POS_WEIGHT), quad.count);
    let a = opaque4(1.0 - label, params.zero);
    let b = opaque4(positive * label, params.zero);
    let bad = is_nan4(x) | is_nan4(label) | is_nan4(weight) | is_nan4(positive);
    let far = beyond4(x, 1u, LARGE) | beyond4(weight, SMALL, LARGE) | beyond4(label, TINY, LARGE) | beyond4(positive, SMALL, LARGE);
    var i = Inputs(x, weight, a, b, bad, logistic4(x, params.zero), label, positive, far);
    if any(far) {
        i.odd = far & ordinary4(i);
    }
    return i;
}

// A factor of an odd element.
fn wide_of(v: vec4<f32>, c: u32) -> Wide {
    return signed_wide(v[c], params.zero);
}

fn times(a: Wide, b: Wide) -> Wide {
    return signed_mul(a, b, params.zero);
}

fn odd_loss(i: Inputs, c: u32) -> Wide {
    let rest = logistic_log4(i.v, params.zero);
    var above = wide_of(opaque4(softplus_of4(i.x, rest, params.zero), params.zero), c);
    var below = wide_of(opaque4(softplus_of4(-i.x, rest, params.zero), params.zero), c);
    if i.v.exponent[c] < -40 {
        // log(1 + exp(-a)) is exp(-a), which may be too small for f32, but not for the weights.
        var tail = signed_normal(vec2<f32>(i.v.e.high[c], i.v.e.low[c]), i.v.exponent[c], params.zero);
        if abs(i.x[c]) >= 256.0 {
            tail = nothing_wide();
        }
        if i.x[c] < 0.0 {
            above = tail;
        } else {
            below = tail;
        }
    }
    above = times(wide_of(i.a, c), above);
    below = times(times(wide_of(i.positive, c), wide_of(i.label, c)), below);
    return times(wide_of(i.weight, c), signed_add(above, below, params.zero));
}

fn odd_gradient(i: Inputs, upstream: vec4<f32>, c: u32) -> f32 {
    let r = logistic_recip4(i.v, params.zero);
    let p = times_recip4(i.v.e, r, params.zero);
    let factor = times(times(wide_of(upstream, c), signed_wide(params.scale, params.zero)), wide_of(i.weight, c));
    if !is_finite(signed_f32(factor, params.zero)) {
        return nan_f32();
    }
    var a = wide_of(i.a, c);
    var b = times(wide_of(i.positive, c), wide_of(i.label, c));
    var tail = signed_normal(vec2<f32>(p.high[c], p.low[c]), i.v.exponent[c], params.zero);
    if abs(i.x[c]) >= 256.0 {
        tail = nothing_wide();
    }
    let rest = signed_normal(vec2<f32>(r.high[c], r.low[c]), 0, params.zero);
    let negative = i.x[c] < 0.0;
    a = times(a, factor);
    b = times(b, factor);
    if negative {
        a = times(a, tail);
        b = times(b, rest);
    } else {
        a = times(a, rest);
        b = times(b, tail);
    }
    b.high = -b.high;
    b.low = -b.low;
    return signed_f32(signed_add(a, b, params.zero), params.zero);
}

fn loss4(i: Inputs) -> vec4<f32> {
    let rest = logistic_log4(i.v, params.zero);
    let above = opaque4(i.a * opaque4(softplus_of4(i.x, rest, params.zero), params.zero), params.zero);
    let below = opaque4(i.b * opaque4(softplus_of4(-i.x, rest, params.zero), params.zero), params.zero);
    var value = opaque4(above + below, params.zero);
    // Infinite logits as (1 - target) x + .. softplus(-x) has them: -inf gives inf - inf, +inf counts by its coefficient.
    let sign = select(vec4<f32>(nan_f32()), vec4<f32>(inf_f32()), i.a > vec4<f32>(0.0));
    let counted = select(sign, vec4<f32>(neg_inf_f32()), i.a < vec4<f32>(0.0));
    value = select(value, select(counted, vec4<f32>(nan_f32()), is_negative4(i.x)), is_inf4(i.x));
    return select(opaque4(value, params.zero) * i.weight, vec4<f32>(nan_f32()), i.bad);
}

fn gradient4(i: Inputs, quad: Quad) -> vec4<f32> {
    let upstream = upstream_load4(element_of(UPSTREAM, quad), step_of(UPSTREAM), quad.count);
    let c = opaque4(opaque4(upstream * params.scale, params.zero) * i.weight, params.zero);
    let negative = is_negative4(i.x);
    let ca = opaque4(c * i.a, params.zero);
    let cb = opaque4(c * i.b, params.zero);
    let r = logistic_recip4(i.v, params.zero);
    let p = times_recip4(i.v.e, r, params.zero);
    // Of sigmoid(x) and sigmoid(-x) one is below 1/2, and tiny where x is large.
    let small = scaled_product4(p.high, i.v.exponent, select(cb, ca, negative), params.zero);
    let large = opaque4(opaque4(r.high + r.low, params.zero) * select(ca, cb, negative), params.zero);
    var value = select(large - small, small - large, negative);
    value = select(value, vec4<f32>(nan_f32()), i.bad | is_nan4(c) | is_inf4(c));
    let far = i.odd | beyond4(upstream, SMALL, LARGE);
    if any(far) {
        let odd = far & ordinary4(i) & !infinite4(upstream);
        for (var k = 0u; k < 4u; k += 1u) {
            if odd[k] {
                value[k] = odd_gradient(i, upstream, k);
            }
        }
    }
    return value;
}

// Elements none of whose inputs is infinite or NaN.
fn ordinary4(i: Inputs) -> vec4<bool> {
    return !(infinite4(i.x) | infinite4(i.weight) | infinite4(i.label) | infinite4(i.positive));
}

fn write_losses(quad: Quad, i: Inputs) {
    var value = loss4(i);
    if any(i.odd) {
        for (var k = 0u; k < 4u; k += 1u) {
            if i.odd[k] {
                value[k] = signed_f32(odd_loss(i, k), params.zero);
            }
        }
    }
    loss_store4(element_of(LOSS, quad), step_of(LOSS), quad.count, value);
}

fn write_gradients(quad: Quad, i: Inputs) {
    grad_store4(element_of(GRAD, quad), step_of(GRAD), quad.count, gradient4(i, quad));
}

struct Sums {
    plain: Pair4,
    odd: Scaled,
}

fn add_losses(given: Sums, quad: Quad, i: Inputs) -> Sums {
    var sums = given;
    let exists = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(quad.count);
    sums.plain = pair_add4(sums.plain, select(vec4<f32>(0.0), loss4(i), exists & !i.odd), params.zero);
    if any(exists & i.odd) {
        for (var k = 0u; k < 4u; k += 1u) {
            if exists[k] && i.odd[k] {
                sums.odd = scaled_merge(sums.odd, scaled_of(odd_loss(i, k)), params.zero);
            }
        }
    }
    return sums;
}

fn scaled_of(w: Wide) -> Scaled {
    return Scaled(vec2<f32>(w.high, w.low), w.exponent);
}

fn no_sums() -> Sums {
    return Sums(Pair4(vec4<f32>(0.0), vec4<f32>(0.0)), no_sum());
}

fn write_partial(sums: Sums, inv: Invocation) {
    let at = position(inv);
    let plain = scaled_of(signed_normal(fold4(sums.plain, params.zero), 0, params.zero));
    let total = team_scaled(scaled_merge(plain, sums.odd, params.zero), at, params.zero);
    let number = inv.group.x + inv.group.y * params.grid_x;
    if at == 0u && number < params.partials {
        partials[params.first_partial + number] = vec4<u32>(bitcast<vec2<u32>>(total.pair), bitcast<u32>(total.unit), 0u);
    }
}

@compute @workgroup_size(WG)
fn losses(inv: Invocation) {
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(inv.group, inv.local, round);
        if quad.count > 0u {
            write_losses(quad, inputs4(quad));
        }
    }
}

@compute @workgroup_size(WG)
fn gradients(inv: Invocation) {
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(inv.group, inv.local, round);
        if quad.count > 0u {
            write_gradients(quad, inputs4(quad));
        }
    }
}

@compute @workgroup_size(WG)
fn losses_and_gradients(inv: Invocation) {
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(inv.group, inv.local, round);
        if quad.count > 0u {
            let i = inputs4(quad);
            write_losses(quad, i);
            write_gradients(quad, i);
        }
    }
}

@compute @workgroup_size(WG)
fn sums(inv: Invocation) {
    var all = no_sums();
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(inv.group, inv.local, round);
        if quad.count > 0u {
            all = add_losses(all, quad, inputs4(quad));
        }
    }
    write_partial(all, inv);
}

@compute @workgroup_size(WG)
fn sums_and_gradients(inv: Invocation) {
    var all = no_sums();
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(inv.group, inv.local, round);
        if quad.count > 0u {
            let i = inputs4(quad);
            all = add_losses(all, quad, i);
            write_gradients(quad, i);
        }
    }
    write_partial(all, inv);
}

@compute @workgroup_size(WG)
fn merge_partials(inv: Invocation) {
    var all = no_sum();
    for (var i = inv.local; i < params.partials; i += WG) {
        let v = partials[i];
        all = scaled_merge(all, Scaled(bitcast<vec2<f32>>(v.xy), bitcast<i32>(v.z)), params.zero);
    }
    let at = position(inv);
    let sum = team_scaled(all, at, params.zero);
    if at == 0u {
        let total = times(signed_normal(sum.pair, sum.unit, params.zero), signed_wide(params.scale, params.zero));
        let value = select(signed_f32(total, params.zero), bitcast<f32>(params.fill), params.partials == 0u);
        loss_store4(params.bases[LOSS >> 2u][LOSS & 3u], 1u, 1u, vec4<f32>(value));
    }
}
