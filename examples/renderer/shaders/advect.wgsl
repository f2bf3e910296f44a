// Carries velocity and smoke along: what arrives at a point is looked up where it came from (semi-Lagrangian, the path by the
// midpoint rule), between the elements by a cubic that is not let beyond its neighbours. Then new smoke is added.
//
// One invocation for a cell and the faces on its left and lower side; reads the state, writes `moved`, of the same layout.

@group(0) @binding(2) var<storage, read> state: array<f32>;
@group(0) @binding(3) var<storage, read_write> moved: array<f32>;

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

// Where the fluid that is here now was a frame ago.
fn origin_of(position: vec2<f32>) -> vec2<f32> {
    let halfway = position - 0.5 * velocity(position);
    return position - velocity(halfway);
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
    if in_field(x, at) {
        moved[place(x, at.x, at.y)] = cubic(x, origin_of(here + x.origin));
    }
    if in_field(y, at) {
        moved[place(y, at.x, at.y)] = cubic(y, origin_of(here + y.origin));
    }
    if in_field(s, at) {
        var amount = 0.0;
        if !is_solid(at.x, at.y) {
            let position = here + s.origin;
            let origin = origin_of(position);
            // Clear air comes in from outside.
            let inside = all(origin > vec2<f32>(0.0)) && all(origin < vec2<f32>(frame.cells));
            amount = max(select(0.0, frame.fade * cubic(s, origin), inside), source(position));
        }
        moved[place(s, at.x, at.y)] = amount;
    }
}
