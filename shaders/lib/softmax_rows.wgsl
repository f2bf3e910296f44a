// Rows of the softmax family: parameters, where rows lie, what enters the exponential, and what is written
// (needs softmax_math, softmax_quads, reduce, softmax_mask_* and softmax_upstream_*). KIND and BACKWARD say which function is computed,
// MASKED_ZERO what a row without a finite or +inf entry gives.

const SOFTMAX: u32 = 0u;
const LOG_SOFTMAX: u32 = 1u;
const LOG_SUM_EXP: u32 = 2u;

struct Params {
    // Row dimensions, innermost first, and the strides of the tensors along them, in elements.
    sizes: vec4<u32>,
    x_strides: vec4<u32>,
    y_strides: vec4<u32>,
    mask_strides: vec4<u32>,
    upstream_strides: vec4<u32>,
    // Element of the binding at which row 0 begins: x, y, mask, upstream.
    bases: vec4<u32>,
    // From one element of a row to the next: x, y, mask, upstream.
    steps: vec4<u32>,
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Rows of this dispatch (for split rows: chunks), their length, and workgroups along x.
    rows: u32,
    len: u32,
    grid_x: u32,
    // Number of row 0 among all rows.
    first_row: u32,
    // Causal mask: entry j of row r takes part if j <= r % queries + diagonal; queries = 0 where there is none.
    queries: u32,
    diagonal: i32,
    scale: f32,
    // Split rows: chunks a row has in all, the first of them in this dispatch, elements a chunk, and the number of the first
    // row in the workspace.
    chunks: u32,
    first_chunk: u32,
    chunk_len: u32,
    group: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// Where a row begins in each tensor, and how many of its entries take part.
struct Row {
    x: u32,
    y: u32,
    mask: u32,
    upstream: u32,
    visible: u32,
}

fn locate_row(row: u32) -> Row {
    let a = row / params.sizes.x;
    let b = a / params.sizes.y;
    let c = b / params.sizes.z;
    let index = vec4<u32>(row % params.sizes.x, a % params.sizes.y, b % params.sizes.z, c);
    let at = index * params.x_strides;
    let to = index * params.y_strides;
    let mask = index * params.mask_strides;
    let up = index * params.upstream_strides;
    return Row(
        params.bases.x + at.x + at.y + at.z + at.w,
        params.bases.y + to.x + to.y + to.z + to.w,
        params.bases.z + mask.x + mask.y + mask.z + mask.w,
        params.bases.w + up.x + up.y + up.z + up.w,
        params.len,
    );
}

// Leading entries of row `number` (among all rows) that the causal mask leaves.
fn visible_entries(number: u32, len: u32) -> u32 {
    if params.queries == 0u {
        return len;
    }
    let end = i32(number % params.queries) + params.diagonal + 1;
    return u32(clamp(end, 0, i32(len)));
}

// Four logits z = fl(fl(x * scale) + mask) from entry j on, of which those below `end` are asked for (at least one).
fn logits4(row: Row, j: u32, end: u32) -> vec4<f32> {
    let n = present(j, end);
    let x = x_load4(row.x + j * params.steps.x, params.steps.x, n);
    let scaled = select(x, opaque4(x * params.scale, params.zero), SCALED);
    return masked4(scaled, row, j, n);
}

// Sums of a row relative to its maximum: entries equal to it, T times 2^64 over the others, and the sum that the
// gradient needs (of exp(d) g for softmax, of g for log_softmax).
struct RowSums {
    count: vec4<u32>,
    t: Pair4,
    dot: Pair4,
}

fn empty_sums() -> RowSums {
    let none = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    return RowSums(vec4<u32>(0u), none, none);
}

fn add_entries(sums: RowSums, z: vec4<f32>, inside: vec4<bool>, m: f32, upstream: vec4<f32>) -> RowSums {
    let d = difference4(z, m, params.zero);
    let tie = inside & (d.high == vec4<f32>(0.0));
    let v = select(vec4<f32>(0.0), exp_scaled4(d, params.zero), inside & !tie);
    var result = sums;
    result.count += select(vec4<u32>(0u), vec4<u32>(1u), tie);
    result.t = pair_add_positive4(sums.t, v, params.zero);
    if BACKWARD && KIND != LOG_SUM_EXP {
        // exp(d) g without losing exp(d) below the normal range to a driver that flushes.
        let direct = opaque4(v * T_UNSCALE, params.zero) * upstream;
        let small = opaque4(v * upstream, params.zero) * T_UNSCALE;
        let weighed = select(opaque4(select(direct, small, v < vec4<f32>(1.0)), params.zero), upstream, tie);
        let term = select(upstream, weighed, KIND == SOFTMAX);
        result.dot = pair_add4(sums.dot, select(vec4<f32>(0.0), term, inside), params.zero);
    }
    return result;
}

// What a row comes to, from its ordered maximum, the number of entries equal to it and T times 2^64.
fn row_stats(top: u32, count: u32, t: vec2<f32>) -> RowStats {
    let m = unordered(top);
    let bits = bitcast<u32>(m);
    // Key 0 means that there was no entry at all.
    let nothing = top == 0u || bits == 0xff800000u;
    let bad = is_nan_bits(bits) || bits == 0x7f800000u;
    if nothing || bad {
        var fill = nan_f32();
        if nothing {
            if KIND == LOG_SUM_EXP && !BACKWARD {
                fill = neg_inf_f32();
            } else if MASKED_ZERO {
                fill = hidden_value();
            }
        } else if KIND == LOG_SUM_EXP && !BACKWARD {
            fill = m;
        }
        return RowStats(fill, true, nothing, vec2<f32>(0.0), vec2<f32>(0.0));
    }
    let s = row_total(f32(count), t, params.zero);
    return RowStats(m, false, false, row_log(s, t, params.zero), row_inverse(s, params.zero));
}

// What an entry gets that does not take part.
fn hidden_value() -> f32 {
    if KIND == LOG_SOFTMAX && !BACKWARD {
        return neg_inf_f32();
    }
    return 0.0;
}

// The sum for the gradient, divided by S where softmax weighs it.
fn row_dot(dot: vec2<f32>, stats: RowStats) -> f32 {
    let value = pair_value(dot);
    if KIND == SOFTMAX {
        return value * stats.inverse.x + value * stats.inverse.y;
    }
    return value;
}

// Four results of an ordinary row.
fn results4(z: vec4<f32>, stats: RowStats, dot: f32, upstream: vec4<f32>) -> vec4<f32> {
    let d = difference4(z, stats.top, params.zero);
    if !BACKWARD && KIND == LOG_SOFTMAX {
        return log_softmax4(d, stats, params.zero);
    }
    if !BACKWARD {
        return softmax4(d, stats, params.zero);
    }
    var weight = upstream;
    if KIND == SOFTMAX {
        weight = opaque4(upstream - dot, params.zero);
    } else if KIND == LOG_SOFTMAX {
        weight = vec4<f32>(dot);
    }
    var gradient = softmax_times4(d, weight, stats, params.zero);
    if KIND == LOG_SOFTMAX {
        gradient = upstream - opaque4(gradient, params.zero);
    }
    return select(gradient, opaque4(gradient, params.zero) * params.scale, SCALED);
}

// Four entries of y from entry j on: `z` and `upstream` are read only where they take part.
fn finish4(row: Row, j: u32, z: vec4<f32>, stats: RowStats, dot: f32, upstream: vec4<f32>) -> vec4<f32> {
    var v = vec4<f32>(stats.top);
    if !stats.special {
        v = results4(z, stats, dot, upstream);
    }
    // A row with nothing in it has the same fill throughout, its hidden entries too.
    return select(vec4<f32>(hidden_value()), v, inside4(j, row.visible) | vec4<bool>(stats.nothing));
}
