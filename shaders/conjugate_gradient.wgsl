// Conjugate gradients for k systems with one operator. Workgroup (g, system) takes quads [g * chunk, (g + 1) * chunk) of the
// system's vectors. A dot product is left as one part a workgroup, and every workgroup of the next dispatch sums the parts again
// for itself, always in the same tree: nothing waits for the host. Dispatches of a system that has ended do nothing.
//
//   measure    largest exponent of b and A x, for the scaling of the residual
//   residual   r = b - A x at the beginning
//   drift      how far the recurrence's r has drifted from b - A x
//   judge      one workgroup a system: begins the solve, or believes or rejects what the recurrence says
//   adopt      b - A x takes the place of the recurrence's r, where the judge said so
//   update     alpha = r.z / p.Ap, d += alpha p, r -= alpha Ap              (Hestenes and Stiefel)
//   direction  beta = r.z / (r.z before), p = z + beta p
//   step       both of them in one, from r.u and u.Au                       (Chronopoulos and Gear)
//   fold       x += d, d = 0
//   dot_operator, dot_preconditioned   dot products for operators and preconditioners that leave no parts
//
// x moves by corrections d that begin at 0 after each `fold`, which keeps their digits, and residuals are scaled by a power of two
// such that squares stay in range. Bindings: 0 params, 1 ledger, 2 product (A p, A u or A x, behind it the operator's parts), 3 d,
// 4 r, 5 p, 6 s = A p, 7 u, 8 z or the inverse diagonal, 9 x, 10 b. Barriers: those of `collect`.

@group(0) @binding(2) var<storage, read> product_data: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> d_data: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> r_data: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> p_data: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> s_data: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> x_data: array<f32>;
@group(0) @binding(10) var<storage, read> b_data: array<f32>;

// Squared drift, relative to the squared true residual, up to which that takes the recurrence's place without further ado.
const ADOPTED_DRIFT: f32 = 1e-4;
// Part of the squared true residual below which the recurrence's is not believed.
const BELIEVED: f32 = 0.01;
// Part of u.Au by which p.Ap has to be negative to be believed so.
const NEGATIVE: f32 = 1e-3;
// Of a squared residual that is asked for, what the recurrence has to show.
const MARGIN: f32 = 0.9;

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
}

struct Share {
    begin: u32,
    end: u32,
    // Where the system's vectors begin.
    base: u32,
}

fn share_of(inv: Invocation) -> Share {
    let begin = inv.group.x * params.chunk;
    return Share(begin, min(begin + params.chunk, params.quads), inv.group.y * params.pitch_quads);
}

fn load_b(system: u32, quad: u32) -> vec4<f32> {
    let at = params.b_base + system * params.b_pitch + quad * 4u;
    let left = params.n - quad * 4u;
    var v = vec4<f32>(b_data[at], 0.0, 0.0, 0.0);
    if left > 1u {
        v.y = b_data[at + 1u];
    }
    if left > 2u {
        v.z = b_data[at + 2u];
    }
    if left > 3u {
        v.w = b_data[at + 3u];
    }
    return v;
}

// A x of a quad, 0 beyond the end.
fn load_product(base: u32, quad: u32) -> vec4<f32> {
    let live = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.n);
    return select(vec4<f32>(0.0), product_data[base + quad], live);
}

// The dot product with the operator's product, times 2^exponent.
fn operator_dot(inv: Invocation) -> f32 {
    if !FUSED {
        let sum = collect_parts(inv.local, inv.group.y, 2u, 0u);
        return (sum.x + sum.y) * params.power;
    }
    var mine = vec4<f32>(0.0);
    for (var i = inv.local; i < params.operator_parts; i += WG) {
        let two = product_data[params.operator_base + inv.group.y * params.operator_pitch + i / 2u];
        mine = merge_two(mine, vec4<f32>(select(two.xy, two.zw, (i & 1u) == 1u), 0.0, 0.0));
    }
    let sum = collect(inv.local, mine);
    return (sum.x + sum.y) * params.power;
}

// Leaves two pairs of this workgroup at a word of its parts.
fn leave(inv: Invocation, side: u32, word: u32, first: Pair4, second: Pair4) {
    let sum = collect(inv.local, vec4<f32>(total(first), total(second)));
    if inv.local == 0u {
        let at = part_word(inv.group.y, side, inv.group.x) + word;
        store_pair(at, sum.xy);
        store_pair(at + 2u, sum.zw);
    }
}

fn magnitude_bits(v: vec4<f32>) -> u32 {
    let u = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
    return max(max(u.x, u.y), max(u.z, u.w));
}

// The largest word over the workgroup.
fn collect_top(local: u32, mine: u32) -> u32 {
    workgroupBarrier();
    tree_top[local] = mine;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            tree_top[local] = max(tree_top[local], tree_top[local + half]);
        }
    }
    workgroupBarrier();
    return tree_top[0];
}

