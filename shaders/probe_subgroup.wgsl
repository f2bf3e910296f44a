// How invocations of a workgroup of 64 map to subgroups: width, lane and first member of each one's subgroup.
// Needs subgroup functions. No barriers.

@group(0) @binding(0) var<storage, read_write> lanes: array<u32>;

@compute @workgroup_size(64)
fn subgroups(
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    lanes[3u * index] = width;
    lanes[3u * index + 1u] = lane;
    lanes[3u * index + 2u] = subgroupBroadcastFirst(index);
}
