// Rows of a reduction: parameters, where chunks of rows lie, and how their elements are read. A row is everything that comes
// to one result: the elements over up to four merged reduced dimensions, or a chunk of them.

struct Params {
    // Dimensions that number the chunks, innermost first, and the strides of the tensors along them, in elements.
    sizes: vec4<u32>,
    x_strides: vec4<u32>,
    w_strides: vec4<u32>,
    y_strides: vec4<u32>,
    // Dimensions inside a chunk, innermost first; the outermost of them is cut into `chunks` parts of `part` indices.
    inner: vec4<u32>,
    x_steps: vec4<u32>,
    w_steps: vec4<u32>,
    // Element of the binding at which chunk 0 begins: x, w, y.
    bases: vec4<u32>,
    // Elements of a row as a pair, and what variance divides by.
    count: vec2<f32>,
    divisor: vec2<f32>,
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Chunks of this dispatch (rows, where they are merged), workgroups along x, number of the first among all chunks.
    rows: u32,
    grid_x: u32,
    first_row: u32,
    // Rows in all, records a row leaves, parts of the cut dimension, indices a part, size of the cut dimension, and elements
    // to each of its indices.
    kept: u32,
    records: u32,
    chunks: u32,
    part: u32,
    cut: u32,
    below: u32,
    // Records merged into one.
    fan: u32,
    // Elements of a row.
    elements: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

struct Chunk {
    x: u32,
    w: u32,
    y: u32,
    // Length of the innermost dimension, quads that it takes, quads in all.
    len: u32,
    row_quads: u32,
    quads: u32,
    // Index of the first element within the row, and number of elements.
    first: u32,
    count: u32,
    // Where its record goes.
    slot: u32,
}

fn dot_u32(a: vec4<u32>, b: vec4<u32>) -> u32 {
    let p = a * b;
    return p.x + p.y + p.z + p.w;
}

fn plan_index(number: u32) -> vec4<u32> {
    let a = number / params.sizes.x;
    let b = a / params.sizes.y;
    return vec4<u32>(number % params.sizes.x, a % params.sizes.y, b % params.sizes.z, b / params.sizes.z);
}

fn result_place(number: u32) -> u32 {
    return params.bases.z + dot_u32(plan_index(number), params.y_strides);
}

fn locate_chunk(index: u32, live: bool) -> Chunk {
    let at = plan_index(index);
    let number = params.first_row + index;
    // Which record of which row: rows count fastest where neighbouring invocations take neighbouring rows.
    let owner = select(number / params.records, number % params.kept, COLUMNS);
    let record = select(number % params.records, number / params.kept, COLUMNS);
    let begin = record % params.chunks * params.part;
    let taken = select(0u, min(params.part, params.cut - begin), live);
    var chunk: Chunk;
    chunk.x = params.bases.x + dot_u32(at, params.x_strides);
    chunk.w = params.bases.y + dot_u32(at, params.w_strides);
    chunk.y = params.bases.z + dot_u32(at, params.y_strides);
    chunk.len = select(params.inner.x, taken, DIMS == 1u);
    chunk.row_quads = (chunk.len + 3u) / 4u;
    var outer = select(taken, 1u, DIMS == 1u);
    if DIMS > 2u {
        outer *= params.inner.y;
    }
    if DIMS > 3u {
        outer *= params.inner.z;
    }
    chunk.quads = outer * chunk.row_quads;
    chunk.first = (record / params.chunks * params.cut + begin) * params.below;
    chunk.count = outer * chunk.len;
    chunk.slot = owner * params.records + record;
    return chunk;
}

// Four neighbouring elements along the innermost dimension of a chunk.
struct Quad {
    x: Four,
    w: Four,
    inside: vec4<bool>,
    // Index of the first within the row.
    index: u32,
}

fn load_quad(chunk: Chunk, q: u32) -> Quad {
    var outer = 0u;
    var j = q * 4u;
    var x = chunk.x;
    var w = chunk.w;
    if DIMS > 1u {
        outer = q / chunk.row_quads;
        j = q % chunk.row_quads * 4u;
        var rest = outer;
        if DIMS > 2u {
            x += rest % params.inner.y * params.x_steps.y;
            w += rest % params.inner.y * params.w_steps.y;
            rest /= params.inner.y;
        }
        if DIMS > 3u {
            x += rest % params.inner.z * params.x_steps.z;
            w += rest % params.inner.z * params.w_steps.z;
            rest /= params.inner.z;
        }
        // The cut dimension is the outermost; where there are two or three, its stride stands in their place.
        x += rest * params.x_steps.w;
        w += rest * params.w_steps.w;
    }
    let n = min(4u, chunk.len - j);
    var quad: Quad;
    quad.x = x_load4(x + j * params.x_steps.x, params.x_steps.x, n);
    if TWO {
        quad.w = w_load4(w + j * params.w_steps.x, params.w_steps.x, n);
    }
    quad.inside = vec4<bool>(true, n > 1u, n > 2u, n > 3u);
    quad.index = chunk.first + outer * chunk.len + j;
    return quad;
}

// Blocks of eight quads for each accumulator of a lane.
fn block_count(quads: u32) -> u32 {
    return (quads + 8u * TEAM * ACC - 1u) / (8u * TEAM * ACC);
}

// Eight, which drivers that compile slowly must not know: they would unroll loops.
fn block_length() -> u32 {
    if UNROLL {
        return 8u;
    }
    return 8u + params.zero;
}

// Quad k of a block for accumulator `a` of `lane`: with TEAM * ACC = 16 the 64 virtual lanes do not depend on the team.
fn quad_number(block: u32, k: u32, a: u32, lane: u32) -> u32 {
    return ((block * 8u + k) * ACC + a) * TEAM + lane;
}