@compute @workgroup_size(WG)
fn measure(inv: Invocation) {
    let share = share_of(inv);
    var top = 0u;
    for (var i = share.begin + inv.local; i < share.end; i += WG) {
        top = max(top, max(magnitude_bits(load_b(inv.group.y, i)), magnitude_bits(load_product(share.base, i))));
    }
    top = collect_top(inv.local, top);
    if inv.local == 0u {
        ledger[part_word(inv.group.y, 2u, inv.group.x) + TOP_WORD] = top;
    }
}

// The shift by which a residual's largest terms come near 1, from what `measure` left.
fn measured_shift(inv: Invocation) -> i32 {
    var top = 0u;
    for (var g = inv.local; g < params.groups; g += WG) {
        top = max(top, ledger[part_word(inv.group.y, 2u, g) + TOP_WORD]);
    }
    top = collect_top(inv.local, top);
    // Nothing helps NaN and infinity, and 0 needs nothing.
    return select(127 - i32(top >> 23u), 0, top >= 0x7f800000u || top == 0u);
}

@compute @workgroup_size(WG)
fn residual(inv: Invocation) {
    let share = share_of(inv);
    let measured = measured_shift(inv);
    let none = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    var rz = none;
    var rr = none;
    var bb = none;
    for (var i = share.begin + inv.local; i < share.end; i += WG) {
        let at = share.base + i;
        let b = shifted(load_b(inv.group.y, i), measured);
        let r = b - shifted(load_product(share.base, i), measured);
        r_data[at] = r;
        let z = preconditioned(r, at);
        keep(at, z);
        rz = pair_add4(rz, r * z, params.zero);
        rr = pair_add4(rr, r * r, params.zero);
        bb = pair_add4(bb, b * b, params.zero);
    }
    leave(inv, params.parity, 0u, rz, rr);
    leave(inv, params.parity, 4u, none, bb);
}

fn true_residual(system: u32, base: u32, quad: u32, shift: i32) -> vec4<f32> {
    return shifted(load_b(system, quad), shift) - shifted(load_product(base, quad), shift);
}

@compute @workgroup_size(WG)
fn drift(inv: Invocation) {
    let share = share_of(inv);
    let s = load_state(inv.group.y, params.parity);
    var gaps = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    var rr = gaps;
    let end = select(share.begin, share.end, s.status == RUNNING || s.status == CANDIDATE);
    for (var i = share.begin + inv.local; i < end; i += WG) {
        let r = true_residual(inv.group.y, share.base, i, s.shift);
        let gap = r - r_data[share.base + i];
        gaps = pair_add4(gaps, gap * gap, params.zero);
        rr = pair_add4(rr, r * r, params.zero);
    }
    leave(inv, params.parity, 4u, gaps, rr);
}

@compute @workgroup_size(WG)
fn adopt(inv: Invocation) {
    let share = share_of(inv);
    let s = load_state(inv.group.y, params.parity);
    var rz = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    var rr = rz;
    let end = select(share.begin, share.end, s.adopt == 1u);
    for (var i = share.begin + inv.local; i < end; i += WG) {
        let at = share.base + i;
        let r = true_residual(inv.group.y, share.base, i, s.shift);
        r_data[at] = r;
        let z = preconditioned(r, at);
        keep(at, z);
        rz = pair_add4(rz, r * z, params.zero);
        rr = pair_add4(rr, r * r, params.zero);
    }
    let sum = collect(inv.local, vec4<f32>(total(rz), total(rr)));
    if inv.local == 0u && s.adopt == 1u {
        let at = part_word(inv.group.y, params.parity, inv.group.x);
        store_pair(at, sum.xy);
        store_pair(at + 2u, sum.zw);
    }
}

