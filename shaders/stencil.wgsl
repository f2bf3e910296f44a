// y = A x for -div(k grad u) + c u on a grid of cells: 5 points in a plane, 7 in a volume. A workgroup of WG invocations takes
// one block of consecutive cells of one vector (workgroup x is the block, workgroup y the vector), WG of them at a time, so that
// neighbouring invocations read neighbouring cells. A row is summed over differences, own value minus neighbour's, in a fixed
// order: (x + y) + (z + c u), each axis its lower and then its upper face. So constants are mapped to c u exactly wherever no
// side is of Dirichlet's kind, and the matrix is symmetric to the last bit.
//
// Bindings: 0 params, 1 x, 2 y, and those of the fragments: 3 faces, 4 reaction, 5 solid, 6 dot, 7 active. Barriers: those of
// `leave`, reached by all invocations of a workgroup. Constants: WG, DEPTH (whether z takes part).

struct Params {
    // Cells along x, y, z, and in all.
    size: vec4<u32>,
    // 1 / h^2 of each axis, times k where k is constant; c where that is constant.
    scale: vec4<f32>,
    // Of the lower and the upper side of each axis: what the outermost face counts.
    lower: vec4<f32>,
    upper: vec4<f32>,
    // 1 for a periodic axis.
    periodic: vec4<u32>,
    // What WG cells further on means along x, y and z.
    step: vec4<u32>,
    // Where faces across y and z begin; those across x come first.
    face_y: u32,
    face_z: u32,
    // Cells of a block, steps that cover them, and blocks.
    block: u32,
    rounds: u32,
    blocks: u32,
    // Element of its binding at which each tensor begins.
    x: u32,
    y: u32,
    dot: u32,
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Elements from one vector to the next, and from the parts of one vector to those of the next.
    x_pitch: u32,
    y_pitch: u32,
    dot_pitch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_data: array<f32>;
@group(0) @binding(2) var<storage, read_write> y_data: array<f32>;

// What goes through a face: its coefficient times the difference to the cell behind it, or to 0 beyond a side. `other` is that
// cell where `inside` says that there is one, and any cell elsewhere; `first` is cell 0 of the vector.
fn flow(own: f32, first: u32, other: u32, inside: bool, side: f32, face: u32) -> f32 {
    let beyond = select(0.0, x_data[first + other], inside);
    let weight = select(side, select(1.0, 0.0, is_solid(other)), inside);
    let difference = opaque(own - beyond, params.zero);
    // Whatever stands in a solid cell does not get through, NaN included.
    return select(0.0, weight * coefficient(face) * difference, weight != 0.0);
}

fn row(own: f32, first: u32, cell: u32, i: u32, j: u32, k: u32) -> f32 {
    if is_solid(cell) {
        return own;
    }
    let nx = params.size.x;
    let ny = params.size.y;
    let wrap = params.periodic != vec4<u32>(0u);

    let line = (j + ny * k) * (nx + 1u);
    let first_x = i == 0u;
    let last_x = i + 1u == nx;
    let west = select(select(cell, cell + (nx - 1u), wrap.x), cell - 1u, !first_x);
    let east = select(select(cell, cell - (nx - 1u), wrap.x), cell + 1u, !last_x);
    let west_flow = flow(own, first, west, !first_x || wrap.x, params.lower.x, line + i);
    let east_flow = flow(own, first, east, !last_x || wrap.x, params.upper.x, select(line + i + 1u, line, last_x && wrap.x));
    let across_x = params.scale.x * (west_flow + east_flow);

    let column = params.face_y + i + nx * (ny + 1u) * k;
    let first_y = j == 0u;
    let last_y = j + 1u == ny;
    let reach_y = (ny - 1u) * nx;
    let south = select(select(cell, cell + reach_y, wrap.y), cell - nx, !first_y);
    let north = select(select(cell, cell - reach_y, wrap.y), cell + nx, !last_y);
    let south_flow = flow(own, first, south, !first_y || wrap.y, params.lower.y, column + nx * j);
    let north_flow = flow(own, first, north, !last_y || wrap.y, params.upper.y, select(column + nx * (j + 1u), column, last_y && wrap.y));
    let across_y = params.scale.y * (south_flow + north_flow);

    let plain = reaction(cell) * own;
    if !DEPTH {
        return (across_x + across_y) + plain;
    }
    let area = nx * ny;
    let stack = params.face_z + i + nx * j;
    let first_z = k == 0u;
    let last_z = k + 1u == params.size.z;
    let reach_z = (params.size.z - 1u) * area;
    let below = select(select(cell, cell + reach_z, wrap.z), cell - area, !first_z);
    let above = select(select(cell, cell - reach_z, wrap.z), cell + area, !last_z);
    let below_flow = flow(own, first, below, !first_z || wrap.z, params.lower.z, stack + area * k);
    let above_flow = flow(own, first, above, !last_z || wrap.z, params.upper.z, select(stack + area * (k + 1u), stack, last_z && wrap.z));
    let across_z = params.scale.z * (below_flow + above_flow);
    return (across_x + across_y) + (across_z + plain);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    // No early return: the word of the vector may lie in a read_write binding, whose loads count as different in each invocation,
    // and no barrier may follow a return that only some take.
    let wanted = is_active(group.y);
    let rounds = select(0u, params.rounds, wanted);
    let cells = params.size.w;
    let first = params.x + group.y * params.x_pitch;
    let written = params.y + group.y * params.y_pitch;
    let begin = group.x * params.block;
    let end = min(cells, begin + params.block);
    var cell = begin + local;
    var i = 0u;
    var j = 0u;
    var k = 0u;
    if cells > 0u {
        i = cell % params.size.x;
        j = cell / params.size.x % params.size.y;
        k = cell / params.size.x / params.size.y;
    }
    var sum = vec2<f32>(0.0);
    for (var round = 0u; round < rounds; round += 1u) {
        if cell < end {
            let own = x_data[first + cell];
            let y = row(own, first, cell, i, j, k);
            y_data[written + cell] = y;
            sum = add_product(sum, own, y);
        }
        cell += WG;
        i += params.step.x;
        j += params.step.y;
        k += params.step.z;
        if i >= params.size.x {
            i -= params.size.x;
            j += 1u;
        }
        if j >= params.size.y {
            j -= params.size.y;
            k += 1u;
        }
    }
    leave(sum, group.x, group.y, local, wanted);
}
