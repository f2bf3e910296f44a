// What every pass of the fluid begins with: the grid, and where its quantities lie.
//
// Cells are numbered with x fastest and y upwards. Smoke, pressure and divergence sit in the cells, velocities on the faces between
// them (a staggered grid: then what the projection takes away is exactly the divergence that the solve is asked to remove). Lengths
// are in cells, velocities in cells a frame.

struct Frame {
    cells: vec2<u32>,
    // Frames since the beginning.
    time: f32,
    // The side that fluid passes freely: 0 the top, 1 the right.
    open: u32,
    // Velocity through the left side.
    inflow: f32,
    // What a cell full of smoke is accelerated upwards by.
    buoyancy: f32,
    // Strength of the vorticity confinement.
    confinement: f32,
    // What is left of the smoke after a frame.
    fade: f32,
    // Centre and radii of the ellipse that smoke comes from; with radii of 0 it comes in bands through the left side.
    source: vec4<f32>,
}

// A quantity in a buffer: its first element, how many there are along x and y, and where element (0, 0) sits.
struct Field {
    first: u32,
    size: vec2<u32>,
    origin: vec2<f32>,
}

@group(0) @binding(0) var<uniform> frame: Frame;
// A bit a cell: macheps's own form of solid cells, and macheps's own buffer.
@group(0) @binding(1) var<storage, read> solid: array<u32>;

fn velocity_x() -> Field {
    return Field(0u, frame.cells + vec2<u32>(1u, 0u), vec2<f32>(0.0, 0.5));
}

fn velocity_y() -> Field {
    return Field((frame.cells.x + 1u) * frame.cells.y, frame.cells + vec2<u32>(0u, 1u), vec2<f32>(0.5, 0.0));
}

fn smoke() -> Field {
    let n = frame.cells;
    return Field((n.x + 1u) * n.y + n.x * (n.y + 1u), n, vec2<f32>(0.5));
}

fn place(field: Field, i: u32, j: u32) -> u32 {
    return field.first + i + field.size.x * j;
}

fn in_field(field: Field, at: vec2<u32>) -> bool {
    return at.x < field.size.x && at.y < field.size.y;
}

fn cell(i: u32, j: u32) -> u32 {
    return i + frame.cells.x * j;
}

// Where four cells meet.
fn corner(i: u32, j: u32) -> u32 {
    return i + (frame.cells.x + 1u) * j;
}

fn is_solid(i: u32, j: u32) -> bool {
    let at = cell(i, j);
    return ((solid[at / 32u] >> (at % 32u)) & 1u) == 1u;
}

// A face that the pressure does not move: on a closed side of the grid, or of a solid cell.
fn is_fixed_x(i: u32, j: u32) -> bool {
    if i == 0u {
        return true;
    }
    if i == frame.cells.x {
        return frame.open != 1u || is_solid(i - 1u, j);
    }
    return is_solid(i - 1u, j) || is_solid(i, j);
}

fn is_fixed_y(i: u32, j: u32) -> bool {
    if j == 0u {
        return true;
    }
    if j == frame.cells.y {
        return frame.open != 0u || is_solid(i, j - 1u);
    }
    return is_solid(i, j - 1u) || is_solid(i, j);
}

// What goes through such a face.
fn fixed_x(i: u32, j: u32) -> f32 {
    return select(0.0, frame.inflow, i == 0u && !is_solid(0u, j));
}
