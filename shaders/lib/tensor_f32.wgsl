// A tensor of f32 at any offset and stride. The word "tensor" stands for the tensor's name (see src/gpu/source.rs).
alias tensor_unit = f32;

fn tensor_load(e: u32) -> f32 {
    return tensor_data[e];
}
//: store
fn tensor_store(e: u32, v: f32) {
    tensor_data[e] = v;
}
