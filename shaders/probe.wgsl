// Questions to a device about its arithmetic (after lib/bits, lib/error_free and lib/elementary). Each entry point is
// dispatched by itself with `params`; operands come from `xs` and `ys` as bits, so that no compiler knows them.
// Written plainly on purpose where the question is what the compiler does with plain code. No barriers, no workgroup memory.

struct ProbeParams {
    // Run-time 0u.
    zero: u32,
    // Function, strategy or stray index, as the entry point says.
    op: u32,
    // Elements to work on.
    count: u32,
    unused: u32,
}

@group(0) @binding(0) var<uniform> params: ProbeParams;
@group(0) @binding(1) var<storage, read> xs: array<u32>;
@group(0) @binding(2) var<storage, read> ys: array<u32>;
@group(0) @binding(3) var<storage, read_write> results: array<u32>;
@group(0) @binding(4) var<storage, read> loads: array<f32>;
@group(0) @binding(5) var<storage, read_write> stores: array<f32>;

fn probe_apply(op: u32, x: f32, y: f32, zero: u32) -> f32 {
    switch op {
        case 0u: { return exp(x); }
        case 1u: { return log(x); }
        case 2u: { return tanh(x); }
        case 3u: { return sqrt(x); }
        case 4u: { return x / y; }
        case 5u: { return x / 3.0; }
        case 6u: { return m_exp(x, zero); }
        case 7u: { return m_log(x, zero); }
        case 8u: { return m_tanh(x, zero); }
        case 9u: { return m_sigmoid(x, zero); }
        case 10u: { return m_div(x, y, zero); }
        case 11u: { return m_expm1(x, zero); }
        case 12u: { return m_log1p(x, zero); }
        default: { return 0.0; }
    }
}

// One function over many operands.
@compute @workgroup_size(64)
fn sweep(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count {
        let y = probe_apply(params.op, bitcast<f32>(xs[id.x]), bitcast<f32>(ys[id.x]), params.zero);
        results[id.x] = bitcast<u32>(y);
    }
}

// Single operations on special values; `xs` holds NaN, inf, -inf, 1, 0, a subnormal, the smallest normal, 0.5, 1 + 2^-12,
// -(1 + 2^-11), 2 and -1. The order of the answers is that of the host's table.
@compute @workgroup_size(1)
fn facts() {
    let nan = bitcast<f32>(xs[0]);
    let inf = bitcast<f32>(xs[1]);
    let neg_inf = bitcast<f32>(xs[2]);
    let one = bitcast<f32>(xs[3]);
    let nought = bitcast<f32>(xs[4]);
    let tiny = bitcast<f32>(xs[5]);
    let smallest = bitcast<f32>(xs[6]);
    let half_one = bitcast<f32>(xs[7]);
    let a = bitcast<f32>(xs[8]);
    let c = bitcast<f32>(xs[9]);
    let two = bitcast<f32>(xs[10]);
    let minus_one = bitcast<f32>(xs[11]);
    results[0] = select(0u, 1u, nan != nan);
    results[1] = select(0u, 1u, nan == nan);
    results[2] = bitcast<u32>(max(nan, one));
    results[3] = bitcast<u32>(max(one, nan));
    results[4] = bitcast<u32>(min(nan, one));
    results[5] = bitcast<u32>(min(one, nan));
    results[6] = bitcast<u32>(nan * 0.0);
    results[7] = bitcast<u32>(inf * 0.0);
    results[8] = bitcast<u32>(inf - inf);
    results[9] = bitcast<u32>(nan - nan);
    results[10] = bitcast<u32>(exp(nan));
    results[11] = bitcast<u32>(exp(neg_inf));
    results[12] = bitcast<u32>(exp(inf));
    results[13] = bitcast<u32>(log(nought));
    results[14] = bitcast<u32>(log(minus_one));
    results[15] = bitcast<u32>(log(inf));
    results[16] = bitcast<u32>(tanh(inf));
    results[17] = bitcast<u32>(tanh(neg_inf));
    results[18] = bitcast<u32>(sqrt(minus_one));
    results[19] = bitcast<u32>(one / nought);
    results[20] = bitcast<u32>(fma(a, a, c));
    results[21] = bitcast<u32>(a * a + c);
    results[22] = bitcast<u32>(tiny + tiny);
    results[23] = bitcast<u32>(tiny * two);
    results[24] = bitcast<u32>(smallest * half_one);
    results[25] = select(0u, 1u, tiny > 0.0);
    results[26] = select(0u, 1u, is_nan(nan) && is_inf(inf) && is_inf(neg_inf) && is_finite(tiny) && !is_finite(nan));
    results[27] = bitcast<u32>(tanh(nan));
    results[28] = bitcast<u32>(log(nan));
}

