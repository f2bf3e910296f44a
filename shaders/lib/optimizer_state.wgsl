// What an optimizer keeps on the device; `OptimizerState` of src/ops/optimizer/mod.rs reads it.
struct OptimizerState {
    // Good steps so far.
    step: u32,
    learning_rate: f32,
    // beta1^step and beta2^step, as pairs.
    power1: vec2<f32>,
    power2: vec2<f32>,
    // What the step at hand uses: learning rate over the first correction, reciprocal root of the second one,
    // learning rate times weight decay, and the share of the gradient in the momentum.
    step_size: f32,
    inverse_root: f32,
    decay: f32,
    gain: f32,
    spare: vec4<u32>,
}
