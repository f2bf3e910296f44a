// The picture: a triangle that covers everything, smoke coloured by its density and lit from the upper left, obstacles in slate.

@group(0) @binding(2) var<storage, read> state: array<f32>;

struct Corner {
    @builtin(position) position: vec4<f32>,
    // In cells, y upwards.
    @location(0) at: vec2<f32>,
}

@vertex
fn corner(@builtin(vertex_index) index: u32) -> Corner {
    let unit = vec2<f32>(f32((index << 1u) & 2u), f32(index & 2u));
    return Corner(vec4<f32>(2.0 * unit - 1.0, 0.0, 1.0), unit * vec2<f32>(frame.cells));
}

fn density(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    return state[place(smoke(), at.x, at.y)];
}

fn solidity(i: i32, j: i32) -> f32 {
    let at = vec2<u32>(clamp(vec2<i32>(i, j), vec2<i32>(0), vec2<i32>(frame.cells) - 1));
    return select(0.0, 1.0, is_solid(at.x, at.y));
}

fn smooth_density(position: vec2<f32>) -> f32 {
    let p = position - 0.5;
    let base = floor(p);
    let t = p - base;
    let i = i32(base.x);
    let j = i32(base.y);
    let lower = mix(density(i, j), density(i + 1, j), t.x);
    let upper = mix(density(i, j + 1), density(i + 1, j + 1), t.x);
    return mix(lower, upper, t.y);
}

// Quadratic B-spline over three by three cells: rounds off the steps that cells make of a circle.
fn smooth_solidity(position: vec2<f32>) -> f32 {
    let base = floor(position);
    let t = position - base;
    let wx = vec3<f32>(0.5 * (1.0 - t.x) * (1.0 - t.x), 0.5 + t.x * (1.0 - t.x), 0.5 * t.x * t.x);
    let wy = vec3<f32>(0.5 * (1.0 - t.y) * (1.0 - t.y), 0.5 + t.y * (1.0 - t.y), 0.5 * t.y * t.y);
    var sum = 0.0;
    for (var row = 0; row < 3; row += 1) {
        let j = i32(base.y) + row - 1;
        let i = i32(base.x);
        sum += wy[row] * dot(wx, vec3<f32>(solidity(i - 1, j), solidity(i, j), solidity(i + 1, j)));
    }
    return sum;
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
fn shade(corner: Corner) -> @location(0) vec4<f32> {
    let at = corner.at;
    let amount = smooth_density(at);
    let slope = vec2<f32>(
        smooth_density(at + vec2<f32>(1.0, 0.0)) - smooth_density(at - vec2<f32>(1.0, 0.0)),
        smooth_density(at + vec2<f32>(0.0, 1.0)) - smooth_density(at - vec2<f32>(0.0, 1.0)),
    );
    let light = clamp(dot(slope, vec2<f32>(0.5, -0.5)), -0.25, 0.25);
    var shown = colour(pow(clamp(amount, 0.0, 1.0), 0.8)) * (1.0 + 0.9 * light * amount);

    let inside = smooth_solidity(at);
    let edge = smoothstep(0.4, 0.6, inside);
    let slate = mix(vec3<f32>(0.58, 0.63, 0.70), vec3<f32>(0.30, 0.34, 0.41), smoothstep(0.55, 0.95, inside));
    return vec4<f32>(mix(shown, slate, edge), 1.0);
}
