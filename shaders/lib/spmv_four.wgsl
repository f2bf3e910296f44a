// Four vectors at a time: an entry is read once for all of them. Where fewer are left, the last one stands in for those that
// are not there, and only what is there is written.
alias num = vec4<f32>;
const VECTORS: u32 = 4u;

// Sums and their rounding errors.
struct Sum {
    high: vec4<f32>,
    low: vec4<f32>,
}

fn hidden(v: num) -> num {
    return opaque4(v, params.zero);
}

// `a` where `test` is finite, else `b`.
fn pick(a: num, b: num, test: num) -> num {
    let bits = bitcast<vec4<u32>>(test) & vec4<u32>(0x7fffffffu);
    return select(b, a, bits < vec4<u32>(0x7f800000u));
}

fn sum_add(state: Sum, v: num) -> Sum {
    let r = pair_add4(Pair4(state.high, state.low), v, params.zero);
    return Sum(r.high, r.low);
}

fn sum_merge(a: Sum, b: Sum) -> Sum {
    let r = pair_merge4(Pair4(a.high, a.low), Pair4(b.high, b.low), params.zero);
    return Sum(r.high, r.low);
}

// Where the four vectors from `vector` on begin.
fn four_places(base: u32, vector: u32, stride: u32) -> vec4<u32> {
    let last = params.vectors - 1u;
    return base + min(vec4<u32>(vector) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * stride;
}

fn x_load(column: u32, vector: u32) -> num {
    let at = four_places(params.x_base, vector, params.x_vector) + vec4<u32>(column * params.x_row);
    return vec4<f32>(x_data[at.x], x_data[at.y], x_data[at.z], x_data[at.w]);
}

fn y_load(row: u32, vector: u32) -> num {
    let at = four_places(params.y_base, vector, params.y_vector) + vec4<u32>(row * params.y_row);
    return vec4<f32>(y_data[at.x], y_data[at.y], y_data[at.z], y_data[at.w]);
}

fn y_store(row: u32, vector: u32, value: num) {
    let at = four_places(params.y_base, vector, params.y_vector) + vec4<u32>(row * params.y_row);
    let bits = bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu);
    let v = select(value, vec4<f32>(nan_f32()), bits > vec4<u32>(0x7f800000u));
    y_data[at.x] = v.x;
    if vector + 1u < params.vectors {
        y_data[at.y] = v.y;
    }
    if vector + 2u < params.vectors {
        y_data[at.z] = v.z;
    }
    if vector + 3u < params.vectors {
        y_data[at.w] = v.w;
    }
}

fn is_active(vector: u32) -> bool {
    if !ACTIVE {
        return true;
    }
    let at = four_places(params.first_vector, vector, 1u);
    return (active_data[at.x] | active_data[at.y] | active_data[at.z] | active_data[at.w]) != 0u;
}

fn record_store(slot: u32, vector: u32, sum: Sum) {
    let at = (vector * params.records + slot * 4u) * 2u;
    records_data[at] = sum.high.x;
    records_data[at + 1u] = sum.high.y;
    records_data[at + 2u] = sum.high.z;
    records_data[at + 3u] = sum.high.w;
    records_data[at + 4u] = sum.low.x;
    records_data[at + 5u] = sum.low.y;
    records_data[at + 6u] = sum.low.z;
    records_data[at + 7u] = sum.low.w;
}

fn record_load(slot: u32, vector: u32) -> Sum {
    let at = (vector * params.records + slot * 4u) * 2u;
    return Sum(
        vec4<f32>(records_data[at], records_data[at + 1u], records_data[at + 2u], records_data[at + 3u]),
        vec4<f32>(records_data[at + 4u], records_data[at + 5u], records_data[at + 6u], records_data[at + 7u]),
    );
}

fn part_store(group: u32, vector: u32, own: Sum) {
    let at = four_places(params.parts_base, vector, params.parts_vector) + vec4<u32>(group * params.parts_part);
    let low = at + vec4<u32>(params.parts_low);
    var sum = own;
    if params.parts_fresh == 0u {
        let before = Sum(
            vec4<f32>(parts_data[at.x], parts_data[at.y], parts_data[at.z], parts_data[at.w]),
            vec4<f32>(parts_data[low.x], parts_data[low.y], parts_data[low.z], parts_data[low.w]),
        );
        sum = sum_merge(before, own);
    }
    sum.low = pick(sum.low, num(), sum.high);
    parts_data[at.x] = sum.high.x;
    parts_data[low.x] = sum.low.x;
    if vector + 1u < params.vectors {
        parts_data[at.y] = sum.high.y;
        parts_data[low.y] = sum.low.y;
    }
    if vector + 2u < params.vectors {
        parts_data[at.z] = sum.high.z;
        parts_data[low.z] = sum.low.z;
    }
    if vector + 3u < params.vectors {
        parts_data[at.w] = sum.high.w;
        parts_data[low.w] = sum.low.w;
    }
}
