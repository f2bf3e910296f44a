// A tensor of native f16 of which every row starts at a multiple of four elements and has a multiple of four.
alias tensor_unit = vec4<f16>;

fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<f32> {
    return vec4<f32>(tensor_data[e >> 2u]);
}
//: store
fn tensor_store4(e: u32, stride: u32, n: u32, v: vec4<f32>) {
    let rounded = vec4<f32>(
        decode16(encode16(v.x)),
        decode16(encode16(v.y)),
        decode16(encode16(v.z)),
        decode16(encode16(v.w)),
    );
    tensor_data[e >> 2u] = vec4<f16>(rounded);
}
