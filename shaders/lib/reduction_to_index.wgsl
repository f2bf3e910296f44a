// The result is a tensor of u32 indices.
alias y_unit = u32;

fn y_store(e: u32, v: f32) {
}

fn y_store_index(e: u32, index: u32) {
    y_data[e] = index;
}
