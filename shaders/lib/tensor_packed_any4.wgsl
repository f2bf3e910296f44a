// As tensor_any4.wgsl for 16-bit elements: words that lie whole within the four are stored whole.

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
    if stride == 1u && n == 4u {
        let word = e >> 1u;
        if (e & 1u) == 0u {
            tensor_store_pair(word, v.xy);
            tensor_store_pair(word + 1u, v.zw);
        } else {
            tensor_store(e, v.x);
            tensor_store_pair(word + 1u, v.yz);
            tensor_store(e + 3u, v.w);
        }
        return;
    }
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
