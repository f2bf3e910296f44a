// Gradients of weight and bias, second stage: a team of TEAM invocations adds up the sums that layer_norm_columns.wgsl left
// of four columns, every lane its share of the blocks and then the lanes, in an order that the shape fixes.
//
// Bindings: 0 params, 1 dweight, 2 dbias, 7 sums. Barriers: only inside collectives, which all invocations reach.

struct Params {
    zero: u32,
    columns: u32,
    quads: u32,
    blocks: u32,
    grid_x: u32,
    // Of the gradients: element of the binding of column 0, and from one column to the next.
    weight_base: u32,
    weight_step: u32,
    bias_base: u32,
    bias_step: u32,
    spare_0: u32,
    spare_1: u32,
    spare_2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

struct ColumnSums {
    weight: Pair4,
    bias: Pair4,
}

@group(0) @binding(7) var<storage, read_write> sums: array<ColumnSums>;

fn team_value4(sum: Pair4, at: u32) -> vec4<f32> {
    let x = pair_value(team_sum(vec2<f32>(sum.high.x, sum.low.x), at, params.zero));
    let y = pair_value(team_sum(vec2<f32>(sum.high.y, sum.low.y), at, params.zero));
    let z = pair_value(team_sum(vec2<f32>(sum.high.z, sum.low.z), at, params.zero));
    let w = pair_value(team_sum(vec2<f32>(sum.high.w, sum.low.w), at, params.zero));
    let v = vec4<f32>(x, y, z, w);
    let magnitude = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
    return select(v, vec4<f32>(nan_f32()), magnitude > vec4<u32>(0x7f800000u));
}

@compute @workgroup_size(WG)
fn main(inv: Invocation) {
    let at = position(inv);
    let lane = at % TEAM;
    let quad = (inv.group.x + inv.group.y * params.grid_x) * (WG / TEAM) + at / TEAM;
    let live = quad < params.quads;
    let blocks = select(0u, params.blocks, live);
    var total: ColumnSums;
    for (var b = lane; b < blocks; b += TEAM) {
        let part = sums[b * params.quads + quad];
        total.weight = pair_merge4(total.weight, part.weight, params.zero);
        total.bias = pair_merge4(total.bias, part.bias, params.zero);
    }
    let n = min(4u, params.columns - min(quad * 4u, params.columns));
    if WEIGHT {
        let v = team_value4(total.weight, at);
        if live && lane == 0u {
            store_weight(quad * 4u, n, v);
        }
    }
    if BIAS {
        let v = team_value4(total.bias, at);
        if live && lane == 0u {
            store_bias(quad * 4u, n, v);
        }
    }
}
