// Backward: reads the gradient of the output.
fn upstream4(row: Row, j: u32, n: u32) -> vec4<f32> {
    return upstream_load4(row.upstream + j * params.steps.z, params.steps.z, n);
}
