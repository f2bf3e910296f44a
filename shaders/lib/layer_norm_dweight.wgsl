// Where the gradient of the weight goes.
@group(0) @binding(1) var<storage, read_write> dweight_data: array<dweight_unit>;

fn store_weight(j: u32, n: u32, v: vec4<f32>) {
    dweight_store4(params.weight_base + j * params.weight_step, params.weight_step, n, v);
}
