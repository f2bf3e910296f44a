// Stores bits of the storage type, at any offset and stride. Neighbours may share a word of two 16-bit elements, so a half is
// cleared and set atomically. STORAGE: 0 f32, 1 f16, 2 bf16.
alias tensor_unit = atomic<u32>;

fn tensor_store_bits(e: u32, bits: u32) {
    if STORAGE == 0u {
        atomicStore(&tensor_data[e], bits);
    } else {
        let shift = (e & 1u) * 16u;
        atomicAnd(&tensor_data[e >> 1u], ~(0xffffu << shift));
        atomicOr(&tensor_data[e >> 1u], bits << shift);
    }
}
