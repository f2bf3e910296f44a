// A tensor as the bits of f32 values, at any offset and stride, by integer operations alone (needs round16.wgsl). The word
// "tensor" stands for the tensor's name. STORAGE: 0 f32, 1 f16, 2 bf16.
alias tensor_unit = u32;

fn tensor_load(e: u32) -> u32 {
    if STORAGE == 0u {
        return tensor_data[e];
    }
    let half = (tensor_data[e >> 1u] >> ((e & 1u) * 16u)) & 0xffffu;
    if STORAGE == 1u {
        return f32_bits_from_f16(half);
    }
    return half << 16u;
}

// Of the four only the first `n` (1 to 4) exist; the last one is repeated in place of the others.
fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<u32> {
    let last = n - 1u;
    return vec4<u32>(
        tensor_load(e),
        tensor_load(e + min(1u, last) * stride),
        tensor_load(e + min(2u, last) * stride),
        tensor_load(e + last * stride),
    );
}
