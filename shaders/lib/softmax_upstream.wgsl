// Backward: the gradient of the output; one value a row for logsumexp (step 0).
@group(0) @binding(4) var<storage, read> upstream_data: array<upstream_unit>;

fn upstream4(row: Row, j: u32, end: u32) -> vec4<f32> {
    return upstream_load4(row.upstream + j * params.steps.w, params.steps.w, present(j, end));
}
