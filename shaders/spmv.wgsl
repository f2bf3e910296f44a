// y = alpha A x + beta y, a block of rows of A after the other, and optionally parts of x.y.
//
// A workgroup takes every params.groups-th block of the plan. A block is (place of its first row, rows, 2 * log2 of the team,
// unused) or, for a piece of a row that is too long for one workgroup, (first entry, entries, 1, its record). The lanes of a
// team take entries of a row in turn; each adds up eight products plainly and such sums with their rounding errors.
//
// Barriers: in team_sum, reached by all, since blocks are read at uniform places of a read-only binding.

// The products of every step-th of the entries from `first` to before `end`, eight at most.
fn chunk_sum(first: u32, end: u32, step: u32, vector: u32) -> num {
    var sum = num();
    for (var e = first; e < end; e += step) {
        sum += value_at(e) * x_load(columns_data[e], vector);
    }
    return hidden(sum);
}

// The same without a limit.
fn lane_sum(first: u32, end: u32, step: u32, vector: u32) -> Sum {
    let reach = 8u * step;
    var sum = Sum(chunk_sum(first, min(end, first + reach), step, vector), num());
    for (var e = first + reach; e < end; e += reach) {
        sum = sum_add(sum, chunk_sum(e, min(end, e + reach), step, vector));
    }
    return sum;
}

fn row_at(place: u32) -> u32 {
    if ORDERED {
        return plan_data[params.order + place];
    }
    return place;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let vector = id.y * VECTORS;
    if !is_active(vector) {
        return;
    }
    var dot = Sum(num(), num());
    for (var block = id.x; block < params.blocks; block += params.groups) {
        let first = block_word(block, 0u);
        let count = block_word(block, 1u);
        let kind = block_word(block, 2u);
        if kind == 1u {
            let begin = first - params.entry_base;
            let sum = team_sum(lane_sum(begin + lane, begin + count, WG, vector), lane, lane, WG);
            if lane == 0u {
                record_store(block_word(block, 3u), vector, sum);
            }
            continue;
        }
        let shift = kind >> 1u;
        let teams = WG >> shift;
        let team = 1u << shift;
        let within = lane & (team - 1u);
        let steps = (count + teams - 1u) / teams;
        for (var step = 0u; step < steps; step += 1u) {
            let place = step * teams + (lane >> shift);
            let live = place < count;
            var row = 0u;
            var begin = 0u;
            var end = 0u;
            if live {
                row = row_at(first + place);
                begin = plan_data[params.row_ptr + row] - params.entry_base;
                end = plan_data[params.row_ptr + row + 1u] - params.entry_base;
            }
            var sum = lane_sum(begin + within, end, team, vector);
            if shift > 0u {
                sum = team_sum(sum, lane, within, team);
            }
            if live && within == 0u {
                let term = finish_row(row, vector, sum);
                if DOT {
                    dot = sum_add(dot, term);
                }
            }
        }
    }
    if DOT {
        finish_parts(dot, lane, id.x, vector);
    }
}
