// Collectives over numbers with units of their own (needs signed_wide, reduce).

fn team_unit(unit: i32, at: u32) -> i32 {
    return i32(team_max(u32(unit + 4096), at)) - 4096;
}

fn team_scaled(v: Scaled, at: u32, zero: u32) -> Scaled {
    let unit = team_unit(v.unit, at);
    return Scaled(team_sum(pair_lowered(v.pair, v.unit - unit, zero), at, zero), unit);
}
