//! The picture of a solve: how its residual fell.

use std::fmt::Write;

use crate::report::Adapter;
use crate::svg::{escape, shorten};
use crate::table;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 104.0;
const BOTTOM: f64 = 64.0;
/// Points of the curve: more than that cannot be told apart.
const POINTS: usize = 1800;

const TEXT: &str = "#1f2933";
const FAINT: &str = "#616e7c";
const GRID: &str = "#e4e7eb";
const CURVE: &str = "#2563a8";
const GOAL: &str = "#2e7d4f";
const WRONG: &str = "#b42318";

/// What is drawn.
pub struct Convergence<'a> {
    /// The system and how it was solved, in a line.
    pub title: String,
    /// How it ended, in a line.
    pub ending: String,
    pub adapter: &'a Adapter,
    /// ||r|| / ||b|| after 0, 1, .. iterations.
    pub history: &'a [f64],
    pub rtol: f64,
    /// Recomputed in f64.
    pub relative_residual: f64,
    pub converged: bool,
}

/// Draws the curve, the goal, and the residual that was found in the end.
pub fn draw(c: &Convergence) -> String {
    let shown = |v: &f64| *v > 0.0 && v.is_finite();
    let values = || {
        c.history
            .iter()
            .chain([&c.rtol, &c.relative_residual])
            .copied()
            .filter(shown)
    };
    let lowest = values().fold(1.0, f64::min).log10().floor().max(-20.0) as i32;
    let highest = (values().fold(1.0, f64::max).log10().ceil().min(30.0) as i32).max(lowest + 1);
    let last = c.history.len().saturating_sub(1).max(1);
    let plot = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = |iteration: usize| LEFT + iteration as f64 / last as f64 * plot.0;
    let y = |value: f64| {
        let share = (value.log10() - f64::from(lowest)) / f64::from(highest - lowest);
        TOP + (1.0 - share.clamp(0.0, 1.0)) * plot.1
    };

    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments| {
        // Writing to a string does not fail.
        let _ = svg.write_fmt(text);
        svg.push('\n');
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="12" fill="{TEXT}" role="img" aria-label="Convergence of a linear solve">"#
    ));
    line(format_args!(
        r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>"##
    ));
    line(format_args!(
        r#"<text x="24" y="36" font-size="19" font-weight="bold">{}</text>"#,
        escape(&shorten(&c.title, 92))
    ));
    line(format_args!(
        r#"<text x="24" y="58" fill="{}">{}</text>"#,
        if c.converged { FAINT } else { WRONG },
        escape(&shorten(&c.ending, 140))
    ));
    line(format_args!(
        r#"<text x="24" y="76" fill="{FAINT}">On {}</text>"#,
        escape(&shorten(&c.adapter.to_string(), 120))
    ));
    let decades = (highest - lowest) as usize;
    for exponent in (lowest..=highest).step_by(decades.div_ceil(10).max(1)) {
        let at = y(10f64.powi(exponent));
        line(format_args!(
            r#"<line x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="{GRID}"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="{FAINT}">1e{exponent}</text>"#,
            LEFT + plot.0,
            LEFT - 8.0,
            at + 4.0
        ));
    }
    // Whole iterations, 1, 2 or 5 times a power of ten apart.
    let mut step = 1;
    while last / step > 10 {
        step *= if step.to_string().starts_with('2') { 5 } else { 2 };
        step = [1, 2, 5]
            .into_iter()
            .map(|m| m * 10usize.pow(step.ilog10()))
            .find(|&s| s >= step)
            .unwrap_or(step);
    }
    for iteration in (0..=last).step_by(step) {
        let at = x(iteration);
        line(format_args!(
            r#"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{:.1}" stroke="{GRID}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">{iteration}</text>"#,
            TOP + plot.1,
            TOP + plot.1 + 18.0
        ));
    }
    line(format_args!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">iterations</text>"#,
        LEFT + plot.0 / 2.0,
        HEIGHT - 22.0
    ));
    line(format_args!(
        r#"<text x="18" y="{:.1}" text-anchor="middle" fill="{FAINT}" transform="rotate(-90 18 {:.1})">‖b − A x‖ / ‖b‖</text>"#,
        TOP + plot.1 / 2.0,
        TOP + plot.1 / 2.0
    ));
    if shown(&c.rtol) {
        let at = y(c.rtol);
        line(format_args!(
            r#"<line x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="{GOAL}" stroke-dasharray="6 4"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="{GOAL}">asked for: {}</text>"#,
            LEFT + plot.0,
            LEFT + plot.0 - 4.0,
            at - 5.0,
            table::short(c.rtol)
        ));
    }
    // Of each stretch of iterations the largest and the smallest residual, so that no peak is lost.
    let stretch = c.history.len().div_ceil(POINTS / 2).max(1);
    let mut points = String::new();
    for (k, part) in c.history.chunks(stretch).enumerate() {
        let mut ends: Vec<usize> = [f64::max as fn(f64, f64) -> f64, f64::min]
            .iter()
            .filter_map(|pick| {
                let value = part.iter().copied().filter(shown).reduce(*pick)?;
                part.iter().position(|&v| v == value)
            })
            .collect();
        ends.sort_unstable();
        ends.dedup();
        for i in ends {
            let _ = write!(points, "{:.1},{:.1} ", x(k * stretch + i), y(part[i]));
        }
    }
    if !points.is_empty() {
        line(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{CURVE}" stroke-width="1.6" stroke-linejoin="round"/>"#,
            points.trim_end()
        ));
    }
    if shown(&c.relative_residual) {
        let (at, height) = (x(last), y(c.relative_residual));
        line(format_args!(
            r#"<circle cx="{at:.1}" cy="{height:.1}" r="4" fill="{}"/><text x="{:.1}" y="{:.1}" text-anchor="end">recomputed in f64: {}</text>"#,
            if c.converged { GOAL } else { WRONG },
            at - 9.0,
            (height + 15.0).min(TOP + plot.1 - 5.0),
            table::short(c.relative_residual)
        ));
    }
    line(format_args!(
        r#"<rect x="{LEFT}" y="{TOP}" width="{:.1}" height="{:.1}" fill="none" stroke="{FAINT}"/>"#,
        plot.0, plot.1
    ));
    line(format_args!("</svg>"));
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::adapter;

    #[test]
    fn draws() {
        let mut device = adapter();
        device.name = "A & B".to_string();
        let history: Vec<f64> = (0..12_345).map(|k| 10f64.powf(-(k as f64) / 2000.0)).collect();
        for (history, relative_residual) in [
            (&history[..], 3e-7),
            (&[1.0][..], 0.0),
            (&[][..], f64::NAN),
            (&[1.0, f64::INFINITY, f64::NAN, 0.0, 1e300][..], f64::INFINITY),
        ] {
            let svg = draw(&Convergence {
                title: "solve <a>".to_string(),
                ending: "converged".to_string(),
                adapter: &device,
                history,
                rtol: 1e-6,
                relative_residual,
                converged: relative_residual < 1e-6,
            });
            assert!(svg.contains("A &amp; B") && svg.contains("solve &lt;a&gt;") && svg.contains("asked for"));
            assert!(!svg.contains("NaN") && !svg.contains("inf,") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.len() < 60_000, "{}", svg.len());
        }
    }
}
