// Leaves the record of row `number` of the dispatch (needs layer_norm_record, layer_norm_rows).
fn keep_record(number: u32, s: Stats) {
    records[params.record_base + number] = RowRecord(s.scale.status, s.scale.e, s.f, 0u, s.mean, s.r);
}
