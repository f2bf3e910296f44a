// The first extreme element of a row takes all. Of a row there is that element's index.
fn factor_of(quad: Quad) -> Factor {
    let first = element_of(INDEX, quad);
    let index = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u) * step_of(INDEX);
    var none = index != statistic4(quad, 0u);
    var value = vec4<f32>(1.0);
    if KIND == NORM_MAX {
        let v = values_of(quad);
        value = sign4(v);
        none = none | (magnitude4(bitcast<vec4<u32>>(v)) == vec4<u32>(0u));
    }
    return Factor(value, vec4<i32>(0), vec4<f32>(1.0), none);
}
