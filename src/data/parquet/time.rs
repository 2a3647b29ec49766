//! Dates and times in the form of ISO 8601, as Python's `isoformat` writes them.

use ::parquet::basic::TimeUnit;
use chrono::{DateTime, NaiveTime, Timelike};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// The date `days` after 1970-01-01.
pub(super) fn date(days: i64) -> Result<String, String> {
    let start = days.checked_mul(DAY).and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let start = start.ok_or_else(|| format!("a date {days} days from 1970, which is too far"))?;
    Ok(start.format("%Y-%m-%d").to_string())
}

/// The time of day `value` units after midnight.
pub(super) fn time(value: i64, unit: TimeUnit) -> Result<String, String> {
    let (seconds, nanos) = split(value, unit);
    let found = u32::try_from(seconds)
        .ok()
        .and_then(|seconds| NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos));
    let found = found.ok_or_else(|| format!("a time {seconds} seconds after midnight"))?;
    Ok(found.format("%H:%M:%S").to_string() + &fraction(nanos))
}

/// The point in time `value` units after 1970-01-01T00:00:00.
pub(super) fn timestamp(value: i64, unit: TimeUnit, utc: bool) -> Result<String, String> {
    let (seconds, nanos) = split(value, unit);
    let found = DateTime::from_timestamp(seconds, nanos);
    let found =
        found.ok_or_else(|| format!("a time {seconds} seconds from 1970, which is too far"))?;
    let zone = if utc { "+00:00" } else { "" };
    Ok(format!("{}{}{zone}", found.format("%Y-%m-%dT%H:%M:%S"), fraction(found.nanosecond())))
}

/// Whole seconds, rounded down, and the nanoseconds that remain.
fn split(value: i64, unit: TimeUnit) -> (i64, u32) {
    let (per_second, nanos) = match unit {
        TimeUnit::MILLIS => (1_000, 1_000_000),
        TimeUnit::MICROS => (1_000_000, 1_000),
        TimeUnit::NANOS => (1_000_000_000, 1),
    };
    (value.div_euclid(per_second), (value.rem_euclid(per_second) * nanos) as u32)
}

/// Nothing, six digits or nine.
fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        _ if nanos.is_multiple_of(1_000) => format!(".{:06}", nanos / 1_000),
        _ => format!(".{nanos:09}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        assert_eq!(date(0).unwrap(), "1970-01-01");
        assert_eq!(date(-1).unwrap(), "1969-12-31");
        assert_eq!(date(20_485).unwrap(), "2026-02-01");
        assert_eq!(time(3_723_000, TimeUnit::MILLIS).unwrap(), "01:02:03");
        assert_eq!(time(3_723_000_004, TimeUnit::MICROS).unwrap(), "01:02:03.000004");
        let at = |value, unit| timestamp(value, unit, false).unwrap();
        assert_eq!(at(1_500, TimeUnit::MILLIS), "1970-01-01T00:00:01.500000");
        assert_eq!(at(-1, TimeUnit::NANOS), "1969-12-31T23:59:59.999999999");
        assert_eq!(timestamp(0, TimeUnit::MICROS, true).unwrap(), "1970-01-01T00:00:00+00:00");
    }

    #[test]
    fn values_beyond_the_calendar_are_errors() {
        for unit in [TimeUnit::MILLIS, TimeUnit::MICROS, TimeUnit::NANOS] {
            for value in [i64::MIN, -1, DAY * 1_000_000_000, i64::MAX] {
                assert!(time(value, unit).is_err(), "{value}");
                // Some are within the calendar; none may panic.
                let _ = timestamp(value, unit, true);
            }
        }
        assert!(date(i64::MAX).is_err() && date(1 << 40).is_err());
    }
}
