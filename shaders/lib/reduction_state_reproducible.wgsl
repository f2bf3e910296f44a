// The exact sum of a chunk (needs reduction_rows, words_*): an integer that counts the smallest unit that a term can have
// (2^-149 of elements, 2^-298 of products), in LIMBS signed limbs of 24 bits. Addition of integers is associative, so neither
// the order of the terms nor anything about the device has a say; it is rounded once, to the storage type, at the very end.
// There is no floating-point operation here.
//
// A term is at most three pieces below 2^24 for three neighbouring limbs. A limb that starts below 2^24 and takes 124 pieces
// stays below 125 * 2^24 < 2^31: after BLOCK quads carries move on. The highest limb takes no piece, only carries, and has room
// for those of 2^32 terms.
//
// Constants: LIMBS, SPACE ((LIMBS + 1) * WG), RECORD (vectors of a record), and of the storage type PRECISION, LOWEST_BIT
// (its smallest unit as a bit of the sum), INFINITY, NOT_A_NUMBER.

alias Four = vec4<u32>;

const FLAG_NAN: u32 = 1u;
const FLAG_INF: u32 = 2u;
const FLAG_NEG_INF: u32 = 4u;
const LIMB: u32 = 24u;
const MASK: u32 = 0xffffffu;
const BLOCK: u32 = 31u;
const TOP: u32 = LIMBS - 1u;

struct State {
    limbs: array<u32, LIMBS>,
    flags: u32,
}

struct Record {
    words: array<vec4<u32>, RECORD>,
}

// Limb j of every invocation, then the flags: a column an invocation.
var<workgroup> space: array<u32, SPACE>;

// Limbs to 0 ... 2^24 - 1, the highest one signed.
fn carry_on(at: u32) {
    var carry = 0i;
    for (var j = 0u; j < TOP; j += 1u) {
        let v = bitcast<i32>(space[j * WG + at]) + carry;
        space[j * WG + at] = bitcast<u32>(v) & MASK;
        carry = v >> LIMB;
    }
    space[TOP * WG + at] += bitcast<u32>(carry);
}

fn add_piece(limb: u32, piece: u32, negative: bool, at: u32) {
    space[limb * WG + at] += select(piece, 0u - piece, negative);
}

// Significand as an integer, and the bit of the sum at which it begins.
fn significand(magnitude: u32) -> vec2<u32> {
    let e = magnitude >> 23u;
    return vec2<u32>(select(magnitude, (magnitude & 0x7fffffu) | 0x800000u, e > 0u), max(e, 1u) - 1u);
}

// Adds a term a, or a * b, given by bits; gives its flags.
fn add_term(a: u32, b: u32, at: u32) -> u32 {
    let ma = a & 0x7fffffffu;
    if TWO {
        let mb = b & 0x7fffffffu;
        let negative = ((a ^ b) >> 31u) == 1u;
        if max(ma, mb) >= 0x7f800000u {
            let bad = max(ma, mb) > 0x7f800000u || min(ma, mb) == 0u;
            return select(select(FLAG_INF, FLAG_NEG_INF, negative), FLAG_NAN, bad);
        }
        let fa = significand(ma);
        let fb = significand(mb);
        // 24 times 24 bits by halves of 12.
        let a1 = fa.x >> 12u;
        let a0 = fa.x & 0xfffu;
        let b1 = fb.x >> 12u;
        let b0 = fb.x & 0xfffu;
        let middle = a1 * b0 + a0 * b1;
        let lower = a0 * b0 + ((middle & 0xfffu) << 12u);
        let low = lower & MASK;
        let high = a1 * b1 + (middle >> 12u) + (lower >> LIMB);
        let begin = fa.y + fb.y;
        let limb = begin / LIMB;
        let r = begin % LIMB;
        add_piece(limb, (low << r) & MASK, negative, at);
        add_piece(limb + 1u, ((high << r) & MASK) | (low >> (LIMB - r)), negative, at);
        add_piece(limb + 2u, high >> (LIMB - r), negative, at);
        return 0u;
    }
    if ma >= 0x7f800000u {
        return select(select(FLAG_INF, FLAG_NEG_INF, ma != a), FLAG_NAN, ma > 0x7f800000u);
    }
    let f = significand(ma);
    let limb = f.y / LIMB;
    let r = f.y % LIMB;
    add_piece(limb, (f.x << r) & MASK, ma != a, at);
    add_piece(limb + 1u, f.x >> (LIMB - r), ma != a, at);
    return 0u;
}

