// The curl of the velocity where four cells meet, which is where a staggered grid has it. One invocation a corner, (width + 1) by
// (height + 1) of them; reads the state, writes `curl`. On the sides of the grid it counts as 0.

@group(0) @binding(2) var<storage, read> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> curl: array<f32>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.xy;
    if any(at > frame.cells) {
        return;
    }
    var sum = 0.0;
    if all(at > vec2<u32>(0u)) && all(at < frame.cells) {
        let x = velocity_x();
        let y = velocity_y();
        let along_x = state[place(y, at.x, at.y)] - state[place(y, at.x - 1u, at.y)];
        let along_y = state[place(x, at.x, at.y)] - state[place(x, at.x, at.y - 1u)];
        sum = along_x - along_y;
    }
    curl[corner(at.x, at.y)] = sum;
}
