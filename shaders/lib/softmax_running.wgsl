// Maximum and sums of a row in one read (needs softmax_math). Every virtual lane keeps a reference r, its largest entry so
// far m with the number of entries equal to it, and T = sum exp(x - r) over the others. The reference follows the maximum
// only when that is more than 20 above it, so sums are rescaled a few times at most and the entries equal to the maximum
// stay out of the sum.

const RISE: f32 = 20.0;

struct Online {
    reference: vec4<f32>,
    largest: vec4<f32>,
    count: vec4<f32>,
    t: Pair4,
}

// exp(d) times 2^64 for d <= RISE, with the pair of the difference.
fn exp_wide4(x: vec4<f32>, m: vec4<f32>) -> vec4<f32> {
    let sum = two_sum4(x, -m, params.zero);
    return exp_scaled4(Pair4(sum.high, select(vec4<f32>(0.0), sum.low, sum.high >= vec4<f32>(-3.0e38))), params.zero);
}

fn scale_pair4(v: Pair4, factor: vec4<f32>) -> Pair4 {
    let p = two_product4(v.high, factor, params.zero);
    return Pair4(p.high, opaque4(p.low + v.low * factor, params.zero));
}

// A sum relative to `base`, made relative to `top`. Where those are far apart the factor keeps its 2^64 and the sum gives
// up its own: the lower half of a factor near the smallest normal number would be flushed by some drivers.
fn rebased4(t: Pair4, base: vec4<f32>, top: vec4<f32>) -> Pair4 {
    let wide = exp_wide4(base, top);
    let near = base - top >= vec4<f32>(-40.0);
    let factor = opaque4(select(wide, wide * T_UNSCALE, near), params.zero);
    let high = opaque4(select(t.high * T_UNSCALE, t.high, near), params.zero);
    let low = opaque4(select(t.low * T_UNSCALE, t.low, near), params.zero);
    return scale_pair4(Pair4(high, low), factor);
}

// Takes in four entries; those not `inside` and -inf are left out. NaN and +inf are dealt with by the ordered maximum.
fn take(state: Online, z: vec4<f32>, inside: vec4<bool>) -> Online {
    var s = state;
    let finite = vec4<bool>(is_finite(z.x), is_finite(z.y), is_finite(z.z), is_finite(z.w));
    let use4 = inside & finite;
    let x = select(s.largest, z, use4);
    let first = s.count == vec4<f32>(0.0);
    let above = use4 & (first | (x > s.largest));
    if any(above) {
        let far = above & (first | (x > s.reference + vec4<f32>(RISE)));
        // The old largest entries join the others, relative to the old reference.
        let joined = select(vec4<f32>(0.0), s.count * exp_wide4(s.largest, s.reference), above & !first);
        s.t = pair_add_positive4(s.t, joined, params.zero);
        if any(far) {
            // Before the first entry the sum is 0 and the reference means nothing.
            let scaled = rebased4(s.t, s.reference, x);
            s.t.high = select(s.t.high, scaled.high, far & !first);
            s.t.low = select(s.t.low, scaled.low, far & !first);
            s.reference = select(s.reference, x, far);
        }
        s.count = select(s.count, vec4<f32>(0.0), above);
        s.largest = select(s.largest, x, above);
    }
    let tie = use4 & (x == s.largest);
    s.count += select(vec4<f32>(0.0), vec4<f32>(1.0), tie);
    let v = select(vec4<f32>(0.0), exp_wide4(x, s.reference), use4 & !tie);
    s.t = pair_add_positive4(s.t, v, params.zero);
    return s;
}

// A state's sums relative to the row's maximum m: T times 2^64, and the entries equal to m.
struct Settled {
    t: Pair4,
    count: vec4<f32>,
}

fn settle(s: Online, m: f32) -> Settled {
    let held = s.count > vec4<f32>(0.0);
    let is_top = held & (s.largest == vec4<f32>(m));
    let rebased = rebased4(s.t, s.reference, vec4<f32>(m));
    let t = Pair4(select(vec4<f32>(0.0), rebased.high, held), select(vec4<f32>(0.0), rebased.low, held));
    let own = select(vec4<f32>(0.0), s.count * exp_wide4(s.largest, vec4<f32>(m)), held & !is_top);
    return Settled(pair_add4(t, own, params.zero), select(vec4<f32>(0.0), s.count, is_top));
}
