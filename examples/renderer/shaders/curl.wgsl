// The curl of the velocity in every cell. One invocation a cell; reads the state, writes `curl`.

@group(0) @binding(2) var<storage, read> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> curl: array<f32>;

// The velocity in the middle of a cell; of the outermost cell for what lies beyond.
fn centre(i: i32, j: i32) -> vec2<f32> {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    let x = velocity_x();
    let y = velocity_y();
    return 0.5 * vec2<f32>(
        state[place(x, at.x, at.y)] + state[place(x, at.x + 1u, at.y)],
        state[place(y, at.x, at.y)] + state[place(y, at.x, at.y + 1u)],
    );
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= frame.cells.x || at.y >= frame.cells.y {
        return;
    }
    let i = i32(at.x);
    let j = i32(at.y);
    let along_x = centre(i + 1, j).y - centre(i - 1, j).y;
    let along_y = centre(i, j + 1).x - centre(i, j - 1).x;
    curl[cell(at.x, at.y)] = 0.5 * (along_x - along_y);
}
