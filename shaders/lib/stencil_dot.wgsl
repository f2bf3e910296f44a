// Each workgroup leaves its part of x.y: a sum and its rounding error, merged over the workgroup by a fixed tree.
@group(0) @binding(6) var<storage, read_write> dot_data: array<f32>;

var<workgroup> shared_sums: array<vec2<f32>, WG>;

fn add_product(sum: vec2<f32>, x: f32, y: f32) -> vec2<f32> {
    return pair_add(sum, opaque(x * y, params.zero), params.zero);
}

fn leave(sum: vec2<f32>, block: u32, vector: u32, local: u32, wanted: bool) {
    shared_sums[local] = sum;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if local < half {
            shared_sums[local] = pair_merge(shared_sums[local], shared_sums[local + half], params.zero);
        }
        workgroupBarrier();
    }
    if wanted && local == 0u {
        let at = params.dot + vector * params.dot_pitch + 2u * block;
        dot_data[at] = shared_sums[0].x;
        dot_data[at + 1u] = shared_sums[0].y;
    }
}
