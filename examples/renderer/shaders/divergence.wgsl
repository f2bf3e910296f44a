// What flows into every cell and not out of it: minus the divergence, which is the right-hand side of the pressure's equation.
// One invocation a cell; reads the velocities of a state, writes `excess`. Solid cells have none.

@group(0) @binding(2) var<storage, read> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> excess: array<f32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= frame.cells.x || at.y >= frame.cells.y {
        return;
    }
    let x = velocity_x();
    let y = velocity_y();
    let across_x = state[place(x, at.x, at.y)] - state[place(x, at.x + 1u, at.y)];
    let across_y = state[place(y, at.x, at.y)] - state[place(y, at.x, at.y + 1u)];
    excess[cell(at.x, at.y)] = select(across_x + across_y, 0.0, is_solid(at.x, at.y));
}
