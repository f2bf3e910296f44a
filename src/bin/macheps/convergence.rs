//! The picture of a solve: how its residual fell.

use std::fmt::Write;

use crate::report::Adapter;
use crate::svg::{escape, shorten};
use crate::table;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 84.0;
/// Room for what the levels at the right end are called: nothing is written where the curve runs.
const RIGHT: f64 = 132.0;
const TOP: f64 = 132.0;
const BOTTOM: f64 = 64.0;
/// Baseline of the legend.
const LEGEND: f64 = 112.0;
/// Average width of a character at 12 px, generous.
const CHARACTER: f64 = 6.6;
/// Distance of two labels, one below the other.
const LINE: f64 = 16.0;
/// Points of the curve: more than that cannot be told apart.
const POINTS: usize = 1800;
/// So few iterations get a dot each.
const DOTS: usize = 40;
/// So many corrections can be told apart.
const MOST_CORRECTIONS: usize = 40;

const TEXT: &str = "#1f2933";
const FAINT: &str = "#616e7c";
const GRID: &str = "#e4e7eb";
const FRAME: &str = "#9aa5b1";
const CURVE: &str = "#2563a8";
const GOAL: &str = "#2e7d4f";
const WRONG: &str = "#b42318";
const TRUE: &str = "#b45309";

/// What is drawn.
pub struct Convergence<'a> {
    /// The system.
    pub title: String,
    /// Its size and how it was solved, in a few words.
    pub method: String,
    /// How it ended, in a few words.
    pub ending: String,
    pub adapter: &'a Adapter,
    /// ||r|| / ||b|| as the iteration knew it, after 0, `every`, 2 `every`, .. iterations and after the last.
    pub history: &'a [f64],
    pub every: usize,
    pub iterations: usize,
    /// Iterations after which the residual was recomputed and a correction began.
    pub corrections: &'a [usize],
    pub rtol: f64,
    /// ||b - A x|| / ||b|| computed in f64 after so many iterations; the last is that of the answer.
    pub recomputed: &'a [(usize, f64)],
    pub converged: bool,
}

/// The scales of the picture.
struct Axes {
    lowest: i32,
    highest: i32,
    /// Whether the lower edge stands for 0.
    zero: bool,
    last: usize,
}

impl Axes {
    fn of(c: &Convergence) -> Axes {
        let all = || {
            let recomputed = c.recomputed.iter().map(|(_, v)| v);
            c.history.iter().chain(recomputed).chain([&c.rtol]).copied()
        };
        let values = || all().filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10);
        // A little more than what is shown, so that nothing lies on the frame.
        let lowest = (values().fold(0.0, f64::min) - 0.15).floor().max(-20.0) as i32;
        let highest = (values().fold(0.0, f64::max) + 0.15).ceil().min(30.0) as i32;
        let zero = all().any(|v| v == 0.0);
        Axes {
            lowest: if zero { lowest - 1 } else { lowest },
            highest,
            zero,
            last: c.iterations.max(1),
        }
    }

    fn width() -> f64 {
        WIDTH - LEFT - RIGHT
    }

    fn bottom() -> f64 {
        HEIGHT - BOTTOM
    }

    fn x(&self, iteration: usize) -> f64 {
        LEFT + iteration.min(self.last) as f64 / self.last as f64 * Axes::width()
    }

    /// What is 0 lies on the lower edge.
    fn y(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.lowest)) / f64::from(self.highest - self.lowest);
        TOP + (1.0 - share.clamp(0.0, 1.0)) * (Axes::bottom() - TOP)
    }

    /// Whole iterations apart, 1, 2 or 5 times a power of ten, for at most ten ticks.
    fn step(&self) -> usize {
        (0..)
            .flat_map(|power| [1, 2, 5].map(|m| m * 10usize.saturating_pow(power)))
            .find(|step| self.last / step <= 10)
            .unwrap_or(self.last)
    }
}

