// What minima, maxima and their indices keep of a chunk (needs reduction_rows): the largest key, and the first index that
// has it. Keys order NaN above all numbers, for minima as well as for maxima; 0 is no element at all.
// Elements as they are loaded, and what a chunk leaves behind.
alias Four = vec4<f32>;

struct Record {
    a: vec4<u32>,
    b: vec4<u32>,
}

struct State {
    key: u32,
    index: u32,
}

fn key_of(u: u32) -> u32 {
    if KIND == NORM_MAX {
        return ordered_bits(u & 0x7fffffffu);
    }
    let key = ordered_bits(u);
    return select(key, ~key, MINIMUM && key != 0xffffffffu);
}

fn state_merge(a: State, b: State) -> State {
    var best = a;
    if b.key > a.key || (b.key == a.key && b.index < a.index) {
        best = b;
    }
    return best;
}

// Of two elements of one lane, the second further on.
fn later(a: State, b: State) -> State {
    var best = a;
    if b.key > a.key {
        best = b;
    }
    return best;
}

fn state_team(v: State, at: u32) -> State {
    var result = v;
    for (var bit = TEAM / 2u; bit > 0u; bit /= 2u) {
        let other = exchange(vec2<u32>(result.key, result.index), at, bit);
        result = state_merge(result, State(other.x, other.y));
    }
    return result;
}

fn sweep(chunk: Chunk, lane: u32, at: u32) -> State {
    var best = State(0u, 0u);
    let rounds = (chunk.quads + TEAM - 1u) / TEAM;
    for (var k = 0u; k < rounds; k += 1u) {
        let q = k * TEAM + lane;
        if q < chunk.quads {
            let quad = load_quad(chunk, q);
            let u = bitcast<vec4<u32>>(quad.x);
            let keys = vec4<u32>(key_of(u.x), key_of(u.y), key_of(u.z), key_of(u.w));
            let present = select(vec4<u32>(0u), keys, quad.inside);
            if ARG {
                best = later(best, State(present.x, quad.index));
                best = later(best, State(present.y, quad.index + 1u));
                best = later(best, State(present.z, quad.index + 2u));
                best = later(best, State(present.w, quad.index + 3u));
            } else {
                best.key = max(best.key, max(max(present.x, present.y), max(present.z, present.w)));
            }
        }
    }
    return state_team(best, at);
}

fn record_of(s: State) -> Record {
    return Record(vec4<u32>(s.key, s.index, 0u, 0u), vec4<u32>(0u));
}

fn state_of(r: Record) -> State {
    return State(r.a.x, r.a.y);
}

fn finish(s: State, y: u32) {
    if ARG {
        y_store_index(y, s.index);
    } else if s.key == 0u {
        // The largest magnitude of nothing; minima and maxima of nothing are refused.
        y_store(y, 0.0);
    } else {
        y_store(y, unordered(select(s.key, ~s.key, MINIMUM && s.key != 0xffffffffu)));
    }
}