@compute @workgroup_size(WG)
fn judge(inv: Invocation) {
    let system = inv.group.y;
    let measured = measured_shift(inv);
    let now = collect_parts(inv.local, system, params.parity, 0u);
    let check = collect_parts(inv.local, system, params.parity, 4u);
    if inv.local != 0u {
        return;
    }
    let rz = now.x + now.y;
    let rr = now.z + now.w;
    var s = load_state(system, params.parity);
    s.adopt = 0u;
    if params.first == 1u {
        let bb = check.z + check.w;
        let empty = bb == 0.0 && is_finite(bb);
        s.status = RUNNING;
        s.iteration = 0u;
        s.restart = 1u;
        s.stalls = 0u;
        s.moved = 0u;
        s.shift = measured;
        s.empty = select(0u, 1u, empty);
        s.gamma = rz;
        s.alpha = 0.0;
        s.beta = 0.0;
        s.rr = rr;
        s.goal = s.rtol * s.rtol * bb;
        s.best = rr;
        s.bb = bb;
        if empty {
            s.status = CONVERGED;
        } else if !is_finite(rz) || !is_finite(rr) || !is_finite(bb) {
            s.status = NOT_FINITE;
        } else if rr <= s.goal {
            s.status = CONVERGED;
        } else if rz <= 0.0 {
            s.status = NOT_POSITIVE_DEFINITE;
        }
    } else if s.status == RUNNING || s.status == CANDIDATE {
        let gaps = check.x + check.y;
        let true_rr = check.z + check.w;
        if !is_finite(true_rr) {
            s.status = NOT_FINITE;
        } else if true_rr <= s.goal {
            s.status = CONVERGED;
            s.rr = true_rr;
        } else if s.status == CANDIDATE || rr < BELIEVED * true_rr {
            // The recurrence has gone below what x can show. Once more from the true residual, as long as that helps.
            s.stalls = select(0u, s.stalls + 1u, true_rr > 0.25 * s.best);
            s.best = min(s.best, true_rr);
            s.status = select(RUNNING, STAGNATION, s.stalls >= s.patience);
            s.adopt = 1u;
            s.restart = 1u;
        } else {
            // Step lengths take for granted that r is orthogonal to the last direction: a residual that differs much from the
            // recurrence's would make the iteration diverge.
            s.best = min(s.best, true_rr);
            s.adopt = select(0u, 1u, gaps <= ADOPTED_DRIFT * true_rr);
        }
    }
    store_state(system, params.parity, s);
    ledger[system] = select(0u, 1u, s.status == RUNNING);
}

@compute @workgroup_size(WG)
fn update(inv: Invocation) {
    let share = share_of(inv);
    var s = load_state(inv.group.y, 0u);
    let pq = operator_dot(inv);
    let alpha = s.gamma / pq;
    s.moved = 0u;
    if s.status == RUNNING {
        if s.iteration >= s.limit {
            s.status = LIMIT;
        } else if !is_finite(pq) {
            s.status = NOT_FINITE;
        } else if pq <= 0.0 {
            s.status = NOT_POSITIVE_DEFINITE;
        } else if !is_finite(alpha) {
            s.status = NOT_FINITE;
        } else {
            s.moved = 1u;
            s.alpha = alpha;
        }
    }
    var rz = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    var rr = rz;
    if s.moved == 1u {
        let residual_step = alpha * params.power;
        for (var i = share.begin + inv.local; i < share.end; i += WG) {
            let at = share.base + i;
            d_data[at] += alpha * p_data[at];
            let r = r_data[at] - residual_step * load_product(share.base, i);
            r_data[at] = r;
            rz = pair_add4(rz, r * preconditioned(r, at), params.zero);
            rr = pair_add4(rr, r * r, params.zero);
        }
    }
    leave(inv, 1u, 0u, rz, rr);
    if inv.group.x == 0u && inv.local == 0u {
        store_state(inv.group.y, 1u, s);
    }
}

@compute @workgroup_size(WG)
fn direction(inv: Invocation) {
    let share = share_of(inv);
    var s = load_state(inv.group.y, 1u);
    let now = collect_parts(inv.local, inv.group.y, 1u, 0u);
    let rz = now.x + now.y;
    let rr = now.z + now.w;
    let again = s.restart == 1u;
    let beta = select(rz / s.gamma, 0.0, again);
    if s.moved == 1u {
        s.iteration += 1u;
        s.rr = rr;
        s.beta = beta;
    }
    if s.status == RUNNING {
        if !is_finite(rr) || !is_finite(rz) {
            s.status = NOT_FINITE;
        } else if rr <= MARGIN * s.goal {
            s.status = CANDIDATE;
        } else if rz <= 0.0 {
            s.status = NOT_POSITIVE_DEFINITE;
        }
    }
    if s.status == RUNNING {
        for (var i = share.begin + inv.local; i < share.end; i += WG) {
            let at = share.base + i;
            let z = preconditioned(r_data[at], at);
            // What is left of the last solve's direction may be anything, NaN too.
            if again {
                p_data[at] = z;
            } else {
                p_data[at] = z + beta * p_data[at];
            }
        }
        s.restart = 0u;
        s.gamma = rz;
    }
    if inv.group.x == 0u && inv.local == 0u {
        // A direction that begins anew keeps nothing of the last one, which the history may have told otherwise.
        if s.moved == 1u || (again && s.iteration > 0u) {
            remember(inv.group.y, s.iteration - 1u, rr, s.alpha, beta);
        }
        s.moved = 0u;
        store_state(inv.group.y, 0u, s);
        ledger[inv.group.y] = select(0u, 1u, s.status == RUNNING);
    }
}