// An f32 through a load and a store.
@compute @workgroup_size(1)
fn copy() {
    stores[0] = loads[0];
}

// Error terms over pairs: of TwoSum written plainly, of TwoSum and of TwoProduct behind the barrier.
@compute @workgroup_size(64)
fn transforms(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count {
        let a = bitcast<f32>(xs[id.x]);
        let b = bitcast<f32>(ys[id.x]);
        let s = a + b;
        let bv = s - a;
        let e = (a - (s - bv)) + (b - bv);
        results[3u * id.x] = bitcast<u32>(e);
        results[3u * id.x + 1u] = bitcast<u32>(two_sum(a, b, params.zero).y);
        results[3u * id.x + 2u] = bitcast<u32>(two_product(a, b, params.zero).y);
    }
}

// Serial sum of `count` terms: 0 naive, 1 Kahan written plainly, 2 Kahan behind the barrier.
@compute @workgroup_size(1)
fn sums() {
    var s = bitcast<f32>(xs[0]);
    var c = 0.0;
    if params.op == 0u {
        for (var i = 1u; i < params.count; i++) {
            s = s + bitcast<f32>(xs[i]);
        }
    } else if params.op == 1u {
        for (var i = 1u; i < params.count; i++) {
            let y = bitcast<f32>(xs[i]) - c;
            let t = s + y;
            c = (t - s) - y;
            s = t;
        }
    } else {
        var state = vec2<f32>(s, 0.0);
        for (var i = 1u; i < params.count; i++) {
            state = kahan_add(state, bitcast<f32>(xs[i]), params.zero);
        }
        s = state.x;
    }
    results[0] = bitcast<u32>(s);
}

// Iterations done of `count`, a multiple of 500: in one loop (op 0), in loops of 500 inside another (op 1), in two loops one
// after the other (op 2). The generator keeps a loop from being replaced by its result.
@compute @workgroup_size(1)
fn loops() {
    var seed = xs[0];
    var done = 0u;
    let outer = select(1u, params.count / 500u, params.op == 1u);
    let inner = select(select(params.count, 500u, params.op == 1u), params.count / 2u, params.op == 2u);
    for (var j = 0u; j < outer; j++) {
        for (var i = 0u; i < inner; i++) {
            seed = seed * 1664525u + xs[i & 3u];
            done += 1u + (seed & params.zero);
        }
    }
    if params.op == 2u {
        for (var i = 0u; i < inner; i++) {
            seed = seed * 22695477u + xs[i & 3u];
            done += 1u + (seed & params.zero);
        }
    }
    results[0] = done;
    results[1] = seed;
}

// pack2x16float of pairs of `xs`.
@compute @workgroup_size(64)
fn pack(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count {
        results[id.x] = pack2x16float(vec2<f32>(bitcast<f32>(xs[2u * id.x]), bitcast<f32>(xs[2u * id.x + 1u])));
    }
}

// unpack2x16float of every word of `xs`.
@compute @workgroup_size(64)
fn unpack(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count {
        let v = unpack2x16float(xs[id.x]);
        results[2u * id.x] = bitcast<u32>(v.x);
        results[2u * id.x + 1u] = bitcast<u32>(v.y);
    }
}

// A read at index `op`, past the end of `xs`, and a write at `op`, past the end of `results`.
@compute @workgroup_size(1)
fn stray() {
    results[0] = xs[params.op];
    results[params.op] = 0xabcdu;
}
