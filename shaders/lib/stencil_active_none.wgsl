// All products are needed.
fn is_active(vector: u32) -> bool {
    return true;
}