@compute @workgroup_size(WG)
fn step(inv: Invocation) {
    let share = share_of(inv);
    var s = load_state(inv.group.y, params.parity);
    let now = collect_parts(inv.local, inv.group.y, params.parity, 0u);
    let rz = now.x + now.y;
    let rr = now.z + now.w;
    let delta = operator_dot(inv);
    let again = s.restart == 1u;
    let beta = select(rz / s.gamma, 0.0, again);
    let curvature = delta - select(beta * rz / s.alpha, 0.0, again);
    let alpha = rz / curvature;
    s.moved = 0u;
    if s.status == RUNNING {
        s.rr = rr;
        if !is_finite(rr) || !is_finite(rz) || !is_finite(delta) {
            s.status = NOT_FINITE;
        } else if rr <= MARGIN * s.goal {
            s.status = CANDIDATE;
        } else if s.iteration >= s.limit {
            s.status = LIMIT;
        } else if delta <= 0.0 || rz <= 0.0 {
            s.status = NOT_POSITIVE_DEFINITE;
        } else if curvature < -NEGATIVE * delta {
            // p.Ap by the recurrence, and by more than rounding.
            s.status = NOT_POSITIVE_DEFINITE;
        } else if curvature <= 0.0 || !is_finite(alpha) {
            // Rounding, where u.Au is what the last direction had: the direction begins anew.
            s.restart = 1u;
            s.stalls += 1u;
            if s.stalls >= 3u {
                s.status = STAGNATION;
            }
        } else {
            s.moved = 1u;
        }
    }
    var next_rz = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    var next_rr = next_rz;
    let residual_step = alpha * params.power;
    let end = select(share.begin, share.end, s.status == RUNNING);
    for (var i = share.begin + inv.local; i < end; i += WG) {
        let at = share.base + i;
        var r = r_data[at];
        let u = preconditioned(r, at);
        if s.moved == 1u {
            var p = u;
            var q = load_product(share.base, i);
            if !again {
                p += beta * p_data[at];
                q += beta * s_data[at];
            }
            p_data[at] = p;
            s_data[at] = q;
            d_data[at] += alpha * p;
            r -= residual_step * q;
            r_data[at] = r;
        }
        let next = preconditioned(r, at);
        keep(at, next);
        next_rz = pair_add4(next_rz, r * next, params.zero);
        next_rr = pair_add4(next_rr, r * r, params.zero);
    }
    leave(inv, 1u - params.parity, 0u, next_rz, next_rr);
    if inv.group.x == 0u && inv.local == 0u {
        if s.moved == 1u {
            remember(inv.group.y, s.iteration, rr, alpha, beta);
            s.iteration += 1u;
            s.gamma = rz;
            s.alpha = alpha;
            s.beta = beta;
            s.restart = 0u;
        }
        store_state(inv.group.y, 1u - params.parity, s);
        ledger[inv.group.y] = select(0u, 1u, s.status == RUNNING);
    }
}

@compute @workgroup_size(WG)
fn fold(inv: Invocation) {
    let share = share_of(inv);
    let s = load_state(inv.group.y, params.parity);
    for (var i = share.begin + inv.local; i < share.end; i += WG) {
        let at = share.base + i;
        let d = shifted(d_data[at], params.exponent - s.shift);
        d_data[at] = vec4<f32>(0.0);
        let x = params.x_base + inv.group.y * params.x_pitch + i * 4u;
        for (var k = 0u; k < min(4u, params.n - i * 4u); k += 1u) {
            x_data[x + k] = select(x_data[x + k] + d[k], 0.0, s.empty == 1u);
        }
    }
}

@compute @workgroup_size(WG)
fn dot_operator(inv: Invocation) {
    let share = share_of(inv);
    var sum = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    if ledger[inv.group.y] == 1u {
        for (var i = share.begin + inv.local; i < share.end; i += WG) {
            sum = pair_add4(sum, operand(share.base + i) * load_product(share.base, i), params.zero);
        }
    }
    let all = collect(inv.local, vec4<f32>(total(sum), 0.0, 0.0));
    if inv.local == 0u {
        store_pair(part_word(inv.group.y, 2u, inv.group.x), all.xy);
    }
}

@compute @workgroup_size(WG)
fn dot_preconditioned(inv: Invocation) {
    let share = share_of(inv);
    var sum = Pair4(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var i = share.begin + inv.local; i < share.end; i += WG) {
        let at = share.base + i;
        sum = pair_add4(sum, r_data[at] * preconditioned(r_data[at], at), params.zero);
    }
    let all = collect(inv.local, vec4<f32>(total(sum), 0.0, 0.0));
    if inv.local == 0u {
        store_pair(part_word(inv.group.y, params.parity, inv.group.x), all.xy);
    }
}
