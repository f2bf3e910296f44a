// A bit a cell, 32 a word from the lowest on: 1 where it is solid.
@group(0) @binding(5) var<storage, read> solid_data: array<u32>;

fn is_solid(cell: u32) -> bool {
    return ((solid_data[cell >> 5u] >> (cell & 31u)) & 1u) != 0u;
}
