//! Configuration of a scenes data set, parsed from and written as a spec such as
//! `scenes:train?count=20000&seed=1&size=64&objects=1-4`.

use super::captions::Category;
use super::sample::Split;
use super::scene::MAX_OBJECTS;
use crate::data::messages::unknown;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

const PREFIX: &str = "scenes:";
const KEYS: [&str; 5] = ["count", "seed", "size", "objects", "category"];
const SIZES: RangeInclusive<u32> = 32..=1024;

/// Configuration of a scenes data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScenesConfig {
    /// Training, validation or held-out split.
    pub split: Split,
    /// Random seed of the data set.
    pub seed: u64,
    /// Number of scenes, at least 1.
    pub count: usize,
    /// Edge length of the square images in pixels, 32 to 1024.
    pub size: u32,
    /// Minimum number of objects in a scene, 1 to 4.
    pub min_objects: usize,
    /// Maximum number of objects in a scene, `min_objects` to 4.
    pub max_objects: usize,
    /// The kind of sentence of every `caption`; scenes that have none are passed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
}

impl Default for ScenesConfig {
    fn default() -> Self {
        Self {
            split: Split::Train,
            seed: 1,
            count: 10_000,
            size: 64,
            min_objects: 1,
            max_objects: MAX_OBJECTS,
            category: None,
        }
    }
}

/// Whether a data set path is a scenes spec instead of a file path.
pub fn is_spec(path: &str) -> bool {
    path.starts_with(PREFIX)
}

impl ScenesConfig {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// If a value is out of range; the message names the value and the range.
    pub fn validate(&self) -> Result<()> {
        let (min, max) = (self.min_objects, self.max_objects);
        if min == 0 || max > MAX_OBJECTS || min > max {
            return invalid(format!("objects {min}-{max} must lie within 1-{MAX_OBJECTS}"));
        }
        if self.count == 0 {
            return invalid("count 0 must be at least 1".to_owned());
        }
        if !SIZES.contains(&self.size) {
            let (low, high) = (SIZES.start(), SIZES.end());
            return invalid(format!("size {} must be {low} to {high} pixels", self.size));
        }
        let Some(category) = self.category else { return Ok(()) };
        let objects = category.objects();
        if max < *objects.start() || min > *objects.end() {
            let (name, low, high) = (category.name(), objects.start(), objects.end());
            return invalid(format!(
                "category {name} describes {low} to {high} objects; objects is {min}-{max}"
            ));
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "count" => self.count = number(key, value)?,
            "seed" => self.seed = number(key, value)?,
            "size" => self.size = number(key, value)?,
            "objects" => {
                let (min, max) = value.split_once('-').unwrap_or((value, value));
                (self.min_objects, self.max_objects) = (number(key, min)?, number(key, max)?);
            }
            "category" => self.category = Some(category(value)?),
            _ => return invalid(unknown("key", key, &KEYS)),
        }
        Ok(())
    }
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::invalid(format!("scenes: {message}")))
}

fn category(value: &str) -> Result<Category> {
    let known = Category::ALL.into_iter().find(|known| known.name() == value);
    known.ok_or_else(|| {
        let message = unknown("category", value, &Category::ALL.map(Category::name));
        Error::invalid(format!("scenes: {message}"))
    })
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T> {
    value.parse().or_else(|_| {
        let form = if key == "objects" { "a number or a range such as 1-4" } else { "a number" };
        invalid(format!("{key}={value:?} must be {form}"))
    })
}

impl FromStr for ScenesConfig {
    type Err = Error;

    /// Parses a spec; missing keys keep their defaults.
    fn from_str(spec: &str) -> Result<Self> {
        let Some(rest) = spec.strip_prefix(PREFIX) else {
            return invalid(format!("spec {spec:?} must start with {PREFIX:?}"));
        };
        let (split, query) = rest.split_once('?').unwrap_or((rest, ""));
        let known = Split::ALL.into_iter().find(|known| known.name() == split);
        let Some(split) = known else {
            let allowed = Split::ALL.map(Split::name).join(", ");
            return invalid(format!("unknown split {split:?} (allowed: {allowed})"));
        };
        let mut config = Self { split, ..Self::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return invalid(format!("{pair:?} must have the form key=value"));
            };
            config.set(key, value)?;
        }
        config.validate()?;
        Ok(config)
    }
}

impl fmt::Display for ScenesConfig {
    /// Writes the complete spec, defaults included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { split, seed, count, size, min_objects, max_objects, category } = self;
        let split = split.name();
        write!(f, "{PREFIX}{split}?count={count}&seed={seed}&size={size}")?;
        write!(f, "&objects={min_objects}-{max_objects}")?;
        category.map_or(Ok(()), |category| write!(f, "&category={}", category.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(spec: &str) -> String {
        spec.parse::<ScenesConfig>().expect_err(spec).to_string()
    }

    #[test]
    fn specs_survive_a_round_trip() {
        let spec = "scenes:held-out?count=7&seed=18446744073709551615&size=128&objects=2-3";
        let config: ScenesConfig = spec.parse().expect("a valid spec");
        assert_eq!((config.split, config.count, config.size), (Split::HeldOut, 7, 128));
        assert_eq!((config.min_objects, config.max_objects), (2, 3));
        assert_eq!(config.to_string(), spec);
        assert_eq!("scenes:train".parse::<ScenesConfig>().expect("valid"), ScenesConfig::default());
        let one: ScenesConfig = "scenes:val?objects=1".parse().expect("valid");
        assert_eq!((one.min_objects, one.max_objects), (1, 1));
        let spec = "scenes:val?count=3&seed=1&size=64&objects=1-4&category=relation";
        assert_eq!(spec.parse::<ScenesConfig>().expect("valid").to_string(), spec);
    }

    #[test]
    fn errors_of_bad_specs_say_what_is_allowed() {
        assert!(error("scenes:test").contains("\"test\" (allowed: train, val, held-out)"));
        assert!(error("scenes:train?cuont=3").contains("the nearest is \"count\""));
        assert!(error("scenes:train?count").contains("key=value"));
        assert!(error("scenes:train?count=many").contains("count=\"many\" must be a number"));
        assert!(error("scenes:train?count=0").contains("at least 1"));
        assert!(error("scenes:train?objects=2-5").contains("within 1-4"));
        assert!(error("scenes:train?objects=3-2").contains("objects 3-2"));
        assert!(error("scenes:train?size=8").contains("32 to 1024"));
        assert!(error("scene:train").contains("must start with"));
        assert!(error("scenes:train?category=tow").contains("the nearest is \"two\""));
        let message = error("scenes:train?objects=3-4&category=two");
        assert!(message.contains("category two describes 2 to 2 objects; objects is 3-4"));
    }
}
