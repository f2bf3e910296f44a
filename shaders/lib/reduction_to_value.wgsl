// The result is a tensor of the input's storage type.
fn y_store_index(e: u32, index: u32) {
}

fn y_store_statistics(e: u32, v: vec4<u32>) {
}
