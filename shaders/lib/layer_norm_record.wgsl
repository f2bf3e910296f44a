// What is kept of a row between dispatches: the split rows' statistics, and those that gradients of weight and bias need.
struct RowRecord {
    status: u32,
    e: i32,
    f: i32,
    spare: u32,
    mean: vec2<f32>,
    r: vec2<f32>,
}

@group(0) @binding(6) var<storage, read_write> records: array<RowRecord>;
