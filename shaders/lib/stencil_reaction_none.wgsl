// c is constant.
fn reaction(cell: u32) -> f32 {
    return params.scale.w;
}
