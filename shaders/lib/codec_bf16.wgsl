// 16-bit elements are bf16 (needs round16.wgsl). Only the low half of the argument of decode16 counts.
fn decode16(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}

fn encode16(v: f32) -> u32 {
    return bf16_from_f32(v);
}
