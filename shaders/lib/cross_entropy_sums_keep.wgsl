// What a row comes to, but for its loss, is kept for the gradient that a later call makes.
struct KeptTotals {
    top: u32,
    count: u32,
    t: vec2<f32>,
    mass: vec2<f32>,
    unit: i32,
    spare: u32,
}

@group(0) @binding(13) var<storage, read_write> sums: array<KeptTotals>;

fn keep_row(row: Row, outcome: Outcome, totals: RowTotals) {
    keep_record(row, outcome);
    sums[row.sums] = KeptTotals(totals.top, totals.count, totals.t, totals.mass, totals.unit, 0u);
}

fn kept_totals(row: Row) -> RowTotals {
    var totals: RowTotals;
    return totals;
}
