// Forces on the carried velocity: smoke rises, and vorticity confinement (Steinhoff and Underhill 1994) gives back some of the swirl
// that the grid swallows. Faces that nothing moves get the velocity that they have.
//
// One invocation for the faces on the left and lower side of a cell; reads `curl` and the smoke of `moved`, changes its velocities.

@group(0) @binding(2) var<storage, read> curl: array<f32>;
@group(0) @binding(3) var<storage, read_write> moved: array<f32>;

fn curl_at(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    return curl[cell(at.x, at.y)];
}

// Across the slope of the curl's magnitude, as strong as the curl.
fn confinement(i: i32, j: i32) -> vec2<f32> {
    let slope = vec2<f32>(
        abs(curl_at(i + 1, j)) - abs(curl_at(i - 1, j)),
        abs(curl_at(i, j + 1)) - abs(curl_at(i, j - 1)),
    );
    let uphill = slope / (length(slope) + 1e-5);
    return frame.confinement * curl_at(i, j) * vec2<f32>(uphill.y, -uphill.x);
}

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
        let force = 0.5 * (confinement(i - 1, j).x + confinement(i, j).x);
        moved[to] = select(moved[to] + force, fixed_x(at.x, at.y), is_fixed_x(at.x, at.y));
    }
    if in_field(y, at) {
        let to = place(y, at.x, at.y);
        let lift = frame.buoyancy * 0.5 * (smoke_at(i, j - 1) + smoke_at(i, j));
        let force = lift + 0.5 * (confinement(i, j - 1).y + confinement(i, j).y);
        moved[to] = select(moved[to] + force, 0.0, is_fixed_y(at.x, at.y));
    }
}
