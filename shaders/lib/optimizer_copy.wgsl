// The weights in 16 bits beside the master weights.
@group(0) @binding(7) var<storage, read_write> copy_data: array<copy_unit>;

fn write_copy(e: u32, n: u32, w: vec4<f32>) {
    copy_store4(params.copy_base + e, 1u, n, w);
}
