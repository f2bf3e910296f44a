//! The picture of an audit: how the binary exponents are spread, before what f16 can hold.

use std::fmt::Write;

use macheps::ops::audit::LOWEST_EXPONENT;

use crate::commands::audit::Entry;
use crate::report::Adapter;
use crate::svg::{escape, shorten};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Of the panel of all tensors.
const TOP: f64 = 104.0;
const PANEL: f64 = 220.0;
const STRIP: f64 = 18.0;
/// Tensors that get a strip of their own.
const MOST_STRIPS: usize = 40;
const CHARACTER: f64 = 7.0;
const LONGEST_LABEL: usize = 36;
/// Decades of the share axis: down to a millionth.
const DECADES: f64 = 6.0;

const TEXT: &str = "#1f2933";
const FAINT: &str = "#616e7c";
const GRID: &str = "#e4e7eb";
const BAR: &str = "#2563a8";
const BAD: &str = "#b42318";

/// What becomes of exponents in f16: name, first and last exponent, color.
const ZONES: [(&str, i32, i32, &str); 4] = [
    ("zero in f16", -149, -26, "#fbe4e1"),
    ("subnormal", -25, -15, "#fdf3dc"),
    ("normal in f16", -14, 15, "#eef6ee"),
    ("infinite", 16, 127, "#fbe4e1"),
];

