// k of each face.
@group(0) @binding(3) var<storage, read> faces_data: array<f32>;

fn coefficient(face: u32) -> f32 {
    return faces_data[face];
}
