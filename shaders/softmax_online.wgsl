// Softmax, log-softmax and log-sum-exp with maximum and sums taken in one read of the row (Milakov and Gimelshein), for
// rows too long to be held on chip: two reads and one write. Teams, quads and bindings are those of softmax.wgsl.
// Each of the 4 * TEAM virtual lanes has a state of lib/softmax_running.wgsl; ACC is 1. Barriers: only inside collectives.

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

    var s: Online;
    var top = 0u;
    for (var block = 0u; block < blocks; block += 1u) {
        let j = quad_start(block, 0u, lane);
        if j < row.visible {
            let z = logits4(row, j, row.visible);
            let inside = inside4(j, row.visible);
            top = max(top, max4(z, inside));
            s = take(s, z, inside);
        }
    }
    top = team_max(top, at);
    let m = unordered(top);
    let settled = settle(s, m);
    let counts = settled.count;
    let ties = team_count(u32(counts.x + counts.y + counts.z + counts.w), at);
    let stats = row_stats(top, ties, team_sum(fold4(settled.t, params.zero), at, params.zero));

    if KIND == LOG_SUM_EXP {
        if live && lane == 0u {
            write_logsumexp(row, stats);
        }
    } else {
        sweep_write(row, len, blocks, lane, stats, 0.0);
    }
}
