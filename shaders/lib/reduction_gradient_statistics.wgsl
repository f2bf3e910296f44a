// What the forward pass leaves of every row: words of 32 bits.
@group(0) @binding(4) var<storage, read> statistics: array<u32>;

// Word `word` of the rows of four elements.
fn statistic4(quad: Quad, word: u32) -> vec4<u32> {
    let e = element_of(STATISTICS, quad) + word;
    let step = step_of(STATISTICS);
    let last = quad.count - 1u;
    return vec4<u32>(
        statistics[e],
        statistics[e + min(1u, last) * step],
        statistics[e + min(2u, last) * step],
        statistics[e + last * step],
    );
}
