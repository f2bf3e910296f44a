// The gradient with respect to the input is written, from the gradient of the result.
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;
@group(0) @binding(6) var<storage, read> upstream_data: array<f32>;

fn row_upstream(row: Row) -> f32 {
    return upstream_data[row.upstream];
}

fn store_gradient4(row: Row, j: u32, n: u32, v: vec4<f32>) {
    y_store4(row.y + j * params.steps.y, params.steps.y, n, v);
}
