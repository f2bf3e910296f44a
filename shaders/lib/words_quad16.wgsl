// A tensor of 16-bit elements as the bits of f32 values, where every row starts at a multiple of four elements and has a
// multiple of four (needs round16.wgsl). STORAGE: 1 f16, 2 bf16.
alias tensor_unit = vec2<u32>;

fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<u32> {
    let words = tensor_data[e >> 2u];
    if STORAGE == 1u {
        return vec4<u32>(
            f32_bits_from_f16(words.x & 0xffffu),
            f32_bits_from_f16(words.x >> 16u),
            f32_bits_from_f16(words.y & 0xffffu),
            f32_bits_from_f16(words.y >> 16u),
        );
    }
    return vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u);
}
