// The losses of all rows to one, and before that the divisors of a mean, both by a fixed tree: blocks of BLOCK rows, one
// workgroup a block, then one workgroup over the blocks (needs cross_entropy_params, signed_team, elementary).
//   count_rows, count_blocks  weights of the targets that are not ignored, and their number: the divisors
//   sum_rows, sum_blocks      compensated sums of the rows' losses and z terms, and the first row whose label is no class
// Where there is one block only, the first of each pair does all. MEAN says that the sums are divided, WRITTEN that there is a
// result at all: else only the label's check is done. Sums have units, so that losses and weights may be as large or small
// as they like where the result is not.
//
// `head` begins with the status: 0, or 1 + the first row of a bad label that was ever met; then the divisors, and then their
// inverses; from the 16th on there are two vectors a block.
// Bindings: 0 params, 4 labels, 5 weight, 7 records, 8 head, 11 loss. Barriers: only inside collectives; TEAM is WG.

@group(0) @binding(4) var<storage, read> labels_data: array<i32>;
@group(0) @binding(7) var<storage, read_write> records: array<vec4<u32>>;
@group(0) @binding(8) var<storage, read_write> head: array<vec4<u32>>;

const HEAD: u32 = 16u;

struct Sums {
    loss: Scaled,
    z: Scaled,
    // Complement of the first bad row's number, 0 if there is none: the largest is the first row.
    bad: u32,
    count: u32,
}

fn no_sums() -> Sums {
    return Sums(no_sum(), no_sum(), 0u, 0u);
}

fn team_sums(sums: Sums, at: u32) -> Sums {
    return Sums(
        team_scaled(sums.loss, at, params.zero),
        team_scaled(sums.z, at, params.zero),
        team_max(sums.bad, at),
        team_count(sums.count, at),
    );
}

fn store_block(block: u32, s: Sums) {
    head[HEAD + 2u * block] = bitcast<vec4<u32>>(vec4<f32>(s.loss.pair, s.z.pair));
    head[HEAD + 2u * block + 1u] = vec4<u32>(s.bad, s.count, bitcast<u32>(s.loss.unit), bitcast<u32>(s.z.unit));
}

fn sum_of_blocks(at: u32) -> Sums {
    var s = no_sums();
    for (var block = at; block < params.blocks; block += WG) {
        let v = bitcast<vec4<f32>>(head[HEAD + 2u * block]);
        let w = head[HEAD + 2u * block + 1u];
        s.loss = scaled_merge(s.loss, Scaled(v.xy, bitcast<i32>(w.z)), params.zero);
        s.z = scaled_merge(s.z, Scaled(v.zw, bitcast<i32>(w.w)), params.zero);
        s.bad = max(s.bad, w.x);
        s.count += w.y;
    }
    return team_sums(s, at);
}

fn wide_of(s: Scaled) -> Wide {
    return signed_normal(s.pair, s.unit, params.zero);
}

fn quotient(a: Wide, b: Wide) -> Wide {
    if a.high != 0.0 && b.high != 0.0 && is_finite(a.high) && is_finite(b.high) {
        return wide_div(a, b, params.zero);
    }
    // What IEEE makes of zeros, infinities and NaN.
    return signed_wide(opaque(m_div(a.high, b.high, params.zero), params.zero), params.zero);
}

fn words_of(w: Wide, count: f32) -> vec4<u32> {
    return vec4<u32>(bitcast<u32>(w.high), bitcast<u32>(w.low), bitcast<u32>(w.exponent), bitcast<u32>(count));
}

fn settle_counts(s: Sums) {
    let weight = wide_of(s.loss);
    let count = f32(s.count);
    head[1] = words_of(weight, count);
    head[2] = words_of(quotient(Wide(1.0, 0.0, 0), weight), m_div(1.0, count, params.zero));
}

fn settle_losses(s: Sums) {
    if s.bad != 0u && head[0].x == 0u {
        head[0].x = ~s.bad + 1u;
    }
    if !WRITTEN {
        return;
    }
    var loss = wide_of(s.loss);
    var z = wide_of(s.z);
    if MEAN {
        var weight = signed_wide(params.divisor, params.zero);
        var count = weight;
        if params.counted != 0u {
            let v = head[1];
            weight = Wide(bitcast<f32>(v.x), bitcast<f32>(v.y), bitcast<i32>(v.z));
            count = signed_wide(bitcast<f32>(v.w), params.zero);
        }
        loss = quotient(loss, weight);
        z = quotient(z, count);
    }
    if Z_LOSS {
        loss = signed_add(loss, z, params.zero);
    }
    write_result(signed_f32(loss, params.zero));
}

@compute @workgroup_size(WG)
fn count_rows(inv: Invocation) {
    let at = position(inv);
    let block = inv.group.x + inv.group.y * params.grid_x;
    let end = min(BLOCK, params.rows - min(params.rows, block * BLOCK));
    var s = no_sums();
    for (var i = at; i < end; i += WG) {
        let label = labels_data[params.bases.w + block * BLOCK + i];
        let ignored = params.ignore_set != 0u && label == params.ignore;
        if !ignored && label >= 0 && u32(label) < params.len {
            let w = signed_wide(class_weight(u32(label)), params.zero);
            s.loss = scaled_merge(s.loss, Scaled(vec2<f32>(w.high, 0.0), w.exponent), params.zero);
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
    var s = no_sums();
    for (var i = at; i < end; i += WG) {
        let record = records[params.more_bases.w + block * BLOCK + i];
        let v = bitcast<vec2<f32>>(record.xy);
        let units = bitcast<vec2<i32>>(record.zw);
        s.loss = scaled_merge(s.loss, Scaled(vec2<f32>(v.x, 0.0), units.x), params.zero);
        s.z = scaled_merge(s.z, Scaled(vec2<f32>(v.y, 0.0), units.y), params.zero);
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
