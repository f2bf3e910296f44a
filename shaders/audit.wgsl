// Counts what the values of a tensor are: classes, binary exponents, what f16 and bf16 would make of them, smallest and
// largest magnitude, the first NaN or infinity. One workgroup of WG invocations counts one row (a block of the tensor) in workgroup
// memory and adds what it found to the counters of the tensor. Everything is integer arithmetic on the stored bits, so no
// driver's treatment of subnormals or NaN has a say, and the order of the additions none either.
//
// Bindings: 0 params, 1 x, 2 counts. Barriers: two in `main`, reached by all invocations.
// Constants: WG, STORAGE (0 f32, 1 f16, 2 bf16).

// Counters, as src/ops/audit/report.rs reads them: exponents -149 to 127 from 0 on, then these.
const NANS: u32 = 277u;
const POSITIVE_INFINITIES: u32 = 278u;
const NEGATIVE_INFINITIES: u32 = 279u;
const ZEROS: u32 = 280u;
const SUBNORMALS: u32 = 281u;
const F16_OVERFLOWS: u32 = 282u;
const F16_VANISHES: u32 = 283u;
const F16_SUBNORMALS: u32 = 284u;
const BF16_OVERFLOWS: u32 = 285u;
const BF16_VANISHES: u32 = 286u;
const BF16_SUBNORMALS: u32 = 287u;
// Not sums but maxima, so that 0 stands for nothing yet: bits of the largest magnitude, 0x7f800000 minus those of the
// smallest, 0xffffffff minus the index of the first NaN or infinity.
const LARGEST: u32 = 288u;
const SMALLEST: u32 = 289u;
const FIRST_BAD: u32 = 290u;
const SLOTS: u32 = 291u;

struct Params {
    // Row dimensions, innermost first, and the strides of x along them, in elements.
    sizes: vec4<u32>,
    strides: vec4<u32>,
    // Element of the binding at which row 0 begins, and from one element of a row to the next.
    base: u32,
    step: u32,
    // Rows of this dispatch, their length, and workgroups along x.
    rows: u32,
    len: u32,
    grid_x: u32,
    // Number of row 0 among all rows, rows that one line of the tensor is cut into, elements of a line, elements of a row,
    // and where in its line the first row lies.
    first_row: u32,
    blocks: u32,
    line: u32,
    block: u32,
    lead: u32,
    spare: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x_data: array<u32>;
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;

var<workgroup> found: array<atomic<u32>, SLOTS>;

// Bits of the f32 that an element is; exact.
fn bits_of(e: u32) -> u32 {
    if STORAGE == 0u {
        return x_data[e];
    }
    let half = (x_data[e >> 1u] >> ((e & 1u) * 16u)) & 0xffffu;
    if STORAGE == 2u {
        return half << 16u;
    }
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    if magnitude >= 0x7c00u {
        return sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13u);
    }
    if magnitude >= 0x400u {
        return sign | ((magnitude << 13u) + 0x38000000u);
    }
    if magnitude == 0u {
        return sign;
    }
    // A subnormal of f16: `magnitude` times 2^-24.
    let top = 31u - countLeadingZeros(magnitude);
    return sign | ((top + 103u) << 23u) | ((magnitude << (23u - top)) & 0x7fffffu);
}

fn count(slot: u32, counted: bool) {
    if counted {
        atomicAdd(&found[slot], 1u);
    }
}

fn examine(bits: u32, index: u32) {
    let a = bits & 0x7fffffffu;
    if a >= 0x7f800000u {
        let infinite = a == 0x7f800000u;
        let slot = select(POSITIVE_INFINITIES, NEGATIVE_INFINITIES, bits != a);
        atomicAdd(&found[select(NANS, slot, infinite)], 1u);
        atomicMax(&found[FIRST_BAD], 0xffffffffu - index);
        return;
    }
    if a == 0u {
        atomicAdd(&found[ZEROS], 1u);
        return;
    }
    // Below 2^-126 the place of the leading bit is the exponent.
    let exponent = select((a >> 23u) + 22u, 31u - countLeadingZeros(a), a < 0x00800000u);
    atomicAdd(&found[exponent], 1u);
    count(SUBNORMALS, a < select(0x00800000u, 0x38800000u, STORAGE == 1u));
    // Where rounding to nearest, ties to even, turns over: 65520, 2^-25, 2^-14 - 2^-25 for f16.
    count(F16_OVERFLOWS, a >= 0x477ff000u);
    count(F16_VANISHES, a <= 0x33000000u);
    count(F16_SUBNORMALS, a > 0x33000000u && a < 0x387fe000u);
    count(BF16_OVERFLOWS, a >= 0x7f7f8000u);
    count(BF16_VANISHES, a <= 0x00008000u);
    count(BF16_SUBNORMALS, a > 0x00008000u && a < 0x007f8000u);
    atomicMax(&found[LARGEST], a);
    atomicMax(&found[SMALLEST], 0x7f800000u - a);
}

// Sets the counters to 0. One workgroup.
@compute @workgroup_size(WG)
fn clear(@builtin(local_invocation_index) local: u32) {
    for (var slot = local; slot < SLOTS; slot += WG) {
        atomicStore(&counts[slot], 0u);
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var slot = local; slot < SLOTS; slot += WG) {
        atomicStore(&found[slot], 0u);
    }
    workgroupBarrier();
    let row = group.x + group.y * params.grid_x;
    if row < params.rows {
        let a = row / params.sizes.x;
        let b = a / params.sizes.y;
        let at = vec4<u32>(row % params.sizes.x, a % params.sizes.y, b % params.sizes.z, b / params.sizes.z) * params.strides;
        let begin = params.base + at.x + at.y + at.z + at.w;
        let number = params.first_row + row;
        let first = number / params.blocks * params.line + number % params.blocks * params.block + params.lead;
        for (var j = local; j < params.len; j += WG) {
            examine(bits_of(begin + j * params.step), first + j);
        }
    }
    workgroupBarrier();
    for (var slot = local; slot < SLOTS; slot += WG) {
        let value = atomicLoad(&found[slot]);
        if value != 0u {
            if slot >= LARGEST {
                atomicMax(&counts[slot], value);
            } else {
                atomicAdd(&counts[slot], value);
            }
        }
    }
}
