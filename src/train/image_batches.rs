//! Pictures for an image tokenizer, drawn from a mixture, and the words that belong to them.

use std::sync::Arc;

use image::RgbImage;
use rayon::prelude::*;
use serde_json::Value;
use vq_tokenizer::preprocess::PreprocessorConfig;

use crate::data::mixture::{Cursor, Mixture, Source};
use crate::data::{self, Counted, DataConfig, Dataset, Fields};
use crate::error::Result;

/// The training pictures of a recipe.
pub(super) struct ImageBatches {
    preprocessor: PreprocessorConfig,
    configs: Arc<[DataConfig]>,
    sources: Vec<Counted>,
    mixture: Mixture,
}

/// A picture at the tokenizer's size, and the hashes of its words.
pub(super) struct Drawn {
    pub(super) image: RgbImage,
    pub(super) words: Vec<u32>,
}

impl ImageBatches {
    /// Opens the sources.
    ///
    /// # Errors
    /// Those of the data sets.
    pub(super) fn new(
        configs: &[DataConfig],
        seed: u64,
        preprocessor: PreprocessorConfig,
    ) -> Result<Self> {
        let open = |config: &DataConfig| Counted::new(open(config)?, config.max_bad);
        let sources: Vec<Counted> = configs.iter().map(open).collect::<Result<_>>()?;
        let source = |(config, source): (&DataConfig, &Counted)| Source {
            name: config.path.clone(),
            len: config.limit.map_or(source.len(), |limit| limit.min(source.len())),
            weights: config.weight.stages().to_vec(),
            templates: vec![1.0],
        };
        let mixture = Mixture::new(seed, configs.iter().zip(&sources).map(source).collect())?;
        Ok(Self { preprocessor, configs: configs.into(), sources, mixture })
    }

    /// The next `count` pictures.
    ///
    /// # Errors
    /// Those of the data; when too many samples are bad.
    pub(super) fn next(&mut self, count: usize) -> Result<Vec<Drawn>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let missing = count - all.len();
            let draws: Vec<_> = (0..missing).map(|_| self.mixture.draw(0)).collect();
            let drawn = draws.into_par_iter().map(|mut draw| {
                let (source, config) = (&self.sources[draw.source], &self.configs[draw.source]);
                let Some(sample) = source.take(draw.index)? else { return Ok(None) };
                let words = words(&sample.fields, &config.words);
                let Some(image) = sample.images.into_iter().next() else {
                    source.reject(draw.index, format!("{}: no picture", sample.source))?;
                    return Ok(None);
                };
                let image = self.preprocessor.resize(&image);
                let image = config.augment.apply(image, &mut draw.rng);
                Ok(Some(Drawn { image, words }))
            });
            all.extend(drawn.collect::<Result<Vec<_>>>()?.into_iter().flatten());
        }
        Ok(all)
    }

    /// Where the draws are.
    pub(super) fn cursor(&self) -> &Cursor {
        self.mixture.cursor()
    }

    /// Goes on from `cursor`.
    ///
    /// # Errors
    /// When the sources are not those that it belongs to.
    pub(super) fn restore(&mut self, cursor: &Cursor) -> Result<()> {
        self.mixture.restore(cursor)
    }
}

/// A data set whose samples hold a picture each.
fn open(config: &DataConfig) -> Result<Box<dyn Dataset>> {
    data::open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())
}

/// The first `count` pictures of a source, at the tokenizer's size.
///
/// # Errors
/// Those of the data.
pub(super) fn first_pictures(
    config: &DataConfig,
    count: usize,
    preprocessor: &PreprocessorConfig,
) -> Result<Vec<RgbImage>> {
    let dataset = Counted::new(open(config)?, config.max_bad)?;
    let count = count.min(dataset.len()).min(config.limit.unwrap_or(usize::MAX));
    let samples: Vec<_> =
        (0..count).into_par_iter().map(|index| dataset.take(index)).collect::<Result<_>>()?;
    let first = samples.into_iter().flatten().filter_map(|sample| sample.images.into_iter().next());
    Ok(first.map(|image| preprocessor.resize(&image)).collect())
}

/// Hashes of the distinct words in `columns`, texts or lists of texts.
fn words(fields: &Fields, columns: &[String]) -> Vec<u32> {
    let values = columns.iter().filter_map(|column| fields.get(column));
    let texts = values.flat_map(|value| match value {
        Value::Array(values) => values.iter().collect(),
        value => vec![value],
    });
    let split = |text: &str| -> Vec<u32> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(|word| hash(&word.to_lowercase())).collect()
    };
    let mut words: Vec<u32> = texts.filter_map(Value::as_str).flat_map(split).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// FNV-1a.
fn hash(word: &str) -> u32 {
    word.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn words_come_from_texts_and_lists_whatever_their_case() {
        let fields: Fields = serde_json::from_str(
            r#"{"name": "Red heart, red!", "keywords": ["Love", "red"], "count": 3}"#,
        )
        .unwrap();
        let columns = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let mut wanted = vec![hash("red"), hash("heart"), hash("love")];
        wanted.sort_unstable();
        assert_eq!(words(&fields, &columns(&["name", "keywords", "count", "none"])), wanted);
        assert_eq!(hash("a"), 0xe40c_292c);
    }
}
