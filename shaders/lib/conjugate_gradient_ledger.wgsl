// What conjugate gradients keep of a system besides its vectors, and how it is summed up.
//
// The ledger: a word for each system that is 1 while it wants products (`active`); then for each system two states, which
// dispatches read and write in turns so that no workgroup reads what another one writes, three sets of parts of dot products
// (two in turns like the states, one for dispatches of their own), and the history of the iterations since the host last looked.

const RUNNING: u32 = 0u;
// The recurrence says that the residual is small enough; not yet believed.
const CANDIDATE: u32 = 1u;
const CONVERGED: u32 = 2u;
const NOT_POSITIVE_DEFINITE: u32 = 3u;
const NOT_FINITE: u32 = 4u;
const STAGNATION: u32 = 5u;
const LIMIT: u32 = 6u;

const STATE_WORDS: u32 = 32u;
// Words of a workgroup's parts: the pairs r.z, r.r; squared drift of the recurrence's residual; b.b, or later the square of the true
// residual.
const PART_WORDS: u32 = 8u;
const PART_SETS: u32 = 3u;
// Word of the third set that holds a workgroup's largest magnitude.
const TOP_WORD: u32 = 4u;

struct Params {
    // Always 0; the compiler must not know (see bits.wgsl).
    zero: u32,
    // Unknowns; quads that hold them; quads from one system's vector to the next.
    n: u32,
    quads: u32,
    pitch_quads: u32,
    // Quads a workgroup takes, and workgroups a system.
    chunk: u32,
    groups: u32,
    // Parts of the operator's dot product, where they begin among the quads of its output, and quads from system to system.
    operator_parts: u32,
    operator_base: u32,
    operator_pitch: u32,
    // Words of the ledger: before the systems, and of a system.
    active_words: u32,
    system_words: u32,
    // Iterations that the history holds.
    capacity: u32,
    // Elements of the bindings of x and b at which they begin, and from one system to the next.
    x_base: u32,
    x_pitch: u32,
    b_base: u32,
    b_pitch: u32,
    // The state and the parts that this dispatch reads; it writes the others.
    parity: u32,
    // Whether the solve begins here.
    first: u32,
    // The operator's products are multiplied by 2^exponent, `power` as a number.
    exponent: i32,
    power: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> ledger: array<u32>;

struct State {
    status: u32,
    // Iterations done.
    iteration: u32,
    // Whether the next direction is the preconditioned residual alone.
    restart: u32,
    // How often in a row the recurrence promised what the true residual did not keep.
    stalls: u32,
    // Whether the last update moved x.
    moved: u32,
    // Residuals are kept times 2^shift.
    shift: i32,
    // Whether b = 0, and so x.
    empty: u32,
    limit: u32,
    gamma: f32,
    alpha: f32,
    beta: f32,
    // Squared norms: of the residual, of the one that is asked for, of the smallest verified one, of b.
    rr: f32,
    goal: f32,
    best: f32,
    bb: f32,
    rtol: f32,
    // Whether the true residual takes the place of the recurrence's.
    adopt: u32,
    // Rejected candidates in a row that end the solve.
    patience: u32,
}

fn system_word(system: u32) -> u32 {
    return params.active_words + system * params.system_words;
}

fn number(at: u32) -> f32 {
    return bitcast<f32>(ledger[at]);
}

fn load_state(system: u32, side: u32) -> State {
    let at = system_word(system) + side * STATE_WORDS;
    return State(
        ledger[at], ledger[at + 1u], ledger[at + 2u], ledger[at + 3u], ledger[at + 4u], bitcast<i32>(ledger[at + 5u]),
        ledger[at + 6u], ledger[at + 7u], number(at + 8u), number(at + 9u), number(at + 10u), number(at + 11u),
        number(at + 12u), number(at + 13u), number(at + 14u), number(at + 15u),
        ledger[at + 16u], ledger[at + 17u],
    );
}

fn store_state(system: u32, side: u32, s: State) {
    let at = system_word(system) + side * STATE_WORDS;
    ledger[at] = s.status;
    ledger[at + 1u] = s.iteration;
    ledger[at + 2u] = s.restart;
    ledger[at + 3u] = s.stalls;
    ledger[at + 4u] = s.moved;
    ledger[at + 5u] = bitcast<u32>(s.shift);
    ledger[at + 6u] = s.empty;
    ledger[at + 7u] = s.limit;
    ledger[at + 8u] = bitcast<u32>(s.gamma);
    ledger[at + 9u] = bitcast<u32>(s.alpha);
    ledger[at + 10u] = bitcast<u32>(s.beta);
    ledger[at + 11u] = bitcast<u32>(s.rr);
    ledger[at + 12u] = bitcast<u32>(s.goal);
    ledger[at + 13u] = bitcast<u32>(s.best);
    ledger[at + 14u] = bitcast<u32>(s.bb);
    ledger[at + 15u] = bitcast<u32>(s.rtol);
    ledger[at + 16u] = s.adopt;
    ledger[at + 17u] = s.patience;
}

// One iteration in the history: squared residual, step length, and what the direction kept of the one before.
fn remember(system: u32, iteration: u32, rr: f32, alpha: f32, beta: f32) {
    let parts = PART_SETS * params.groups * PART_WORDS;
    let at = system_word(system) + 2u * STATE_WORDS + parts + (iteration % params.capacity) * 4u;
    ledger[at] = bitcast<u32>(rr);
    ledger[at + 1u] = bitcast<u32>(alpha);
    ledger[at + 2u] = bitcast<u32>(beta);
}

fn part_word(system: u32, side: u32, group: u32) -> u32 {
    return system_word(system) + 2u * STATE_WORDS + (side * params.groups + group) * PART_WORDS;
}

fn store_pair(at: u32, pair: vec2<f32>) {
    ledger[at] = bitcast<u32>(pair.x);
    ledger[at + 1u] = bitcast<u32>(pair.y);
}

var<workgroup> tree: array<vec4<f32>, WG>;
var<workgroup> tree_top: array<u32, WG>;

// Two pairs side by side.
fn merge_two(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(pair_merge(a.xy, b.xy, params.zero), pair_merge(a.zw, b.zw, params.zero));
}

// Sums two pairs over the workgroup, in a fixed tree. Reached by every invocation; the result is valid in each.
fn collect(local: u32, mine: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    tree[local] = mine;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            tree[local] = merge_two(tree[local], tree[local + half]);
        }
    }
    workgroupBarrier();
    return tree[0];
}

