// Values of entries are 16-bit floats, two a word (needs round16.wgsl and a codec).
fn value_at(e: u32) -> f32 {
    return decode16(values_data[e >> 1u] >> ((e & 1u) * 16u));
}
