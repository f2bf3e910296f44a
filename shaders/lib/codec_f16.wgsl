// 16-bit elements are f16 (needs round16.wgsl). Only the low half of the argument of decode16 counts.
fn decode16(bits: u32) -> f32 {
    return f32_from_f16(bits & 0xffffu);
}

fn encode16(v: f32) -> u32 {
    return f16_from_f32(v);
}
