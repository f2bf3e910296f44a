// A tensor of f32 of which every row starts at a multiple of four elements and has a multiple of four.
alias tensor_unit = vec4<f32>;

fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<f32> {
    return tensor_data[e >> 2u];
}
//: store
fn tensor_store4(e: u32, stride: u32, n: u32, v: vec4<f32>) {
    tensor_data[e >> 2u] = v;
}
