// k is constant and part of the scale.
fn coefficient(face: u32) -> f32 {
    return 1.0;
}
