// Rows of the losses over classes: where they lie, what their targets weigh, and what they come to (needs
// cross_entropy_params, softmax_math, softmax_quads, signed_team and one each of cross_entropy_labels or _probabilities, _weight,
// _gradient, _log_prob, _each or _reduced, _sums_none, _keep or _reuse).
//
// With q_j the target's weight of class j, (remain * t_j + spread) * weight_j, the loss is sum q_j (log S - (x_j - m)), and the
// gradient (Q p_j - q_j) times the upstream gradient, Q = sum q_j. Where q_j is 0 the class adds nothing. DENSE says that more than one q_j differs from 0.
//
// Weights and the sums with them have significands and exponents apart: SCALED says that the q_j are more than shares of 1, and
// then sums are in units of the largest one met. No result is infinite or 0 for what an intermediate would have been.

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
    sums: u32,
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
        params.sums_base + along(index, params.sums_strides),
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
fn charges4(row: Row, j: u32, end: u32) -> Charge4 {
    if !DENSE && row.label - j >= 4u {
        return Charge4(vec4<f32>(0.0), vec4<i32>(NOTHING));
    }
    let n = present(j, end);
    var q = shares4(row, j, n);
    if SMOOTHED {
        q = opaque4(q * params.remain, params.zero) + params.spread;
    }
    return weighted4(opaque4(q, params.zero), row, j, n);
}

// What sums over a row stay below their unit by: with factors x - m below 2^129 they pass 2^126 in no case.
fn headroom() -> i32 {
    return i32(firstLeadingBit(params.len | 1u)) + 7;
}

