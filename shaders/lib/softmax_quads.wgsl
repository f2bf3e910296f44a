// A row by quads: entries are taken four at a time, and quad q belongs to accumulator q / TEAM % ACC of lane q % TEAM. With
// TEAM * ACC = 16 the 64 virtual lanes and the tree over them are the same whatever the team, so the result's bits do not
// depend on the subgroup width. With KEEP > 0 the row is held in registers, KEEP blocks of TEAM * ACC quads, and read once.
// WHOLE says that rows end on multiples of four entries and that none is hidden.
//
// Needs reduce and an operation's own Row, with the number of entries `visible`, and logits4, which reads a quad.

// Which of four entries starting at j lie below `end`.
fn inside4(j: u32, end: u32) -> vec4<bool> {
    if WHOLE {
        return vec4<bool>(true);
    }
    return vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(end);
}

// How many of the four entries from j on lie below `end`, where at least one does.
fn present(j: u32, end: u32) -> u32 {
    return select(min(4u, end - j), 4u, WHOLE);
}

// Ordered maximum over the four entries that lie below `end`.
fn max4(z: vec4<f32>, inside: vec4<bool>) -> u32 {
    let keys = select(vec4<u32>(0u), ordered4(z), inside);
    return max(max(keys.x, keys.y), max(keys.z, keys.w));
}

const KEPT: u32 = max(KEEP * ACC, 1u);
var<private> kept: array<vec4<f32>, KEPT>;

// Blocks that a row of `len` entries has.
fn block_count(len: u32) -> u32 {
    return select((len + 4u * TEAM * ACC - 1u) / (4u * TEAM * ACC), KEEP, KEEP > 0u);
}

// First entry of quad `a` of `block` for this lane.
fn quad_start(block: u32, a: u32, lane: u32) -> u32 {
    return ((block * ACC + a) * TEAM + lane) * 4u;
}

// The logits of a quad, from registers where they are held.
fn logits_again4(row: Row, block: u32, a: u32, j: u32) -> vec4<f32> {
    if KEEP > 0u {
        return kept[block * ACC + a];
    }
    return logits4(row, j, row.visible);
}

// Ordered maximum of the row, in every lane.
fn sweep_max(row: Row, blocks: u32, lane: u32, at: u32) -> u32 {
    var top = 0u;
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < row.visible {
                let z = logits4(row, j, row.visible);
                if KEEP > 0u {
                    kept[block * ACC + a] = z;
                }
                top = max(top, max4(z, inside4(j, row.visible)));
            }
        }
    }
    return team_max(top, at);
}
