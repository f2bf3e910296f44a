// Every row has a loss of its own.
@group(0) @binding(11) var<storage, read_write> loss_data: array<f32>;

fn keep_loss(row: Row, outcome: Outcome) {
    var total = outcome.loss;
    if Z_LOSS {
        total = signed_add(total, outcome.z, params.zero);
    }
    loss_data[row.loss] = signed_f32(total, params.zero);
}

// What the gradients of a row's loss and z term are multiplied by.
fn scales() -> Scales {
    return Scales(Wide(1.0, 0.0, 0), Wide(1.0, 0.0, 0));
}
