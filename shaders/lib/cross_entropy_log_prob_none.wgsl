// Probabilities are not kept.
fn store_log_prob4(row: Row, j: u32, n: u32, v: vec4<f32>) {
}
