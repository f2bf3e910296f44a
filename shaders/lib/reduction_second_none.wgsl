// No second factor.
fn w_load4(e: u32, stride: u32, n: u32) -> Four {
    return Four();
}
