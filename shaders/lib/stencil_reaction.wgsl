// c of each cell.
@group(0) @binding(4) var<storage, read> reaction_data: array<f32>;

fn reaction(cell: u32) -> f32 {
    return reaction_data[cell];
}
