// No copy of the weights.
fn write_copy(e: u32, n: u32, w: vec4<f32>) {
}
