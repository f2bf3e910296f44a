// Rows of the losses over classes: where they lie, what their targets weigh, and what they come to (needs
// cross_entropy_params, softmax_math, softmax_quads, reduce and one each of cross_entropy_labels or _probabilities, _weight,
// _gradient, _log_prob, _each or _reduced).
//
// With q_j the target's weight of class j, (remain * t_j + spread) * weight_j, the loss is sum q_j (log S - (x_j - m)), and the
// gradient (Q p_j - q_j) times the upstream gradient, Q = sum q_j. Where q_j is 0 the class adds nothing. DENSE says that more than one q_j differs from 0.

const NO_LABEL: u32 = 0xffffffffu;
const ORDINARY: u32 = 0u;
const IGNORED: u32 = 1u;
const INVALID: u32 = 2u;

struct Row {
    // Where the row begins.
    x: u32,
    y: u32,
    logp: u32,
    aim: u32,
    weight: u32,
    upstream: u32,
    loss: u32,
    record: u32,
    // Its label, counted from its first entry.
    label: u32,
    state: u32,
    // Entries that are read.
    visible: u32,
}

fn along(index: vec4<u32>, strides: vec4<u32>) -> u32 {
    let p = index * strides;
    return p.x + p.y + p.z + p.w;
}

fn locate_row(row: u32) -> Row {
    let a = row / params.sizes.x;
    let b = a / params.sizes.y;
    let c = b / params.sizes.z;
    let index = vec4<u32>(row % params.sizes.x, a % params.sizes.y, b % params.sizes.z, c);
    return Row(
        params.bases.x + along(index, params.x_strides),
        params.bases.y + along(index, params.y_strides),
        params.bases.z + along(index, params.logp_strides),
        params.bases.w + along(index, params.aim_strides),
        params.more_bases.x + along(index, params.weight_strides),
        params.more_bases.y + along(index, params.upstream_strides),
        params.more_bases.z + along(index, params.loss_strides),
        params.more_bases.w + along(index, params.record_strides),
        NO_LABEL,
        ORDINARY,
        params.len,
    );
}

// Four logits from class j on, of which those below `end` exist.
fn logits4(row: Row, j: u32, end: u32) -> vec4<f32> {
    return x_load4(row.x + j * params.steps.x, params.steps.x, present(j, end));
}

// The target's weights of the four classes from j on.
fn charges4(row: Row, j: u32, end: u32) -> vec4<f32> {
    if !DENSE && row.label - j >= 4u {
        return vec4<f32>(0.0);
    }
    let n = present(j, end);
    var q = shares4(row, j, n);
    if SMOOTHED {
        q = opaque4(q * params.remain, params.zero) + params.spread;
    }
    return opaque4(weighted4(q, row, j, n), params.zero);
}

// q (x - m) as a pair, also where x - m passes the range; 0 where q is, were x infinite.
fn weighed4(q: vec4<f32>, x: vec4<f32>, m: vec4<f32>) -> Pair4 {
    let t = two_sum4(x, -m, params.zero);
    let far = t.high < vec4<f32>(-3.0e38);
    var high = opaque4(q * t.high, params.zero);
    if any(far) {
        let half = opaque4(0.5 * x - 0.5 * m, params.zero);
        high = select(high, opaque4(q * half, params.zero) * 2.0, far);
    }
    let none = q == vec4<f32>(0.0);
    let low = select(opaque4(q * t.low, params.zero), vec4<f32>(0.0), far | none);
    return Pair4(select(high, vec4<f32>(0.0), none), low);
}

// The entry of four that is `at` of them.
fn one_of(v: vec4<f32>, at: u32) -> f32 {
    return select(select(v.x, v.y, at == 1u), select(v.z, v.w, at == 3u), at > 1u);
}

// Sums of a row relative to its maximum: entries equal to it, T times 2^64 over the others, sum q (x - m), sum q.
struct RowTotals {
    top: u32,
    count: u32,
    t: vec2<f32>,
    dot: vec2<f32>,
    mass: vec2<f32>,
}

struct Lanes {
    t: array<Pair4, ACC>,
    dot: array<Pair4, ACC>,
    mass: array<Pair4, ACC>,
}

// Components first, then accumulators, then lanes: the same tree for every split of 16 into TEAM and ACC.
fn folded(given: array<Pair4, ACC>) -> vec2<f32> {
    var lanes = given;
    var v: array<vec2<f32>, ACC>;
    for (var a = 0u; a < ACC; a += 1u) {
        v[a] = fold4(lanes[a], params.zero);
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            v[a] = pair_merge(v[a], v[a + half], params.zero);
        }
    }
    return v[0];
}

// What the one label of a row adds, where this lane has met it.
struct Picked {
    found: bool,
    x: f32,
    q: f32,
}

fn team_totals(top: u32, count: u32, lanes: Lanes, picked: Picked, at: u32) -> RowTotals {
    var totals: RowTotals;
    totals.top = top;
    totals.count = team_count(count, at);
    totals.t = team_sum(folded(lanes.t), at, params.zero);
    var dot: vec2<f32>;
    var mass: vec2<f32>;
    if DENSE {
        dot = folded(lanes.dot);
        mass = folded(lanes.mass);
    } else if picked.found {
        let d = weighed4(vec4<f32>(picked.q), vec4<f32>(picked.x), vec4<f32>(unordered(top)));
        dot = vec2<f32>(d.high.x, d.low.x);
        mass = vec2<f32>(picked.q, 0.0);
    }
    totals.dot = team_sum(dot, at, params.zero);
    totals.mass = team_sum(mass, at, params.zero);
    return totals;
}

