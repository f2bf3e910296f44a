// Begins a step of an optimizer unless a gradient was not finite: counts it, and computes what depends on the count alone. One
// invocation. Bindings: 0 params, 1 scaler, 2 state. No barriers.

struct AdvanceParams {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    weight_decay: f32,
    // 1 - dampening.
    gain: f32,
    spare: u32,
    // As pairs.
    beta1: vec2<f32>,
    beta2: vec2<f32>,
}

@group(0) @binding(0) var<uniform> params: AdvanceParams;
@group(0) @binding(1) var<storage, read> scaler: ScalerState;
@group(0) @binding(2) var<storage, read_write> state: OptimizerState;

// Product of two pairs in [0, 1]. Below 2^-100, where its error would be lost, it is 0: 1 less it is 1 all the same.
fn next_power(power: vec2<f32>, beta: vec2<f32>) -> vec2<f32> {
    let p = two_product(power.x, beta.x, params.zero);
    let cross = opaque(power.x * beta.y + power.y * beta.x, params.zero);
    let product = fast_two_sum(p.x, opaque(p.y + cross, params.zero), params.zero);
    return select(product, vec2<f32>(0.0), product.x < 7.888609e-31);
}

// 1 - p, which is not 0.
fn correction(power: vec2<f32>) -> Wide {
    let s = two_sum(1.0, -power.x, params.zero);
    return wide_normal(s.x, opaque(s.y - power.y, params.zero), 0, params.zero);
}

@compute @workgroup_size(1)
fn advance() {
    if scaler.found_nonfinite != 0u {
        return;
    }
    let zero = params.zero;
    let first = state.step == 0u;
    state.step += 1u;
    let power1 = next_power(state.power1, params.beta1);
    let power2 = next_power(state.power2, params.beta2);
    state.power1 = power1;
    state.power2 = power2;
    let rate = wide_from(state.learning_rate, zero);
    state.step_size = wide_to_f32(wide_div(rate, correction(power1), zero), zero);
    let root = wide_sqrt(correction(power2), zero);
    state.inverse_root = wide_to_f32(wide_div(Wide(1.0, 0.0, 0), root, zero), zero);
    state.decay = opaque(state.learning_rate * params.weight_decay, zero);
    state.gain = select(params.gain, 1.0, first);
}
