// The losses of the rows are summed by a later kernel; the inverses of a mean's divisors stand in the third vector of `head`.
@group(0) @binding(8) var<storage, read_write> head: array<vec4<u32>>;

fn keep_loss(row: Row, outcome: Outcome) {
}

// What the gradients of a row's loss and z term are multiplied by.
fn scales() -> Scales {
    let all = signed_wide(params.divisor, params.zero);
    if params.counted == 0u {
        return Scales(all, all);
    }
    let inverse = head[2];
    let weight = Wide(bitcast<f32>(inverse.x), bitcast<f32>(inverse.y), bitcast<i32>(inverse.z));
    return Scales(weight, signed_wide(bitcast<f32>(inverse.w), params.zero));
}
