// Unscaling of a gradient tensor, and its part of the finite test and of the norm. A workgroup takes a chunk of
// WG * 16 * BLOCKS elements.
//   measure            sum of squares, and the worst class, of each chunk, into `partials`
//   measure_and_write  the same, and y = x / scale
//   rescale            y = x * factor, where the factor comes from the norm
//
// Squares are taken relative to the largest element met so far, by exponents, so none overflows or vanishes.
// Bindings: 0 params, 1 x, 2 y, 3 partials, 4 scaler. Barriers: one a step of the tree in `leave`, in uniform control flow.

struct Params {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    grid_x: u32,
    // Chunks and elements of this dispatch, and number of its first chunk among those of all tensors.
    chunks: u32,
    elements: u32,
    first_partial: u32,
    // Element of the bindings at which the dispatch begins.
    x_base: u32,
    y_base: u32,
    spare: u32,
}

struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> y_data: array<y_unit>;
@group(0) @binding(3) var<storage, read_write> partials: array<Squares>;
@group(0) @binding(4) var<storage, read_write> scaler: ScalerState;

var<workgroup> shared_squares: array<Squares, WG>;

struct Chunk {
    number: u32,
    begin: u32,
    // One past the last element; 0 for chunks beyond the end.
    end: u32,
}

fn locate(inv: Invocation) -> Chunk {
    let number = inv.group.x + inv.group.y * params.grid_x;
    let begin = number * (WG * 16u * BLOCKS);
    let end = min(begin + WG * 16u * BLOCKS, params.elements);
    return Chunk(number, begin, select(0u, end, number < params.chunks));
}

// Adds four elements, of which the first n count.
fn take(state: Running, v: vec4<f32>, n: u32) -> Running {
    let live = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(n);
    let magnitude = select(vec4<u32>(0u), bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu), live);
    return add_squares(state, magnitude, params.zero);
}

// Merges what the invocations have and leaves it in `partials`.
fn leave(inv: Invocation, chunk: Chunk, state: Running) {
    shared_squares[inv.local] = settle_squares(state, params.zero);
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if inv.local < half {
            shared_squares[inv.local] = merge_squares(shared_squares[inv.local], shared_squares[inv.local + half], params.zero);
        }
        workgroupBarrier();
    }
    if inv.local == 0u && chunk.end > 0u {
        partials[params.first_partial + chunk.number] = shared_squares[0];
    }
}

@compute @workgroup_size(WG)
fn measure(inv: Invocation) {
    let chunk = locate(inv);
    var state = no_squares();
    for (var i = 0u; i < 4u * BLOCKS; i += 1u) {
        let e = chunk.begin + 4u * (inv.local + i * WG);
        if e < chunk.end {
            let n = min(4u, chunk.end - e);
            state = take(state, x_load4(params.x_base + e, 1u, n), n);
        }
    }
    leave(inv, chunk, state);
}

@compute @workgroup_size(WG)
fn measure_and_write(inv: Invocation) {
    let chunk = locate(inv);
    let factor = wide_div(Wide(1.0, 0.0, 0), wide_from(scaler.scale, params.zero), params.zero);
    var state = no_squares();
    for (var i = 0u; i < 4u * BLOCKS; i += 1u) {
        let e = chunk.begin + 4u * (inv.local + i * WG);
        if e < chunk.end {
            let n = min(4u, chunk.end - e);
            let v = x_load4(params.x_base + e, 1u, n);
            state = take(state, v, n);
            y_store4(params.y_base + e, 1u, n, scale4(v, factor, params.zero));
        }
    }
    leave(inv, chunk, state);
}

@compute @workgroup_size(WG)
fn rescale(inv: Invocation) {
    let chunk = locate(inv);
    let factor = Wide(scaler.factor_high, scaler.factor_low, scaler.factor_exponent);
    for (var i = 0u; i < 4u * BLOCKS; i += 1u) {
        let e = chunk.begin + 4u * (inv.local + i * WG);
        if e < chunk.end {
            let n = min(4u, chunk.end - e);
            y_store4(params.y_base + e, 1u, n, scale4(x_load4(params.x_base + e, 1u, n), factor, params.zero));
        }
    }
}
