//! What a data set holds, as a reader sees it.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::{BadSample, Dataset, Sample, type_name};
use crate::Result;

/// Examples kept per column.
const EXAMPLES: usize = 3;
/// Longest example, in characters.
const EXAMPLE_CHARS: usize = 80;

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The data set's name.
    pub name: String,
    /// Samples in all.
    pub samples: usize,
    /// Samples that were looked at, spread evenly over the data set.
    pub inspected: usize,
    /// Fields by name.
    pub columns: BTreeMap<String, Column>,
    /// Fewest and most images of one sample.
    pub pictures_per_sample: (usize, usize),
    /// Sizes of the images, the most frequent first.
    pub picture_sizes: Vec<ImageSize>,
    /// Inspected samples that cannot be read.
    pub bad: Vec<BadSample>,
}

/// One field of a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Column {
    /// How often each JSON type occurs.
    pub types: BTreeMap<String, usize>,
    /// Some different values, shortened.
    pub examples: Vec<String>,
}

/// An image size and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSize {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Images of this size.
    pub count: usize,
}

/// Reads at most `limit` samples, spread evenly over `dataset`, on all cores. With `usize::MAX`
/// every sample is read, and every bad one listed.
pub fn inspect(dataset: &dyn Dataset, limit: usize) -> Inspection {
    let inspected = limit.min(dataset.len());
    let place = |n: usize| (n as u128 * dataset.len() as u128 / inspected as u128) as usize;
    let seen: Vec<(usize, Result<Seen>)> = (0..inspected)
        .into_par_iter()
        .map(|n| (place(n), dataset.get(place(n)).map(Seen::new)))
        .collect();
    let mut found = Inspection {
        name: dataset.name().to_owned(),
        samples: dataset.len(),
        inspected,
        columns: BTreeMap::new(),
        pictures_per_sample: (0, 0),
        picture_sizes: Vec::new(),
        bad: Vec::new(),
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
    found.pictures_per_sample = (first.unwrap_or(0), last.unwrap_or(0));
    found.picture_sizes = by_frequency(sizes);
    found
}

fn by_frequency(sizes: BTreeMap<(u32, u32), usize>) -> Vec<ImageSize> {
    let mut sizes: Vec<_> = sizes
        .into_iter()
        .map(|((width, height), count)| ImageSize { width, height, count })
        .collect();
    sizes.sort_by_key(|size| std::cmp::Reverse(size.count));
    sizes
}

/// The little that is kept of a sample.
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

fn example(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(EXAMPLE_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
