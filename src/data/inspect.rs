//! Summary of the contents of a data set.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::dataset::{Dataset, Sample, Unused};
use super::left_out::BadSample;
use super::messages::type_name;
use crate::error::Result;

/// Number of examples per column.
const EXAMPLES: usize = 3;
/// Maximum length of an example in characters.
const EXAMPLE_CHARS: usize = 80;

/// Summary of a data set; the result of [`inspect`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The data set's name.
    pub name: String,
    /// Number of samples in the data set.
    pub samples: usize,
    /// Number of samples that were read, spread evenly over the data set.
    pub inspected: usize,
    /// Columns by name.
    pub columns: BTreeMap<String, Column>,
    /// Minimum and maximum number of images per sample.
    #[serde(rename = "pictures_per_sample")]
    pub images_per_sample: (usize, usize),
    /// Image sizes, most frequent first.
    #[serde(rename = "picture_sizes")]
    pub image_sizes: Vec<ImageSize>,
    /// Inspected samples that are bad.
    pub bad: Vec<BadSample>,
    /// What belongs to no sample.
    pub unused: Vec<Unused>,
}

/// Column of a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Column {
    /// How often each JSON type occurs.
    pub types: BTreeMap<String, usize>,
    /// Some distinct values, shortened.
    pub examples: Vec<String>,
}

/// Image size and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSize {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Number of images of this size.
    pub count: usize,
}

/// Summarises `dataset` from at most `limit` samples, spread evenly and read in parallel. With
/// `usize::MAX` every sample is read and every bad one listed.
pub fn inspect(dataset: &dyn Dataset, limit: usize) -> Inspection {
    let inspected = limit.min(dataset.len());
    let position = |n: usize| (n as u128 * dataset.len() as u128 / inspected as u128) as usize;
    let seen: Vec<(usize, Result<Seen>)> = (0..inspected)
        .into_par_iter()
        .map(|n| (position(n), dataset.get(position(n)).map(Seen::new)))
        .collect();
    let mut found = Inspection {
        name: dataset.name().to_owned(),
        samples: dataset.len(),
        inspected,
        columns: BTreeMap::new(),
        images_per_sample: (0, 0),
        image_sizes: Vec::new(),
        bad: Vec::new(),
        unused: dataset.unused(),
    };
    let (mut sizes, mut counts) = (BTreeMap::new(), BTreeSet::new());
    for (index, sample) in seen {
        match sample {
            Err(e) => found.bad.push(BadSample { index, reason: e.to_string() }),
            Ok(sample) => {
                counts.insert(sample.sizes.len());
                for size in sample.sizes {
                    *sizes.entry(size).or_insert(0) += 1;
                }
                for (name, kind, example) in sample.values {
                    found.columns.entry(name).or_default().add(kind, example);
                }
            }
        }
    }
    let (first, last) = (counts.first().copied(), counts.last().copied());
    found.images_per_sample = (first.unwrap_or(0), last.unwrap_or(0));
    found.image_sizes = by_frequency(sizes);
    found
}

/// Image sizes, most frequent first.
fn by_frequency(sizes: BTreeMap<(u32, u32), usize>) -> Vec<ImageSize> {
    let mut sizes: Vec<_> = sizes
        .into_iter()
        .map(|((width, height), count)| ImageSize { width, height, count })
        .collect();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.count));
    sizes
}

/// The parts of a sample that the summary needs.
struct Seen {
    sizes: Vec<(u32, u32)>,
    values: Vec<(String, &'static str, String)>,
}

impl Seen {
    fn new(sample: Sample) -> Self {
        let sizes = sample.images.iter().map(|image| image.dimensions()).collect();
        let fields = sample.fields.into_iter();
        let values = fields.map(|(name, value)| (name, type_name(&value), example(&value)));
        Self { sizes, values: values.collect() }
    }
}

impl Column {
    fn add(&mut self, kind: &str, example: String) {
        *self.types.entry(kind.to_owned()).or_insert(0) += 1;
        if self.examples.len() < EXAMPLES && kind != "null" && !self.examples.contains(&example) {
            self.examples.push(example);
        }
    }
}

/// The value as shortened text.
fn example(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(EXAMPLE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
