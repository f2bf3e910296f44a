// Merges the records of rows that were split, and finishes those rows as spmv.wgsl does the others.
//
// A workgroup takes every params.groups-th split row: (row, first record, records, unused). Records are added up lane by lane
// in turn and then in a tree, always in the same order. Barriers: in team_sum, reached by all.

@compute @workgroup_size(WG)
fn merge(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let vector = id.y * VECTORS;
    if !is_active(vector) {
        return;
    }
    var dot = Sum(num(), num());
    for (var block = id.x; block < params.blocks; block += params.groups) {
        let first = block_word(block, 1u);
        let count = block_word(block, 2u);
        var own = Sum(num(), num());
        for (var record = lane; record < count; record += WG) {
            own = sum_merge(own, record_load(first + record, vector));
        }
        let sum = team_sum(own, lane, lane, WG);
        if lane == 0u {
            let term = finish_row(block_word(block, 0u), vector, sum);
            if DOT {
                dot = sum_add(dot, term);
            }
        }
    }
    if DOT {
        finish_parts(dot, lane, id.x, vector);
    }
}
