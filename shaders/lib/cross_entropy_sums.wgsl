// The reading passes of the losses over classes (needs cross_entropy_rows, softmax_running).

// One quad for the label's sake.
fn pick(picked: Picked, row: Row, j: u32, z: vec4<f32>) -> Picked {
    if row.label - j < 4u {
        let at = row.label - j;
        let c = charges4(row, j, row.visible);
        return Picked(true, one_of(z, at), one_of(c.s, at), exponent_of(c.e, at));
    }
    return picked;
}

// The weights of a quad, 0 where there is no entry.
fn charges_inside4(row: Row, j: u32, inside: vec4<bool>) -> Charge4 {
    let c = charges4(row, j, row.visible);
    return Charge4(select(vec4<f32>(0.0), c.s, inside), select(vec4<i32>(NOTHING), c.e, inside));
}

// Sums of a row that sweep_max has put into registers.
fn sum_kept(row: Row, blocks: u32, lane: u32, at: u32, top: u32) -> RowTotals {
    let m = unordered(top);
    var lanes = no_lanes();
    var counts = vec4<u32>(0u);
    var picked = Picked(false, 0.0, 0.0, NOTHING);
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < row.visible {
                let z = logits_again4(row, block, a, j);
                let inside = inside4(j, row.visible);
                let d = difference4(z, m, params.zero);
                let tie = inside & (d.high == vec4<f32>(0.0));
                let v = select(vec4<f32>(0.0), exp_scaled4(d, params.zero), inside & !tie);
                counts += select(vec4<u32>(0u), vec4<u32>(1u), tie);
                lanes.t[a] = pair_add_positive4(lanes.t[a], v, params.zero);
                if DENSE {
                    let c = charges_inside4(row, j, inside);
                    if SCALED && highest4(c.e) > lanes.unit[a] {
                        let fall = lanes.unit[a] - highest4(c.e);
                        lanes.dot[a] = lowered_pairs(lanes.dot[a], fall);
                        lanes.mass[a] = lowered_pairs(lanes.mass[a], fall);
                        lanes.unit[a] = highest4(c.e);
                    }
                    let q = in_unit4(c, lanes.unit[a]);
                    let term = weighed4(q, select(vec4<f32>(m), z, inside), vec4<f32>(m));
                    lanes.dot[a] = pair_add4(lanes.dot[a], term.high, params.zero);
                    lanes.dot[a].low = opaque4(lanes.dot[a].low + term.low, params.zero);
                    lanes.mass[a] = pair_add4(lanes.mass[a], q, params.zero);
                } else {
                    picked = pick(picked, row, j, z);
                }
            }
        }
    }
    return team_totals(top, counts.x + counts.y + counts.z + counts.w, lanes, picked, at);
}

// The sum of the weights so far. What small weights have lost beside that of a label is in the lower halves, which are
// not kept small.
fn mass_of(mass: Pair4) -> vec4<f32> {
    return opaque4(mass.high + mass.low, params.zero);
}

// Maximum and sums in one read. The sums with the target's weights are relative to each virtual lane's largest entry so far:
// all their terms have one sign, and what a new maximum adds has it too.
fn sum_read_once(row: Row, blocks: u32, lane: u32, at: u32) -> RowTotals {
    var states: array<Online, ACC>;
    var lanes = no_lanes();
    var top = 0u;
    var picked = Picked(false, 0.0, 0.0, NOTHING);
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < row.visible {
                let z = logits4(row, j, row.visible);
                let inside = inside4(j, row.visible);
                top = max(top, max4(z, inside));
                let before = states[a].largest;
                let held = states[a].count > vec4<f32>(0.0);
                states[a] = take(states[a], z, inside);
                if DENSE {
                    let c = charges_inside4(row, j, inside);
                    if SCALED && highest4(c.e) > lanes.unit[a] {
                        let lift = lanes.unit[a] - highest4(c.e);
                        lanes.dot[a] = lowered_pairs(lanes.dot[a], lift);
                        lanes.mass[a] = lowered_pairs(lanes.mass[a], lift);
                        lanes.unit[a] = highest4(c.e);
                    }
                    let after = states[a].largest;
                    let risen = held & (after > before);
                    if any(risen) {
                        let fall = weighed4(mass_of(lanes.mass[a]), before, after);
                        lanes.dot[a] = pair_add4(lanes.dot[a], select(vec4<f32>(0.0), fall.high, risen), params.zero);
                    }
                    let q = in_unit4(c, lanes.unit[a]);
                    let term = weighed4(q, select(after, z, inside), after);
                    lanes.dot[a] = pair_add4(lanes.dot[a], term.high, params.zero);
                    lanes.dot[a].low = opaque4(lanes.dot[a].low + term.low, params.zero);
                    lanes.mass[a] = pair_add4(lanes.mass[a], q, params.zero);
                } else {
                    picked = pick(picked, row, j, z);
                }
            }
        }
    }
    top = team_max(top, at);
    let m = vec4<f32>(unordered(top));
    var counts = vec4<f32>(0.0);
    for (var a = 0u; a < ACC; a += 1u) {
        let settled = settle(states[a], m.x);
        counts += settled.count;
        lanes.t[a] = settled.t;
        if DENSE {
            let held = states[a].count > vec4<f32>(0.0);
            let fall = weighed4(mass_of(lanes.mass[a]), select(m, states[a].largest, held), m);
            lanes.dot[a] = pair_add4(lanes.dot[a], fall.high, params.zero);
        }
    }
    return team_totals(top, u32(counts.x + counts.y + counts.z + counts.w), lanes, picked, at);
}
