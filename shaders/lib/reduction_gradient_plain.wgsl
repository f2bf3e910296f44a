// Factors that need nothing of the row: sum and mean 1, dot product and sum of squares the value, L1 norm its sign.
fn factor_of(quad: Quad) -> Factor {
    let v = values_of(quad);
    // The exponent doubles the gradient of squares.
    let twice = vec4<i32>(select(0, 1, KIND == SUM_SQUARE));
    if KIND == NORM_L1 {
        let zero = magnitude4(bitcast<vec4<u32>>(v)) == vec4<u32>(0u);
        return Factor(sign4(v), vec4<i32>(0), vec4<f32>(1.0), zero);
    }
    return Factor(v, twice, vec4<f32>(1.0), vec4<bool>(false));
}
