// What a chunk of a split row comes to, and how a team adds up such values (needs reduce).
struct Partial {
    extremes: vec2<u32>,
    mean: vec2<f32>,
    squares: vec2<f32>,
    dot: vec2<f32>,
    total: vec2<f32>,
    spare: vec2<u32>,
}

@group(0) @binding(7) var<storage, read_write> partials: array<Partial>;

// Adds up the values of a team's accumulators, one value each.
fn gather(sums: ptr<function, array<vec2<f32>, ACC>>, at: u32) -> vec2<f32> {
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            (*sums)[a] = pair_merge((*sums)[a], (*sums)[a + half], params.zero);
        }
    }
    let total = team_sum((*sums)[0], at, params.zero);
    return fast_two_sum(total.x, total.y, params.zero);
}
