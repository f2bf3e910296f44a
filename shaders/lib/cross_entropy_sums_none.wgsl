// What a row comes to is used at once.
fn keep_row(row: Row, outcome: Outcome, totals: RowTotals) {
    keep_record(row, outcome);
}

fn kept_totals(row: Row) -> RowTotals {
    var totals: RowTotals;
    return totals;
}
