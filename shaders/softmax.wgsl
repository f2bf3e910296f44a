// Softmax, log-softmax and log-sum-exp, forward and backward: one team of TEAM invocations computes one row, a
// workgroup of WG invocations computes WG / TEAM rows, in three passes: maximum, sums, results. With KEEP > 0 the row is
// held in registers: one read and one write.
//
// Bindings: 0 params, 1 x, 2 y, 3 mask, 4 upstream. Barriers: only inside the collectives of lib/reduce.wgsl, which all
// invocations reach, those of missing rows too.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    var row = locate_row(select(0u, number, live));
    let len = select(0u, params.len, live);
    row.visible = visible_entries(params.first_row + number, len);
    let blocks = block_count(params.len);

    let top = sweep_max(row, blocks, lane, at);
    let totals = sweep_sums(row, blocks, lane, at, unordered(top));
    let stats = row_stats(top, totals.count, totals.t);
    if KIND == LOG_SUM_EXP && !BACKWARD {
        if live && lane == 0u {
            write_logsumexp(row, stats);
        }
    } else {
        sweep_write(row, len, blocks, lane, stats, row_dot(totals.dot, stats));
    }
}
