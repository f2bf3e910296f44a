// Binary cross-entropy of logits: losses, their sum, and the gradient of the logits, in one reading. With a = 1 - target and
// b = pos_weight * target the loss is weight * (a softplus(x) + b softplus(-x)) and its gradient
// weight * (a sigmoid(x) - b sigmoid(-x)): for targets within [0, 1] no term of the loss cancels another.
//
// An invocation computes `rounds` quads of four elements. For sums a workgroup leaves one partial, a pair (sum, error); a
// second dispatch of one workgroup adds the partials up. The tree depends on the shape alone.
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
@group(0) @binding(8) var<storage, read_write> partials: array<vec2<f32>>;

struct Inputs {
    x: vec4<f32>,
    weight: vec4<f32>,
    // Coefficients of softplus(x) and softplus(-x).
    a: vec4<f32>,
    b: vec4<f32>,
    bad: vec4<bool>,
    v: Logistic4,
}

fn inputs4(quad: Quad) -> Inputs {
    let x = x_load4(element_of(X, quad), step_of(X), quad.count);
    let label = target_load4(element_of(LABEL, quad), step_of(LABEL), quad.count);
    let weight = weight_load4(element_of(WEIGHT, quad), step_of(WEIGHT), quad.count);
    let positive = pos_weight_load4(element_of(POS_WEIGHT, quad), step_of(POS_WEIGHT), quad.count);
    let a = opaque4(1.0 - label, params.zero);
    let b = opaque4(positive * label, params.zero);
    let bad = is_nan4(x) | is_nan4(label) | is_nan4(weight) | is_nan4(positive);
    return Inputs(x, weight, a, b, bad, logistic4(x, params.zero));
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
    let value = select(large - small, small - large, negative);
    return select(value, vec4<f32>(nan_f32()), i.bad | is_nan4(c) | is_inf4(c));
}

fn write_losses(quad: Quad, i: Inputs) {
    loss_store4(element_of(LOSS, quad), step_of(LOSS), quad.count, loss4(i));
}

fn write_gradients(quad: Quad, i: Inputs) {
    grad_store4(element_of(GRAD, quad), step_of(GRAD), quad.count, gradient4(i, quad));
}

fn add_losses(sums: Pair4, quad: Quad, i: Inputs) -> Pair4 {
    let exists = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(quad.count);
    return pair_add4(sums, select(vec4<f32>(0.0), loss4(i), exists), params.zero);
}

fn no_sums() -> Pair4 {
    return Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
}

fn write_partial(sums: Pair4, inv: Invocation) {
    let at = position(inv);
    let total = team_sum(fold4(sums, params.zero), at, params.zero);
    let number = inv.group.x + inv.group.y * params.grid_x;
    if at == 0u && number < params.partials {
        partials[params.first_partial + number] = total;
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
    var all = vec2<f32>(0.0);
    for (var i = inv.local; i < params.partials; i += WG) {
        all = pair_merge(all, partials[i], params.zero);
    }
    let at = position(inv);
    let total = opaque(pair_value(team_sum(all, at, params.zero)), params.zero);
    if at == 0u {
        let value = select(total * params.scale, bitcast<f32>(params.fill), params.partials == 0u);
        loss_store4(params.bases[LOSS >> 2u][LOSS & 3u], 1u, 1u, vec4<f32>(value));
    }
}
