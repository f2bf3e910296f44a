// An additive mask; broadcast dimensions have stride 0.
@group(0) @binding(3) var<storage, read> mask_data: array<mask_unit>;

fn masked4(z: vec4<f32>, row: Row, j: u32, n: u32) -> vec4<f32> {
    return opaque4(z + mask_load4(row.mask + j * params.steps.z, params.steps.z, n), params.zero);
}