/// Lines of an SVG document.
#[derive(Default)]
struct Canvas(String);

impl Canvas {
    fn line(&mut self, text: std::fmt::Arguments) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(text);
        self.0.push('\n');
    }

    fn cross(&mut self, x: f64, y: f64) {
        self.line(format_args!(
            r#"<path d="M{:.1} {:.1}l10 10m0 -10l-10 10" stroke="{WRONG}" stroke-width="2.5"/>"#,
            x - 5.0,
            y - 5.0
        ));
    }

    fn marker(&mut self, x: f64, y: f64) {
        self.line(format_args!(
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="5" fill="{TRUE}" stroke="#ffffff" stroke-width="1.5"/>"##
        ));
    }
}

/// Draws the curve, the goal, and the residuals that were recomputed in f64.
pub fn draw(c: &Convergence) -> String {
    let axes = Axes::of(c);
    let mut canvas = Canvas::default();
    head(&mut canvas, c);
    legend(&mut canvas, c);
    grid(&mut canvas, &axes);
    let (right, bottom) = (LEFT + Axes::width(), Axes::bottom());
    if c.corrections.len() <= MOST_CORRECTIONS {
        for &iteration in c.corrections {
            let at = axes.x(iteration);
            canvas.line(format_args!(
                r#"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{bottom}" stroke="{TRUE}" stroke-dasharray="2 3"/>"#
            ));
        }
    }
    // What the ends of lines on the right are called, from top to bottom.
    let mut labels: Vec<(f64, &str, String)> = Vec::new();
    if c.rtol > 0.0 && c.rtol.is_finite() {
        let at = axes.y(c.rtol);
        canvas.line(format_args!(
            r#"<line x1="{LEFT}" y1="{at:.1}" x2="{right}" y2="{at:.1}" stroke="{GOAL}" stroke-width="1.4" stroke-dasharray="7 4"/>"#
        ));
        labels.push((at, GOAL, format!("rtol {:e}", c.rtol)));
    }
    curve(&mut canvas, c, &axes);
    for &(iteration, value) in c.recomputed {
        if value.is_finite() {
            canvas.marker(axes.x(iteration), axes.y(value));
        } else {
            canvas.cross(axes.x(iteration), TOP);
        }
    }
    if let Some(&(_, value)) = c.recomputed.last() {
        let (at, text) = if value.is_finite() {
            (axes.y(value), format!("in f64 {}", table::short(value)))
        } else {
            (TOP, "not finite".to_string())
        };
        labels.push((at, if c.converged { TRUE } else { WRONG }, text));
    }
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let [(first, ..), (second, ..)] = &mut labels[..]
        && *second - *first < LINE
    {
        let middle = 0.5 * (*first + *second);
        (*first, *second) = (middle - 0.5 * LINE, middle + 0.5 * LINE);
    }
    for (at, color, text) in labels {
        canvas.line(format_args!(
            r#"<text x="{:.1}" y="{:.1}" fill="{color}" font-weight="bold">{text}</text>"#,
            right + 12.0,
            at + 4.0
        ));
    }
    canvas.line(format_args!("</svg>"));
    canvas.0
}

/// The background and what is said above the curve.
fn head(canvas: &mut Canvas, c: &Convergence) {
    canvas.line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="12" fill="{TEXT}" role="img" aria-label="Convergence of a linear solve">"#
    ));
    // Its own background and edge: readable on a page of any color.
    canvas.line(format_args!(
        r##"<rect x="0.5" y="0.5" width="{}" height="{}" rx="6" fill="#ffffff" stroke="{GRID}"/>"##,
        WIDTH - 1.0,
        HEIGHT - 1.0
    ));
    canvas.line(format_args!(
        r#"<text x="24" y="36" font-size="19" font-weight="bold">{}</text>"#,
        escape(&shorten(&c.title, 80))
    ));
    canvas.line(format_args!(
        r#"<text x="24" y="58">{}: <tspan fill="{}" font-weight="bold">{}</tspan></text>"#,
        escape(&shorten(&c.method, 90)),
        if c.converged { GOAL } else { WRONG },
        escape(&shorten(&c.ending, 60))
    ));
    canvas.line(format_args!(
        r#"<text x="24" y="76" fill="{FAINT}">macheps {} on {}</text>"#,
        env!("CARGO_PKG_VERSION"),
        escape(&shorten(&c.adapter.to_string(), 115))
    ));
}

