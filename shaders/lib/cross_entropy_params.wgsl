// Parameters of the losses over classes, and what their kernels leave for each other in the workspace.

struct Params {
    // Row dimensions, innermost first, and the strides of everything along them, in elements.
    sizes: vec4<u32>,
    x_strides: vec4<u32>,
    y_strides: vec4<u32>,
    logp_strides: vec4<u32>,
    aim_strides: vec4<u32>,
    weight_strides: vec4<u32>,
    upstream_strides: vec4<u32>,
    loss_strides: vec4<u32>,
    record_strides: vec4<u32>,
    sums_strides: vec4<u32>,
    // Element of the binding at which row 0 begins: x, y, logp, labels or probabilities.
    bases: vec4<u32>,
    // The same: weight, upstream, loss, records.
    more_bases: vec4<u32>,
    // From one class to the next: x, y, logp, probabilities.
    steps: vec4<u32>,
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Rows of this dispatch (for split rows: chunks), classes, and workgroups along x.
    rows: u32,
    len: u32,
    grid_x: u32,
    // Number of row 0 among all rows, and how many there are.
    first_row: u32,
    all_rows: u32,
    weight_step: u32,
    // Where ignore_set is not 0, rows with this label are left out.
    ignore_set: u32,
    ignore: i32,
    // A target's share that stays with it, and the share that every class gets.
    remain: f32,
    spread: f32,
    z: f32,
    // A mean's divisors are counted on the device, or else they are this; for gradients its inverse.
    counted: u32,
    divisor: f32,
    // Split rows: chunks a row has in all, the first of them in this dispatch, and classes a chunk.
    chunks: u32,
    first_chunk: u32,
    chunk_len: u32,
    // Blocks of BLOCK rows: how many there are, and the first of this dispatch.
    blocks: u32,
    first_block: u32,
    // Element at which the kept sums of row 0 begin.
    sums_base: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// In place of a row's z term: its label is no class.
const OUT_OF_RANGE: u32 = 0x7fffdeadu;
