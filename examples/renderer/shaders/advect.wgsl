// Carries velocity and smoke along: what arrives at a point is looked up where it came from (semi-Lagrangian). Velocities go by one
// step back and linear interpolation; smoke, which is what one sees, by the midpoint rule and a cubic that is not let beyond its
// neighbours. Vorticity confinement (Steinhoff and Underhill 1994) gives back some of the swirl that this swallows, and new smoke
// is added.
//
// One invocation for a cell and the faces on its left and lower side; reads the state and `curl`, writes `moved`, laid out as the state.

@group(0) @binding(2) var<storage, read> state: array<f32>;
@group(0) @binding(3) var<storage, read> curl: array<f32>;
@group(0) @binding(4) var<storage, read_write> moved: array<f32>;

fn value(field: Field, i: i32, j: i32) -> f32 {
    let at = clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(field.size) - 1);
    return state[place(field, u32(at.x), u32(at.y))];
}

fn linear(field: Field, position: vec2<f32>) -> f32 {
    let p = position - field.origin;
    let base = floor(p);
    let t = p - base;
    let i = i32(base.x);
    let j = i32(base.y);
    let lower = mix(value(field, i, j), value(field, i + 1, j), t.x);
    let upper = mix(value(field, i, j + 1), value(field, i + 1, j + 1), t.x);
    return mix(lower, upper, t.y);
}

// Weights of the four points around: Catmull and Rom's spline.
fn spline(t: f32) -> vec4<f32> {
    let t2 = t * t;
    let t3 = t2 * t;
    return 0.5 * vec4<f32>(2.0 * t2 - t - t3, 2.0 - 5.0 * t2 + 3.0 * t3, t + 4.0 * t2 - 3.0 * t3, t3 - t2);
}

fn cubic(field: Field, position: vec2<f32>) -> f32 {
    let p = position - field.origin;
    let base = floor(p);
    let i = i32(base.x);
    let j = i32(base.y);
    let along_x = spline(p.x - base.x);
    let along_y = spline(p.y - base.y);
    var sum = 0.0;
    for (var row = 0; row < 4; row += 1) {
        let y = j + row - 1;
        let values = vec4<f32>(value(field, i - 1, y), value(field, i, y), value(field, i + 1, y), value(field, i + 2, y));
        sum += along_y[row] * dot(along_x, values);
    }
    let nearest = vec4<f32>(value(field, i, j), value(field, i + 1, j), value(field, i, j + 1), value(field, i + 1, j + 1));
    let low = min(min(nearest.x, nearest.y), min(nearest.z, nearest.w));
    let high = max(max(nearest.x, nearest.y), max(nearest.z, nearest.w));
    return clamp(sum, low, high);
}

fn velocity(position: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(linear(velocity_x(), position), linear(velocity_y(), position));
}

// Mean of the four faces across y around a face across x, and the other way round.
fn across_y(i: i32, j: i32) -> f32 {
    let y = velocity_y();
    return 0.25 * (value(y, i - 1, j) + value(y, i, j) + value(y, i - 1, j + 1) + value(y, i, j + 1));
}

fn across_x(i: i32, j: i32) -> f32 {
    let x = velocity_x();
    return 0.25 * (value(x, i, j - 1) + value(x, i + 1, j - 1) + value(x, i, j) + value(x, i + 1, j));
}

// On the sides of the grid, where it is not known, it is taken to be that of the next corner inside: else it would seem to fall steeply.
fn curl_at(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(1), vec2<i32>(frame.cells) - 1));
    return curl[corner(at.x, at.y)];
}

// Confinement between two corners: across the slope of the curl's magnitude, as strong as the curl. `along` is the slope from the one
// to the other, `aside` that at right angles; gives the part at right angles.
fn confinement(first: f32, second: f32, aside: f32) -> f32 {
    let along = abs(second) - abs(first);
    return frame.confinement * 0.5 * (first + second) * along / (length(vec2<f32>(along, aside)) + 1e-5);
}

fn confinement_x(i: i32, j: i32) -> f32 {
    let right = abs(curl_at(i + 1, j)) + abs(curl_at(i + 1, j + 1));
    let left = abs(curl_at(i - 1, j)) + abs(curl_at(i - 1, j + 1));
    return confinement(curl_at(i, j), curl_at(i, j + 1), 0.25 * (right - left));
}

fn confinement_y(i: i32, j: i32) -> f32 {
    let above = abs(curl_at(i, j + 1)) + abs(curl_at(i + 1, j + 1));
    let below = abs(curl_at(i, j - 1)) + abs(curl_at(i + 1, j - 1));
    return -confinement(curl_at(i, j), curl_at(i + 1, j), 0.25 * (above - below));
}

// Smoke that comes into being at a point, 0 to 1.
fn source(position: vec2<f32>) -> f32 {
    let size = vec2<f32>(frame.cells);
    if frame.source.z == 0.0 {
        // Bands as thick as a tenth of the height, in the first cells behind the left side.
        let band = 0.5 + 0.5 * cos(6.2831853 * 5.0 * position.y / size.y);
        return select(0.0, smoothstep(0.25, 0.75, band), position.x < 3.0);
    }
    // It sways, so that the plume does not stay symmetric.
    let sway = 0.35 * frame.source.z * vec2<f32>(sin(0.031 * frame.time) + 0.6 * sin(0.083 * frame.time + 1.0), 0.0);
    let from_centre = (position - frame.source.xy - sway) / frame.source.zw;
    return 1.0 - smoothstep(0.6, 1.0, length(from_centre));
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.xy;
    let here = vec2<f32>(at);
    let x = velocity_x();
    let y = velocity_y();
    let s = smoke();
    let i = i32(at.x);
    let j = i32(at.y);
    if in_field(x, at) {
        let velocity = vec2<f32>(value(x, i, j), across_y(i, j));
        moved[place(x, at.x, at.y)] = linear(x, here + x.origin - velocity) + confinement_x(i, j);
    }
    if in_field(y, at) {
        let velocity = vec2<f32>(across_x(i, j), value(y, i, j));
        moved[place(y, at.x, at.y)] = linear(y, here + y.origin - velocity) + confinement_y(i, j);
    }
    if in_field(s, at) {
        var amount = 0.0;
        if !is_solid(at.x, at.y) {
            let position = here + s.origin;
            let across = 0.5 * vec2<f32>(value(x, i, j) + value(x, i + 1, j), value(y, i, j) + value(y, i, j + 1));
            let origin = position - velocity(position - 0.5 * across);
            // Clear air comes in from outside; where a wind blows out, more of what is at that edge.
            let blown_out = frame.open == 1u;
            let inside = all(origin > vec2<f32>(0.0)) && (blown_out || all(origin < vec2<f32>(frame.cells)));
            amount = max(select(0.0, frame.fade * cubic(s, origin), inside), source(position));
        }
        moved[place(s, at.x, at.y)] = amount;
    }
}
