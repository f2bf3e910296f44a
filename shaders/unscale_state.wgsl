// The loss scaler's state on the device. One workgroup each:
//   merge   the chunks' sums of squares, in the order of tensors and chunks, to the norm, the verdict and the factor
//   update  the scale and the counters after a step
//
// Bindings: 0 params, 1 partials, 2 scaler. Barriers: one a step of the tree in `merge`.

struct StateParams {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    partials: u32,
    // 0: no clipping.
    max_norm: f32,
    epsilon_high: f32,
    epsilon_low: f32,
    growth_factor: f32,
    backoff_factor: f32,
    growth_interval: u32,
    min_scale: f32,
    max_scale: f32,
    // Whether unscaled gradients are written.
    written: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: StateParams;
@group(0) @binding(1) var<storage, read_write> partials: array<Squares>;
@group(0) @binding(2) var<storage, read_write> scaler: ScalerState;

var<workgroup> shared_squares: array<Squares, WG>;

// Norm, clip factor and the factor of the gradients from the sum over all tensors.
fn judge(total: Squares) {
    let zero = params.zero;
    let scale = wide_from(scaler.scale, zero);
    let inverse = wide_div(Wide(1.0, 0.0, 0), scale, zero);
    scaler.found_nonfinite = select(0u, 1u, total.worst > 0u);
    var factor = inverse;
    scaler.clip = 1.0;
    if total.worst > 0u {
        scaler.norm = select(inf_f32(), nan_f32(), total.worst == 2u);
    } else {
        let squares = wide_normal(total.high, total.low, 2 * total.exponent, zero);
        let norm = wide_div(wide_sqrt(squares, zero), scale, zero);
        scaler.norm = wide_to_f32(norm, zero);
        if params.max_norm > 0.0 {
            let epsilon = wide_normal(params.epsilon_high, params.epsilon_low, 0, zero);
            let clip = wide_div(wide_from(params.max_norm, zero), wide_add(norm, epsilon, zero), zero);
            if clip.exponent < 0 {
                scaler.clip = wide_to_f32(clip, zero);
                factor = wide_mul(inverse, clip, zero);
            }
        }
    }
    scaler.factor_exponent = factor.exponent;
    scaler.factor_high = factor.high;
    scaler.factor_low = factor.low;
    let written = params.written != 0u;
    scaler.rest_exponent = select(factor.exponent, 0, written);
    scaler.rest_high = select(factor.high, 1.0, written);
    scaler.rest_low = select(factor.low, 0.0, written);
}

@compute @workgroup_size(WG)
fn merge(@builtin(local_invocation_index) local: u32) {
    var sum = Squares(NO_EXPONENT, 0u, 0.0, 0.0);
    for (var i = local; i < params.partials; i += WG) {
        sum = merge_squares(sum, partials[i], params.zero);
    }
    shared_squares[local] = sum;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if local < half {
            shared_squares[local] = merge_squares(shared_squares[local], shared_squares[local + half], params.zero);
        }
        workgroupBarrier();
    }
    if local == 0u {
        judge(shared_squares[0]);
    }
}

@compute @workgroup_size(1)
fn update() {
    let scale = scaler.scale;
    if scaler.found_nonfinite != 0u {
        scaler.scale = max(opaque(scale * params.backoff_factor, params.zero), params.min_scale);
        scaler.growth_tracker = 0u;
        scaler.skipped += 1u;
        return;
    }
    scaler.steps += 1u;
    let good = scaler.growth_tracker + 1u;
    scaler.growth_tracker = good;
    if good >= params.growth_interval {
        let grown = opaque(scale * params.growth_factor, params.zero);
        // By bits: an infinity is beyond every bound.
        if bitcast<u32>(grown) <= bitcast<u32>(params.max_scale) {
            scaler.scale = grown;
        }
        scaler.growth_tracker = 0u;
    }
}
