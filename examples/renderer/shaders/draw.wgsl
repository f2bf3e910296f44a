// The picture: a triangle that covers everything, smoke coloured by its density and lit from the upper left, obstacles in slate.

@group(0) @binding(2) var<storage, read> state: array<f32>;
// How much of each cell obstacles cover.
@group(0) @binding(3) var<storage, read> coverage: array<f32>;

struct Point {
    @builtin(position) position: vec4<f32>,
    // In cells, y upwards.
    @location(0) at: vec2<f32>,
}

@vertex
fn triangle(@builtin(vertex_index) index: u32) -> Point {
    let unit = vec2<f32>(f32((index << 1u) & 2u), f32(index & 2u));
    return Point(vec4<f32>(2.0 * unit - 1.0, 0.0, 1.0), unit * vec2<f32>(frame.cells));
}

fn density(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    return state[place(smoke(), at.x, at.y)];
}

fn covered(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    return coverage[cell(at.x, at.y)];
}

// Of the four cells around a point: weights along x and y, and the lower left one.
struct Around {
    cell: vec2<i32>,
    t: vec2<f32>,
}

fn around(position: vec2<f32>) -> Around {
    let p = position - 0.5;
    let base = floor(p);
    return Around(vec2<i32>(base), p - base);
}

// The density, and its slope along x and y.
fn smooth_density(position: vec2<f32>) -> vec3<f32> {
    let a = around(position);
    let lower = vec2<f32>(density(a.cell.x, a.cell.y), density(a.cell.x + 1, a.cell.y));
    let upper = vec2<f32>(density(a.cell.x, a.cell.y + 1), density(a.cell.x + 1, a.cell.y + 1));
    let left_right = mix(lower, upper, a.t.y);
    return vec3<f32>(
        mix(left_right.x, left_right.y, a.t.x),
        left_right.y - left_right.x,
        mix(upper.x - lower.x, upper.y - lower.y, a.t.x),
    );
}

fn smooth_coverage(position: vec2<f32>) -> f32 {
    let a = around(position);
    let lower = mix(covered(a.cell.x, a.cell.y), covered(a.cell.x + 1, a.cell.y), a.t.x);
    let upper = mix(covered(a.cell.x, a.cell.y + 1), covered(a.cell.x + 1, a.cell.y + 1), a.t.x);
    return mix(lower, upper, a.t.y);
}

// From the night through violet and ember to white heat; t from 0 to 1.
fn colour(t: f32) -> vec3<f32> {
    var stops = array<vec3<f32>, 7>(
        vec3<f32>(0.027, 0.031, 0.063),
        vec3<f32>(0.129, 0.067, 0.267),
        vec3<f32>(0.384, 0.098, 0.439),
        vec3<f32>(0.722, 0.196, 0.369),
        vec3<f32>(0.929, 0.412, 0.220),
        vec3<f32>(0.984, 0.706, 0.282),
        vec3<f32>(0.996, 0.953, 0.784),
    );
    let along = clamp(t, 0.0, 1.0) * 6.0;
    let below = min(u32(along), 5u);
    return mix(stops[below], stops[below + 1u], along - f32(below));
}

@fragment
fn shade(point: Point) -> @location(0) vec4<f32> {
    let at = point.at;
    let smoothed = smooth_density(at);
    let amount = smoothed.x;
    let light = clamp(dot(smoothed.yz, vec2<f32>(1.0, -1.0)), -0.25, 0.25);
    let shown = colour(pow(clamp(amount, 0.0, 1.0), 0.8)) * (1.0 + 0.9 * light * amount);

    let inside = smooth_coverage(at);
    let edge = smoothstep(0.25, 0.75, inside);
    let slate = mix(vec3<f32>(0.58, 0.63, 0.70), vec3<f32>(0.30, 0.34, 0.41), smoothstep(0.5, 1.0, inside));
    return vec4<f32>(mix(shown, slate, edge), 1.0);
}
