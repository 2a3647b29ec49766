//! Axes of charts: positions in pixels, ticks, and the format of numbers.

/// Maximum number of ticks of an axis.
const TICKS: usize = 7;

/// An axis, which maps values to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Pixels of `low` and `high`.
    pixels: (f64, f64),
}

impl Scale {
    /// An axis with `low` and `high` at `pixels`. If they differ by less than a hundredth of their size,
    /// the axis is widened to that and linear. A logarithmic axis needs `low > 0`.
    pub(super) fn new(low: f64, high: f64, is_log: bool, pixels: (f64, f64)) -> Self {
        let least = 0.01 * low.abs().max(high.abs());
        if high - low > least {
            return Self { low, high, is_log, pixels };
        }
        let (middle, margin) = (0.5 * (low + high), if least > 0.0 { 0.5 * least } else { 1.0 });
        Self { low: middle - margin, high: middle + margin, is_log: false, pixels }
    }

    /// The same axis extended by 5 % at both ends, but not below zero if no value is negative.
    pub(super) fn padded(self) -> Self {
        let Self { low, high, is_log, .. } = self;
        let (from, to) = (self.transform(low), self.transform(high));
        let margin = 0.05 * (to - from);
        let inverse = |value: f64| if is_log { value.exp() } else { value };
        let floor = if low >= 0.0 { 0.0 } else { f64::MIN };
        Self { low: inverse(from - margin).max(floor), high: inverse(to + margin), ..self }
    }

    /// `value` on the linear or logarithmic axis.
    fn transform(&self, value: f64) -> f64 {
        if self.is_log { value.ln() } else { value }
    }

    /// The position of `value` in pixels.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = (self.transform(self.low), self.transform(self.high));
        let share = (self.transform(value) - low) / (high - low);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// Round values along the axis.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let ticks = if self.is_log { self.log_ticks() } else { Vec::new() };
        // Less than a decade may contain too few round values.
        if ticks.len() < 2 { self.linear_ticks() } else { ticks }
    }

    fn linear_ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / (TICKS - 1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|index| index as f64 * step).collect()
    }

    fn log_ticks(&self) -> Vec<f64> {
        let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let ticks = |steps: &[f64], every: usize| -> Vec<f64> {
            let decades = decades.clone().step_by(every);
            let all = decades.flat_map(|d| steps.iter().map(move |step| step * 10f64.powi(d)));
            all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
        };
        let fine = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0]].map(|steps| ticks(steps, 1));
        let coarse = (1..).map(|every| ticks(&[1.0], every));
        let mut all = fine.into_iter().chain(coarse);
        all.find(|ticks| ticks.len() <= TICKS).unwrap_or_default()
    }
}

/// `value` with at most four significant digits, for ticks: `0.1234`, `25.1k`, `3e-4`.
pub(super) fn readable(value: f64) -> String {
    let (digits, unit) = digits(value);
    format!("{}{unit}", trimmed(&digits))
}

/// As [`readable`], but with trailing zeros, so that numbers in a column line up; integers stay integers.
pub(super) fn significant(value: f64) -> String {
    if value.fract() == 0.0 {
        return readable(value);
    }
    let (digits, unit) = digits(value);
    digits + &unit
}

/// The digits and the unit or exponent that multiplies them.
fn digits(value: f64) -> (String, String) {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e15).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return (digits.to_owned(), format!("e{power}"));
    }
    let units = [(1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")];
    let unit = units.into_iter().find(|(least, ..)| size >= *least);
    let (divisor, unit) = unit.map_or((1.0, ""), |(_, divisor, unit)| (divisor, unit));
    let scaled = value / divisor;
    let whole = scaled.abs().max(1.0).log10().floor() as usize + 1;
    let decimals = if size < 1.0 { 4 } else { 4_usize.saturating_sub(whole) };
    (format!("{scaled:.decimals$}"), unit.to_owned())
}

/// A decimal number without trailing zeros.
fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.95, "0.95"),
            (0.123_456, "0.1235"),
            (-2.5, "-2.5"),
            (29.300_6, "29.3"),
            (2650.0, "2650"),
            (25_150.0, "25.15k"),
            (1_250_000.0, "1.25M"),
            (0.000_3, "3e-4"),
            (0.001_4, "0.0014"),
        ] {
            assert_eq!(readable(value), text);
        }
        for (value, text) in [(29.300_6, "29.30"), (706.0, "706"), (0.000_3, "3.00e-4")] {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn ticks_are_few_and_on_the_axis() {
        let scale = |low, high, is_log| Scale::new(low, high, is_log, (0.0, 100.0));
        assert_eq!(scale(0.0, 4400.0, false).ticks(), [0.0, 1000.0, 2000.0, 3000.0, 4000.0]);
        assert_eq!(scale(0.1, 1.0, true).ticks(), [0.1, 0.2, 0.5, 1.0]);
        for (low, high) in [(0.3, 0.4), (1e-9, 1e9), (7.0, 7.0), (0.0, 0.0), (2.0, 13.0)] {
            for is_log in [false, low > 0.0] {
                let scale = scale(low, high, is_log).padded();
                let ticks = scale.ticks();
                assert!((2..=TICKS).contains(&ticks.len()), "{low} {high} {is_log}: {ticks:?}");
                let on_axis = |tick: &f64| (-1e-6..=100.0 + 1e-6).contains(&scale.at(*tick));
                assert!(ticks.iter().all(on_axis), "{low} {high}: {ticks:?}");
            }
        }
    }

    #[test]
    fn decades_of_a_logarithmic_axis_have_equal_length() {
        let scale = Scale::new(0.01, 1.0, true, (100.0, 0.0));
        assert!((scale.at(0.1) - 50.0).abs() < 1e-9);
        assert!((scale.at(1.0)).abs() < 1e-9);
    }
}
