//! Training batches of an image tokenizer: images drawn from a mixture, with the words of their texts.
//!
//! The images of a batch may differ in size. Images of one size form a group, which passes the networks
//! together; loss and gradient of the batch are sums over the groups, weighted by their shares of the
//! images, so that every image counts the same.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use rayon::prelude::*;
use serde_json::Value;
use vq_tokenizer::preprocess::PreprocessorConfig;

use crate::data::mixture::{Cursor, Mixture, Source};
use crate::data::{BadSample, Counted, Dataset, Fields, ImageData, LeftOut, SourceConfig};
use crate::error::{Error, Result};

/// A place in a mixture, and each source's samples before it that were found to be bad.
pub(super) type Position = (Cursor, Vec<Vec<BadSample>>);

/// The training images of a recipe.
pub(super) struct ImageBatches {
    preprocessor: PreprocessorConfig,
    configs: Arc<[ImageData]>,
    sources: Vec<Counted>,
    mixture: Mixture,
}

/// A preprocessed image and the hashes of its words.
pub(super) struct Drawn {
    pub(super) image: RgbImage,
    pub(super) words: Vec<u32>,
}

/// The images of one size in a batch.
pub(super) struct Group {
    /// `[images, 3, height, width]` in [-1, 1].
    pub(super) pixels: Tensor<4>,
    /// `[images, words]`: 1 if an image's text has a word, else 0.
    pub(super) words: Tensor<2>,
    /// The group's share of the batch's images.
    pub(super) share: f64,
}

impl ImageBatches {
    /// Opens the sources.
    ///
    /// # Errors
    /// Those of the data sets.
    pub(super) fn new(
        configs: &[ImageData],
        seed: u64,
        preprocessor: PreprocessorConfig,
    ) -> Result<Self> {
        let sources: Vec<Counted> =
            configs.iter().map(|config| config.source.open()).collect::<Result<_>>()?;
        let source = |(config, source): (&ImageData, &Counted)| Source {
            name: config.source.path.clone(),
            len: config.source.len_of(source),
            weights: config.weight.stages().to_vec(),
            templates: vec![1.0],
        };
        let mixture = Mixture::new(seed, configs.iter().zip(&sources).map(source).collect())?;
        Ok(Self { preprocessor, configs: configs.into(), sources, mixture })
    }

    /// The next `count` images; samples without one are counted as bad, and others drawn instead.
    ///
    /// # Errors
    /// Too many bad samples.
    pub(super) fn next(&mut self, count: usize) -> Result<Vec<Drawn>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let missing = count - all.len();
            let draws: Vec<_> = (0..missing).map(|_| self.mixture.draw(0)).collect();
            let drawn = draws.into_par_iter().filter_map(|mut draw| {
                let config = &self.configs[draw.source];
                let (image, fields) = first_image(&self.sources[draw.source], draw.index)?;
                let words = words(&fields, &config.words);
                let image = self.preprocessor.resize(&image);
                let image = config.augment.apply(image, &mut draw.rng);
                Some(Drawn { image, words })
            });
            let drawn: Vec<Drawn> = drawn.collect();
            if drawn.len() < missing {
                self.check()?;
            }
            all.extend(drawn);
        }
        Ok(all)
    }

    /// Fails if too many samples of a source are known to be bad, or all, from which drawing would never
    /// end.
    fn check(&self) -> Result<()> {
        for (config, source) in self.configs.iter().zip(&self.sources) {
            source.check()?;
            if source.num_bad() < config.source.len_of(source) {
                continue;
            }
            if let Some(BadSample { reason, .. }) = source.bad().first() {
                let name = source.name();
                let message = format!("{name}: all samples are bad; the first: {reason}");
                return Err(Error::invalid(message));
            }
        }
        Ok(())
    }

    /// What was left out of each source so far.
    pub(super) fn left_out(&self) -> Vec<LeftOut> {
        let of_one = |(config, source): (&ImageData, &Counted)| {
            source.left_out(config.source.len_of(source))
        };
        self.configs.iter().zip(&self.sources).map(of_one).collect()
    }

    /// The bad samples of each source so far; nothing if there are none.
    fn bad(&self) -> Vec<Vec<BadSample>> {
        let bad: Vec<_> = self.sources.iter().map(Counted::bad).collect();
        if bad.iter().all(Vec::is_empty) { Vec::new() } else { bad }
    }

    /// The next `count` images on `device`, grouped by size in the order of first appearance; words are
    /// hashed to `num_words` buckets.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(super) fn groups(
        &mut self,
        count: usize,
        num_words: usize,
        device: &Device,
    ) -> Result<Vec<Group>> {
        let drawn = by_size(self.next(count)?);
        let group = |drawn: Vec<Drawn>| -> Result<Group> {
            let share = drawn.len() as f64 / count as f64;
            let words = present(&drawn, num_words, device);
            let images: Vec<RgbImage> = drawn.into_iter().map(|drawn| drawn.image).collect();
            Ok(Group { pixels: self.preprocessor.tensor(&images, device)?, words, share })
        };
        drawn.into_iter().map(group).collect()
    }

    /// Where the next batch begins.
    pub(super) fn position(&self) -> Position {
        (self.mixture.cursor().clone(), self.bad())
    }

    /// Continues from `cursor`, before which each source's samples in `bad` were found to be bad.
    ///
    /// # Errors
    /// If the sources are not those of the cursor.
    pub(super) fn restore(&mut self, cursor: &Cursor, bad: Vec<Vec<BadSample>>) -> Result<()> {
        self.mixture.restore(cursor)?;
        for (source, bad) in self.sources.iter().zip(bad) {
            bad.into_iter().for_each(|BadSample { index, reason }| source.record(index, reason));
        }
        Ok(())
    }
}

