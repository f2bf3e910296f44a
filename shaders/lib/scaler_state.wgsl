// What a loss scaler keeps on the device; `Words` of src/ops/unscale/scaler.rs read it.
struct ScalerState {
    scale: f32,
    // Good steps in a row since the scale last changed.
    growth_tracker: u32,
    // Of the last unscaling: whether a gradient was not finite, the norm, and by what it was clipped.
    found_nonfinite: u32,
    norm: f32,
    clip: f32,
    steps: u32,
    skipped: u32,
    // clip / scale, as a Wide.
    factor_exponent: i32,
    factor_high: f32,
    factor_low: f32,
    // What optimizers multiply gradients by: the same, or 1 where unscaled gradients were written.
    rest_exponent: i32,
    rest_high: f32,
    rest_low: f32,
    spare: array<u32, 3>,
}
