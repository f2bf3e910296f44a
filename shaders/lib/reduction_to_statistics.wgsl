// The result is what gradients need of a row: four words each.
alias y_unit = u32;

fn y_store(e: u32, v: f32) {
}

fn y_store_statistics(e: u32, v: vec4<u32>) {
    y_data[e] = v.x;
    y_data[e + 1u] = v.y;
    y_data[e + 2u] = v.z;
    y_data[e + 3u] = v.w;
}
