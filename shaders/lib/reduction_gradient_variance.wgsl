// Factors of variance and standard deviation: what an element is off the mean, for the latter over that deviation. Of a row there
// are the exponent that its elements are scaled down by, the mean as a pair and the standard deviation, scaled alike.
fn factor_of(quad: Quad) -> Factor {
    let exponent = bitcast<vec4<i32>>(statistic4(quad, 0u));
    let mean = statistic4(quad, 1u);
    let rest = bitcast<vec4<f32>>(statistic4(quad, 2u));
    let u = bitcast<vec4<u32>>(values_of(quad));
    let m = magnitude4(u);
    let parts = parts4(m);
    let scaled = select(
        assemble4(significand4(parts), parts.exponent - vec4<i32>(127) - exponent),
        vec4<u32>(0u),
        m == vec4<u32>(0u),
    ) | (u ^ m);
    let high = bitcast<vec4<f32>>(scaled ^ vec4<u32>(params.zero)) - bitcast<vec4<f32>>(mean);
    let off = opaque4(opaque4(high, params.zero) - rest, params.zero);
    // A mean that is infinite or NaN: finite elements are infinitely far off the former.
    let odd = magnitude4(mean) >= vec4<u32>(INFINITY);
    let undefined = (m >= vec4<u32>(INFINITY)) | (magnitude4(mean) > vec4<u32>(INFINITY));
    let far = select(mean ^ vec4<u32>(0x80000000u), vec4<u32>(0x7fc00000u), undefined);
    let value = bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(off), far, odd));
    if KIND == VARIANCE_OF {
        return Factor(value, exponent, vec4<f32>(1.0), vec4<bool>(false));
    }
    // No derivative at 0, taken as 0. The exponents cancel.
    let deviation = statistic4(quad, 3u);
    return Factor(value, vec4<i32>(0), bitcast<vec4<f32>>(deviation), deviation == vec4<u32>(0u));
}
