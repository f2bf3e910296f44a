// A step of a sweep over the rows of one group, none of which reads another: for every row of the list and every vector
//     y[row] = keep y[row] + weight inverse[row] (b[row] - sum of a_ij y_j)
// with the sum over the entries given for the row, and b taken as 0 where the flag says so. Relaxation by colours, and both triangular solves of
// SSOR and incomplete factorisations, are this with other lists.
//
//   rows   one invocation a row, 64 of them a workgroup; at most 64 entries a row, interleaved with those of the neighbouring rows.
//          Entry k goes to accumulator k % 8; accumulators are added as a tree.
//   teams  one workgroup of 64 a row of any length; pairs (sum, error) a lane, merged as a tree.
//
// Bindings: 0 params, 1 rows, 2 entries, 3 b, 4 y, 5 active. Barriers: one a step of the tree in `teams`.

struct Params {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Rows of this dispatch.
    count: u32,
    // What is subtracted from a row's first entry, as the binding begins later than the buffer.
    entry_base: u32,
    row_base: u32,
    b_base: u32,
    y_base: u32,
    // Unknowns, and vectors.
    n: u32,
    vectors: u32,
    grid_x: u32,
    // Workgroups a vector.
    groups: u32,
    // 1: b counts. 2: vectors whose word of `active` is 0 are left alone.
    flags: u32,
    keep: f32,
    weight: f32,
    // Elements from one vector to the next.
    b_pitch: u32,
    y_pitch: u32,
    spare: u32,
}

struct Row {
    row: u32,
    // Number of entries; in `rows` their distance in the upper half.
    length: u32,
    first: u32,
    inverse: f32,
}

struct Entry {
    column: u32,
    value: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rows_data: array<Row>;
@group(0) @binding(2) var<storage, read> entries: array<Entry>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read> active_words: array<u32>;

const TEAM: u32 = 64u;

// The workgroup's place: vector, and number of the workgroup within it.
fn place(group: vec3<u32>) -> vec2<u32> {
    let number = group.x + group.y * params.grid_x;
    return vec2<u32>(number / params.groups, number % params.groups);
}

fn wanted(vector: u32) -> bool {
    if vector >= params.vectors {
        return false;
    }
    if (params.flags & 2u) != 0u {
        return active_words[vector] != 0u;
    }
    return true;
}

fn term(at: u32, origin: u32) -> f32 {
    let entry = entries[at];
    return entry.value * y[origin + entry.column];
}

// The product of an entry, or 0 past the row's end, where another row's entries are.
fn term_below(k: u32, length: u32, at: u32, origin: u32) -> f32 {
    if k < length {
        return term(at, origin);
    }
    return 0.0;
}

fn relax(row: Row, vector: u32, sum: f32) {
    let zero = params.zero;
    let at = params.y_base + vector * params.y_pitch + row.row;
    var rest = -sum;
    if (params.flags & 1u) != 0u {
        rest = opaque(b[params.b_base + vector * params.b_pitch + row.row] - sum, zero);
    }
    var relaxed = opaque(opaque(params.weight * row.inverse, zero) * rest, zero);
    // Without it y may hold anything yet.
    if params.keep != 0.0 {
        relaxed += opaque(params.keep * y[at], zero);
    }
    y[at] = relaxed;
}

@compute @workgroup_size(64)
fn rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = place(group);
    let number = at.y * TEAM + local;
    if !wanted(at.x) || number >= params.count {
        return;
    }
    let zero = params.zero;
    let row = rows_data[params.row_base + number];
    let length = row.length & 0xffffu;
    let step = row.length >> 16u;
    let origin = params.y_base + at.x * params.y_pitch;
    var first = row.first - params.entry_base;
    var even = vec4<f32>(0.0);
    var odd = vec4<f32>(0.0);
    let blocks = length / 8u;
    for (var block = 0u; block < blocks; block += 1u) {
        even = opaque4(even + vec4<f32>(term(first, origin), term(first + step, origin),
            term(first + 2u * step, origin), term(first + 3u * step, origin)), zero);
        first += 4u * step;
        odd = opaque4(odd + vec4<f32>(term(first, origin), term(first + step, origin),
            term(first + 2u * step, origin), term(first + 3u * step, origin)), zero);
        first += 4u * step;
    }
    let done = blocks * 8u;
    if done < length {
        even = opaque4(even + vec4<f32>(term(first, origin),
            term_below(done + 1u, length, first + step, origin),
            term_below(done + 2u, length, first + 2u * step, origin),
            term_below(done + 3u, length, first + 3u * step, origin)), zero);
    }
    if done + 4u < length {
        first += 4u * step;
        odd = opaque4(odd + vec4<f32>(term(first, origin),
            term_below(done + 5u, length, first + step, origin),
            term_below(done + 6u, length, first + 2u * step, origin), 0.0), zero);
    }
    let four = opaque4(even + odd, zero);
    let two = opaque4(vec4<f32>(four.x + four.y, four.z + four.w, 0.0, 0.0), zero);
    relax(row, at.x, opaque(two.x + two.y, zero));
}

var<workgroup> sums: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn teams(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = place(group);
    let zero = params.zero;
    let live = wanted(at.x) && at.y < params.count;
    let row = rows_data[params.row_base + min(at.y, params.count - 1u)];
    let length = select(0u, row.length, live);
    let first = row.first - params.entry_base;
    let origin = params.y_base + at.x * params.y_pitch;
    var sum = vec2<f32>(0.0, 0.0);
    for (var k = local; k < length; k += TEAM) {
        sum = pair_add(sum, opaque(term(first + k, origin), zero), zero);
    }
    sums[local] = sum;
    workgroupBarrier();
    for (var half = TEAM / 2u; half > 0u; half /= 2u) {
        if local < half {
            sums[local] = pair_merge(sums[local], sums[local + half], zero);
        }
        workgroupBarrier();
    }
    if local == 0u && live {
        relax(row, at.x, opaque(sums[0].x + sums[0].y, zero));
    }
}
