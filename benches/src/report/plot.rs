//! Plots as SVG text: bars, and lines over logarithmic axes. Colours come from the page's style sheet by class.

use std::fmt::Write as _;

/// Width of every plot.
const WIDTH: f64 = 720.0;
/// Room for the names of bars.
const NAMES: f64 = 110.0;
/// Height of a bar and the gap below it.
const BAR: f64 = 22.0;
/// Height of a plot of lines.
const HEIGHT: f64 = 320.0;
/// Left, right, top and bottom of a plot of lines.
const MARGIN: (f64, f64, f64, f64) = (62.0, 110.0, 12.0, 44.0);
/// Colours in the style sheet.
pub(super) const COLOURS: usize = 8;

/// One bar.
#[derive(Debug)]
pub(super) struct Bar {
    /// Its name.
    pub(super) name: String,
    /// Its colour, below [`COLOURS`].
    pub(super) colour: usize,
    /// Its length.
    pub(super) value: f64,
    /// Deviation, drawn as a whisker.
    pub(super) deviation: f64,
    /// What stands at its end.
    pub(super) label: String,
}

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    /// Its name.
    pub(super) name: String,
    /// Its colour, below [`COLOURS`].
    pub(super) colour: usize,
    /// Points from left to right, all above zero.
    pub(super) points: Vec<(f64, f64)>,
}

/// An axis: where its ticks are and what is written at them.
pub(super) type Ticks = Vec<(f64, String)>;

/// Horizontal bars from zero.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value + bar.deviation).fold(f64::MIN_POSITIVE, f64::max);
    let height = BAR * bars.len() as f64 + 8.0;
    let mut svg = open(title, height);
    let room = WIDTH - NAMES - 90.0;
    for (number, bar) in bars.iter().enumerate() {
        let top = BAR * number as f64 + 4.0;
        let (length, middle) = (bar.value / most * room, top + BAR / 2.0 - 2.0);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"c{}\" x=\"{NAMES}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{:.1}\"/>",
            NAMES - 8.0,
            middle + 4.0,
            escape(&bar.name),
            bar.colour,
            BAR - 5.0
        );
        let (from, to) = (
            NAMES + (bar.value - bar.deviation).max(0.0) / most * room,
            NAMES + (bar.value + bar.deviation) / most * room,
        );
        let _ = write!(
            svg,
            "<line class=\"whisker\" x1=\"{from:.1}\" y1=\"{middle:.1}\" x2=\"{to:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            to + 6.0,
            middle + 4.0,
            escape(&bar.label)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Lines over two logarithmic axes; `x_ticks` gives the range of x.
pub(super) fn lines(title: &str, axes: (&str, &str), x_ticks: &Ticks, lines: &[Line]) -> String {
    let mut svg = open(title, HEIGHT);
    let (left, right, top, bottom) = MARGIN;
    let ys = || lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let y_ticks = decades(ys().fold(f64::INFINITY, f64::min), ys().fold(f64::MIN_POSITIVE, f64::max));
    let ends = |ticks: &Ticks| {
        let from = ticks.first().map_or(1.0, |tick| tick.0);
        (from, ticks.last().map_or(10.0, |tick| tick.0).max(from * 1.001))
    };
    let (x_ends, y_ends) = (ends(x_ticks), ends(&y_ticks));
    let share = |value: f64, (from, to): (f64, f64)| (value / from).ln() / (to / from).ln();
    let x = |value: f64| left + share(value, x_ends) * (WIDTH - left - right);
    let y = |value: f64| HEIGHT - bottom - share(value, y_ends) * (HEIGHT - top - bottom);
    for (value, label) in x_ticks {
        let at = x(*value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{:.1}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - bottom,
            HEIGHT - bottom + 16.0,
            escape(label)
        );
    }
    for (value, label) in &y_ticks {
        let at = y(*value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{left}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - right,
            left - 6.0,
            at + 4.0,
            escape(label)
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let at = top + 14.0 + 18.0 * number as f64;
        let _ = write!(
            svg,
            "<polyline class=\"l{}\" points=\"{}\"/>\
             <rect class=\"c{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\"/><text x=\"{:.1}\" y=\"{at:.1}\">{}</text>",
            line.colour,
            points.join(" "),
            line.colour,
            WIDTH - right + 10.0,
            at - 10.0,
            WIDTH - right + 27.0,
            escape(&line.name)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"rotate(-90)\" x=\"{:.1}\" y=\"14\" text-anchor=\"middle\">{}</text></svg>",
        left + (WIDTH - left - right) / 2.0,
        HEIGHT - 8.0,
        escape(axes.0),
        -(top + (HEIGHT - top - bottom) / 2.0),
        escape(axes.1)
    );
    svg
}

/// Ticks at 1, 2 and 5 of each decade that the values touch.
fn decades(least: f64, most: f64) -> Ticks {
    let (least, most) = (least.min(most).max(1e-3), most.max(1e-3));
    let mut ticks = Ticks::new();
    let mut decade = 10_f64.powf(least.log10().floor());
    while decade <= most * 10.0 {
        for step in [1.0, 2.0, 5.0] {
            let value = decade * step;
            let starts = value * 2.6 > least || ticks.last().is_some();
            let ended = ticks.last().is_some_and(|last| last.0 >= most);
            if starts && !ended {
                ticks.push((value, format!("{}", (value * 1000.0).round() / 1000.0)));
            }
        }
        decade *= 10.0;
    }
    while ticks.get(1).is_some_and(|second| second.0 <= least) {
        ticks.remove(0);
    }
    ticks
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">",
        escape(title)
    )
}

/// Text that may stand in HTML and SVG, in attributes too.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_hold_the_values_between_them() {
        for (least, most) in [(0.3, 7.0), (1.0, 1.0), (14.0, 650.0), (0.9, 1.1)] {
            let ticks = decades(least, most);
            let (first, last) = (ticks.first().unwrap().0, ticks.last().unwrap().0);
            assert!(first <= least && last >= most && ticks.len() < 20, "{least} {most}: {ticks:?}");
        }
    }

    #[test]
    fn text_cannot_leave_its_place() {
        let bar =
            Bar { name: "<b>".to_owned(), colour: 0, value: 1.0, deviation: 0.0, label: "\"".to_owned() };
        let svg = bars("a & b", &[bar]);
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &amp; b") && svg.contains("&quot;"));
    }
}
