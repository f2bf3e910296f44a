// The reduced loss.
@group(0) @binding(11) var<storage, read_write> loss_data: array<f32>;

fn write_result(value: f32) {
    loss_data[params.more_bases.z] = value;
}
