// Gradients of sigmoid, log_sigmoid and softplus: the upstream gradient times the derivative at x, for every element. An
// invocation computes `rounds` quads of four elements. Bindings: 0 params, 1 x, 2 y (the gradient of x), 3 upstream.
// No barriers.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;
@group(0) @binding(3) var<storage, read> upstream_data: array<upstream_unit>;

fn gradient4(x: vec4<f32>, g: vec4<f32>, zero: u32) -> vec4<f32> {
    let v = logistic4(x, zero);
    let r = logistic_recip4(v, zero);
    let negative = is_negative4(x);
    var y: vec4<f32>;
    var flat = is_inf4(x);
    if KIND == SIGMOID {
        y = sigmoid_slope_times4(g, v, r, zero);
    } else {
        // softplus' = sigmoid; log_sigmoid'(x) = sigmoid(-x).
        let below = select(negative, !negative, vec4<bool>(KIND == LOG_SIGMOID));
        y = sigmoid_times4(below, g, v, r, zero);
        flat = flat & below;
    }
    // The derivative of a finite x is never exactly 0, however small: infinity times it is infinity.
    y = select(y, select(g, vec4<f32>(nan_f32()), flat), is_inf4(g));
    return select(y, vec4<f32>(nan_f32()), is_nan4(x) | is_nan4(g));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(group, local, round);
        if quad.count > 0u {
            let x = x_load4(element_of(X, quad), step_of(X), quad.count);
            let g = upstream_load4(element_of(UPSTREAM, quad), step_of(UPSTREAM), quad.count);
            y_store4(element_of(Y, quad), step_of(Y), quad.count, gradient4(x, g, params.zero));
        }
    }
}
