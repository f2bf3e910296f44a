//! The bar chart of a bench: GB/s of every case before what a copy reaches on the same device.

use std::fmt::Write;

use crate::report::{Adapter, BenchCase};
use crate::table;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const TOP: f64 = 112.0;
const ROW: f64 = 30.0;
/// Extra space where the operation changes.
const GAP: f64 = 14.0;
/// Right of the longest bar, for its figures.
const FIGURES: f64 = 112.0;
/// Average width of a character at 13 px, generous.
const CHARACTER: f64 = 8.0;
const LONGEST_LABEL: usize = 44;

const TEXT: &str = "#1f2933";
const FAINT: &str = "#616e7c";
const GRID: &str = "#e4e7eb";
const COPY: &str = "#cbd5e1";
const KERNEL: &str = "#2563a8";
const WRONG: &str = "#b42318";

/// Draws the chart.
pub fn chart(adapter: &Adapter, cases: &[BenchCase]) -> String {
    let labels: Vec<String> = cases
        .iter()
        .map(|c| shorten(&format!("{}  {}  {}", c.op, c.shape, c.dtype), LONGEST_LABEL))
        .collect();
    let widest = labels.iter().map(|l| l.chars().count()).max().unwrap_or(0) as f64;
    let left = MARGIN + widest * CHARACTER + 12.0;
    let plot = WIDTH - left - FIGURES - MARGIN;
    let highest = cases
        .iter()
        .flat_map(|c| [c.gbps, c.copy_gbps])
        .filter(|v| v.is_finite())
        .fold(0.0, f64::max);
    let (step, end) = ticks(highest);
    let x = |value: f64| {
        left + if value.is_finite() {
            (value / end).clamp(0.0, 1.0) * plot
        } else {
            0.0
        }
    };

    let mut tops = Vec::with_capacity(cases.len());
    let mut y = TOP;
    for (i, case) in cases.iter().enumerate() {
        if i > 0 && case.op != cases[i - 1].op {
            y += GAP;
        }
        tops.push(y);
        y += ROW;
    }
    let bottom = y.max(TOP + ROW) + 4.0;
    let height = bottom + 66.0;

    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments| {
        // Writing to a string does not fail.
        let _ = svg.write_fmt(text);
        svg.push('\n');
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="13" fill="{TEXT}" role="img" aria-label="Throughput of macheps kernels">"#
    ));
    line(format_args!(
        r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##
    ));
    line(format_args!(
        r#"<text x="{MARGIN}" y="36" font-size="19" font-weight="bold">macheps {}: throughput against copy speed</text>"#,
        env!("CARGO_PKG_VERSION")
    ));
    line(format_args!(
        r#"<text x="{MARGIN}" y="58" fill="{FAINT}">{}</text>"#,
        escape(&shorten(&adapter.to_string(), 120))
    ));
    let mut legend = MARGIN;
    let any_wrong = cases.iter().any(|c| !c.verified);
    for (color, label, shown) in [
        (KERNEL, "kernel: GB/s at the median time (share of copy)", true),
        (COPY, "copy on this device", true),
        (WRONG, "kernel with a wrong result", any_wrong),
    ] {
        if shown {
            line(format_args!(
                r#"<rect x="{legend:.1}" y="74" width="14" height="14" fill="{color}"/><text x="{:.1}" y="86">{label}</text>"#,
                legend + 20.0
            ));
            legend += 20.0 + label.len() as f64 * CHARACTER + 24.0;
        }
    }
    let count = (end / step).round() as usize;
    for i in 0..=count {
        let value = i as f64 * step;
        let at = x(value);
        line(format_args!(
            r#"<line x1="{at:.1}" y1="{:.1}" x2="{at:.1}" y2="{bottom:.1}" stroke="{GRID}"/>"#,
            TOP - 6.0
        ));
        line(format_args!(
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">{}</text>"#,
            bottom + 18.0,
            tick(value, step)
        ));
    }
    for ((case, label), top) in cases.iter().zip(&labels).zip(&tops) {
        let middle = top + ROW / 2.0;
        let baseline = middle + 4.5;
        line(format_args!(
            r#"<text x="{:.1}" y="{baseline:.1}" text-anchor="end" xml:space="preserve">{}</text>"#,
            left - 12.0,
            escape(label)
        ));
        bar(&mut line, left, x(case.copy_gbps), middle, 22.0, COPY);
        bar(
            &mut line,
            left,
            x(case.gbps),
            middle,
            12.0,
            if case.verified { KERNEL } else { WRONG },
        );
        let figures = match (case.gbps.is_finite(), case.fraction_of_copy.is_finite()) {
            (false, _) => "not measured".to_string(),
            (true, false) => table::gbps(case.gbps),
            (true, true) => format!("{} ({})", table::gbps(case.gbps), table::percent(case.fraction_of_copy)),
        };
        let end = x(case.gbps).max(x(case.copy_gbps)) + 8.0;
        line(format_args!(
            r##"<text x="{end:.1}" y="{baseline:.1}" stroke="#ffffff" stroke-width="4" paint-order="stroke">{figures}</text>"##
        ));
    }
    line(format_args!(
        r#"<line x1="{left:.1}" y1="{:.1}" x2="{left:.1}" y2="{bottom:.1}" stroke="{FAINT}"/>"#,
        TOP - 6.0
    ));
    line(format_args!(
        r#"<line x1="{left:.1}" y1="{bottom:.1}" x2="{:.1}" y2="{bottom:.1}" stroke="{FAINT}"/>"#,
        left + plot
    ));
    line(format_args!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">GB/s (10⁹ bytes a second, of the bytes that have to move; longer is better)</text>"#,
        left + plot / 2.0,
        bottom + 44.0
    ));
    line(format_args!("</svg>"));
    svg
}

