//! Checks that several kinds of sources share.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use super::weight::Weight;
use crate::data::shards;
use crate::error::{Error, Result};

/// A message about the source at `path`.
pub(super) fn at(path: &str, message: impl Display) -> String {
    format!("data {path}: {message}")
}

/// Refuses a `value` of `key` outside `range`.
pub(super) fn in_range(
    path: &str,
    key: &str,
    value: f64,
    range: RangeInclusive<f64>,
) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = range.into_inner();
    Err(Error::invalid(at(path, format!("{key} is {value}; allowed: [{low}, {high}]"))))
}

/// Refuses a recipe without sources.
pub(super) fn not_empty<T>(sources: &[T]) -> Result<()> {
    match sources.is_empty() {
        true => Err(Error::invalid("data is empty; a recipe needs at least one source")),
        false => Ok(()),
    }
}

/// Checks the weights of all sources, given with their paths: at least 0, for `stages` stages, with
/// a weight above 0 in each stage.
pub(super) fn weights<'a>(
    sources: impl Iterator<Item = (&'a str, &'a Weight)> + Clone,
    stages: usize,
) -> Result<()> {
    let longest = sources.clone().map(|(_, weight)| weight.stages().len()).max().unwrap_or(1);
    let is_silent = |stage: &usize| {
        let in_stage = |weight: &Weight| {
            let weights = weight.stages();
            weights.get(*stage).or(weights.last()).copied().unwrap_or(0.0)
        };
        sources.clone().all(|(_, weight)| in_stage(weight) == 0.0)
    };
    if let Some(stage) = (0..longest).find(is_silent) {
        let stage = stage + 1;
        let message = format!("no source of data has a weight above 0 in stage {stage}");
        return Err(Error::invalid(message));
    }
    for (path, weight) in sources {
        let weights = weight.stages();
        if let Some(weight) = weights.iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
            let message = format!("weight is {weight}; allowed: at least 0");
            return Err(Error::invalid(at(path, message)));
        }
        if !(weights.len() == 1 || weights.len() == stages) {
            let count = weights.len();
            let message = format!(
                "weight has {count} entries; allowed: one, or one for each of the {stages} stages of \
                 the curriculum"
            );
            return Err(Error::invalid(at(path, message)));
        }
    }
    Ok(())
}

/// Refuses a source of samples whose `path` names token shards, with `problem`.
pub(super) fn no_shards(path: &str, problem: &str) -> Result<()> {
    match shards::is_spec(path) {
        true => Err(Error::invalid(at(path, format!("holds token shards, {problem}")))),
        false => Ok(()),
    }
}

/// Whether `path` names token shards, or a directory that does not exist yet and may hold some
/// later.
pub(super) fn may_hold_shards(path: &str) -> bool {
    let is_missing_directory =
        !path.contains(':') && Path::new(path).extension().is_none() && !Path::new(path).exists();
    is_missing_directory || shards::is_spec(path)
}
