// Factors over what the row came to: x over the L2 norm, 1 over the sum that log_sum takes the logarithm of. Of a row there are
// a number from 1 to 2, 0, infinity or NaN, and its exponent.
fn factor_of(quad: Quad) -> Factor {
    let divisor = statistic4(quad, 0u);
    let exponent = bitcast<vec4<i32>>(statistic4(quad, 1u));
    // The norm has no derivative at 0; it is taken as 0.
    let none = (divisor == vec4<u32>(0u)) & vec4<bool>(KIND == NORM_L2);
    return Factor(values_of(quad), -exponent, bitcast<vec4<f32>>(divisor), none);
}
