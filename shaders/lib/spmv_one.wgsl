// One vector at a time.
alias num = f32;
const VECTORS: u32 = 1u;

// A sum and its rounding error.
struct Sum {
    high: f32,
    low: f32,
}

fn hidden(v: num) -> num {
    return opaque(v, params.zero);
}

// `a` where `test` is finite, else `b`.
fn pick(a: num, b: num, test: num) -> num {
    return select(b, a, is_finite(test));
}

fn sum_add(state: Sum, v: num) -> Sum {
    let r = pair_add(vec2<f32>(state.high, state.low), v, params.zero);
    return Sum(r.x, r.y);
}

fn sum_merge(a: Sum, b: Sum) -> Sum {
    let r = pair_merge(vec2<f32>(a.high, a.low), vec2<f32>(b.high, b.low), params.zero);
    return Sum(r.x, r.y);
}

fn x_load(column: u32, vector: u32) -> num {
    return x_data[params.x_base + vector * params.x_vector + column * params.x_row];
}

fn y_load(row: u32, vector: u32) -> num {
    return y_data[params.y_base + vector * params.y_vector + row * params.y_row];
}

fn y_store(row: u32, vector: u32, v: num) {
    y_data[params.y_base + vector * params.y_vector + row * params.y_row] = select(v, nan_f32(), is_nan(v));
}

fn is_active(vector: u32) -> bool {
    return !ACTIVE || active_data[params.first_vector + vector] != 0u;
}

fn record_store(slot: u32, vector: u32, sum: Sum) {
    let at = (vector * params.records + slot) * 2u;
    records_data[at] = sum.high;
    records_data[at + 1u] = sum.low;
}

fn record_load(slot: u32, vector: u32) -> Sum {
    let at = (vector * params.records + slot) * 2u;
    return Sum(records_data[at], records_data[at + 1u]);
}

fn part_store(group: u32, vector: u32, own: Sum) {
    let at = params.parts_base + vector * params.parts_vector + group * params.parts_part;
    var sum = own;
    if params.parts_fresh == 0u {
        sum = sum_merge(Sum(parts_data[at], parts_data[at + params.parts_low]), own);
    }
    parts_data[at] = sum.high;
    parts_data[at + params.parts_low] = pick(sum.low, 0.0, sum.high);
}
