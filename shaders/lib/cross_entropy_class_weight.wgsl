// The weight of a label's class.
@group(0) @binding(5) var<storage, read> weight_data: array<f32>;

fn class_weight(label: u32) -> f32 {
    return weight_data[params.more_bases.x + label * params.weight_step];
}
