// Statistics of split rows from those of their chunks, after Chan, Golub and LeVeque: one team of TEAM invocations a row
// merges what reduce_chunks of layer_norm_split.wgsl left. No tensor is touched, so it is the same for all storage types.
//
// Bindings: 0 params, 6 records, 7 partials. Barriers: only inside collectives, which all invocations reach.

// A pair times 2^k for k <= 0; below the range it counts for nothing.
fn lowered(v: vec2<f32>, k: i32) -> vec2<f32> {
    return select(vec2<f32>(0.0), v * power_of_two(max(k, -126)), k >= -126);
}

// Elements of chunk c of a row.
fn chunk_size(c: u32) -> f32 {
    return f32(min(params.chunk_len, params.len - c * params.chunk_len));
}

@compute @workgroup_size(WG)
fn merge_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    let owner = params.first_row + select(0u, number, live);
    let begin = owner * params.chunks;
    var extremes = vec2<u32>(0u);
    for (var c = lane; c < params.chunks; c += TEAM) {
        extremes = max(extremes, partials[begin + c].extremes);
    }
    extremes = team_extremes(extremes, at);
    let scale = row_scale(extremes);

    // As in lib/layer_norm_sweep.wgsl, ACC accumulators a lane make 16 virtual lanes for every team.
    var mean = vec2<f32>(0.0);
    if !RMS {
        var sums: array<vec2<f32>, ACC>;
        for (var c = lane; c < params.chunks; c += TEAM) {
            let part = partials[begin + c];
            let own = lowered(part.mean, row_scale(part.extremes).e - scale.e);
            let a = c / TEAM % ACC;
            sums[a] = pair_merge(sums[a], pair_product(own, vec2<f32>(chunk_size(c), 0.0)), params.zero);
        }
        mean = pair_product(gather(&sums, at), params.inverse);
        if scale.constant {
            mean = vec2<f32>(scaled4(vec4<f32>(unordered(extremes.x)), scale).x, 0.0);
        }
    }
    var squares: array<vec2<f32>, ACC>;
    for (var c = lane; c < params.chunks; c += TEAM) {
        let part = partials[begin + c];
        let down = row_scale(part.extremes).e - scale.e;
        let a = c / TEAM % ACC;
        var sum = pair_merge(squares[a], lowered(part.squares, 2 * down), params.zero);
        if !RMS {
            let own = lowered(part.mean, down);
            let t = two_sum(own.x, -mean.x, params.zero);
            let delta = two_sum(t.x, opaque(t.y + opaque(own.y - mean.y, params.zero), params.zero), params.zero);
            let between = pair_product(pair_product(delta, delta), vec2<f32>(chunk_size(c), 0.0));
            sum = pair_merge(sum, between, params.zero);
        }
        squares[a] = sum;
    }
    let s = row_stats(scale, mean, gather(&squares, at));
    if live && lane == 0u {
        records[owner] = RowRecord(s.scale.status, s.scale.e, s.f, 0u, s.mean, s.r);
    }
}
