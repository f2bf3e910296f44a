// The sums and the results of a row by a team, by the scheme of softmax_quads (needs softmax_rows).

struct RowTotals {
    count: u32,
    t: vec2<f32>,
    dot: vec2<f32>,
}

// Sums of the row relative to m, in every lane.
fn sweep_sums(row: Row, blocks: u32, lane: u32, at: u32, m: f32) -> RowTotals {
    var sums: array<RowSums, ACC>;
    for (var a = 0u; a < ACC; a += 1u) {
        sums[a] = empty_sums();
    }
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < row.visible {
                let z = logits_again4(row, block, a, j);
                sums[a] = add_entries(sums[a], z, inside4(j, row.visible), m, upstream4(row, j, row.visible));
            }
        }
    }
    // Components first, then accumulators, then lanes: the same tree for every split of 16 into TEAM and ACC.
    var count = vec4<u32>(0u);
    var t: array<vec2<f32>, ACC>;
    var dots: array<vec2<f32>, ACC>;
    for (var a = 0u; a < ACC; a += 1u) {
        count += sums[a].count;
        t[a] = fold4(sums[a].t, params.zero);
        dots[a] = fold4(sums[a].dot, params.zero);
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            t[a] = pair_merge(t[a], t[a + half], params.zero);
            dots[a] = pair_merge(dots[a], dots[a + half], params.zero);
        }
    }
    var totals: RowTotals;
    totals.count = team_count(count.x + count.y + count.z + count.w, at);
    totals.t = team_sum(t[0], at, params.zero);
    if BACKWARD && KIND != LOG_SUM_EXP {
        totals.dot = team_sum(dots[0], at, params.zero);
    }
    return totals;
}

// The writing pass: results of the `len` entries of a row of which `row.visible` take part.
fn sweep_write(row: Row, len: u32, blocks: u32, lane: u32, stats: RowStats, dot: f32) {
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < len {
                var z: vec4<f32>;
                var upstream: vec4<f32>;
                if j < row.visible {
                    z = logits_again4(row, block, a, j);
                    upstream = upstream4(row, j, row.visible);
                }
                let v = finish4(row, j, z, stats, dot, upstream);
                y_store4(row.y + j * params.steps.y, params.steps.y, present(j, len), v);
            }
        }
    }
}

// The one result of a row of logsumexp.
fn write_logsumexp(row: Row, stats: RowStats) {
    var value = stats.top;
    if !stats.special {
        value = logsumexp(stats, params.zero);
    }
    y_store4(row.y, 1u, 1u, vec4<f32>(value));
}
