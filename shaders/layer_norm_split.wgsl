// Layer norm and rms norm, forward and gradient of the input, of few but long rows: each row is cut into chunks, a team of
// TEAM invocations a chunk, WG / TEAM chunks a workgroup. Dispatches:
//   reduce_chunks  extremes, mean and squares of every chunk in its own scale, into `partials`
//   merge_chunks   (layer_norm_split_merge.wgsl) the statistics of every row, into `records`
//   dot_chunks     backward: every chunk's sums of the upstream gradient, into `partials`
//   write_chunks   the results, chunk by chunk; backward, each team first adds up the sums of its row
//
// A chunk is a row of the dispatch: its number counts chunks fastest, `sizes.x` of them a row.
// Bindings: 0 params, 1 x, 2 y, 3 upstream, 4 weight, 5 bias, 6 records, 7 partials. Barriers: only inside collectives.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;

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
