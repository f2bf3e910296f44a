// No cell is solid.
fn is_solid(cell: u32) -> bool {
    return false;
}
