// The losses of the rows are summed by a later kernel; a mean's divisors stand in the second vector of `head`.
@group(0) @binding(8) var<storage, read_write> head: array<vec4<u32>>;

fn keep_loss(row: Row, outcome: Outcome) {
}

// What the gradients of a row's loss and z term are multiplied by.
fn scales() -> vec2<f32> {
    let counted = bitcast<vec2<f32>>(head[1].xy);
    return select(vec2<f32>(params.divisor), counted, params.counted != 0u);
}
