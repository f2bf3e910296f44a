// Steps of optimizers on f32 master weights, with the gradient in its own storage type and unscaled on the way, and the weights
// in 16 bits written beside. Nothing is touched if a gradient was not finite. An invocation takes QUADS quads, a workgroup
// WG * 4 * QUADS neighbouring elements.
//   sgd           w -= rate * d
//   sgd_momentum  the same with momentum, plain or after Nesterov
//   adamw         Adam with decoupled weight decay
//
// Bindings: 0 params, 1 scaler, 2 state, 3 g, 4 w, 5 m, 6 v, 7 copy. No barriers.

struct Params {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    grid_x: u32,
    elements: u32,
    // Element of the bindings at which the dispatch begins.
    g_base: u32,
    w_base: u32,
    m_base: u32,
    v_base: u32,
    copy_base: u32,
    // sgd: momentum, weight decay, 1 for Nesterov; adamw: the betas, their complements, epsilon.
    a: f32,
    b: f32,
    a_complement: f32,
    b_complement: f32,
    epsilon: f32,
    nesterov: u32,
    spare: vec2<u32>,
}

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scaler: ScalerState;
@group(0) @binding(2) var<storage, read> state: OptimizerState;
@group(0) @binding(3) var<storage, read> g_data: array<g_unit>;
@group(0) @binding(4) var<storage, read_write> w_data: array<w_unit>;
@group(0) @binding(5) var<storage, read_write> m_data: array<m_unit>;
@group(0) @binding(6) var<storage, read_write> v_data: array<v_unit>;

fn begin(inv: Invocation) -> u32 {
    return ((inv.group.x + inv.group.y * params.grid_x) * (WG * QUADS) + inv.local) * 4u;
}

fn gradient(e: u32, n: u32) -> vec4<f32> {
    let factor = Wide(scaler.rest_high, scaler.rest_low, scaler.rest_exponent);
    return scale4(g_load4(params.g_base + e, 1u, n), factor, params.zero);
}

// What is stored is what is rounded: the value is settled before either.
fn finish(e: u32, n: u32, w: vec4<f32>) {
    w_store4(params.w_base + e, 1u, n, w);
    write_copy(e, n, w);
}

// a / b for b > 0, with the error of the division made up for where it can be computed.
fn quotient4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    let q = opaque4(a / b, params.zero);
    let p = two_product4(q, b, params.zero);
    let rest = opaque4(opaque4(a - p.high, params.zero) - p.low, params.zero);
    let better = opaque4(q + rest / b, params.zero);
    return select(q, better, ordinary4(q) & ordinary4(b));
}

fn root4(a: vec4<f32>) -> vec4<f32> {
    let y = opaque4(sqrt(a), params.zero);
    let p = two_product4(y, y, params.zero);
    let rest = opaque4(opaque4(a - p.high, params.zero) - p.low, params.zero);
    let better = opaque4(y + rest / (2.0 * y), params.zero);
    return select(y, better, ordinary4(y));
}

// Within 2^-50 and 2^60, where products and their errors are normal numbers.
fn ordinary4(a: vec4<f32>) -> vec4<bool> {
    let magnitude = bitcast<vec4<u32>>(a) & vec4<u32>(0x7fffffffu);
    return magnitude - vec4<u32>(0x26800000u) < vec4<u32>(0x37000000u);
}

@compute @workgroup_size(WG)
fn sgd(inv: Invocation) {
    if scaler.found_nonfinite != 0u {
        return;
    }
    for (var i = 0u; i < QUADS; i += 1u) {
        let e = begin(inv) + i * WG * 4u;
        if e < params.elements {
            let n = min(4u, params.elements - e);
            let w = w_load4(params.w_base + e, 1u, n);
            let d = opaque4(gradient(e, n) + params.b * w, params.zero);
            finish(e, n, opaque4(w - state.learning_rate * d, params.zero));
        }
    }
}

@compute @workgroup_size(WG)
fn sgd_momentum(inv: Invocation) {
    if scaler.found_nonfinite != 0u {
        return;
    }
    for (var i = 0u; i < QUADS; i += 1u) {
        let e = begin(inv) + i * WG * 4u;
        if e < params.elements {
            let n = min(4u, params.elements - e);
            let w = w_load4(params.w_base + e, 1u, n);
            var d = opaque4(gradient(e, n) + params.b * w, params.zero);
            let m = m_load4(params.m_base + e, 1u, n);
            // The first step takes the gradient as it is, whatever the buffer holds.
            let kept = select(params.a * m, vec4<f32>(0.0), state.step == 1u);
            let moved = opaque4(kept + state.gain * d, params.zero);
            m_store4(params.m_base + e, 1u, n, moved);
            if params.nesterov != 0u {
                d = opaque4(d + params.a * moved, params.zero);
            } else {
                d = moved;
            }
            finish(e, n, opaque4(w - state.learning_rate * d, params.zero));
        }
    }
}

@compute @workgroup_size(WG)
fn adamw(inv: Invocation) {
    if scaler.found_nonfinite != 0u {
        return;
    }
    for (var i = 0u; i < QUADS; i += 1u) {
        let e = begin(inv) + i * WG * 4u;
        if e < params.elements {
            let n = min(4u, params.elements - e);
            let g = gradient(e, n);
            let w = w_load4(params.w_base + e, 1u, n);
            // The first step starts from zero, whatever the buffers hold.
            let first = state.step == 1u;
            let m = select(m_load4(params.m_base + e, 1u, n), vec4<f32>(0.0), first);
            let v = select(v_load4(params.v_base + e, 1u, n), vec4<f32>(0.0), first);
            let m_next = opaque4(params.a * m + params.a_complement * g, params.zero);
            let v_next = opaque4(params.b * v + params.b_complement * opaque4(g * g, params.zero), params.zero);
            m_store4(params.m_base + e, 1u, n, m_next);
            v_store4(params.v_base + e, 1u, n, v_next);
            let denominator = opaque4(root4(v_next) * state.inverse_root + params.epsilon, params.zero);
            let change = quotient4(opaque4(state.step_size * m_next, params.zero), denominator);
            let decayed = opaque4(w - state.decay * w, params.zero);
            finish(e, n, opaque4(decayed - change, params.zero));
        }
    }
}
