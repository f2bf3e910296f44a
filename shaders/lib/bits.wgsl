// Bit-level facts about f32. Drivers may assume that NaN and infinity do not exist and may reassociate, so classes
// are tested on bits, and a value whose rounding matters is hidden behind `opaque`.

// Hides `x` from the optimiser. `zero` is a 0u that the kernel reads at run time (uniform, immediate or storage), so
// the compiler must take the result as an unknown number: arithmetic is not reassociated, contracted or cancelled across it.
fn opaque(x: f32, zero: u32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ zero);
}

fn opaque4(v: vec4<f32>, zero: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4<u32>(zero));
}

// The constants go through `let`: WGSL forbids constant expressions that are not finite.
fn inf_f32() -> f32 {
    let bits = 0x7f800000u;
    return bitcast<f32>(bits);
}

fn neg_inf_f32() -> f32 {
    let bits = 0xff800000u;
    return bitcast<f32>(bits);
}

// The one NaN that kernels write.
fn nan_f32() -> f32 {
    let bits = 0x7fc00000u;
    return bitcast<f32>(bits);
}

fn is_nan_bits(u: u32) -> bool {
    return (u & 0x7fffffffu) > 0x7f800000u;
}

fn is_inf_bits(u: u32) -> bool {
    return (u & 0x7fffffffu) == 0x7f800000u;
}

fn is_finite_bits(u: u32) -> bool {
    return (u & 0x7fffffffu) < 0x7f800000u;
}

fn is_nan(x: f32) -> bool {
    return is_nan_bits(bitcast<u32>(x));
}

fn is_inf(x: f32) -> bool {
    return is_inf_bits(bitcast<u32>(x));
}

fn is_finite(x: f32) -> bool {
    return is_finite_bits(bitcast<u32>(x));
}

// Order of f32 as unsigned integers: -inf < finite < +inf < NaN. The zeros tie (at +0), subnormals keep their order,
// and every NaN maps to the top, so that the maximum of a set with a NaN is NaN. Below all of them is 0u, which no value has.
fn ordered_bits(u: u32) -> u32 {
    let magnitude = u & 0x7fffffffu;
    let negative = u != magnitude && magnitude != 0u;
    let key = select(magnitude | 0x80000000u, ~u, negative);
    return select(key, 0xffffffffu, magnitude > 0x7f800000u);
}

fn ordered(x: f32) -> u32 {
    return ordered_bits(bitcast<u32>(x));
}

fn ordered4(v: vec4<f32>) -> vec4<u32> {
    let u = bitcast<vec4<u32>>(v);
    return vec4<u32>(ordered_bits(u.x), ordered_bits(u.y), ordered_bits(u.z), ordered_bits(u.w));
}

// Inverse of `ordered`; NaN comes back canonical and -0 as +0.
fn unordered_bits(key: u32) -> u32 {
    let u = select(~key, key & 0x7fffffffu, (key & 0x80000000u) != 0u);
    return select(u, 0x7fc00000u, key == 0xffffffffu);
}

fn unordered(key: u32) -> f32 {
    return bitcast<f32>(unordered_bits(key));
}