fn legend(canvas: &mut Canvas, c: &Convergence) {
    let mut x = LEFT;
    let y = LEGEND - 4.0;
    let entries = [
        ("residual as the iteration knows it", true),
        ("recomputed in f64", true),
        ("asked for (rtol)", true),
        (
            "a correction begins",
            (1..=MOST_CORRECTIONS).contains(&c.corrections.len()),
        ),
        ("not finite", c.history.iter().any(|v| !v.is_finite())),
    ];
    for (k, (text, _)) in entries.iter().enumerate().filter(|(_, (_, shown))| *shown) {
        let from = x + 26.0;
        match k {
            0 => canvas.line(format_args!(
                r#"<line x1="{x:.1}" y1="{y}" x2="{:.1}" y2="{y}" stroke="{CURVE}" stroke-width="2"/>"#,
                x + 20.0
            )),
            1 => canvas.marker(x + 10.0, y),
            2 => canvas.line(format_args!(
                r#"<line x1="{x:.1}" y1="{y}" x2="{:.1}" y2="{y}" stroke="{GOAL}" stroke-width="1.4" stroke-dasharray="7 4"/>"#,
                x + 20.0
            )),
            3 => canvas.line(format_args!(
                r#"<line x1="{0:.1}" y1="{1}" x2="{0:.1}" y2="{2}" stroke="{TRUE}" stroke-dasharray="2 3"/>"#,
                x + 10.0,
                y - 8.0,
                y + 8.0
            )),
            _ => canvas.cross(x + 10.0, y),
        }
        canvas.line(format_args!(r#"<text x="{from:.1}" y="{LEGEND}">{text}</text>"#));
        x = from + text.len() as f64 * CHARACTER + 22.0;
    }
}

/// The frame, its ticks and what they count.
fn grid(canvas: &mut Canvas, axes: &Axes) {
    let (right, bottom) = (LEFT + Axes::width(), Axes::bottom());
    let decades = (axes.highest - axes.lowest) as usize;
    let step = decades.div_ceil(10).max(1);
    for exponent in (axes.lowest..=axes.highest).step_by(step) {
        let at = axes.y(10f64.powi(exponent));
        let name = if axes.zero && exponent == axes.lowest {
            "0".to_string()
        } else {
            format!("1e{exponent}")
        };
        canvas.line(format_args!(
            r#"<line x1="{LEFT}" y1="{at:.1}" x2="{right}" y2="{at:.1}" stroke="{GRID}"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="{FAINT}">{name}</text>"#,
            LEFT - 8.0,
            at + 4.0
        ));
    }
    for iteration in (0..=axes.last).step_by(axes.step()) {
        let at = axes.x(iteration);
        canvas.line(format_args!(
            r#"<line x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{bottom}" stroke="{GRID}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle" fill="{FAINT}">{iteration}</text>"#,
            bottom + 18.0
        ));
    }
    canvas.line(format_args!(
        r#"<rect x="{LEFT}" y="{TOP}" width="{}" height="{}" fill="none" stroke="{FRAME}"/>"#,
        Axes::width(),
        bottom - TOP
    ));
    canvas.line(format_args!(
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">iterations</text>"#,
        LEFT + 0.5 * Axes::width(),
        HEIGHT - 24.0
    ));
    let middle = 0.5 * (TOP + bottom);
    canvas.line(format_args!(
        r#"<text x="22" y="{middle:.1}" text-anchor="middle" transform="rotate(-90 22 {middle:.1})">relative residual ‖b − A x‖ / ‖b‖</text>"#
    ));
}

/// The residual of the iteration, and a cross where it ceased to be a number.
fn curve(canvas: &mut Canvas, c: &Convergence, axes: &Axes) {
    let iteration = |i: usize| (i * c.every.max(1)).min(c.iterations);
    // Of each stretch of iterations the largest and the smallest residual, so that no peak is lost.
    let stretch = c.history.len().div_ceil(POINTS / 2).max(1);
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (k, part) in c.history.chunks(stretch).enumerate() {
        let mut ends: Vec<usize> = [f64::max as fn(f64, f64) -> f64, f64::min]
            .iter()
            .filter_map(|pick| {
                let value = part.iter().copied().filter(|v| v.is_finite()).reduce(*pick)?;
                part.iter().position(|&v| v == value)
            })
            .collect();
        ends.sort_unstable();
        ends.dedup();
        points.extend(
            ends.into_iter()
                .map(|i| (axes.x(iteration(k * stretch + i)), axes.y(part[i]))),
        );
    }
    let mut text = String::new();
    for (x, y) in &points {
        let _ = write!(text, "{x:.1},{y:.1} ");
    }
    if !text.is_empty() {
        canvas.line(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{CURVE}" stroke-width="2" stroke-linejoin="round"/>"#,
            text.trim_end()
        ));
    }
    if points.len() <= DOTS {
        for (x, y) in points {
            canvas.line(format_args!(
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{CURVE}"/>"#
            ));
        }
    }
    if let Some(i) = c.history.iter().position(|v| !v.is_finite()) {
        canvas.cross(axes.x(iteration(i)), TOP);
    }
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
                method: "1 row".to_string(),
                ending: "converged".to_string(),
                adapter: &device,
                history,
                every: 1,
                iterations: history.len().saturating_sub(1),
                corrections: &[],
                rtol: 1e-6,
                recomputed: &[(0, 1.0), (history.len().saturating_sub(1), relative_residual)],
                converged: relative_residual < 1e-6,
            });
            assert!(svg.contains("A &amp; B") && svg.contains("solve &lt;a&gt;") && svg.contains("rtol 1e-6"));
            assert!(!svg.contains("NaN") && !svg.contains("inf,") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.len() < 60_000, "{}", svg.len());
        }
    }

    /// Where labels stand: right of the frame, and never one on the other.
    #[test]
    fn labels_stay_off_the_curve() {
        let device = adapter();
        let svg = draw(&Convergence {
            title: "a.mtx".to_string(),
            method: "2 rows".to_string(),
            ending: "converged".to_string(),
            adapter: &device,
            history: &[1.0, 0.5, 1e-6],
            every: 25,
            iterations: 40,
            corrections: &[25],
            rtol: 1e-6,
            recomputed: &[(0, 1.0), (40, 9.9e-7)],
            converged: true,
        });
        let place = |text: &str| -> (f64, f64) {
            let line = svg.lines().find(|line| line.contains(text)).expect(text);
            let value = |key: &str| {
                line.split(key)
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            };
            (value("x=\""), value("y=\""))
        };
        let (goal, found) = (place(">rtol "), place(">in f64 "));
        assert!(goal.0 > LEFT + Axes::width() && found.0 == goal.0);
        assert!((goal.1 - found.1).abs() >= LINE - 0.1, "{goal:?} {found:?}");
        for entry in ["as the iteration knows it", "recomputed in f64", "a correction begins"] {
            assert!(place(entry).1 < TOP, "{entry}");
        }
        // Looks 25 iterations apart, the last after 40.
        assert!(svg.contains(&format!("{:.1},", LEFT + 25.0 / 40.0 * Axes::width())));
    }
}
