// Every row has a loss of its own.
@group(0) @binding(11) var<storage, read_write> loss_data: array<f32>;

fn keep_loss(row: Row, outcome: Outcome) {
    loss_data[row.loss] = outcome.loss + outcome.z;
}

// What the gradients of a row's loss and z term are multiplied by.
fn scales() -> vec2<f32> {
    return vec2<f32>(1.0);
}
