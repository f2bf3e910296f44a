// Softmax, log-softmax and log-sum-exp, forward and backward, of few but long rows: each row is cut into chunks, a team of
// TEAM invocations a chunk, WG / TEAM chunks a workgroup. Three dispatches:
//   reduce_chunks  maximum and sums of every chunk relative to its own maximum, into `partials`
//   merge_chunks   one team a row: the row's maximum, sums rescaled to it, and what follows from them, into `stats`;
//                  logsumexp is done here
//   write_chunks   the results, chunk by chunk
// Rows whose statistics do not fit the workspace together go through it in groups, one after the other.
//
// A chunk is a row of the dispatch: its number counts chunks fastest, `sizes.x` of them a row.
// Bindings: 0 params, 1 x, 2 y, 3 mask, 4 upstream, 5 partials, 6 stats. Barriers: only inside collectives.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;

// Ordered keys up to this one: no entry at all, or nothing but -inf.
const NOTHING: u32 = 0x007fffffu;

struct Partial {
    // Ordered maximum; 0 where no entry takes part.
    top: u32,
    count: u32,
    // T times 2^64 and the gradient's sum, relative to the chunk's maximum.
    t: vec2<f32>,
    dot: vec2<f32>,
    spare: vec2<u32>,
}

struct Merged {
    top: f32,
    // 1: special, 2: special with nothing in the row.
    status: u32,
    log_s: vec2<f32>,
    inverse: vec2<f32>,
    dot: f32,
    spare: u32,
}

@group(0) @binding(5) var<storage, read_write> partials: array<Partial>;
@group(0) @binding(6) var<storage, read_write> stats: array<Merged>;

// A chunk of the dispatch: where it lies, and which part of which row it is.
struct Chunk {
    row: Row,
    // Number of its row among all rows, and its own among those in the workspace.
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
    chunk.row = locate_row(index);
    chunk.owner = params.first_row + index / params.sizes.x;
    let part = params.first_chunk + index % params.sizes.x;
    chunk.number = (chunk.owner - params.group) * params.chunks + part;
    let begin = part * params.chunk_len;
    chunk.len = select(0u, min(params.chunk_len, params.len - begin), chunk.live);
    let visible = visible_entries(chunk.owner, params.len);
    chunk.row.visible = min(chunk.len, max(visible, begin) - begin);
    return chunk;
}

@compute @workgroup_size(WG)
fn reduce_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let chunk = locate_chunk(inv, at);
    let blocks = block_count(params.chunk_len);
    let top = sweep_max(chunk.row, blocks, lane, at);
    let totals = sweep_sums(chunk.row, blocks, lane, at, unordered(top));
    if chunk.live && lane == 0u {
        partials[chunk.number] = Partial(top, totals.count, totals.t, totals.dot, vec2<u32>(0u));
    }
}

// A pair times exp(d) for d <= 0.
fn scale_pair(v: vec2<f32>, factor: f32) -> vec2<f32> {
    let p = two_product(v.x, factor, params.zero);
    return vec2<f32>(p.x, opaque(p.y + v.y * factor, params.zero));
}

@compute @workgroup_size(WG)
fn merge_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    let owner = params.first_row + select(0u, number, live);
    let begin = (owner - params.group) * params.chunks;
    var top = 0u;
    for (var c = lane; c < params.chunks; c += TEAM) {
        top = max(top, partials[begin + c].top);
    }
    top = team_max(top, at);
    let m = unordered(top);
    // As in lib/softmax_sweep.wgsl, ACC accumulators a lane make 16 virtual lanes for every team.
    var count = 0u;
    var ts: array<vec2<f32>, ACC>;
    var dots: array<vec2<f32>, ACC>;
    for (var c = lane; c < params.chunks; c += TEAM) {
        let part = partials[begin + c];
        let a = c / TEAM % ACC;
        var t = ts[a];
        var dot = dots[a];
        if part.top == top {
            count += part.count;
            t = pair_merge(t, part.t, params.zero);
            dot = pair_merge(dot, part.dot, params.zero);
        } else if part.top <= NOTHING {
            // Its sums are relative to a maximum of -inf and mean nothing, but for the plain sum of the upstream gradient.
            if KIND == LOG_SOFTMAX {
                dot = pair_merge(dot, part.dot, params.zero);
            }
        } else {
            // exp(d) times 2^64; the entries equal to the chunk's maximum join the others.
            let e = exp_scaled4(difference4(vec4<f32>(unordered(part.top)), m, params.zero), params.zero).x;
            let own = row_total(f32(part.count), part.t, params.zero);
            t = pair_merge(t, scale_pair(own, e), params.zero);
            let factor = select(e * T_UNSCALE, 1.0, KIND == LOG_SOFTMAX);
            dot = pair_merge(dot, scale_pair(part.dot, factor), params.zero);
        }
        ts[a] = t;
        dots[a] = dot;
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            ts[a] = pair_merge(ts[a], ts[a + half], params.zero);
            dots[a] = pair_merge(dots[a], dots[a + half], params.zero);
        }
    }
    let s = row_stats(top, team_count(count, at), team_sum(ts[0], at, params.zero));
    var total_dot = 0.0;
    if BACKWARD && KIND != LOG_SUM_EXP {
        total_dot = row_dot(team_sum(dots[0], at, params.zero), s);
    }
    if live && lane == 0u {
        if KIND == LOG_SUM_EXP && !BACKWARD {
            write_logsumexp(locate_row(number), s);
        } else {
            let status = select(select(0u, 1u, s.special), 2u, s.nothing);
            stats[owner - params.group] = Merged(s.top, status, s.log_s, s.inverse, total_dot, 0u);
        }
    }
}

@compute @workgroup_size(WG)
fn write_chunks(inv: Invocation) {
    let at = position(inv);
    let chunk = locate_chunk(inv, at);
    let merged = stats[chunk.owner - params.group];
    let s = RowStats(merged.top, merged.status > 0u, merged.status == 2u, merged.log_s, merged.inverse);
    sweep_write(chunk.row, chunk.len, block_count(params.chunk_len), at % TEAM, s, merged.dot);
}
