//! Aligned tables and readable numbers.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// A column: its title, and whether its cells are aligned to the right as numbers are.
pub type Column = (&'static str, bool);

/// A line under the titles and none elsewhere: reads well, and a script can split it at spaces.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-'));

/// Lays out rows under titles.
pub fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(columns.iter().map(|c| c.0));
    for row in rows {
        table.add_row(row);
    }
    for (i, &(_, right)) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_cell_alignment(if right {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            });
        }
    }
    table.trim_fmt()
}

/// A time in seconds with a unit and three digits.
pub fn seconds(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_string();
    }
    let (scale, unit) = match value.abs() {
        v if v >= 1.0 => (1.0, "s"),
        v if v >= 1e-3 => (1e3, "ms"),
        v if v >= 1e-6 => (1e6, "us"),
        _ => (1e9, "ns"),
    };
    let value = value * scale;
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// Bytes with a binary unit.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value} B")
    } else {
        format!("{scaled:.1} {}", UNITS[unit])
    }
}

/// GB/s with one decimal, two below 1; a dash for what was not measured.
pub fn gbps(value: f64) -> String {
    match value {
        v if !v.is_finite() => "-".to_string(),
        v if v < 0.995 => format!("{v:.2}"),
        v => format!("{v:.1}"),
    }
}

/// A fraction as a percentage.
pub fn percent(value: f64) -> String {
    if value.is_finite() {
        format!("{:.0} %", value * 100.0)
    } else {
        "-".to_string()
    }
}

/// A plain number, short: three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "NaN".to_string(),
        _ if value.is_infinite() => if value > 0.0 { "inf" } else { "-inf" }.to_string(),
        0.0 => "0".to_string(),
        v if !(1e-3..1e6).contains(&v) => format!("{value:.3e}"),
        v if v >= 99.95 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// A number as one would type it.
pub fn typed(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || !v.is_finite() || (1e-3..1e6).contains(&v) => value.to_string(),
        _ => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn types_numbers() {
        let typed = [0.0, 1.5, -2.0, 1e-30, 1e308, f64::NAN].map(super::typed);
        assert_eq!(typed, ["0", "1.5", "-2", "1e-30", "1e308", "NaN"]);
    }

    use super::*;

    #[test]
    fn aligns() {
        let text = table(
            &[("op", false), ("GB/s", true)],
            [vec!["a".into(), "1.0".into()], vec!["long".into(), "100.0".into()]],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[2].ends_with("  1.0") && lines[3].ends_with("100.0"), "{text}");
    }

    #[test]
    fn writes_numbers() {
        assert_eq!(
            [2.5, 0.0123, 99.96e-6, 4e-9, f64::NAN].map(seconds),
            ["2.50 s", "12.3 ms", "100 us", "4.00 ns", "-"]
        );
        assert_eq!([512, 2048, 3 << 29].map(bytes), ["512 B", "2.0 KiB", "1.5 GiB"]);
        assert_eq!(
            [0.0, 1.25, 123.45, 1e-9, -1e7, f64::NEG_INFINITY].map(short),
            ["0", "1.250", "123.5", "1.000e-9", "-1.000e7", "-inf"]
        );
        assert_eq!([12.34, 0.234, f64::NAN].map(gbps), ["12.3", "0.23", "-"]);
        assert_eq!(percent(0.876), "88 %");
    }
}