// The two pairs that begin at a word of each workgroup's parts, summed over the workgroups of a system.
fn collect_parts(local: u32, system: u32, side: u32, word: u32) -> vec4<f32> {
    var mine = vec4<f32>(0.0);
    for (var g = local; g < params.groups; g += WG) {
        let at = part_word(system, side, g) + word;
        mine = merge_two(mine, vec4<f32>(number(at), number(at + 1u), number(at + 2u), number(at + 3u)));
    }
    return collect(local, mine);
}

// Sum of the components of a pair of four.
fn total(sum: Pair4) -> vec2<f32> {
    let low = pair_merge(vec2<f32>(sum.high.x, sum.low.x), vec2<f32>(sum.high.z, sum.low.z), params.zero);
    let high = pair_merge(vec2<f32>(sum.high.y, sum.low.y), vec2<f32>(sum.high.w, sum.low.w), params.zero);
    return pair_merge(low, high, params.zero);
}

// x 2^e for any e that leads from one f32 to another: two factors, since one would not reach.
fn shifted(x: vec4<f32>, e: i32) -> vec4<f32> {
    let first = clamp(e, -126, 127);
    let second = clamp(e - first, -126, 127);
    let a = bitcast<f32>(u32(first + 127) << 23u);
    let b = bitcast<f32>(u32(second + 127) << 23u);
    return opaque4(x * a, params.zero) * b;
}
