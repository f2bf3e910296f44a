// M^-1 r comes from dispatches of its own.
@group(0) @binding(8) var<storage, read> z_data: array<vec4<f32>>;

fn preconditioned(r: vec4<f32>, at: u32) -> vec4<f32> {
    return z_data[at];
}
