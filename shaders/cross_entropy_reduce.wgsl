// The losses of all rows to one, and before that the divisors of a mean, both by a fixed tree: blocks of BLOCK rows, one
// workgroup a block, then one workgroup over the blocks (needs cross_entropy_params, reduce, elementary).
//   count_rows, count_blocks  weights of the targets that are not ignored, and their number: the divisors
//   sum_rows, sum_blocks      compensated sums of the rows' losses and z terms, and the first row whose label is no class
// Where there is one block only, the first of each pair does all. MEAN says that the sums are divided, WRITTEN that there is a
// result at all: else only the label's check is done.
//
// `head` begins with the status: 0, or 1 + the first row of a bad label that was ever met; then the divisors and their
// inverses, in 16 words; then two vectors a block.
// Bindings: 0 params, 4 labels, 5 weight, 7 records, 8 head, 11 loss. Barriers: only inside collectives; TEAM is WG.

@group(0) @binding(4) var<storage, read> labels_data: array<i32>;
@group(0) @binding(7) var<storage, read_write> records: array<vec2<u32>>;
@group(0) @binding(8) var<storage, read_write> head: array<vec4<u32>>;

const HEAD: u32 = 16u;

struct Sums {
    loss: vec2<f32>,
    z: vec2<f32>,
    // Complement of the first bad row's number, 0 if there is none: the largest is the first row.
    bad: u32,
    count: u32,
}

fn team_sums(sums: Sums, at: u32) -> Sums {
    return Sums(
        team_sum(sums.loss, at, params.zero),
        team_sum(sums.z, at, params.zero),
        team_max(sums.bad, at),
        team_count(sums.count, at),
    );
}

fn store_block(block: u32, s: Sums) {
    head[HEAD + 2u * block] = vec4<u32>(bitcast<vec2<u32>>(s.loss), bitcast<vec2<u32>>(s.z));
    head[HEAD + 2u * block + 1u] = vec4<u32>(s.bad, s.count, 0u, 0u);
}

fn sum_of_blocks(at: u32) -> Sums {
    var s: Sums;
    for (var block = at; block < params.blocks; block += WG) {
        let v = head[HEAD + 2u * block];
        let w = head[HEAD + 2u * block + 1u];
        s.loss = pair_merge(s.loss, bitcast<vec2<f32>>(v.xy), params.zero);
        s.z = pair_merge(s.z, bitcast<vec2<f32>>(v.zw), params.zero);
        s.bad = max(s.bad, w.x);
        s.count += w.y;
    }
    return team_sums(s, at);
}

fn settle_counts(s: Sums) {
    let weight = pair_value(s.loss);
    let count = f32(s.count);
    head[1] = bitcast<vec4<u32>>(vec4<f32>(m_div(1.0, weight, params.zero), m_div(1.0, count, params.zero), weight, count));
}

fn settle_losses(s: Sums) {
    if s.bad != 0u && head[0].x == 0u {
        head[0].x = ~s.bad + 1u;
    }
    if !WRITTEN {
        return;
    }
    var loss = pair_value(s.loss);
    var z = pair_value(s.z);
    if MEAN {
        var divisors = vec2<f32>(params.divisor);
        if params.counted != 0u {
            divisors = bitcast<vec2<f32>>(head[1].zw);
        }
        loss = m_div(loss, divisors.x, params.zero);
        z = select(0.0, m_div(z, divisors.y, params.zero), Z_LOSS);
    }
    let total = opaque(loss + z, params.zero);
    write_result(select(total, nan_f32(), is_nan(total)));
}

@compute @workgroup_size(WG)
fn count_rows(inv: Invocation) {
    let at = position(inv);
    let block = inv.group.x + inv.group.y * params.grid_x;
    let end = min(BLOCK, params.rows - min(params.rows, block * BLOCK));
    var s: Sums;
    for (var i = at; i < end; i += WG) {
        let label = labels_data[params.bases.w + block * BLOCK + i];
        let ignored = params.ignore_set != 0u && label == params.ignore;
        if !ignored && label >= 0 && u32(label) < params.len {
            s.loss = pair_add(s.loss, class_weight(u32(label)), params.zero);
            s.count += 1u;
        }
    }
    s = team_sums(s, at);
    if at == 0u && end > 0u {
        store_block(params.first_block + block, s);
    }
    if at == 0u && params.blocks <= 1u {
        settle_counts(s);
    }
}

@compute @workgroup_size(WG)
fn count_blocks(inv: Invocation) {
    let at = position(inv);
    let s = sum_of_blocks(at);
    if at == 0u {
        settle_counts(s);
    }
}

@compute @workgroup_size(WG)
fn sum_rows(inv: Invocation) {
    let at = position(inv);
    let block = inv.group.x + inv.group.y * params.grid_x;
    let end = min(BLOCK, params.rows - min(params.rows, block * BLOCK));
    var s: Sums;
    for (var i = at; i < end; i += WG) {
        let record = records[params.more_bases.w + block * BLOCK + i];
        s.loss = pair_add(s.loss, bitcast<f32>(record.x), params.zero);
        s.z = pair_add(s.z, bitcast<f32>(record.y), params.zero);
        if record.y == OUT_OF_RANGE {
            s.bad = max(s.bad, ~(params.first_row + block * BLOCK + i));
        }
    }
    s = team_sums(s, at);
    if at == 0u && end > 0u {
        store_block(params.first_block + block, s);
    }
    if at == 0u && params.blocks <= 1u {
        settle_losses(s);
    }
}

@compute @workgroup_size(WG)
fn sum_blocks(inv: Invocation) {
    let at = position(inv);
    let s = sum_of_blocks(at);
    if at == 0u {
        settle_losses(s);
    }
}
