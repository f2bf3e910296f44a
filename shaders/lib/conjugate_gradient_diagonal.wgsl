// M^-1 is a diagonal, the same for all systems.
@group(0) @binding(8) var<storage, read> inverse_data: array<vec4<f32>>;

fn preconditioned(r: vec4<f32>, at: u32) -> vec4<f32> {
    return inverse_data[at % params.pitch_quads] * r;
}
