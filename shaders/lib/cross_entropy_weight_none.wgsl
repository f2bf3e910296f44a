// All classes weigh the same.
fn weighted4(q: vec4<f32>, row: Row, j: u32, n: u32) -> vec4<f32> {
    return q;
}
