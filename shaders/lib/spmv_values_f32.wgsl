// Values of entries are f32.
fn value_at(e: u32) -> f32 {
    return bitcast<f32>(values_data[e]);
}
