// Where an invocation stands in its workgroup, and how it gets the value of the one whose position differs in one bit.
// This version needs subgroups of at least LANES invocations: bits below LANES go by shuffle, the others through
// workgroup memory. Positions are taken from the subgroup's own numbering, so nothing is assumed about how local
// indices are dealt out to subgroups. Needs WG and LANES, both powers of two.
struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

var<workgroup> exchange_space: array<vec2<u32>, EXCHANGE>;

fn position(inv: Invocation) -> u32 {
    return inv.subgroup * inv.width + inv.lane;
}

fn exchange(v: vec2<u32>, at: u32, bit: u32) -> vec2<u32> {
    if bit < LANES {
        return vec2<u32>(subgroupShuffleXor(v.x, bit), subgroupShuffleXor(v.y, bit));
    }
    workgroupBarrier();
    exchange_space[at] = v;
    workgroupBarrier();
    return exchange_space[at ^ bit];
}
