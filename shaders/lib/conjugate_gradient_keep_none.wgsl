// The operator's input is the residual itself, or the direction.
fn keep(at: u32, z: vec4<f32>) {}

fn operand(at: u32) -> vec4<f32> {
    if SINGLE {
        return r_data[at];
    }
    return p_data[at];
}
