// Cross-entropy and nll_loss of few rows with many classes: each row is cut into chunks, a team of TEAM invocations a chunk,
// WG / TEAM chunks a workgroup. Three dispatches:
//   reduce_chunks  maximum and sums of every chunk relative to its own maximum, in one read, into `partials`
//   merge_chunks   one team a row: the row's maximum, sums rescaled to it, and what follows from them, into `stats` and `records`
//   write_chunks   the gradient, chunk by chunk, from a second read
//
// A chunk is a row of the dispatch: its number counts chunks fastest, `sizes.x` of them a row.
// Bindings: 0 params, 1 x, 2 y, 3 logp, 4 labels, 5 weight, 6 upstream, 7 records, 8 head, 9 partials, 10 stats,
// 11 loss, 12 prob, 13 sums. Where an earlier call has kept what rows come to (REUSE), there is no first dispatch.
// Barriers: only inside collectives.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(7) var<storage, read_write> records: array<vec4<u32>>;

struct Partial {
    // Ordered maximum; 0 where no entry is read.
    top: u32,
    count: u32,
    // T times 2^64 and sum q (x - m), relative to the chunk's maximum, and sum q, with the units of the latter two.
    t: vec2<f32>,
    dot: vec2<f32>,
    mass: vec2<f32>,
    unit: i32,
    dot_unit: i32,
}

struct Merged {
    top: f32,
    special: u32,
    log_s: vec2<f32>,
    inverse: vec2<f32>,
    pull: f32,
    pull_unit: i32,
    push: f32,
    push_unit: i32,
}

@group(0) @binding(9) var<storage, read_write> partials: array<Partial>;
@group(0) @binding(10) var<storage, read_write> stats: array<Merged>;

// A chunk of the dispatch: where it lies, and which part of which row it is.
struct Chunk {
    row: Row,
    // Number of its row among all rows, and its own among all chunks.
    owner: u32,
    number: u32,
    len: u32,
    live: bool,
}

fn locate_chunk(inv: Invocation, at: u32) -> Chunk {
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    var chunk: Chunk;
    chunk.live = number < params.rows;
    let index = select(0u, number, chunk.live);
    chunk.owner = params.first_row + index / params.sizes.x;
    let part = params.first_chunk + index % params.sizes.x;
    chunk.number = chunk.owner * params.chunks + part;
    let begin = part * params.chunk_len;
    chunk.len = select(0u, min(params.chunk_len, params.len - begin), chunk.live);
    chunk.row = locate_row(index);
    chunk.row.visible = chunk.len;
    chunk.row = aimed(chunk.row, begin);
    // A label beyond the chunk's end is another's.
    if chunk.row.label >= chunk.len {
        chunk.row.label = NO_LABEL;
    }
    return chunk;
}

@compute @workgroup_size(WG)
fn reduce_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let chunk = locate_chunk(inv, at);
    var totals: RowTotals;
    if NLL {
        totals = team_pick(chunk.row, lane, at);
    } else {
        totals = sum_read_once(chunk.row, block_count(params.chunk_len), lane, at);
    }
    if chunk.live && lane == 0u {
        partials[chunk.number] = Partial(
            totals.top,
            totals.count,
            totals.t,
            totals.dot,
            totals.mass,
            totals.unit,
            totals.dot_unit,
        );
    }
}

// A pair times exp(d) for d <= 0.
fn scale_own(v: vec2<f32>, factor: f32) -> vec2<f32> {
    let p = two_product(v.x, factor, params.zero);
    return vec2<f32>(p.x, opaque(p.y + v.y * factor, params.zero));
}

// The sums of a row from those of its chunks, the first of which is number `begin`.
fn merged_totals(begin: u32, lane: u32, at: u32) -> RowTotals {
    var top = 0u;
    var unit = NOTHING;
    var dot_unit = NOTHING;
    for (var c = lane; c < params.chunks; c += TEAM) {
        top = max(top, partials[begin + c].top);
        unit = max(unit, partials[begin + c].unit);
        dot_unit = max(dot_unit, partials[begin + c].dot_unit);
    }
    top = team_max(top, at);
    unit = team_unit(unit, at);
    dot_unit = team_unit(dot_unit, at);
    let m = unordered(top);
    // ACC accumulators a lane make the same number of virtual lanes for every team.
    var count = 0u;
    var ts: array<vec2<f32>, ACC>;
    var dots: array<vec2<f32>, ACC>;
    var masses: array<vec2<f32>, ACC>;
    for (var c = lane; c < params.chunks; c += TEAM) {
        let part = partials[begin + c];
        let a = c / TEAM % ACC;
        let mass = pair_lowered(part.mass, part.unit - unit, params.zero);
        masses[a] = pair_merge(masses[a], mass, params.zero);
        dots[a] = pair_merge(dots[a], pair_lowered(part.dot, part.dot_unit - dot_unit, params.zero), params.zero);
        // Chunks of -inf alone have sums that mean nothing, but for what -inf did to the loss.
        if part.top == top {
            count += part.count;
            ts[a] = pair_merge(ts[a], part.t, params.zero);
        } else if part.top > 0x007fffffu {
            let own_top = vec4<f32>(unordered(part.top));
            // exp(d) times 2^64; the entries equal to the chunk's maximum join the others.
            let e = exp_scaled4(difference4(own_top, m, params.zero), params.zero).x;
            let own = row_total(f32(part.count), part.t, params.zero);
            ts[a] = pair_merge(ts[a], scale_own(own, e), params.zero);
            let fall = weighed4(vec4<f32>(opaque(pair_value(mass), params.zero)), own_top, vec4<f32>(m));
            dots[a] = pair_merge(dots[a], vec2<f32>(fall.high.x, fall.low.x), params.zero);
        }
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            ts[a] = pair_merge(ts[a], ts[a + half], params.zero);
            dots[a] = pair_merge(dots[a], dots[a + half], params.zero);
            masses[a] = pair_merge(masses[a], masses[a + half], params.zero);
        }
    }
    var totals: RowTotals;
    totals.top = top;
    totals.count = team_count(count, at);
    totals.t = team_sum(ts[0], at, params.zero);
    totals.dot = team_sum(dots[0], at, params.zero);
    totals.mass = team_sum(masses[0], at, params.zero);
    totals.unit = unit;
    totals.dot_unit = dot_unit;
    return totals;
}

@compute @workgroup_size(WG)
fn merge_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    let index = select(0u, number, live);
    let owner = params.first_row + index;
    let row = aimed(locate_row(index), 0u);
    var totals: RowTotals;
    if REUSE {
        totals = kept_totals(row);
    } else {
        totals = merged_totals(owner * params.chunks, lane, at);
    }
    let s = row_stats(totals);
    let outcome = row_outcome(row, totals, s);
    if live && lane == 0u {
        keep_row(row, outcome, totals);
        stats[owner] = Merged(
            s.top,
            select(0u, 1u, s.special),
            s.log_s,
            s.inverse,
            outcome.pull,
            outcome.pull_unit,
            outcome.push,
            outcome.push_unit,
        );
    }
}

@compute @workgroup_size(WG)
fn write_chunks(inv: Invocation) {
    let at = position(inv);
    let chunk = locate_chunk(inv, at);
    let merged = stats[chunk.owner];
    let s = RowStats(merged.top, merged.special > 0u, false, merged.log_s, merged.inverse);
    let outcome = Outcome(nothing_wide(), nothing_wide(), merged.pull, merged.pull_unit, merged.push, merged.push_unit);
    write_row(chunk.row, chunk.len, block_count(params.chunk_len), at % TEAM, s, outcome);
}
