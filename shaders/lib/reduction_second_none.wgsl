// No second factor.
fn w_load4(e: u32, stride: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
