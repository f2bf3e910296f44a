// Gradients of reductions: for every element its factor times the upstream gradient of its row, over the row's divisor. What these
// are of a kind says a fragment (lib/reduction_gradient_*.wgsl), from what the forward pass leaves of a row where it
// needs more than the element. An invocation computes `rounds` quads of four elements.
//
// Significands in [1, 2) are multiplied and divided, exponents added as integers: nothing overflows or vanishes on the way.
// Zeros, infinities and NaN go by their bits.
//
// Bindings: 0 params, 1 x (second factor of a dot product), 2 y (the gradient), 3 upstream, 4 statistics. No barriers.

@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;
@group(0) @binding(3) var<storage, read> upstream_data: array<upstream_unit>;

const INFINITY: u32 = 0x7f800000u;

// What becomes of four elements: value * 2^exponent / divisor is what the upstream gradient is multiplied by.
struct Factor {
    value: vec4<f32>,
    exponent: vec4<i32>,
    divisor: vec4<f32>,
    // 0 whatever the upstream gradient is.
    none: vec4<bool>,
}

fn magnitude4(u: vec4<u32>) -> vec4<u32> {
    return u & vec4<u32>(0x7fffffffu);
}

// 1 with the sign of x; NaN of NaN.
fn sign4(x: vec4<f32>) -> vec4<f32> {
    let u = bitcast<vec4<u32>>(x);
    let one = (u & vec4<u32>(0x80000000u)) | vec4<u32>(0x3f800000u);
    return bitcast<vec4<f32>>(select(one, u, magnitude4(u) > vec4<u32>(INFINITY)));
}

fn significand4(parts: Parts4) -> vec4<f32> {
    return bitcast<vec4<f32>>(parts.fraction | vec4<u32>(0x3f800000u));
}

fn gradient4(g: vec4<f32>, f: Factor) -> vec4<f32> {
    let ug = bitcast<vec4<u32>>(g);
    let uv = bitcast<vec4<u32>>(f.value);
    let ud = bitcast<vec4<u32>>(f.divisor);
    let mg = magnitude4(ug);
    let mv = magnitude4(uv);
    let md = magnitude4(ud);
    let infinity = vec4<u32>(INFINITY);
    let pg = parts4(mg);
    let pv = parts4(mv);
    var s = opaque4(significand4(pg) * significand4(pv), params.zero);
    var exponent = pg.exponent + pv.exponent + f.exponent - vec4<i32>(254);
    if DIVIDES {
        let pd = parts4(md);
        // What divides all rows lies between 2^-54 and 2^33.
        let divisor = opaque4(significand4(pd) * params.scale, params.zero);
        s = opaque4(s / divisor, params.zero);
        exponent -= pd.exponent - vec4<i32>(127);
    }
    let zero = (mg == vec4<u32>(0u)) | (mv == vec4<u32>(0u));
    let large = (mg == infinity) | (mv == infinity);
    let over_zero = md == vec4<u32>(0u);
    let over_infinity = md == infinity;
    let bad = (mg > infinity) | (mv > infinity) | (md > infinity)
        | (zero & large) | (zero & over_zero) | (large & over_infinity);
    var y = select(assemble4(s, exponent), infinity, large | over_zero);
    y = select(y, vec4<u32>(0u), zero | over_infinity);
    y |= (ug ^ uv ^ ud) & vec4<u32>(0x80000000u);
    y = select(y, vec4<u32>(0u), f.none);
    // Variance has no value where the count is not above the correction.
    let undefined = bad & !f.none;
    return bitcast<vec4<f32>>(select(y, vec4<u32>(0x7fc00000u), undefined | vec4<bool>(params.fill != 0u)));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(group, local, round);
        if quad.count > 0u {
            let g = upstream_load4(element_of(UPSTREAM, quad), step_of(UPSTREAM), quad.count);
            y_store4(element_of(Y, quad), step_of(Y), quad.count, gradient4(g, factor_of(quad)));
        }
    }
}
