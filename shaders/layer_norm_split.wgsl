// Layer norm and rms norm, forward and gradient of the input, of few but long rows: each row is cut into chunks, a team of
// TEAM invocations a chunk, WG / TEAM chunks a workgroup. Dispatches:
//   reduce_chunks  extremes, mean and squares of every chunk in its own scale, into `partials`
//   merge_chunks   one team a row: the row's statistics after Chan, Golub and LeVeque, into `records`
//   dot_chunks     backward: every chunk's sums of the upstream gradient, into `partials`
//   write_chunks   the results, chunk by chunk; backward, each team first adds up the sums of its row
//
// A chunk is a row of the dispatch: its number counts chunks fastest, `sizes.x` of them a row.
// Bindings: 0 params, 1 x, 2 y, 3 upstream, 4 weight, 5 bias, 6 records, 7 partials. Barriers: only inside collectives.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;

struct Partial {
    extremes: vec2<u32>,
    mean: vec2<f32>,
    squares: vec2<f32>,
    dot: vec2<f32>,
    total: vec2<f32>,
    spare: vec2<u32>,
}

@group(0) @binding(7) var<storage, read_write> partials: array<Partial>;

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
    chunk.row = locate_row(index);
    chunk.owner = params.first_row + index / params.sizes.x;
    let part = params.first_chunk + index % params.sizes.x;
    chunk.number = chunk.owner * params.chunks + part;
    chunk.len = select(0u, min(params.chunk_len, params.len - part * params.chunk_len), chunk.live);
    return chunk;
}

@compute @workgroup_size(WG)
fn reduce_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let chunk = locate_chunk(inv, at);
    let blocks = block_count(params.chunk_len);
    let extremes = sweep_extremes(chunk.row, chunk.len, blocks, lane, at);
    let scale = row_scale(extremes);
    let inverse = select(params.inverse_last, params.inverse_chunk, chunk.len == params.chunk_len);
    let m = sweep_moments(chunk.row, chunk.len, blocks, lane, at, scale, inverse, unordered(extremes.x));
    if chunk.live && lane == 0u {
        partials[chunk.number].extremes = extremes;
        partials[chunk.number].mean = m.mean;
        partials[chunk.number].squares = m.squares;
    }
}

// A pair times 2^k for k <= 0; below the range it counts for nothing.
fn lowered(v: vec2<f32>, k: i32) -> vec2<f32> {
    return select(vec2<f32>(0.0), v * power_of_two(max(k, -126)), k >= -126);
}

// Elements of chunk c of a row.
fn chunk_size(c: u32) -> f32 {
    return f32(min(params.chunk_len, params.len - c * params.chunk_len));
}

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

fn recall(owner: u32) -> Stats {
    let record = records[owner];
    var scale: Scale;
    scale.status = record.status;
    scale.e = record.e;
    scale.factor = power_of_two(min(-record.e, 127));
    scale.tiny = record.e < -60;
    scale.lift = power_of_two(clamp(-149 - record.e, -126, 0));
    return Stats(scale, record.mean, record.r, record.f, record.e - record.f);
}

@compute @workgroup_size(WG)
fn dot_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let chunk = locate_chunk(inv, at);
    let s = recall(chunk.owner);
    let sums = sweep_dots(chunk.row, chunk.len, block_count(params.chunk_len), lane, at, s);
    if chunk.live && lane == 0u {
        partials[chunk.number].dot = sums.dot;
        partials[chunk.number].total = sums.total;
    }
}

@compute @workgroup_size(WG)
fn write_chunks(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let chunk = locate_chunk(inv, at);
    let s = recall(chunk.owner);
    var c: Corrections;
    if BACKWARD {
        let begin = chunk.owner * params.chunks;
        var dots: array<vec2<f32>, ACC>;
        var totals: array<vec2<f32>, ACC>;
        for (var i = lane; i < params.chunks; i += TEAM) {
            let a = i / TEAM % ACC;
            dots[a] = pair_merge(dots[a], partials[begin + i].dot, params.zero);
            totals[a] = pair_merge(totals[a], partials[begin + i].total, params.zero);
        }
        let dot = gather(&dots, at);
        c = corrections(dot, gather(&totals, at), s);
    }
    sweep_write(chunk.row, chunk.len, block_count(params.chunk_len), lane, s, c);
}
