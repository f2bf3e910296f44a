// Takes the pressure's gradient away from the carried velocity, and so its divergence. Beyond the open side the pressure is 0.
// One invocation for a cell and the faces on its left and lower side; reads `moved` and the pressure, writes the state.

@group(0) @binding(2) var<storage, read> moved: array<f32>;
@group(0) @binding(3) var<storage, read> pressure: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;

// `i` and `j` may be one beyond the grid.
fn pressure_at(i: u32, j: u32) -> f32 {
    if i >= frame.cells.x || j >= frame.cells.y {
        return 0.0;
    }
    return pressure[cell(i, j)];
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.xy;
    let x = velocity_x();
    let y = velocity_y();
    let s = smoke();
    if in_field(x, at) {
        let to = place(x, at.x, at.y);
        var velocity = moved[to];
        if !is_fixed_x(at.x, at.y) {
            velocity -= pressure_at(at.x, at.y) - pressure_at(at.x - 1u, at.y);
        }
        state[to] = velocity;
    }
    if in_field(y, at) {
        let to = place(y, at.x, at.y);
        var velocity = moved[to];
        if !is_fixed_y(at.x, at.y) {
            velocity -= pressure_at(at.x, at.y) - pressure_at(at.x, at.y - 1u);
        }
        state[to] = velocity;
    }
    if in_field(s, at) {
        state[place(s, at.x, at.y)] = moved[place(s, at.x, at.y)];
    }
}