/// The first image of sample `index` and its fields; `None` if the sample is bad.
fn first_image(source: &Counted, index: usize) -> Option<(RgbImage, Fields)> {
    let sample = source.get(index).ok()?;
    let image = sample.images.into_iter().next();
    if image.is_none() {
        source.record(index, format!("{}: no image", sample.source));
    }
    Some((image?, sample.fields))
}

/// `drawn` grouped by size.
fn by_size(drawn: Vec<Drawn>) -> Vec<Vec<Drawn>> {
    let mut groups: Vec<Vec<Drawn>> = Vec::new();
    for drawn in drawn {
        let size = drawn.image.dimensions();
        match groups.iter_mut().find(|group| group[0].image.dimensions() == size) {
            Some(group) => group.push(drawn),
            None => groups.push(vec![drawn]),
        }
    }
    groups
}

/// Which words the texts of `drawn` have.
///
/// # Shapes
/// `[drawn, num_words]`.
fn present(drawn: &[Drawn], num_words: usize, device: &Device) -> Tensor<2> {
    let mut present = vec![0.0_f32; drawn.len() * num_words];
    for (drawn, row) in drawn.iter().zip(present.chunks_exact_mut(num_words)) {
        drawn.words.iter().for_each(|word| row[*word as usize % num_words] = 1.0);
    }
    Tensor::from_data(TensorData::new(present, [drawn.len(), num_words]), device)
}

/// The first `count` images of a source, preprocessed, and what was left out of it.
///
/// # Errors
/// Those of the data, and too many bad samples.
pub(super) fn first_images(
    config: &ImageData,
    count: usize,
    preprocessor: &PreprocessorConfig,
) -> Result<(Vec<RgbImage>, LeftOut)> {
    let source = SourceConfig { limit: Some(count), allows_one: true, ..config.source.clone() };
    let dataset = source.open()?;
    let count = source.len_of(&dataset).min(config.source.len_of(&dataset));
    let dataset = dataset.of_first(count);
    let first = |index| Some(preprocessor.resize(&first_image(&dataset, index)?.0));
    let images = (0..count).into_par_iter().filter_map(first).collect();
    dataset.check()?;
    let left_out = dataset.left_out(count);
    let source = format!("validation {}", left_out.source);
    Ok((images, LeftOut { source, ..left_out }))
}

/// Hashes of the distinct words in `columns`, which hold texts or lists of texts.
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

/// The FNV-1a hash.
fn hash(word: &str) -> u32 {
    word.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn images_are_grouped_by_size_in_order() {
        let drawn = |(at, (width, height)): (usize, (u32, u32))| Drawn {
            image: RgbImage::new(width, height),
            words: vec![at as u32],
        };
        let sizes = [(8, 4), (4, 8), (8, 4), (6, 6), (4, 8)];
        let groups = by_size(sizes.into_iter().enumerate().map(drawn).collect());
        let order: Vec<Vec<u32>> =
            groups.iter().map(|group| group.iter().map(|drawn| drawn.words[0]).collect()).collect();
        assert_eq!(order, [vec![0, 2], vec![1, 4], vec![3]]);
    }

    #[test]
    fn words_come_from_texts_and_lists_in_any_case() {
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
