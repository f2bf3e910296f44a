// The logarithms of the probabilities are written too.
@group(0) @binding(3) var<storage, read_write> logp_data: array<logp_unit>;

fn store_log_prob4(row: Row, j: u32, n: u32, v: vec4<f32>) {
    logp_store4(row.logp + j * params.steps.z, params.steps.z, n, v);
}
