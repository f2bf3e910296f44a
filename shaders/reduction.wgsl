// Reductions over any axes: a team of TEAM invocations takes one chunk of a row, WG / TEAM chunks a workgroup. A row that is
// one chunk is done at once; of others every chunk leaves a record, and records are merged until one is left:
//   reduce_rows    rows of one chunk, straight to the result
//   reduce_chunks  chunks of rows, into `partials`
//   merge_records  groups of `fan` records of a row, into `merged`
//   merge_rows     all records of a row, to the result
//
// Bindings: 0 params, 1 x, 2 y, 3 w (second factor of a dot product), 4 partials, 5 merged. Barriers: only inside
// collectives, which every invocation reaches.

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;
@group(0) @binding(4) var<storage, read_write> partials: array<Record>;
@group(0) @binding(5) var<storage, read_write> merged: array<Record>;

fn own_number(inv: Invocation, at: u32) -> u32 {
    return (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
}

@compute @workgroup_size(WG)
fn reduce_rows(inv: Invocation) {
    let at = position(inv);
    let number = own_number(inv, at);
    let live = number < params.rows;
    let chunk = locate_chunk(select(0u, number, live), live);
    let state = sweep(chunk, at % TEAM, at);
    if live && at % TEAM == 0u {
        finish(state, chunk.y);
    }
}

@compute @workgroup_size(WG)
fn reduce_chunks(inv: Invocation) {
    let at = position(inv);
    let number = own_number(inv, at);
    let live = number < params.rows;
    let chunk = locate_chunk(select(0u, number, live), live);
    let state = sweep(chunk, at % TEAM, at);
    if live && at % TEAM == 0u {
        partials[chunk.slot] = record_of(state);
    }
}

// Records begin to end of `partials`, as one, in lane 0 of the team.
fn merge_range(begin: u32, end: u32, lane: u32, at: u32) -> State {
    var states: array<State, ACC>;
    let rounds = (end - begin + TEAM * ACC - 1u) / (TEAM * ACC);
    for (var round = 0u; round < rounds; round += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let r = begin + (round * ACC + a) * TEAM + lane;
            if r < end {
                states[a] = state_merge(states[a], state_of(partials[r]));
            }
        }
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            states[a] = state_merge(states[a], states[a + half]);
        }
    }
    return state_team(states[0], at);
}

@compute @workgroup_size(WG)
fn merge_records(inv: Invocation) {
    let at = position(inv);
    let number = own_number(inv, at);
    let live = number < params.rows;
    let group = params.first_row + number;
    let groups = (params.records + params.fan - 1u) / params.fan;
    let first = group % groups * params.fan;
    let begin = select(0u, group / groups * params.records + first, live);
    let end = begin + select(0u, min(params.fan, params.records - first), live);
    let state = merge_range(begin, end, at % TEAM, at);
    if live && at % TEAM == 0u {
        merged[group] = record_of(state);
    }
}

@compute @workgroup_size(WG)
fn merge_rows(inv: Invocation) {
    let at = position(inv);
    let number = own_number(inv, at);
    let live = number < params.rows;
    let begin = select(0u, (params.first_row + number) * params.records, live);
    let end = begin + select(0u, params.records, live);
    let state = merge_range(begin, end, at % TEAM, at);
    if live && at % TEAM == 0u {
        finish(state, result_place(number));
    }
}
