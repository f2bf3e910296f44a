// sigmoid, log_sigmoid and softplus of every element: an invocation computes `rounds` quads of four elements, a workgroup
// WG times as many. KIND says which function. Bindings: 0 params, 1 x, 2 y. No barriers.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;

fn activate4(x: vec4<f32>, zero: u32) -> vec4<f32> {
    var y: vec4<f32>;
    if KIND == SIGMOID {
        let v = logistic4(x, zero);
        y = sigmoid_times4(is_negative4(x), vec4<f32>(1.0), v, logistic_recip4(v, zero), zero);
    } else {
        // log sigmoid(x) = -softplus(-x).
        let flip = vec4<u32>(select(0u, 0x80000000u, KIND == LOG_SIGMOID));
        let z = bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ flip);
        let plus = softplus_of4(z, logistic_log4(logistic4(z, zero), zero), zero);
        y = bitcast<vec4<f32>>(bitcast<vec4<u32>>(plus) ^ flip);
    }
    return select(y, vec4<f32>(nan_f32()), is_nan4(x));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(group, local, round);
        if quad.count > 0u {
            let x = x_load4(element_of(X, quad), step_of(X), quad.count);
            y_store4(element_of(Y, quad), step_of(Y), quad.count, activate4(x, params.zero));
        }
    }
}
