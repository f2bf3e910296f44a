// The k-th smallest magnitude of a tensor by radix select, and the mask of what is larger. A magnitude is the bits of an f32 without
// its sign, 31 of them, taken as three digits from the top: 11, 10 and 10 bits (tensors of 16-bit types are done after
// two). Everything is integer arithmetic on bits, so neither a driver's treatment of subnormals nor the order of additions has a
// say. Digits are chosen on the device.
//   clear    sets the state and the counters of digits to 0. One workgroup.
//   count    counts the digits of those elements that agree with the digits chosen so far. A workgroup counts WG * rounds quads
//            in its own memory first.
//   choose   finds the digit in which the k-th smallest element lies, and sets the counters to 0. One workgroup.
//   compare  mask = 1 where the magnitude is larger than the threshold, else 0.
//
// Bindings: 0 params (see elementwise.wgsl; `partials` is k and `first_partial` says whether the digit is the last), 1 x, 2 mask,
// 3 state. Barriers: two in `count` and two in `choose`, reached by all invocations. Constants: WG, STORAGE (see words_any.wgsl),
// X and MASK (slots).

// Places in the state. The first three are the answer: bits of the threshold as f32, elements kept, NaNs.
const THRESHOLD: u32 = 0u;
const KEPT: u32 = 1u;
const NANS: u32 = 2u;
// Digits chosen, the bits that they make, and which smallest one of the elements that agree with them is looked for, from 1.
const CHOSEN: u32 = 3u;
const PREFIX: u32 = 4u;
const RANK: u32 = 5u;
// Elements below those that agree.
const BELOW: u32 = 6u;
const COUNTERS: u32 = 8u;
const DIGITS: u32 = 2048u;

@group(0) @binding(1) var<storage, read> x_data: array<x_unit>;
@group(0) @binding(2) var<storage, read_write> mask_data: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<atomic<u32>>;

var<workgroup> digits: array<atomic<u32>, DIGITS>;
var<workgroup> nans: atomic<u32>;
var<workgroup> sums: array<u32, WG>;

@compute @workgroup_size(WG)
fn clear(@builtin(local_invocation_index) local: u32) {
    for (var at = local; at < COUNTERS + DIGITS; at += WG) {
        atomicStore(&state[at], select(0u, params.partials, at == RANK));
    }
}

fn examine(bits: u32, chosen: u32, prefix: u32) {
    let magnitude = bits & 0x7fffffffu;
    if chosen == 0u {
        atomicAdd(&digits[magnitude >> 20u], 1u);
        if magnitude > 0x7f800000u {
            atomicAdd(&nans, 1u);
        }
        return;
    }
    let shift = select(10u, 0u, chosen == 2u);
    if (magnitude >> (shift + 10u)) == (prefix >> (shift + 10u)) {
        atomicAdd(&digits[(magnitude >> shift) & 1023u], 1u);
    }
}

@compute @workgroup_size(WG)
fn count(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var digit = local; digit < DIGITS; digit += WG) {
        atomicStore(&digits[digit], 0u);
    }
    if local == 0u {
        atomicStore(&nans, 0u);
    }
    workgroupBarrier();
    let chosen = atomicLoad(&state[CHOSEN]);
    let prefix = atomicLoad(&state[PREFIX]);
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(group, local, round);
        if quad.count > 0u {
            let v = x_load4(element_of(X, quad), step_of(X), quad.count);
            for (var lane = 0u; lane < quad.count; lane += 1u) {
                examine(v[lane], chosen, prefix);
            }
        }
    }
    workgroupBarrier();
    for (var digit = local; digit < DIGITS; digit += WG) {
        let found = atomicLoad(&digits[digit]);
        if found > 0u {
            atomicAdd(&state[COUNTERS + digit], found);
        }
    }
    if local == 0u {
        let found = atomicLoad(&nans);
        if found > 0u {
            atomicAdd(&state[NANS], found);
        }
    }
}

@compute @workgroup_size(WG)
fn choose(@builtin(local_invocation_index) local: u32) {
    // Each invocation has DIGITS / WG counters in a row.
    let first = COUNTERS + local * (DIGITS / WG);
    let rank = atomicLoad(&state[RANK]);
    let chosen = atomicLoad(&state[CHOSEN]);
    var sum = 0u;
    for (var at = 0u; at < DIGITS / WG; at += 1u) {
        sum += atomicLoad(&state[first + at]);
    }
    sums[local] = sum;
    workgroupBarrier();
    var below = 0u;
    for (var other = 0u; other < local; other += 1u) {
        below += sums[other];
    }
    if rank > below && rank - below <= sum {
        var digit = 0u;
        var within = 0u;
        var open = true;
        for (var at = 0u; at < DIGITS / WG; at += 1u) {
            let found = atomicLoad(&state[first + at]);
            if open && rank - below <= found {
                digit = local * (DIGITS / WG) + at;
                within = found;
                open = false;
            }
            below += select(0u, found, open);
        }
        let shift = select(select(0u, 10u, chosen == 1u), 20u, chosen == 0u);
        let prefix = atomicLoad(&state[PREFIX]) | (digit << shift);
        let all_below = atomicLoad(&state[BELOW]) + below;
        atomicStore(&state[PREFIX], prefix);
        atomicStore(&state[RANK], rank - below);
        atomicStore(&state[BELOW], all_below);
        if params.first_partial != 0u {
            atomicStore(&state[THRESHOLD], prefix);
            atomicStore(&state[KEPT], params.len - (all_below + within));
        }
    }
    // Nothing is to be dropped: the threshold is -inf.
    if rank == 0u && local == 0u {
        atomicStore(&state[THRESHOLD], 0xff800000u);
        atomicStore(&state[KEPT], params.len);
    }
    workgroupBarrier();
    if local == 0u {
        atomicStore(&state[CHOSEN], chosen + 1u);
    }
    for (var at = 0u; at < DIGITS / WG; at += 1u) {
        atomicStore(&state[first + at], 0u);
    }
}

@compute @workgroup_size(WG)
fn compare(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let threshold = atomicLoad(&state[THRESHOLD]);
    let all = (threshold & 0x80000000u) != 0u;
    for (var round = 0u; round < params.rounds; round += 1u) {
        let quad = quad_of(group, local, round);
        if quad.count > 0u {
            let v = x_load4(element_of(X, quad), step_of(X), quad.count);
            let to = element_of(MASK, quad);
            for (var lane = 0u; lane < quad.count; lane += 1u) {
                mask_data[to + lane * step_of(MASK)] = select(0u, 1u, all || (v[lane] & 0x7fffffffu) > threshold);
            }
        }
    }
}
