// Cross-entropy and nll_loss with their gradient in one go: one team of TEAM invocations computes one row, a workgroup of WG
// invocations computes WG / TEAM rows. With KEEP > 0 the row is held in registers: one read and one write of the logits. Else
// maximum and sums take one read (with SWEEP, one each) and the gradient another: two reads (three) and one write. Rows that are ignored are not read.
//
// Where an earlier call has kept what rows come to (REUSE), the gradient takes one read and one write.
//
// Bindings: 0 params, 1 x, 2 y, 3 logp, 4 labels, 5 weight, 6 upstream, 7 records, 8 head, 11 loss, 12 prob, 13 sums. Barriers:
// only inside collectives, which all invocations reach, those of missing rows too.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(7) var<storage, read_write> records: array<vec4<u32>>;

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let number = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = number < params.rows;
    let len = select(0u, params.len, live);
    var row = locate_row(select(0u, number, live));
    row.visible = len;
    row = aimed(row, 0u);
    let blocks = block_count(params.len);

    var totals: RowTotals;
    if REUSE {
        totals = kept_totals(row);
    } else if NLL {
        totals = team_pick(row, lane, at);
    } else if KEEP > 0u || SWEEP {
        totals = sum_kept(row, blocks, lane, at, sweep_max(row, blocks, lane, at));
    } else {
        totals = sum_read_once(row, blocks, lane, at);
    }
    let stats = row_stats(totals);
    let outcome = row_outcome(row, totals, stats);
    if live && lane == 0u {
        keep_row(row, outcome, totals);
    }
    write_row(row, len, blocks, lane, stats, outcome);
}
