// Smoke rises; and faces that nothing moves get the velocity that they have. One invocation for the faces on the left and lower side of
// a cell; reads the smoke of `moved`, changes its velocities.

@group(0) @binding(2) var<storage, read_write> moved: array<f32>;

fn smoke_at(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    return moved[place(smoke(), at.x, at.y)];
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.xy;
    let i = i32(at.x);
    let j = i32(at.y);
    let x = velocity_x();
    let y = velocity_y();
    if in_field(x, at) {
        let to = place(x, at.x, at.y);
        moved[to] = select(moved[to], fixed_x(at.x, at.y), is_fixed_x(at.x, at.y));
    }
    if in_field(y, at) {
        let to = place(y, at.x, at.y);
        let lift = frame.buoyancy * 0.5 * (smoke_at(i, j - 1) + smoke_at(i, j));
        moved[to] = select(moved[to] + lift, 0.0, is_fixed_y(at.x, at.y));
    }
}
