// The summand of each element of a row.
@group(0) @binding(5) var<storage, read> bias_data: array<bias_unit>;

fn bias4(row: Row, j: u32, n: u32) -> vec4<f32> {
    return bias_load4(row.bias + j * params.bias_step, params.bias_step, n);
}
