// Four elements at a time from a tensor at any offset and stride, on top of single loads and stores. Of the four only
// the first `n` (1 to 4) exist; loads repeat the last one in place of the others.

fn tensor_load4(e: u32, stride: u32, n: u32) -> vec4<f32> {
    let last = n - 1u;
    return vec4<f32>(
        tensor_load(e),
        tensor_load(e + min(1u, last) * stride),
        tensor_load(e + min(2u, last) * stride),
        tensor_load(e + last * stride),
    );
}
//: store
fn tensor_store4(e: u32, stride: u32, n: u32, v: vec4<f32>) {
    tensor_store(e, v.x);
    if n > 1u {
        tensor_store(e + stride, v.y);
    }
    if n > 2u {
        tensor_store(e + 2u * stride, v.z);
    }
    if n > 3u {
        tensor_store(e + 3u * stride, v.w);
    }
}
