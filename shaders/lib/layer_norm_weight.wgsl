// The factor of each element of a row.
@group(0) @binding(4) var<storage, read> weight_data: array<weight_unit>;

fn weight4(row: Row, j: u32, n: u32) -> vec4<f32> {
    return weight_load4(row.weight + j * params.steps.w, params.steps.w, n);
}
