//! Reading of reference values and comparison with them, with the tolerances of their directory's README.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::train::objective::Metrics;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The settings of a case.
pub type Settings = Map<String, Value>;

/// An absolute and a relative tolerance, which add up.
#[derive(Clone, Copy)]
pub struct Tolerance(pub f64, pub f64);

pub const LOSS: Tolerance = Tolerance(1e-5, 1e-5);
pub const GRADIENT: Tolerance = Tolerance(1e-6, 1e-4);
/// Of metrics, advantages and values.
pub const METRIC: Tolerance = Tolerance(1e-5, 0.0);
/// Of ratios of counts, which are exact but for their rounding to f32.
pub const RATIO: Tolerance = Tolerance(0.0, 1e-7);

/// Reads a JSON file into the given form.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Settings as a configuration, which refuses keys that it does not know.
pub fn config<T: DeserializeOwned>(settings: Settings) -> Result<T, String> {
    serde_json::from_value(Value::Object(settings)).map_err(|e| format!("settings: {e}"))
}

/// What a case expects, which has no fields but those of `T`.
pub fn expected<T: DeserializeOwned>(case: &Value) -> Result<T, String> {
    T::deserialize(case).map_err(|e| format!("case: {e}"))
}

/// The values of a row at the places where the mask is not 0.
pub fn at(values: &[f64], mask: &[u8]) -> Vec<f64> {
    assert_eq!(values.len(), mask.len(), "a row and its mask");
    values.iter().zip(mask).filter(|(_, m)| **m != 0).map(|(v, _)| *v).collect()
}

/// A row with `values` at the places where the mask is not 0, and 0 elsewhere.
pub fn spread(values: &[f64], mask: &[u8]) -> Vec<f64> {
    let mut values = values.iter();
    let mut place = |m: &u8| if *m == 0 { 0.0 } else { *values.next().unwrap() };
    let row = mask.iter().map(&mut place).collect();
    assert!(values.next().is_none(), "more values than places");
    row
}

pub fn close(what: &str, got: f64, want: f64, within: Tolerance) -> Result<(), String> {
    let allowed = within.0 + within.1 * want.abs();
    if (got - want).abs() <= allowed {
        return Ok(());
    }
    Err(format!("{what} is {got}, not {want}"))
}

pub fn all_close(what: &str, got: &[f64], want: &[f64], within: Tolerance) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, not {}", got.len(), want.len()));
    }
    let mut pairs = got.iter().zip(want).enumerate();
    pairs.try_for_each(|(n, (got, want))| close(&format!("{what} {n}"), *got, *want, within))
}

pub fn rows_close(
    what: &str,
    got: &[Vec<f64>],
    want: &[Vec<f64>],
    within: Tolerance,
) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} rows, not {}", got.len(), want.len()));
    }
    let mut pairs = got.iter().zip(want).enumerate();
    pairs.try_for_each(|(n, (got, want))| all_close(&format!("{what} {n}"), got, want, within))
}

/// Every expected metric is there and right.
pub fn metrics_close(got: &Metrics, want: &BTreeMap<String, f64>) -> Result<(), String> {
    want.iter().try_for_each(|(name, want)| {
        let got = got.get(name).ok_or_else(|| format!("no metric {name}"))?;
        let is_ratio = name.contains("accurac") || name.contains("clip_ratio");
        close(name, *got, *want, if is_ratio { RATIO } else { METRIC })
    })
}
