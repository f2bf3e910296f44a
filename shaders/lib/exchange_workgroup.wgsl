// Where an invocation stands in its workgroup, and how it gets the value of the one whose position differs in one bit.
// This version goes through workgroup memory and needs no subgroups. Needs WG, a power of two.
struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
}

var<workgroup> exchange_space: array<vec2<u32>, EXCHANGE>;

fn position(inv: Invocation) -> u32 {
    return inv.local;
}

fn exchange(v: vec2<u32>, at: u32, bit: u32) -> vec2<u32> {
    workgroupBarrier();
    exchange_space[at] = v;
    workgroupBarrier();
    return exchange_space[at ^ bit];
}
