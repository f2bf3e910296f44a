// What variance keeps of a chunk, and what it comes to (needs reduction_sum). Elements are scaled by a power of two to
// magnitudes below 2, so that no square leaves the range; the mean is a pair; and squares are taken of deviations from the
// chunk's own mean. Chunks are merged by Chan's formula.
struct State {
    count: u32,
    // Elements are held times 2^-exponent.
    exponent: i32,
    mean: vec2<f32>,
    m2: vec2<f32>,
    flags: u32,
}

// Bits of a number times 2^-exponent, for tiny numbers of about 2^exponent at most.
fn rebased(u: u32, exponent: i32) -> u32 {
    let magnitude = u & 0x7fffffffu;
    if magnitude == 0u {
        return 0u;
    }
    let f = m_frexp_bits(magnitude);
    return (u & 0x80000000u) | (u32(f.x) & 0x007fffffu) | (u32(f.y - exponent + 127) << 23u);
}

// x * 2^-exponent for magnitudes below 2^(exponent + 1), exact but for what is tiny beside the largest.
fn scaled_down4(x: vec4<f32>, exponent: i32) -> vec4<f32> {
    if exponent > -60 {
        let first = -exponent / 2;
        let s1 = bitcast<f32>(u32(first + 127) << 23u);
        let s2 = bitcast<f32>(u32(-exponent - first + 127) << 23u);
        return opaque4(opaque4(x * s1, params.zero) * s2, params.zero);
    }
    // By bits, since drivers may flush subnormal numbers.
    let u = bitcast<vec4<u32>>(x);
    let v = vec4<u32>(
        rebased(u.x, exponent),
        rebased(u.y, exponent),
        rebased(u.z, exponent),
        rebased(u.w, exponent),
    );
    return bitcast<vec4<f32>>(v ^ vec4<u32>(params.zero));
}

// A count as a pair.
fn count_pair(n: u32) -> vec2<f32> {
    let high = f32(n);
    return vec2<f32>(high, f32(i32(n - u32(high))));
}

fn sweep(chunk: Chunk, lane: u32, at: u32) -> State {
    let sum = sweep_sum(chunk, lane, at);
    let top = team_max(largest, at);
    let total = sum_total(sum);
    var state = State(chunk.count, 0, vec2<f32>(0.0), vec2<f32>(0.0), sum.flags);
    let usable = chunk.count > 0u && sum.flags == 0u && top > 0u;
    var exponent = 0;
    var shift = 0.0;
    if usable {
        exponent = m_frexp_bits(top).y;
        let mean = scaled_over(total, count_pair(chunk.count));
        shift = opaque(times_power(mean, total.exponent - exponent), params.zero);
    }
    let blocks = select(0u, block_count(chunk.quads), usable);
    let eight = block_length();
    var firsts: array<Pair4, ACC>;
    var seconds: array<Pair4, ACC>;
    for (var block = 0u; block < blocks; block += 1u) {
        for (var a = 0u; a < ACC; a += 1u) {
            var first = vec4<f32>(0.0);
            var second = vec4<f32>(0.0);
            for (var k = 0u; k < eight; k += 1u) {
                let q = quad_number(block, k, a, lane);
                if q < chunk.quads {
                    let quad = load_quad(chunk, q);
                    let scaled = scaled_down4(quad.x, exponent);
                    let d = select(vec4<f32>(0.0), opaque4(scaled - shift, params.zero), quad.inside);
                    first += d;
                    second += d * d;
                }
            }
            firsts[a] = pair_add4(firsts[a], opaque4(first, params.zero), params.zero);
            seconds[a] = pair_add4(seconds[a], opaque4(second, params.zero), params.zero);
        }
    }
    var s1: array<vec2<f32>, ACC>;
    var s2: array<vec2<f32>, ACC>;
    for (var a = 0u; a < ACC; a += 1u) {
        s1[a] = fold4(firsts[a], params.zero);
        s2[a] = fold4(seconds[a], params.zero);
    }
    for (var half = ACC / 2u; half > 0u; half /= 2u) {
        for (var a = 0u; a < half; a += 1u) {
            s1[a] = pair_merge(s1[a], s1[a + half], params.zero);
            s2[a] = pair_merge(s2[a], s2[a + half], params.zero);
        }
    }
    let first = team_sum(s1[0], at, params.zero);
    let second = team_sum(s2[0], at, params.zero);
    if usable {
        // The mean is shift + rest; its rounding is taken out of the squares, too.
        let rest = opaque(m_div(first.x + first.y, f32(chunk.count), params.zero), params.zero);
        state.exponent = exponent;
        state.mean = two_sum(shift, rest, params.zero);
        let m2 = pair_merge(second, vec2<f32>(opaque(-(first.x * rest), params.zero), 0.0), params.zero);
        if m2.x > 0.0 {
            state.m2 = m2;
        }
    }
    return state;
}

