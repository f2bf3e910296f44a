// A tensor of 16-bit elements, two a word, of which every row starts at a multiple of four elements and has a multiple of four.
alias tensor_unit = vec2<u32>;

fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<f32> {
    let words = tensor_data[e >> 2u];
    return vec4<f32>(decode16(words.x), decode16(words.x >> 16u), decode16(words.y), decode16(words.y >> 16u));
}
//: store
fn tensor_store4(e: u32, stride: u32, n: u32, v: vec4<f32>) {
    let low = encode16(v.x) | (encode16(v.y) << 16u);
    let high = encode16(v.z) | (encode16(v.w) << 16u);
    tensor_data[e >> 2u] = vec2<u32>(low, high);
}
