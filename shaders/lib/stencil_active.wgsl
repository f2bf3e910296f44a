// A word a vector: 0 where its product is not needed.
@group(0) @binding(7) var<storage, read> active_data: array<u32>;

fn is_active(vector: u32) -> bool {
    return active_data[vector] != 0u;
}
