// A tensor of 16-bit elements, two a word, at any offset and stride. Rows may share a word, so an element is stored by
// clearing and setting its half atomically; what the other half holds is never lost.
//: load
alias tensor_unit = u32;
fn tensor_load(e: u32) -> f32 {
    return decode16(tensor_data[e >> 1u] >> ((e & 1u) * 16u));
}
//: store
alias tensor_unit = atomic<u32>;
fn tensor_load(e: u32) -> f32 {
    return decode16(atomicLoad(&tensor_data[e >> 1u]) >> ((e & 1u) * 16u));
}
fn tensor_store(e: u32, v: f32) {
    let shift = (e & 1u) * 16u;
    atomicAnd(&tensor_data[e >> 1u], ~(0xffffu << shift));
    atomicOr(&tensor_data[e >> 1u], encode16(v) << shift);
}
fn tensor_store_pair(word: u32, v: vec2<f32>) {
    atomicStore(&tensor_data[word], encode16(v.x) | (encode16(v.y) << 16u));
}
