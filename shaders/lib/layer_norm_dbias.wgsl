// Where the gradient of the bias goes.
@group(0) @binding(2) var<storage, read_write> dbias_data: array<dbias_unit>;

fn store_bias(j: u32, n: u32, v: vec4<f32>) {
    dbias_store4(params.bias_base + j * params.bias_step, params.bias_step, n, v);
}
