// The passes over a row, or a chunk of one, by a team (needs layer_norm_rows). Elements are taken four at a time; quad q
// belongs to accumulator q / TEAM % ACC of lane q % TEAM. With TEAM * ACC = 16 the 64 virtual lanes and the tree over them are
// the same whatever the team, so the result's bits do not depend on the subgroup width. With KEEP > 0 the row is held in
// registers, KEEP blocks of TEAM * ACC quads, and read once.

const KEPT: u32 = max(KEEP * ACC, 1u);
var<private> kept: array<vec4<f32>, KEPT>;

// Blocks that a row of `len` elements has.
fn block_count(len: u32) -> u32 {
    return select((len + 4u * TEAM * ACC - 1u) / (4u * TEAM * ACC), KEEP, KEEP > 0u);
}

// First element of quad `a` of `block` for this lane.
fn quad_start(block: u32, a: u32, lane: u32) -> u32 {
    return ((block * ACC + a) * TEAM + lane) * 4u;
}

fn load4(row: Row, j: u32, len: u32) -> vec4<f32> {
    return x_load4(row.x + j * params.steps.x, params.steps.x, present(j, len));
}

// The elements of a quad once more, from registers where they are held.
fn again4(row: Row, block: u32, a: u32, j: u32, len: u32) -> vec4<f32> {
    if KEEP > 0u {
        return kept[block * ACC + a];
    }
    return load4(row, j, len);
}

// Smallest and largest element, in every lane.
fn sweep_extremes(row: Row, len: u32, blocks: u32, lane: u32, at: u32) -> vec2<u32> {
    var result = vec2<u32>(0u);
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < len {
                let x = load4(row, j, len);
                if KEEP > 0u {
                    kept[block * ACC + a] = x;
                }
                result = max(result, extremes4(x, inside4(j, len)));
            }
        }
    }
    return team_extremes(result, at);
}

// Components first, then accumulators, then lanes: the same tree for every split of 16 into TEAM and ACC.
fn team_total(sums: ptr<function, array<Pair4, ACC>>, at: u32) -> vec2<f32> {
    var t: array<vec2<f32>, ACC>;
    for (var a = 0u; a < ACC; a += 1u) {
        t[a] = fold4((*sums)[a], params.zero);
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            t[a] = pair_merge(t[a], t[a + half], params.zero);
        }
    }
    let total = team_sum(t[0], at, params.zero);
    return fast_two_sum(total.x, total.y, params.zero);
}

// Mean and sum of squared differences from it of the scaled elements, in every lane; `inverse` is the reciprocal of the
// number of elements.
struct Moments {
    mean: vec2<f32>,
    squares: vec2<f32>,
}

fn sweep_moments(row: Row, len: u32, blocks: u32, lane: u32, at: u32, scale: Scale, inverse: vec2<f32>, same: f32) -> Moments {
    var m: Moments;
    if !RMS {
        var sums: array<Pair4, ACC>;
        for (var block = 0u; block < blocks; block += 1u) {
            for (var a = 0u; a < ACC; a += 1u) {
                let j = quad_start(block, a, lane);
                if j < len {
                    let v = scaled4(again4(row, block, a, j, len), scale);
                    sums[a] = pair_add4(sums[a], select(vec4<f32>(0.0), v, inside4(j, len)), params.zero);
                }
            }
        }
        m.mean = pair_product(team_total(&sums, at), inverse);
        if scale.constant {
            // Exactly, so that equal elements differ from their mean by nothing.
            m.mean = vec2<f32>(scaled4(vec4<f32>(same), scale).x, 0.0);
        }
    }
    var squares: array<Pair4, ACC>;
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < len {
                let d = centred4(scaled4(again4(row, block, a, j, len), scale), m.mean);
                let inside = inside4(j, len);
                let p = two_product4(d.high, d.high, params.zero);
                let rest = opaque4(p.low + opaque4(2.0 * d.high * d.low, params.zero), params.zero);
                let sum = pair_add_positive4(squares[a], select(vec4<f32>(0.0), p.high, inside), params.zero);
                squares[a] = Pair4(sum.high, opaque4(sum.low + select(vec4<f32>(0.0), rest, inside), params.zero));
            }
        }
    }
    m.squares = team_total(&squares, at);
    return m;
}

// Sums for the gradient: weighed upstream gradient times deviation, and alone.
struct Dots {
    dot: vec2<f32>,
    total: vec2<f32>,
}

fn sweep_dots(row: Row, len: u32, blocks: u32, lane: u32, at: u32, s: Stats) -> Dots {
    var dots: array<Pair4, ACC>;
    var totals: array<Pair4, ACC>;
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < len {
                let inside = inside4(j, len);
                let d = deviation4(again4(row, block, a, j, len), s);
                let g = select(vec4<f32>(0.0), weighed4(row, j, present(j, len)), inside);
                let p = two_product4(g, d.high, params.zero);
                let rest = opaque4(p.low + opaque4(g * d.low, params.zero), params.zero);
                let sum = pair_add4(dots[a], p.high, params.zero);
                dots[a] = Pair4(sum.high, opaque4(sum.low + rest, params.zero));
                if !RMS {
                    totals[a] = pair_add4(totals[a], g, params.zero);
                }
            }
        }
    }
    var result: Dots;
    result.dot = team_total(&dots, at);
    if !RMS {
        result.total = team_total(&totals, at);
    }
    return result;
}

// The writing pass.
fn sweep_write(row: Row, len: u32, blocks: u32, lane: u32, s: Stats, c: Corrections) {
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            let j = quad_start(block, a, lane);
            if j < len {
                let x = again4(row, block, a, j, len);
                let n = present(j, len);
                var v: vec4<f32>;
                if BACKWARD {
                    v = gradient4(x, row, j, n, s, c);
                } else {
                    v = normalised4(x, row, j, n, s);
                }
                y_store4(row.y + j * params.steps.y, params.steps.y, n, canonical4(v));
            }
        }
    }
}