fn state_merge(a: State, b: State) -> State {
    if a.count == 0u || b.count == 0u {
        var one = b;
        if b.count == 0u {
            one = a;
        }
        return one;
    }
    let exponent = max(a.exponent, b.exponent);
    let ka = max(a.exponent - exponent, -100);
    let kb = max(b.exponent - exponent, -100);
    let mean_a = scaled_pair(a.mean, ka);
    let mean_b = scaled_pair(b.mean, kb);
    let n = a.count + b.count;
    // n_b / n; then mean = mean_a + delta n_b / n, M2 = M2_a + M2_b + delta^2 n_a n_b / n.
    let share = opaque(m_div(f32(b.count), f32(n), params.zero), params.zero);
    let d = two_sum(mean_b.x, -mean_a.x, params.zero);
    let low = opaque(d.y + opaque(mean_b.y - mean_a.y, params.zero), params.zero);
    let delta = fast_two_sum(d.x, low, params.zero);
    let step = two_product(delta.x, share, params.zero);
    let tail = opaque(step.y + delta.y * share, params.zero);
    let mean = pair_merge(mean_a, vec2<f32>(step.x, tail), params.zero);
    let between = opaque(delta.x * delta.x * (f32(a.count) * share), params.zero);
    var m2 = pair_merge(scaled_pair(a.m2, 2 * ka), scaled_pair(b.m2, 2 * kb), params.zero);
    m2 = pair_add(m2, between, params.zero);
    return State(n, exponent, mean, m2, a.flags | b.flags);
}

fn state_team(v: State, at: u32) -> State {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        let whole = exchange(vec2<u32>(result.count, bitcast<u32>(result.exponent)), at, bit);
        let other = State(
            whole.x,
            bitcast<i32>(whole.y),
            exchange_pair(result.mean, at, bit),
            exchange_pair(result.m2, at, bit),
            exchange(vec2<u32>(result.flags, 0u), at, bit).x,
        );
        result = state_merge(result, other);
    }
    return result;
}

fn record_of(s: State) -> Record {
    return Record(
        vec4<u32>(s.count, bitcast<u32>(s.exponent), bitcast<vec2<u32>>(s.mean)),
        vec4<u32>(bitcast<vec2<u32>>(s.m2), s.flags, 0u),
    );
}

fn state_of(r: Record) -> State {
    return State(r.a.x, bitcast<i32>(r.a.y), bitcast<vec2<f32>>(r.a.zw), bitcast<vec2<f32>>(r.b.xy), r.b.z);
}

// What gradients need: the exponent that elements are scaled down by, and the mean and the standard deviation so scaled.
fn statistics_of(s: State) -> vec4<u32> {
    if s.flags != 0u {
        let bad = (s.flags & FLAG_NAN) != 0u || s.flags == (FLAG_INF | FLAG_NEG_INF);
        let infinity = select(neg_inf_f32(), inf_f32(), s.flags == FLAG_INF);
        return vec4<u32>(0u, bitcast<u32>(select(infinity, nan_f32(), bad)), 0u, bitcast<u32>(nan_f32()));
    }
    let m2 = fast_two_sum(s.m2.x, s.m2.y, params.zero);
    let magnitude = bitcast<u32>(m2.x) & 0x7fffffffu;
    var deviation = 0.0;
    if magnitude >= 0x00800000u {
        let e = m_frexp_bits(magnitude).y;
        let v = scaled_pair(m2, -e);
        let quotient = scaled_over(Scaled(v.x, v.y, 0), params.divisor);
        let q = m_frexp_bits(bitcast<u32>(quotient));
        deviation = root_scaled(Scaled(bitcast<f32>(q.x), 0.0, q.y + e));
    }
    return vec4<u32>(
        bitcast<u32>(s.exponent),
        bitcast<u32>(s.mean.x),
        bitcast<u32>(s.mean.y),
        bitcast<u32>(deviation),
    );
}

fn finish(s: State, y: u32) {
    if STATISTICS {
        y_store_statistics(y, statistics_of(s));
        return;
    }
    // The host gives no divisor where the count is not above the correction.
    if s.flags != 0u || !(params.divisor.x > 0.0) {
        y_store(y, nan_f32());
        return;
    }
    let m2 = fast_two_sum(s.m2.x, s.m2.y, params.zero);
    let magnitude = bitcast<u32>(m2.x) & 0x7fffffffu;
    if magnitude < 0x00800000u {
        y_store(y, 0.0);
        return;
    }
    let e = m_frexp_bits(magnitude).y;
    let v = scaled_pair(m2, -e);
    let quotient = scaled_over(Scaled(v.x, v.y, 0), params.divisor);
    if KIND == VARIANCE_OF {
        y_store(y, times_power(quotient, e + 2 * s.exponent));
    } else {
        let q = m_frexp_bits(bitcast<u32>(quotient));
        y_store(y, root_scaled(Scaled(bitcast<f32>(q.x), 0.0, q.y + e + 2 * s.exponent)));
    }
}