// The columns of a team as one state, in its first invocation; the others get nothing that means anything.
fn fold(at: u32) -> State {
    let lane = at % TEAM;
    if TEAM > 1u {
        workgroupBarrier();
        // At most 256 limbs below 2^24 stay below 2^32; the highest one is right modulo 2^32.
        for (var j = lane; j <= LIMBS; j += TEAM) {
            let first = j * WG + at - lane;
            var total = 0u;
            for (var k = 0u; k < TEAM; k += 1u) {
                let v = space[first + k];
                total = select(total + v, total | v, j == LIMBS);
            }
            space[first] = total;
        }
        workgroupBarrier();
    }
    var state: State;
    var carry = 0u;
    for (var j = 0u; j < LIMBS; j += 1u) {
        let v = space[j * WG + at - lane] + carry;
        state.limbs[j] = select(v & MASK, v, j == TOP);
        carry = v >> LIMB;
    }
    state.flags = space[LIMBS * WG + at - lane];
    return state;
}

fn state_team(v: State, at: u32) -> State {
    var own = v;
    for (var j = 0u; j < LIMBS; j += 1u) {
        space[j * WG + at] = own.limbs[j];
    }
    space[LIMBS * WG + at] = own.flags;
    return fold(at);
}

fn state_merge(a: State, b: State) -> State {
    var result = a;
    var other = b;
    var carry = 0u;
    for (var j = 0u; j < LIMBS; j += 1u) {
        let v = result.limbs[j] + other.limbs[j] + carry;
        result.limbs[j] = select(v & MASK, v, j == TOP);
        carry = v >> LIMB;
    }
    result.flags |= other.flags;
    return result;
}

fn sweep(chunk: Chunk, lane: u32, at: u32) -> State {
    for (var j = 0u; j < LIMBS; j += 1u) {
        space[j * WG + at] = 0u;
    }
    var flags = 0u;
    let blocks = (chunk.quads + TEAM * BLOCK - 1u) / (TEAM * BLOCK);
    for (var block = 0u; block < blocks; block += 1u) {
        let first = block * BLOCK * TEAM + lane;
        let rounds = select(0u, min(BLOCK, (chunk.quads - first + TEAM - 1u) / TEAM), first < chunk.quads);
        for (var k = 0u; k < rounds; k += 1u) {
            let quad = load_quad(chunk, first + k * TEAM);
            // What is not there counts as 0.
            let x = select(vec4<u32>(0u), quad.x, quad.inside);
            let w = select(vec4<u32>(0u), quad.w, quad.inside);
            flags |= add_term(x.x, w.x, at);
            flags |= add_term(x.y, w.y, at);
            flags |= add_term(x.z, w.z, at);
            flags |= add_term(x.w, w.w, at);
        }
        carry_on(at);
    }
    space[LIMBS * WG + at] = flags;
    return fold(at);
}

fn record_of(s: State) -> Record {
    var state = s;
    var record: Record;
    for (var j = 0u; j < LIMBS; j += 1u) {
        record.words[j / 4u][j % 4u] = state.limbs[j];
    }
    record.words[RECORD - 1u].w = state.flags;
    return record;
}

