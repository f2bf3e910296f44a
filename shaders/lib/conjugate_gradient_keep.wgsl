// The preconditioned residual is the operator's input and is stored.
@group(0) @binding(7) var<storage, read_write> u_data: array<vec4<f32>>;

fn keep(at: u32, z: vec4<f32>) {
    u_data[at] = z;
}

fn operand(at: u32) -> vec4<f32> {
    return u_data[at];
}
