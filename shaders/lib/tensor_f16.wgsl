// A tensor of f16 on devices that store f16 natively, at any offset and stride. Rounding to f16 is our own,
// since a driver's conversion may truncate; converting what is already rounded is exact.
alias tensor_unit = f16;

fn tensor_load(e: u32) -> f32 {
    return f32(tensor_data[e]);
}
//: store
fn tensor_store(e: u32, v: f32) {
    tensor_data[e] = f16(decode16(encode16(v)));
}
