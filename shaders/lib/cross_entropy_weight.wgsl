// A weight for each class.
@group(0) @binding(5) var<storage, read> weight_data: array<weight_unit>;

fn weighted4(q: vec4<f32>, row: Row, j: u32, n: u32) -> Charge4 {
    return product4(q, weight_load4(row.weight + j * params.weight_step, params.weight_step, n), params.zero);
}
