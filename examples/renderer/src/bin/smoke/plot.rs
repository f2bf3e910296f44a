//! The plot: divergence by frame for each way to solve, as SVG.

use crate::headless::Run;
use macheps_fluid::Method;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
/// Room around the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [78.0, 88.0, 24.0, 56.0];
/// What was there before the projection.
const BEFORE: &str = "#8a8f98";

/// Colours that also differ for eyes that do not tell red from green, and dashes beside.
fn look(method: Method) -> (&'static str, &'static str) {
    match method {
        Method::Jacobi => ("#d1495b", ""),
        Method::Cg => ("#0072b2", ""),
        Method::Pcg => ("#e09f1f", "7 3"),
    }
}

/// A decade as its label.
fn decade(exponent: i32) -> String {
    format!("10<tspan dy=\"-5\" font-size=\"9\">{exponent}</tspan>")
}

/// A round distance of the ticks on an axis that ends there.
fn tick_distance(end: f64) -> f64 {
    let rough = end / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough);
    (round.unwrap_or(10.0) * power).max(1.0)
}

/// Text between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Root mean square of the divergence after the projection, by frame, on a logarithmic axis.
pub fn divergence(runs: &[Run], about: &str) -> String {
    let [left, top, right, bottom] = MARGIN;
    let values = runs
        .iter()
        .flat_map(|run| &run.frames)
        .flat_map(|f| [f.before, f.after]);
    let (low, high) = values
        .filter(|v| *v > 0.0 && v.is_finite())
        .fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    // Whole decades; the first frames may have next to nothing, which is not worth the room.
    let top_decade = if high > 0.0 { high.log10().ceil() as i32 } else { 0 };
    let low_decade = if low < high {
        low.log10().floor() as i32
    } else {
        top_decade - 1
    };
    let low_decade = low_decade.max(top_decade - 8).min(top_decade - 1);
    let last = runs.iter().map(|run| run.frames.len()).max().unwrap_or(1).max(2) as f64;

    let x = |frame: f64| left + (WIDTH - left - right) * frame / last;
    let y = |value: f64| {
        let share = (value.log10() - f64::from(low_decade)) / f64::from(top_decade - low_decade);
        HEIGHT - bottom - (HEIGHT - top - bottom) * share.clamp(0.0, 1.0)
    };
    let about = escaped(about);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"Helvetica, Arial, sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"24\" font-size=\"16\" font-weight=\"bold\">Divergence that the projection leaves</text>\n\
         <text x=\"{left}\" y=\"44\" fill=\"#555\">{about}</text>\n"
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    for exponent in low_decade..=top_decade {
        let at = y(10f64.powi(exponent));
        line(format!(
            "<line x1=\"{left}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e3e5e8\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - right,
            left - 8.0,
            at + 4.0,
            decade(exponent)
        ));
    }
    let step = tick_distance(last);
    for tick in 0..=(last / step) as usize {
        let frame = tick as f64 * step;
        line(format!(
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"#666\"/>\
             <text x=\"{0:.1}\" y=\"{3:.1}\" text-anchor=\"middle\">{frame}</text>",
            x(frame),
            HEIGHT - bottom,
            HEIGHT - bottom + 5.0,
            HEIGHT - bottom + 19.0,
        ));
    }
    line(format!(
        "<path d=\"M{left} {top}V{:.1}H{:.1}\" fill=\"none\" stroke=\"#666\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">frame</text>\
         <text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">root mean square, 1/frame</text>",
        HEIGHT - bottom,
        WIDTH - right,
        (left + WIDTH - right) / 2.0,
        HEIGHT - 14.0,
        (top + HEIGHT - bottom) / 2.0,
    ));

    let path = |values: &mut dyn Iterator<Item = f64>| {
        let points = values
            .enumerate()
            .filter(|(_, v)| *v > 0.0 && v.is_finite())
            .map(|(i, v)| format!("{:.1},{:.1}", x(i as f64 + 1.0), y(v)));
        points.collect::<Vec<_>>().join(" ")
    };
    let mut legend = Vec::new();
    // One line for what all of them are given: they differ little before the projection.
    if let Some(run) = runs.last() {
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{BEFORE}\" stroke-width=\"1.2\" stroke-dasharray=\"2 3\"/>",
            path(&mut run.frames.iter().map(|f| f.before))
        ));
        legend.push((BEFORE, "2 3", "before the projection".to_string()));
    }
    for run in runs {
        let (colour, dashes) = look(run.method);
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-dasharray=\"{dashes}\"/>",
            path(&mut run.frames.iter().map(|f| f.after))
        ));
        legend.push((colour, dashes, run.title()));
    }
    let mut at = left;
    for (colour, dashes, title) in legend {
        line(format!(
            "<line x1=\"{at:.1}\" x2=\"{:.1}\" y1=\"66\" y2=\"66\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"/>\
             <text x=\"{:.1}\" y=\"70\">{title}</text>",
            at + 26.0,
            at + 33.0
        ));
        // Letters are about so wide.
        at += 62.0 + 6.5 * title.chars().count() as f64;
    }
    svg.push_str("</svg>\n");
    svg
}
