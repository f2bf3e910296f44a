// A tensor of f32 as bits, where every row starts at a multiple of four elements and has a multiple of four.
alias tensor_unit = vec4<u32>;

fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<u32> {
    return tensor_data[e >> 2u];
}
