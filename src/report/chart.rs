//! Charts: the curves of one metric as an SVG with colours from the page's style sheet.

use std::fmt::Write;

use super::escape::escape;
use super::record::{RunEvent, Series};
use super::scale::{Scale, readable};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

/// Maximum number of points of a line, which bounds the size of the page.
const POINTS: usize = 400;
/// Maximum number of points of a curve that is drawn with dots.
const DOTS: usize = 60;
/// Ratio of the largest to the smallest loss or norm from which on the axis is logarithmic.
const LOG_FROM: f64 = 5.0;
/// Decay of the moving average in smoothed lines, as in TensorBoard.
const SMOOTHING: f64 = 0.9;
/// Total variation, in ranges of the curve, above which a line is smoothed.
const NOISY: f64 = 5.0;
const MIB: f64 = 1_048_576.0;

/// A chart of the series of one metric over the steps 0 to `last_step` of a run.
pub(super) struct Chart<'a> {
    pub(super) series: &'a [Series],
    pub(super) events: &'a [RunEvent],
    pub(super) last_step: u64,
}

impl Chart<'_> {
    /// The metric's name for reading, with its unit.
    pub(super) fn title(&self) -> String {
        let name = self.name();
        let words = name.strip_suffix("_bytes").map(|name| format!("{name}, MiB"));
        let words = words.or_else(|| name.strip_suffix("_per_s").map(|unit| format!("{unit}/s")));
        words.unwrap_or_else(|| name.to_owned()).replace('_', " ")
    }

    fn name(&self) -> &str {
        self.series.first().map_or("", |series| series.name.as_str())
    }

    /// `value` in the chart's unit.
    pub(super) fn in_unit(&self, value: f64) -> f64 {
        if self.name().ends_with("_bytes") { value / MIB } else { value }
    }

    /// The chart as an `svg` element.
    pub(super) fn svg(&self) -> String {
        let x = Scale::new(0.0, self.last_step.max(1) as f64, false, (LEFT, WIDTH - RIGHT));
        let y = self.value_axis();
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&self.title())
        );
        grid(&mut svg, &x, &y);
        for event in self.events.iter().filter(|event| event.step <= self.last_step) {
            let at = x.at(event.step as f64);
            let _ = writeln!(
                svg,
                "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\">\
                 <title>step {}: {}</title></line>",
                HEIGHT - BOTTOM,
                event.step,
                escape(&event.kind)
            );
        }
        for series in self.series {
            self.curve(&mut svg, series, |(step, value)| {
                (x.at(step as f64), y.at(self.in_unit(value)))
            });
        }
        svg + "</svg>\n"
    }

    fn value_axis(&self) -> Scale {
        let values = || self.series.iter().flat_map(|series| &series.points);
        let values = || values().map(|(_, value)| self.in_unit(*value));
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        let is_log = low > 0.0 && high / low >= LOG_FROM && spans_decades(self.name());
        Scale::new(low, high, is_log, (HEIGHT - BOTTOM, TOP)).padded()
    }

    /// Draws a line; a noisy one is drawn faint under its moving average.
    fn curve(&self, svg: &mut String, series: &Series, at: impl Fn((u64, f64)) -> (f64, f64)) {
        let colour = colour(&series.kind);
        let points = &series.points;
        let mut line = |class: &str, points: &[(u64, f64)]| {
            let _ = write!(svg, "<polyline class=\"{class} {colour}\" points=\"");
            for (x, y) in points.iter().map(|point| at(*point)) {
                let _ = write!(svg, "{x:.1},{y:.1} ");
            }
            svg.push_str("\"/>\n");
        };
        if is_noisy(points) {
            line("faint", &thinned(points));
            line("line", &sampled(&smoothed(points)));
        } else {
            line("line", &thinned(points));
        }
        if points.len() <= DOTS && series.kind != "train" || points.len() == 1 {
            for point in points {
                let (x, y) = at(*point);
                let value = readable(self.in_unit(point.1));
                let _ = writeln!(
                    svg,
                    "<circle class=\"{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\">\
                     <title>step {}: {value}</title></circle>",
                    point.0
                );
            }
        }
    }
}

/// The CSS class with the colour of curves of `kind`.
pub(super) fn colour(kind: &str) -> &'static str {
    match kind {
        "train" => "train",
        "eval" => "eval",
        _ => "other",
    }
}

/// Whether the quantity called `name` may span decades.
fn spans_decades(name: &str) -> bool {
    ["loss", "norm", "perplexity"].iter().any(|word| name.contains(word))
}

fn grid(svg: &mut String, x: &Scale, y: &Scale) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for tick in y.ticks() {
        let (at, text) = (y.at(tick), readable(tick));
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"y\" x=\"{}\" y=\"{:.1}\">{text}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tick in x.ticks() {
        let (at, text) = (x.at(tick), readable(tick));
        let _ =
            writeln!(svg, "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{text}</text>", bottom + 18.0);
    }
    let _ = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>"
    );
}

fn is_noisy(points: &[(u64, f64)]) -> bool {
    let values = || points.iter().map(|(_, value)| *value);
    let range = values().fold(f64::MIN, f64::max) - values().fold(f64::MAX, f64::min);
    let variation: f64 = points.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs()).sum();
    points.len() > DOTS && variation > NOISY * range
}

/// The exponential moving average, corrected for its start at zero.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let (mut average, mut weight) = (0.0, 0.0);
    let next = |&(step, value): &(u64, f64)| {
        average = SMOOTHING * average + (1.0 - SMOOTHING) * value;
        weight = SMOOTHING * weight + (1.0 - SMOOTHING);
        (step, average / weight)
    };
    points.iter().map(next).collect()
}

/// At most about [`POINTS`] evenly spaced points, including the last.
fn sampled(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let (steps, last) = (points.iter().step_by(every), points.last());
    let last = last.filter(|_| !(points.len() - 1).is_multiple_of(every));
    steps.chain(last).copied().collect()
}

/// At most about [`POINTS`] points: the lowest and highest of each stretch, so that no peak is lost.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretches = points.chunks(points.len().div_ceil(POINTS / 2));
    let ends = stretches.flat_map(|stretch| {
        let low = stretch.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = stretch.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut ends: Vec<_> = low.into_iter().chain(high).copied().collect();
        ends.sort_by_key(|(step, _)| *step);
        ends
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_peaks_and_sampling_the_end() {
        let mut points: Vec<(u64, f64)> = (0..10_001).map(|step| (step, 1.0)).collect();
        points[4321].1 = 9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS && thin.contains(&(4321, 9.0)));
        let some = sampled(&points);
        assert!(some.len() <= POINTS + 1 && some.last() == Some(&(10_000, 1.0)));
    }

    #[test]
    fn the_average_of_a_constant_is_the_constant() {
        let points: Vec<(u64, f64)> = (0..50).map(|step| (step, 3.0)).collect();
        assert!(smoothed(&points).iter().all(|(_, value)| (value - 3.0).abs() < 1e-12));
    }

    #[test]
    fn noise_is_noisy_and_a_schedule_is_not() {
        let line = |value: fn(u64) -> f64| (0..200).map(|step| (step, value(step))).collect();
        let (noise, schedule): (Vec<_>, Vec<_>) =
            (line(|step| (step % 7) as f64), line(|step| 1.0 / (1.0 + step as f64)));
        assert!(is_noisy(&noise) && !is_noisy(&schedule));
    }
}
