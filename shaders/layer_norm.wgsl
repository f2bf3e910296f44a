// Layer norm and rms norm, forward and gradient of the input: one team of TEAM invocations computes one row, a workgroup of
// WG invocations computes WG / TEAM rows, in passes: extremes, mean, squares, (backward) sums of the upstream gradient,
// results. With KEEP > 0 the row is held in registers: one read and one write. Two entry points:
//   main        results; where asked for it leaves a record of each row for layer_norm_columns.wgsl
//   statistics  the records alone, for gradients that are written over x
//
// Bindings: 0 params, 1 x, 2 y, 3 upstream, 4 weight, 5 bias, 6 records. Barriers: only inside the collectives of
// lib/reduce.wgsl and team_extremes, which all invocations reach, those of missing rows too.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;

// Statistics of the row of a team.
fn measure(row: Row, len: u32, blocks: u32, lane: u32, at: u32) -> Stats {
    let extremes = sweep_extremes(row, len, blocks, lane, at);
    let scale = row_scale(extremes);
    let m = sweep_moments(row, len, blocks, lane, at, scale, params.inverse, unordered(extremes.x));
    return row_stats(scale, m.mean, m.squares);
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    let row = locate_row(select(0u, number, live));
    let len = select(0u, params.len, live);
    let blocks = block_count(params.len);

    let s = measure(row, len, blocks, lane, at);
    var c: Corrections;
    if BACKWARD {
        let sums = sweep_dots(row, len, blocks, lane, at, s);
        c = corrections(sums.dot, sums.total, s);
    }
    sweep_write(row, len, blocks, lane, s, c);
    if live && lane == 0u {
        keep_record(number, s);
    }
}

@compute @workgroup_size(WG)
fn statistics(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    let row = locate_row(select(0u, number, live));
    let s = measure(row, select(0u, params.len, live), block_count(params.len), lane, at);
    if live && lane == 0u {
        keep_record(number, s);
    }
}
