// Sums of rows of a sparse matrix: parameters, the plan, pairs of a sum and its rounding error, and what becomes of a sum
// (needs bits.wgsl, error_free.wgsl, and spmv_one.wgsl or spmv_four.wgsl, which say what `num` is: the values of one vector or
// of four).

struct Params {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Workgroups along x; each takes every so many-th block.
    groups: u32,
    // Blocks (or split rows) of this dispatch, and the word of the plan where they begin.
    blocks: u32,
    first_block: u32,
    // Words of the plan where the order of the rows and their pointers begin.
    order: u32,
    row_ptr: u32,
    // Entry that lies at element 0 of the bindings of columns and values.
    entry_base: u32,
    // Vectors of this dispatch.
    vectors: u32,
    // Elements of the bindings at which vector 0 begins, and strides from entry to entry and from vector to vector.
    x_base: u32,
    x_row: u32,
    x_vector: u32,
    y_base: u32,
    y_row: u32,
    y_vector: u32,
    // The same of the parts of dot products, and of their two numbers.
    parts_base: u32,
    parts_vector: u32,
    parts_part: u32,
    parts_low: u32,
    // 1 where parts are written, 0 where they are added to.
    parts_fresh: u32,
    // Records of a vector, and the first vector of this dispatch among all.
    records: u32,
    first_vector: u32,
    spare: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// alpha and beta.
@group(0) @binding(1) var<uniform> scale: vec4<f32>;
// Row pointers, order of the rows, blocks, split rows.
@group(0) @binding(2) var<storage, read> plan_data: array<u32>;
@group(0) @binding(3) var<storage, read> columns_data: array<u32>;
@group(0) @binding(4) var<storage, read> values_data: array<u32>;
@group(0) @binding(5) var<storage, read> x_data: array<f32>;
@group(0) @binding(6) var<storage, read_write> y_data: array<f32>;
// Sums of pieces of rows.
@group(0) @binding(7) var<storage, read_write> records_data: array<f32>;
@group(0) @binding(8) var<storage, read_write> parts_data: array<f32>;
// A word a vector, 0 where its product is not wanted.
@group(0) @binding(9) var<storage, read> active_data: array<u32>;

var<workgroup> space: array<Sum, WG>;

// What a sum of rows comes to.
fn settle(sum: Sum) -> num {
    return pick(hidden(sum.high + sum.low), sum.high, sum.high);
}

// Merges the sums of `team` neighbouring lanes, a power of two, in a fixed tree; the result is right in their first lane. Uniform.
fn team_sum(own: Sum, lane: u32, within: u32, team: u32) -> Sum {
    workgroupBarrier();
    space[lane] = own;
    workgroupBarrier();
    for (var step = team >> 1u; step > 0u; step = step >> 1u) {
        if within < step {
            space[lane] = sum_merge(space[lane], space[lane + step]);
        }
        workgroupBarrier();
    }
    return space[lane];
}

// y = alpha * sum + beta * y for one row; gives the term of x.y.
fn finish_row(row: u32, vector: u32, sum: Sum) -> num {
    var y = hidden(scale.x * settle(sum));
    // Where beta is 0, what y held does not count, not even a NaN.
    if (bitcast<u32>(scale.y) & 0x7fffffffu) != 0u {
        y = hidden(y + hidden(scale.y * y_load(row, vector)));
    }
    y_store(row, vector, y);
    if DOT {
        return hidden(y * x_load(row, vector));
    }
    return num();
}

// Leaves the parts of x.y of this workgroup. Uniform.
fn finish_parts(own: Sum, lane: u32, group: u32, vector: u32) {
    let sum = team_sum(own, lane, lane, WG);
    if lane == 0u {
        part_store(group, vector, sum);
    }
}

fn block_word(block: u32, word: u32) -> u32 {
    return plan_data[params.first_block + block * 4u + word];
}