fn state_of(r: Record) -> State {
    var record = r;
    var state: State;
    for (var j = 0u; j < LIMBS; j += 1u) {
        state.limbs[j] = record.words[j / 4u][j % 4u];
    }
    state.flags = record.words[RECORD - 1u].w;
    return state;
}

// Bits of the storage type nearest to q * 2^pos units and a little more where `more`; ties to even. q has its highest bit set.
fn rounded(q: u32, pos: i32, more: bool) -> u32 {
    let fraction = i32(PRECISION) - 1i;
    let quantum = max(pos + 31i - fraction, i32(LOWEST_BIT));
    let dropped = u32(quantum - pos);
    if dropped > 32u {
        return 0u;
    }
    let half_unit = 1u << (dropped - 1u);
    let kept = select(q >> (dropped & 31u), 0u, dropped == 32u);
    let rest = q & ((half_unit << 1u) - 1u);
    let up = rest > half_unit || (rest == half_unit && (more || (kept & 1u) == 1u));
    // The highest bit of a normal significand steps the exponent.
    let bits = (u32(quantum - i32(LOWEST_BIT)) << (PRECISION - 1u)) + kept + select(0u, 1u, up);
    return min(bits, INFINITY);
}

fn finish(s: State, y: u32) {
    let sign_bit = select(0x80000000u, 0x8000u, STORAGE != 0u);
    if s.flags != 0u || (KIND == MEAN && params.elements == 0u) {
        let one = s.flags == FLAG_INF || s.flags == FLAG_NEG_INF;
        let infinity = select(INFINITY, INFINITY | sign_bit, s.flags == FLAG_NEG_INF);
        y_store_bits(y, select(NOT_A_NUMBER, infinity, one));
        return;
    }
    // Sign and magnitude.
    var state = s;
    let negative = (state.limbs[TOP] >> 31u) == 1u;
    var carry = select(0u, 1u, negative);
    var top = 0u;
    for (var j = 0u; j < LIMBS; j += 1u) {
        var v = state.limbs[j];
        if negative {
            v = (~v & select(MASK, 0xffffffffu, j == TOP)) + carry;
            carry = v >> LIMB;
            v = select(v & MASK, v, j == TOP);
            state.limbs[j] = v;
        }
        top = select(top, j, v != 0u);
    }
    let a = state.limbs[top];
    if a == 0u {
        y_store_bits(y, 0u);
        return;
    }
    // The leading 32 bits of the magnitude, or of its quotient.
    let shift = countLeadingZeros(a);
    var q = a << shift;
    var pos = i32(top * LIMB) - i32(shift);
    var more = false;
    if KIND == MEAN {
        q = 0u;
        var rest = 0u;
        pos += 32i;
        for (var k = 0u; k < 64u; k += 1u) {
            if (q >> 31u) == 0u {
                pos -= 1i;
                var bit = 0u;
                if pos >= 0i {
                    bit = (state.limbs[u32(pos) / LIMB] >> (u32(pos) % LIMB)) & 1u;
                }
                let beyond = (rest >> 31u) == 1u;
                rest = (rest << 1u) | bit;
                let fits = beyond || rest >= params.elements;
                rest -= select(0u, params.elements, fits);
                q = (q << 1u) | select(0u, 1u, fits);
            }
        }
        more = rest != 0u;
    } else {
        for (var back = 1u; back <= 2u; back += 1u) {
            if top >= back {
                let v = state.limbs[top - back];
                // Where its lowest bit goes.
                let place = i32(shift) - i32(back * LIMB);
                if place >= 0i {
                    q |= v << u32(place);
                } else if place > -24i {
                    q |= v >> u32(-place);
                }
            }
        }
    }
    for (var j = 0u; j < LIMBS; j += 1u) {
        let below = clamp(pos - i32(j * LIMB), 0i, 24i);
        more |= (state.limbs[j] & ((1u << u32(below)) - 1u)) != 0u;
    }
    y_store_bits(y, rounded(q, pos, more) | select(0u, sign_bit, negative));
}
