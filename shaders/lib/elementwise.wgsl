// Where the elements of an operation lie that treats each on its own. All tensors have one shape, brought to an innermost
// dimension of `len` elements and up to four others. The innermost one is cut into chunks of `chunk` elements, and
// chunks into quads of four; a chunk is a row of the dispatch. Tensors have slots; a stride of 0 broadcasts.

struct Params {
    // Dimensions of the rows, innermost first, and for each slot the strides along them, in elements.
    sizes: vec4<u32>,
    strides: array<vec4<u32>, 8>,
    // For each slot the element of the binding at which row 0 begins, and the step along the innermost dimension.
    bases: array<vec4<u32>, 2>,
    steps: array<vec4<u32>, 2>,
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Rows of this dispatch.
    rows: u32,
    len: u32,
    // Workgroups along x.
    grid_x: u32,
    // Elements and quads of a chunk, and which chunk row 0 is.
    chunk: u32,
    quads: u32,
    first_chunk: u32,
    // Quads that an invocation treats.
    rounds: u32,
    // For sums: the first partial of this dispatch, and partials in all.
    first_partial: u32,
    partials: u32,
    // Bits of the answer where there is nothing to be summed.
    fill: u32,
    // 1 / n for means, else 1.
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

struct Quad {
    // Of the row.
    index: vec4<u32>,
    // First element within the row, and how many of the four exist: 0 where there is no such quad.
    first: u32,
    count: u32,
}

// Quad `round` of an invocation: neighbours take neighbours.
fn quad_of(group: vec3<u32>, local: u32, round: u32) -> Quad {
    let number = ((group.x + group.y * params.grid_x) * params.rounds + round) * WG + local;
    let row = number / params.quads;
    let first = (number % params.quads) * 4u;
    let a = row / params.sizes.x;
    let b = a / params.sizes.y;
    let c = b / params.sizes.z;
    let index = vec4<u32>(row % params.sizes.x, a % params.sizes.y, b % params.sizes.z, c);
    // Only the last chunk of an innermost dimension may be shorter.
    let begin = (params.first_chunk + index.x) * params.chunk;
    let end = select(params.len, min(params.chunk, params.len - min(begin, params.len)), params.chunk < params.len);
    let exists = row < params.rows && first < end;
    return Quad(index, first, select(0u, min(4u, end - min(first, end)), exists));
}

fn step_of(slot: u32) -> u32 {
    return params.steps[slot >> 2u][slot & 3u];
}

// Element of the binding in `slot` at which a quad begins.
fn element_of(slot: u32, quad: Quad) -> u32 {
    let along = quad.index * params.strides[slot];
    return params.bases[slot >> 2u][slot & 3u] + along.x + along.y + along.z + along.w + quad.first * step_of(slot);
}
