// 16-bit storage by integer operations alone, so that no driver's rounding, flushing or NaN handling takes part.
// Narrowing rounds to nearest, ties to even; overflow becomes infinity; every NaN becomes the canonical one.

// Bits of an f32 to bits of the nearest f16, in the low half.
fn f16_from_f32_bits(u: u32) -> u32 {
    let sign = (u >> 16u) & 0x8000u;
    let a = u & 0x7fffffffu;
    if a > 0x7f800000u {
        return 0x7e00u;
    }
    if a >= 0x47800000u {
        return sign | 0x7c00u;
    }
    if a >= 0x38800000u {
        // Normal: rebias the exponent; a carry out of the significand steps it, up to infinity.
        let r = a - 0x38000000u;
        return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);
    }
    // Subnormal, in units of 2^-24: significand * 2^(e - 150) shifted right by 126 - e. From 25 on all is below half a unit.
    let m = (a & 0x7fffffu) | 0x800000u;
    let s = min(126u - (a >> 23u), 25u);
    let half_unit = 1u << (s - 1u);
    return sign | ((m + half_unit - 1u + ((m >> s) & 1u)) >> s);
}

// Bits of an f16 (upper half ignored) to bits of the same f32; exact, NaN canonical.
fn f32_bits_from_f16(h: u32) -> u32 {
    let sign = (h & 0x8000u) << 16u;
    let e = (h >> 10u) & 0x1fu;
    let m = h & 0x3ffu;
    if e == 0x1fu {
        return select(sign | 0x7f800000u, 0x7fc00000u, m != 0u);
    }
    if e != 0u {
        return sign | ((e + 112u) << 23u) | (m << 13u);
    }
    if m == 0u {
        return sign;
    }
    // Subnormal m * 2^-24 is normal in f32: the leading bit p gives the exponent p - 24 and goes into hiding.
    let p = firstLeadingBit(m);
    return sign | ((p + 103u) << 23u) | ((m << (23u - p)) & 0x7fffffu);
}

// Bits of an f32 to bits of the nearest bf16, in the low half.
fn bf16_from_f32_bits(u: u32) -> u32 {
    let rounded = (u + 0x7fffu + ((u >> 16u) & 1u)) >> 16u;
    return select(rounded, 0x7fc0u, (u & 0x7fffffffu) > 0x7f800000u);
}

// Bits of a bf16 (upper half ignored) to bits of the same f32; exact.
fn f32_bits_from_bf16(h: u32) -> u32 {
    return h << 16u;
}

fn f16_from_f32(x: f32) -> u32 {
    return f16_from_f32_bits(bitcast<u32>(x));
}

fn f32_from_f16(h: u32) -> f32 {
    return bitcast<f32>(f32_bits_from_f16(h));
}

fn bf16_from_f32(x: f32) -> u32 {
    return bf16_from_f32_bits(bitcast<u32>(x));
}

fn f32_from_bf16(h: u32) -> f32 {
    return bitcast<f32>(f32_bits_from_bf16(h));
}

// Packed words: x in the low half, y in the high half.
fn pack_f16(v: vec2<f32>) -> u32 {
    return f16_from_f32(v.x) | (f16_from_f32(v.y) << 16u);
}

fn unpack_f16(word: u32) -> vec2<f32> {
    return vec2<f32>(f32_from_f16(word & 0xffffu), f32_from_f16(word >> 16u));
}

fn pack_bf16(v: vec2<f32>) -> u32 {
    return bf16_from_f32(v.x) | (bf16_from_f32(v.y) << 16u);
}

fn unpack_bf16(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xffff0000u));
}
