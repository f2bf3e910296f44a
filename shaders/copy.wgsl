// Copy of 16-byte words: the yardstick of every benchmark. One invocation copies WORDS words, a workgroup apart, so that
// neighbours read neighbours. Bindings: 0 params, 1 source, 2 target. No barriers.

struct CopyParams {
    words: u32,
    grid_x: u32,
    spare: vec2<u32>,
}

const WG: u32 = 256u;
const WORDS: u32 = 4u;

@group(0) @binding(0) var<uniform> params: CopyParams;
@group(0) @binding(1) var<storage, read> source_data: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> target_data: array<vec4<u32>>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let begin = (group.x + group.y * params.grid_x) * WG * WORDS + local;
    for (var i = 0u; i < WORDS; i += 1u) {
        let at = begin + i * WG;
        if at < params.words {
            target_data[at] = source_data[at];
        }
    }
}
