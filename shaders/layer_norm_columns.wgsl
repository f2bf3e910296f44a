// Gradients of weight and bias, first stage: one invocation adds up four columns over a block of rows,
//   weight: sum of upstream * normalised element, bias: sum of upstream,
// as pairs, from the records that layer_norm.wgsl or layer_norm_split.wgsl left. Neighbouring invocations have
// neighbouring columns. The second stage is layer_norm_merge.wgsl.
//
// Bindings: 0 params, 1 x, 3 upstream, 6 records, 7 sums. No barriers.

struct Params {
    // Row dimensions, innermost first, and the strides of the tensors along them, in elements.
    sizes: vec4<u32>,
    x_strides: vec4<u32>,
    upstream_strides: vec4<u32>,
    // Of x and upstream: element of the binding at which row 0 begins, and from one element of a row to the next.
    x_base: u32,
    x_step: u32,
    upstream_base: u32,
    upstream_step: u32,
    zero: u32,
    // Rows of this dispatch, rows of a block, workgroups along x.
    rows: u32,
    block_rows: u32,
    grid_x: u32,
    // Columns of this dispatch, quads of them, blocks of this dispatch and the first block's number.
    columns: u32,
    quads: u32,
    blocks: u32,
    first_block: u32,
    // Record of row 0 in the binding of the records.
    record_base: u32,
    spare_0: u32,
    spare_1: u32,
    spare_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(3) var<storage, read> upstream_data: array<upstream_unit>;

struct ColumnSums {
    weight: Pair4,
    bias: Pair4,
}

@group(0) @binding(7) var<storage, read_write> sums: array<ColumnSums>;

fn along(index: vec4<u32>, strides: vec4<u32>) -> u32 {
    let at = index * strides;
    return at.x + at.y + at.z + at.w;
}

fn power_of_two(k: i32) -> f32 {
    return bitcast<f32>(u32(k + 127) << 23u);
}

// The normalised elements; what layer_norm_rows.wgsl has in scaled4, centred4 and deviation4.
fn normalised4(x: vec4<f32>, record: RowRecord) -> vec4<f32> {
    var v = opaque4(x * power_of_two(min(-record.e, 127)), params.zero);
    if record.e < -60 {
        let bits = bitcast<vec4<u32>>(x);
        let magnitude = bits & vec4<u32>(0x7fffffffu);
        let lift = power_of_two(clamp(-149 - record.e, -126, 0));
        let lifted = bitcast<vec4<u32>>(vec4<f32>(magnitude) * lift) | (bits & vec4<u32>(0x80000000u));
        v = select(v, opaque4(bitcast<vec4<f32>>(lifted), params.zero), magnitude < vec4<u32>(0x00800000u));
    }
    if !RMS {
        let t = two_sum4(v, vec4<f32>(-record.mean.x), params.zero);
        v = opaque4(t.high + opaque4(t.low - record.mean.y, params.zero), params.zero);
    }
    let unit = power_of_two(clamp(record.e - record.f, -126, 126));
    return opaque4(opaque4(v * unit, params.zero) * record.r.x, params.zero);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let id = (group.x + group.y * params.grid_x) * WG + local;
    let block = id / params.quads;
    if block >= params.blocks {
        return;
    }
    let quad = id % params.quads;
    let j = quad * 4u;
    let n = select(min(4u, params.columns - j), 4u, WHOLE);
    let begin = block * params.block_rows;
    let count = min(params.block_rows, params.rows - begin);
    var total: ColumnSums;
    for (var i = 0u; i < count; i += 1u) {
        let row = begin + i;
        let a = row / params.sizes.x;
        let b = a / params.sizes.y;
        let c = b / params.sizes.z;
        let index = vec4<u32>(row % params.sizes.x, a % params.sizes.y, b % params.sizes.z, c);
        let up = params.upstream_base + along(index, params.upstream_strides) + j * params.upstream_step;
        let g = upstream_load4(up, params.upstream_step, n);
        if WEIGHT {
            let start = params.x_base + along(index, params.x_strides) + j * params.x_step;
            let record = records[params.record_base + row];
            var v = vec4<f32>(nan_f32());
            if record.status == 0u {
                v = opaque4(normalised4(x_load4(start, params.x_step, n), record) * g, params.zero);
            } else if record.status == 2u {
                let bits = bitcast<vec4<u32>>(x_load4(start, params.x_step, n)) & vec4<u32>(0x7fffffffu);
                v = select(vec4<f32>(0.0), v, bits >= vec4<u32>(0x7f800000u));
            }
            total.weight = pair_add4(total.weight, v, params.zero);
        }
        if BIAS {
            total.bias = pair_add4(total.bias, g, params.zero);
        }
    }
    sums[(params.first_block + block) * params.quads + quad] = total;
}