// Weights in units of 2^(unit + headroom).
fn in_unit4(q: Charge4, unit: i32) -> vec4<f32> {
    return opaque4(q.s * lowered4(q.e - vec4<i32>(unit + headroom())), params.zero);
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

fn exponent_of(v: vec4<i32>, at: u32) -> i32 {
    return select(select(v.x, v.y, at == 1u), select(v.z, v.w, at == 3u), at > 1u);
}

// Sums of a row relative to its maximum: entries equal to it, T times 2^64 over the others, sum q (x - m) in units of
// 2^dot_unit, sum q in units of 2^unit. The two units differ for nll_loss alone.
struct RowTotals {
    top: u32,
    count: u32,
    t: vec2<f32>,
    dot: vec2<f32>,
    mass: vec2<f32>,
    unit: i32,
    dot_unit: i32,
}

struct Lanes {
    t: array<Pair4, ACC>,
    dot: array<Pair4, ACC>,
    mass: array<Pair4, ACC>,
    unit: array<i32, ACC>,
}

fn no_lanes() -> Lanes {
    var lanes: Lanes;
    if SCALED {
        for (var a = 0u; a < ACC; a += 1u) {
            lanes.unit[a] = NOTHING;
        }
    }
    return lanes;
}

fn lowered_pairs(v: Pair4, k: i32) -> Pair4 {
    let factor = lowered(k);
    return Pair4(opaque4(v.high * factor, params.zero), opaque4(v.low * factor, params.zero));
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
    s: f32,
    e: i32,
}

fn team_totals(top: u32, count: u32, given: Lanes, picked: Picked, at: u32) -> RowTotals {
    var lanes = given;
    var totals: RowTotals;
    totals.top = top;
    totals.count = team_count(count, at);
    totals.t = team_sum(folded(lanes.t), at, params.zero);
    var unit = 0;
    if SCALED {
        unit = select(NOTHING, picked.e, picked.found);
        for (var a = 0u; a < ACC; a += 1u) {
            unit = max(unit, lanes.unit[a]);
        }
        unit = team_unit(unit, at);
        if DENSE {
            for (var a = 0u; a < ACC; a += 1u) {
                lanes.dot[a] = lowered_pairs(lanes.dot[a], lanes.unit[a] - unit);
                lanes.mass[a] = lowered_pairs(lanes.mass[a], lanes.unit[a] - unit);
            }
        }
    }
    var dot: vec2<f32>;
    var mass: vec2<f32>;
    if DENSE {
        dot = folded(lanes.dot);
        mass = folded(lanes.mass);
    } else if picked.found {
        let q = opaque(picked.s * lowered(picked.e - unit - headroom()), params.zero);
        let d = weighed4(vec4<f32>(q), vec4<f32>(picked.x), vec4<f32>(unordered(top)));
        dot = vec2<f32>(d.high.x, d.low.x);
        mass = vec2<f32>(q, 0.0);
    }
    totals.dot = team_sum(dot, at, params.zero);
    totals.mass = team_sum(mass, at, params.zero);
    totals.unit = unit + headroom();
    totals.dot_unit = totals.unit;
    return totals;
}

// nll_loss: the one entry that counts, read by the lane that overwrites it where the gradient is made in place.
fn team_pick(row: Row, lane: u32, at: u32) -> RowTotals {
    var mass = no_sum();
    var dot = no_sum();
    let j = row.label & ~3u;
    if j < row.visible && row.label / 4u % TEAM == lane {
        let c = charges4(row, j, row.visible);
        let q = vec2<f32>(one_of(c.s, row.label - j), 0.0);
        let e = exponent_of(c.e, row.label - j);
        mass = Scaled(q, select(e, NOTHING, q.x == 0.0));
        let x = signed_wide(one_of(logits4(row, j, row.visible), row.label - j), params.zero);
        let p = signed_mul(Wide(q.x, 0.0, e), x, params.zero);
        if q.x != 0.0 {
            dot = Scaled(vec2<f32>(p.high, p.low), p.exponent);
        }
    }
    mass = team_scaled(mass, at, params.zero);
    dot = team_scaled(dot, at, params.zero);
    var totals: RowTotals;
    totals.dot = dot.pair;
    totals.dot_unit = dot.unit;
    totals.mass = mass.pair;
    totals.unit = mass.unit;
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

// What the gradients of a row's loss and z term are multiplied by.
struct Scales {
    loss: Wide,
    z: Wide,
}

// A row's loss and z term, and its gradient: pull * 2^pull_unit p_j - push * 2^push_unit q_j, without q_j where the label alone
// has one.
struct Outcome {
    loss: Wide,
    z: Wide,
    pull: f32,
    pull_unit: i32,
    push: f32,
    push_unit: i32,
}

fn targets_loss(totals: RowTotals, stats: RowStats, charge: Wide) -> Wide {
    if NLL || !is_finite(totals.dot.x) {
        return signed_normal(-totals.dot, totals.dot_unit, params.zero);
    }
    if totals.dot.x == 0.0 && stats.log_s.x < 1.0e-18 {
        // log S is T itself, which may be too small for f32, but not for the weight.
        return signed_mul(charge, signed_normal(totals.t, -64, params.zero), params.zero);
    }
    let q = pair_value(totals.mass);
    let high = opaque(opaque(q * stats.log_s.x, params.zero) - totals.dot.x, params.zero);
    let low = opaque(opaque(q * stats.log_s.y, params.zero) - totals.dot.y, params.zero);
    return signed_normal(vec2<f32>(high, low), totals.dot_unit, params.zero);
}

fn row_outcome(row: Row, totals: RowTotals, stats: RowStats) -> Outcome {
    var result = Outcome(nothing_wide(), nothing_wide(), 0.0, NOTHING, 0.0, NOTHING);
    if row.state == IGNORED {
        return result;
    }
    if row.state == INVALID || (stats.special && !NLL) {
        let nan = nan_f32();
        let wide = Wide(nan, 0.0, SPECIAL);
        return Outcome(wide, wide, nan, SPECIAL, nan, SPECIAL);
    }
    let charge = signed_normal(totals.mass, totals.unit, params.zero);
    result.loss = targets_loss(totals, stats, charge);
    var slope = nothing_wide();
    if Z_LOSS {
        let lse = signed_wide(opaque(logsumexp(stats, params.zero), params.zero), params.zero);
        slope = signed_mul(signed_wide(params.z, params.zero), lse, params.zero);
        result.z = signed_mul(slope, lse, params.zero);
        slope.exponent += 1;
    }
    if GRADIENT {
        let upstream = signed_wide(row_upstream(row), params.zero);
        let scale = scales();
        var push = signed_mul(upstream, scale.loss, params.zero);
        var pull = signed_mul(push, charge, params.zero);
        if !DENSE {
            push = pull;
            if charge.high == 0.0 {
                push = nothing_wide();
            }
        }
        if Z_LOSS {
            let more = signed_mul(signed_mul(upstream, scale.z, params.zero), slope, params.zero);
            pull = signed_add(pull, more, params.zero);
        }
        result.pull = significand(pull, params.zero);
        result.pull_unit = pull.exponent;
        result.push = significand(push, params.zero);
        result.push_unit = push.exponent;
    }
    return result;
}

// What the reduction needs of a row: significands, then exponents.
fn keep_record(row: Row, outcome: Outcome) {
    let z = select(bitcast<u32>(significand(outcome.z, params.zero)), OUT_OF_RANGE, row.state == INVALID);
    let loss = bitcast<u32>(significand(outcome.loss, params.zero));
    records[row.record] = vec4<u32>(loss, z, bitcast<u32>(outcome.loss.exponent), bitcast<u32>(outcome.z.exponent));
    keep_loss(row, outcome);
}

// exp(d) / S as s * 2^e.
fn softmax_parts4(d: Pair4, stats: RowStats, zero: u32) -> Charge4 {
    let e = exp_parts4(d, zero);
    let yh = bitcast<vec4<f32>>(bitcast<vec4<u32>>(e.y) & vec4<u32>(0xfffff000u));
    let yl = opaque4(e.y - yh, zero) + e.l;
    let whole = stats.inverse.x + stats.inverse.y;
    return Charge4(opaque4(yh * stats.inverse.x + (yh * stats.inverse.y + yl * whole), zero), e.k);
}

fn gradient4(row: Row, j: u32, end: u32, d: Pair4, stats: RowStats, outcome: Outcome) -> vec4<f32> {
    if row.state == IGNORED {
        return vec4<f32>(0.0);
    }
    if row.state == INVALID || (stats.special && !NLL) {
        return vec4<f32>(nan_f32());
    }
    var v = vec4<f32>(0.0);
    var k = vec4<i32>(NOTHING);
    if !NLL {
        let p = softmax_parts4(d, stats, params.zero);
        let near = d.high >= vec4<f32>(FAR_BELOW);
        // A probability of 0 hides no upstream gradient that is not finite.
        let nothing = vec4<f32>(bitcast<f32>(params.zero) * outcome.pull);
        v = select(nothing, opaque4(p.s * outcome.pull, params.zero), near);
        k = select(vec4<i32>(NOTHING), p.e + vec4<i32>(outcome.pull_unit), near);
    }
    if DENSE || row.label - j < 4u {
        let c = charges4(row, j, end);
        var t = select(vec4<f32>(0.0), vec4<f32>(outcome.push), c.s != vec4<f32>(0.0));
        var own = vec4<i32>(outcome.push_unit);
        if DENSE {
            t = select(vec4<f32>(0.0), opaque4(c.s * outcome.push, params.zero), c.s != vec4<f32>(0.0));
            own += c.e;
        }
        let none = t == vec4<f32>(0.0);
        own = select(own, vec4<i32>(NOTHING), none);
        // Both terms in the unit of the larger: what each of them passes the range by may cancel.
        let unit = max(k, own);
        let mine = opaque4(t * lowered4(own - unit), params.zero);
        v = select(opaque4(v * lowered4(k - unit), params.zero) - mine, v, none);
        k = select(unit, k, none);
    }
    return raised4(v, k, params.zero);
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
