// The result is a tensor of the input's storage type.
fn y_store_index(e: u32, index: u32) {
}