fn bar(line: &mut impl FnMut(std::fmt::Arguments), from: f64, to: f64, middle: f64, height: f64, color: &str) {
    line(format_args!(
        r#"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{height}" fill="{color}"/>"#,
        middle - height / 2.0,
        (to - from).max(0.0)
    ));
}

/// Distance of the ticks and the end of an axis that holds `highest`: 1, 2 or 5 times a power of ten, 4 to 10 of them.
fn ticks(highest: f64) -> (f64, f64) {
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let rough = highest / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|&s| s >= rough)
        .unwrap_or(10.0 * power);
    (step, (highest / step).ceil().max(1.0) * step)
}

fn tick(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.digits$}")
}

/// Text of at most `longest` characters.
pub fn shorten(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_string();
    }
    text.chars().take(longest - 1).chain(['…']).collect()
}

/// Text inside XML; what XML cannot hold at all is left out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{adapter, case};

    #[test]
    fn chooses_ticks() {
        for (highest, step, end) in [
            (17.0, 5.0, 20.0),
            (0.9, 0.2, 1.0),
            (4800.0, 1000.0, 5000.0),
            (0.0, 0.2, 1.0),
        ] {
            let got = ticks(highest);
            assert!(
                (got.0 - step).abs() < 1e-9 && (got.1 - end).abs() < 1e-9,
                "{highest}: {got:?}"
            );
        }
        assert_eq!((tick(0.4, 0.2), tick(1000.0, 1000.0)), ("0.4".into(), "1000".into()));
    }

    #[test]
    fn draws() {
        let mut cases = vec![
            case("softmax", "4096x1024", 2e-3),
            case("softmax<&>", &"9".repeat(80), 1e-3),
            case("logsumexp", "0", f64::NAN),
        ];
        cases[1].verified = false;
        let mut device = adapter();
        device.name = "A & B <\u{1}\"GPU\">".to_string();
        let svg = chart(&device, &cases);
        assert!(
            svg.contains("A &amp; B &lt;&quot;GPU&quot;&gt;") && svg.contains(WRONG) && svg.contains("not measured")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.trim_end().ends_with("</svg>"));
        assert!(chart(&device, &[]).contains("GB/s"));
    }
}