/// Draws the histogram of all tensors and a strip for each.
pub fn draw(adapter: &Adapter, entries: &[Entry], total: &Entry) -> String {
    // Bad tensors are shown first of all, but in the file's order.
    let mut shown: Vec<usize> = (0..entries.len()).collect();
    shown.sort_by_key(|&i| entries[i].audit.bad() == 0);
    shown.truncate(MOST_STRIPS);
    shown.sort_unstable();

    let used = |i: &usize| total.audit.exponents[*i] > 0;
    let bins = 0..total.audit.exponents.len();
    let lowest = bins
        .clone()
        .find(used)
        .map_or(-30, |i| i as i32 + LOWEST_EXPONENT)
        .min(-30)
        - 1;
    let highest = bins.rev().find(used).map_or(18, |i| i as i32 + LOWEST_EXPONENT).max(18) + 1;
    let longest = shown
        .iter()
        .map(|&i| label(&entries[i]).chars().count())
        .max()
        .unwrap_or(0);
    let left = MARGIN + (longest as f64 * CHARACTER).max(56.0) + 10.0;
    let plot = WIDTH - left - MARGIN;
    let step = plot / f64::from(highest - lowest + 1);
    let x = |exponent: i32| left + f64::from(exponent - lowest) * step;
    let strips = TOP + PANEL + 58.0;
    let bottom = strips + shown.len() as f64 * STRIP;
    let hidden = entries.len() - shown.len();
    let height = bottom + 36.0;

    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments| {
        // Writing to a string does not fail.
        let _ = svg.write_fmt(text);
        svg.push('\n');
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="12" fill="{TEXT}" role="img" aria-label="Binary exponents of tensors">"#
    ));
    line(format_args!(
        r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##
    ));
    line(format_args!(
        r#"<text x="{MARGIN}" y="36" font-size="19" font-weight="bold">macheps {}: exponents of {} values in {} tensors</text>"#,
        env!("CARGO_PKG_VERSION"),
        total.audit.elements,
        entries.len()
    ));
    let scale = total.loss_scales.first().map_or(String::new(), |s| {
        format!(
            "; a loss scale of 2^{} lifts 99 % of those that are not zero to 2^-24 or above",
            s.scale.exponent
        )
    });
    line(format_args!(
        r#"<text x="{MARGIN}" y="58" fill="{FAINT}">{} NaN, {} infinite, {} zero{scale}. On {}</text>"#,
        total.audit.nans,
        total.audit.positive_infinities + total.audit.negative_infinities,
        total.audit.zeros,
        escape(&shorten(&adapter.to_string(), 60))
    ));
    for (name, first, last, color) in ZONES {
        let (from, to) = (x(first.max(lowest)), x(last.min(highest) + 1));
        if to <= from {
            continue;
        }
        line(format_args!(
            r#"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="{color}"/>"#,
            TOP - 22.0,
            to - from,
            PANEL + 22.0
        ));
        // Above the strip where it is too narrow for its name, so that neighbours do not run into each other.
        let fits = to - from > name.len() as f64 * CHARACTER;
        line(format_args!(
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">{name}</text>"#,
            (from + to) / 2.0,
            if fits { TOP - 8.0 } else { TOP - 27.0 }
        ));
        line(format_args!(
            r#"<rect x="{from:.1}" y="{strips:.1}" width="{:.1}" height="{:.1}" fill="{color}"/>"#,
            to - from,
            bottom - strips
        ));
    }
    let all = total.audit.nonzero();
    let y = |share: f64| TOP + PANEL * (-share.log10() / DECADES).clamp(0.0, 1.0);
    for decade in 0..=DECADES as i32 {
        let at = y(10f64.powi(-decade));
        line(format_args!(
            r#"<line x1="{left:.1}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="{GRID}"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="{FAINT}">{}</text>"#,
            left + plot,
            left - 6.0,
            at + 4.0,
            ["100 %", "10 %", "1 %", "0.1 %", "0.01 %", "0.001 %", "0.0001 %"][decade as usize]
        ));
    }
    for (i, &count) in total
        .audit
        .exponents
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
    {
        let top = y(count as f64 / all as f64).min(TOP + PANEL - 1.0);
        line(format_args!(
            r#"<rect x="{:.2}" y="{top:.1}" width="{:.2}" height="{:.1}" fill="{BAR}"/>"#,
            x(i as i32 + LOWEST_EXPONENT) + step * 0.08,
            step * 0.84,
            TOP + PANEL - top
        ));
    }
    let every = if highest - lowest > 120 { 20 } else { 10 };
    for exponent in (lowest..=highest).filter(|e| e % every == 0) {
        let at = x(exponent) + step / 2.0;
        line(format_args!(
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">2<tspan dy="-4" font-size="9">{exponent}</tspan></text>"#,
            TOP + PANEL + 17.0
        ));
    }
    line(format_args!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">magnitude; share of the finite values that are not zero, on a logarithmic scale</text>"#,
        left + plot / 2.0,
        TOP + PANEL + 36.0
    ));
    for (row, &i) in shown.iter().enumerate() {
        let entry = &entries[i];
        let top = strips + row as f64 * STRIP;
        let bad = entry.audit.bad() > 0;
        line(format_args!(
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end" fill="{}">{}</text>"#,
            left - 8.0,
            top + STRIP - 5.0,
            if bad { BAD } else { TEXT },
            escape(&label(entry))
        ));
        let nonzero = entry.audit.nonzero();
        for (bin, &count) in entry
            .audit
            .exponents
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let share = count as f64 / nonzero as f64;
            line(format_args!(
                r#"<rect x="{:.2}" y="{:.1}" width="{step:.2}" height="{:.1}" fill="{BAR}" fill-opacity="{:.2}"/>"#,
                x(bin as i32 + LOWEST_EXPONENT),
                top + 2.0,
                STRIP - 4.0,
                (1.0 + share.log10() / DECADES).clamp(0.06, 1.0)
            ));
        }
        if bad {
            line(format_args!(
                r##"<text x="{:.1}" y="{:.1}" text-anchor="end" fill="{BAD}" stroke="#ffffff" stroke-width="3" paint-order="stroke">{} NaN, {} inf</text>"##,
                left + plot - 4.0,
                top + STRIP - 5.0,
                entry.audit.nans,
                entry.audit.positive_infinities + entry.audit.negative_infinities
            ));
        }
    }
    if hidden > 0 {
        line(format_args!(
            r#"<text x="{left:.1}" y="{:.1}" fill="{FAINT}">and {hidden} more tensors, none of them with NaN or infinities unless {MOST_STRIPS} others are</text>"#,
            bottom + 20.0
        ));
    }
    line(format_args!("</svg>"));
    svg
}

fn label(entry: &Entry) -> String {
    // The end of a name tells more than its beginning.
    let name = entry.source.rsplit('#').next().unwrap_or(&entry.source);
    let count = name.chars().count();
    if count <= LONGEST_LABEL {
        return name.to_string();
    }
    std::iter::once('…')
        .chain(name.chars().skip(count + 1 - LONGEST_LABEL))
        .collect()
}
