// What a reduction by sums keeps of a chunk, and what it comes to (needs reduction_sum).
alias State = Sum;

fn state_merge(a: State, b: State) -> State {
    return sum_merge(a, b);
}

fn state_team(v: State, at: u32) -> State {
    return sum_team(v, at);
}

fn sweep(chunk: Chunk, lane: u32, at: u32) -> State {
    return sweep_sum(chunk, lane, at);
}

fn record_of(s: State) -> Record {
    return Record(
        bitcast<vec4<u32>>(vec4<f32>(s.mid, s.big)),
        vec4<u32>(bitcast<vec2<u32>>(s.small), s.flags, 0u),
    );
}

fn state_of(r: Record) -> State {
    let a = bitcast<vec4<f32>>(r.a);
    return Sum(a.xy, a.zw, bitcast<vec2<f32>>(r.b.xy), r.b.z);
}

// What a sum with terms that are not finite comes to.
fn special(s: State) -> f32 {
    // A sum of squares or magnitudes has no negative infinity.
    let bad = (s.flags & FLAG_NAN) != 0u || s.flags == (FLAG_INF | FLAG_NEG_INF);
    return select(select(neg_inf_f32(), inf_f32(), s.flags == FLAG_INF), nan_f32(), bad);
}

// What gradients need: the sum, or for the L2 norm its root, as a number from 1 to 2 and an exponent.
fn statistics_of(s: State) -> vec4<u32> {
    if s.flags != 0u {
        return vec4<u32>(bitcast<u32>(special(s)), 0u, 0u, 0u);
    }
    let total = sum_total(s);
    if KIND == NORM_L2 {
        let norm = scaled_root(total);
        return vec4<u32>(bitcast<u32>(norm.high), bitcast<u32>(norm.exponent), 0u, 0u);
    }
    return vec4<u32>(bitcast<u32>(total.high + total.low), bitcast<u32>(total.exponent), 0u, 0u);
}

fn finish(s: State, y: u32) {
    if STATISTICS {
        y_store_statistics(y, statistics_of(s));
        return;
    }
    if s.flags != 0u {
        var v = special(s);
        if KIND == LOG_SUM && s.flags == FLAG_NEG_INF {
            v = nan_f32();
        }
        y_store(y, v);
        return;
    }
    let total = sum_total(s);
    if KIND == LOG_SUM {
        y_store(y, log_scaled(total));
    } else if KIND == NORM_L2 {
        y_store(y, root_scaled(total));
    } else if KIND == MEAN {
        if params.count.x == 0.0 {
            y_store(y, nan_f32());
        } else {
            y_store(y, times_power(scaled_over(total, params.count), total.exponent));
        }
    } else {
        y_store(y, times_power(total.high + total.low, total.exponent));
    }
}
