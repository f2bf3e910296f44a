// What a row comes to stands where an earlier call has left it; that call had the loss, too.
struct KeptTotals {
    top: u32,
    count: u32,
    t: vec2<f32>,
    mass: vec2<f32>,
    unit: i32,
    spare: u32,
}

@group(0) @binding(13) var<storage, read> sums: array<KeptTotals>;

fn keep_row(row: Row, outcome: Outcome, totals: RowTotals) {
}

fn kept_totals(row: Row) -> RowTotals {
    let kept = sums[row.sums];
    var totals: RowTotals;
    totals.top = kept.top;
    totals.count = kept.count;
    totals.t = kept.t;
    totals.mass = kept.mass;
    totals.unit = kept.unit;
    totals.dot_unit = kept.unit;
    return totals;
}