// nll_loss: the one entry that counts, read by the lane that overwrites it where the gradient is made in place.
fn team_pick(row: Row, lane: u32, at: u32) -> RowTotals {
    var totals: RowTotals;
    let j = row.label & ~3u;
    if j < row.visible && row.label / 4u % TEAM == lane {
        let q = one_of(charges4(row, j, row.visible), row.label - j);
        let x = one_of(logits4(row, j, row.visible), row.label - j);
        totals.dot = vec2<f32>(select(opaque(q * x, params.zero), 0.0, q == 0.0), 0.0);
        totals.mass = vec2<f32>(q, 0.0);
    }
    totals.dot = team_sum(totals.dot, at, params.zero);
    totals.mass = team_sum(totals.mass, at, params.zero);
    return totals;
}

// What a row comes to, from its ordered maximum, the number of entries equal to it and T times 2^64.
fn row_stats(totals: RowTotals) -> RowStats {
    let m = unordered(totals.top);
    // Key 0 means that there was no entry at all.
    let nothing = totals.top == 0u || bitcast<u32>(m) == 0xff800000u;
    if NLL || nothing || !is_finite(m) {
        return RowStats(nan_f32(), true, nothing, vec2<f32>(0.0), vec2<f32>(0.0));
    }
    let s = row_total(f32(totals.count), totals.t, params.zero);
    return RowStats(m, false, false, row_log(s, totals.t, params.zero), row_inverse(s, params.zero));
}

// A row's loss and z term, and its gradient: pull * p_j - push * q_j.
struct Outcome {
    loss: f32,
    z: f32,
    pull: f32,
    push: f32,
}

fn row_outcome(row: Row, totals: RowTotals, stats: RowStats) -> Outcome {
    if row.state == IGNORED {
        return Outcome(0.0, 0.0, 0.0, 0.0);
    }
    if row.state == INVALID || (stats.special && !NLL) {
        let nan = nan_f32();
        return Outcome(nan, nan, nan, nan);
    }
    let q = pair_value(totals.mass);
    var result = Outcome(-pair_value(totals.dot), 0.0, 0.0, 0.0);
    if !NLL && is_finite(totals.dot.x) {
        let high = opaque(opaque(q * stats.log_s.x, params.zero) - totals.dot.x, params.zero);
        result.loss = high + opaque(opaque(q * stats.log_s.y, params.zero) - totals.dot.y, params.zero);
    }
    var lse = 0.0;
    if Z_LOSS {
        lse = opaque(logsumexp(stats, params.zero), params.zero);
        result.z = opaque(opaque(params.z * lse, params.zero) * lse, params.zero);
    }
    if GRADIENT {
        let upstream = row_upstream(row);
        let scale = scales();
        result.push = opaque(upstream * scale.x, params.zero);
        result.pull = opaque(result.push * q, params.zero);
        if Z_LOSS {
            let slope = opaque(2.0 * params.z * lse, params.zero);
            result.pull += opaque(opaque(upstream * scale.y, params.zero) * slope, params.zero);
        }
    }
    return result;
}

// What the reduction needs of a row.
fn keep_record(row: Row, outcome: Outcome) {
    let z = select(bitcast<u32>(outcome.z), OUT_OF_RANGE, row.state == INVALID);
    records[row.record] = vec2<u32>(bitcast<u32>(outcome.loss), z);
    keep_loss(row, outcome);
}

fn gradient4(row: Row, j: u32, end: u32, d: Pair4, stats: RowStats, outcome: Outcome) -> vec4<f32> {
    if row.state == IGNORED {
        return vec4<f32>(0.0);
    }
    if row.state == INVALID || (stats.special && !NLL) {
        return vec4<f32>(nan_f32());
    }
    var v = vec4<f32>(0.0);
    if !NLL {
        v = opaque4(softmax_times4(d, vec4<f32>(outcome.pull), stats, params.zero), params.zero);
        // A probability of 0 hides no upstream gradient that is not finite.
        let nothing = vec4<f32>(bitcast<f32>(params.zero) * outcome.pull);
        v = select(nothing, v, d.high >= vec4<f32>(FAR_BELOW));
    }
    if DENSE || row.label - j < 4u {
        let q = charges4(row, j, end);
        v -= select(opaque4(outcome.push * q, params.zero), vec4<f32>(0.0), q == vec4<f32>(0.0));
    }
    return v;
}

// The writing pass over the `len` entries of a row.
fn write_row(row: Row, len: u32, blocks: u32, lane: u32, stats: RowStats, outcome: Outcome) {
    if !GRADIENT && !LOG_PROB {
        return;
    }
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < len {
                let n = present(j, len);
                var d = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
                if !NLL && j < row.visible {
                    d = difference4(logits_again4(row, block, a, j), stats.top, params.zero);
                }
                if GRADIENT {
                    store_gradient4(row, j, n, gradient4(row, j, len, d, stats, outcome));
                }
                if LOG_PROB {
                    let v = log_softmax4(d, stats, params.zero);
                    store_log_prob4(row, j, n, select(v, vec4<f32>(nan_f32()), stats.special));
                }
            }
        }
    }
}
