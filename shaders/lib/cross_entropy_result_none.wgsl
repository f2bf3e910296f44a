// There is no reduced loss.
fn write_result(value: f32) {
}
