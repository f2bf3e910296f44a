// What Jacobi's method and residual tests do with q = A x: r = b - q, x += weight inverse r where asked, and the sum of the squares of r.
// `groups` workgroups a vector; a workgroup takes every `groups`-th block of 64 elements and leaves a pair (sum, error).
//
// Bindings: 0 params, 1 b, 2 q, 3 inverse, 4 x, 5 partials, 6 active. Barriers: one a step of the tree.

struct Params {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    n: u32,
    vectors: u32,
    groups: u32,
    grid_x: u32,
    b_base: u32,
    q_base: u32,
    x_base: u32,
    // The first pair of this dispatch.
    slot: u32,
    // 1: x is updated. 2: vectors whose word of `active` is 0 are left alone.
    flags: u32,
    weight: f32,
    // Steps of the loop over blocks.
    rounds: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> inverse: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> partials: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> active_words: array<u32>;

const TEAM: u32 = 64u;

var<workgroup> sums: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let zero = params.zero;
    let number = group.x + group.y * params.grid_x;
    let vector = number / params.groups;
    let block = number % params.groups;
    var live = vector < params.vectors;
    if live && (params.flags & 2u) != 0u {
        live = active_words[vector] != 0u;
    }
    let rounds = select(0u, params.rounds, live);
    let origin = vector * params.n;
    var sum = vec2<f32>(0.0, 0.0);
    for (var round = 0u; round < rounds; round += 1u) {
        let i = (round * params.groups + block) * TEAM + local;
        if i < params.n {
            let r = opaque(b[params.b_base + origin + i] - q[params.q_base + origin + i], zero);
            if (params.flags & 1u) != 0u {
                let step = opaque(params.weight * inverse[i], zero);
                x[params.x_base + origin + i] += opaque(step * r, zero);
            }
            sum = pair_add(sum, opaque(r * r, zero), zero);
        }
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
        partials[params.slot + number] = sums[0];
    }
}
