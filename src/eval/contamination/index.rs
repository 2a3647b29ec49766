//! The hashes of an evaluation set, and their first occurrences in training data.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::config::ContaminationConfig;
use super::fingerprint::{Colors, Fingerprint};
use super::lookup::{HammingIndex, Postings};
use super::texts::{grams, text_hash, texts};
use crate::data::{BadSample, Dataset, Sample};
use crate::error::{Error, Result};
use crate::eval::batches::refuse_many_bad;

/// Samples read in parallel; bounds how many decoded samples are in memory.
const CHUNK: usize = 512;

/// The position of an image or text in a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Number of the training set; 0 for the evaluation set.
    pub set: u16,
    /// Number among the sample's images or texts.
    pub part: u16,
    /// The sample's index.
    pub sample: u32,
}

impl Position {
    fn new(set: usize, sample: usize, part: usize) -> Self {
        // The numbers of sets and samples are checked before reading.
        Self {
            set: set as u16,
            part: part.min(usize::from(u16::MAX)) as u16,
            sample: sample as u32,
        }
    }
}

/// A text of the evaluation set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub position: Position,
    /// Number of its column.
    pub column: u32,
    /// Number of the hash of the whole text.
    pub whole: u32,
}

/// The counts of a data set.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub images: usize,
    pub texts: usize,
    pub bad: Vec<BadSample>,
}

/// The hashes of an evaluation set: some 130 bytes per image, 40 per text and 24 per distinct n-gram.
pub(super) struct Index {
    config: ContaminationConfig,
    pub contents: Contents,
    /// The position of each image.
    pub images: Vec<Position>,
    colors: Vec<Colors>,
    /// Number of each image's digest.
    pub keys: Vec<u32>,
    pub digests: Postings<[u8; 32]>,
    hashes: HammingIndex,
    /// Names of columns with texts.
    pub columns: Vec<String>,
    pub texts: Vec<Text>,
    pub whole_texts: Postings<u64>,
    pub grams: Postings<u64>,
}

/// Occurrences of the index's entries in the training data.
pub(super) struct Hits {
    /// By digest: the first equal image.
    pub exact: Vec<Option<Position>>,
    /// By image: the nearest image that is not equal, with its distance.
    pub near: Vec<Option<(u32, Position)>>,
    /// By hash of a whole text: the first equal text.
    pub whole_texts: Vec<Option<Position>>,
    /// By n-gram: the first occurrence.
    pub grams: Vec<Option<Position>>,
}

impl Index {
    /// The index of all of `dataset`.
    pub fn of(
        dataset: &dyn Dataset,
        config: &ContaminationConfig,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let mut builder = Builder::default();
        let read = |sample: Sample| Hashes::of(&sample, config);
        let bad = each(dataset, read, progress, |index, hashes| builder.add(index, hashes))?;
        builder.finish(dataset, config, bad)
    }

    /// No occurrences.
    pub fn no_hits(&self) -> Hits {
        Hits {
            exact: vec![None; self.digests.len()],
            near: vec![None; self.images.len()],
            whole_texts: vec![None; self.whole_texts.len()],
            grams: vec![None; self.grams.len()],
        }
    }

    /// Looks up all of the training set `dataset`, number `set`, and records the occurrences in `hits`.
    pub fn search(
        &self,
        dataset: &dyn Dataset,
        set: usize,
        hits: &mut Hits,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Contents> {
        let mut contents = Contents::default();
        contents.bad = each(
            dataset,
            |sample| self.look_up(&sample),
            progress,
            |index, matches| {
                contents.images += matches.images;
                contents.texts += matches.texts;
                let position = |part| Position::new(set, index, part);
                for (part, key) in matches.exact {
                    hits.exact[key].get_or_insert(position(part));
                }
                for (part, image, distance) in matches.near {
                    let known = &mut hits.near[image];
                    if known.is_none_or(|(nearest, _)| distance < nearest) {
                        *known = Some((distance, position(part)));
                    }
                }
                for (part, key) in matches.whole_texts {
                    hits.whole_texts[key].get_or_insert(position(part));
                }
                for (part, key) in matches.grams {
                    hits.grams[key].get_or_insert(position(part));
                }
            },
        )?;
        Ok(contents)
    }

    /// The entries of the index that occur in `sample`.
    fn look_up(&self, sample: &Sample) -> Matches {
        let mut matches = Matches { images: sample.images.len(), ..Matches::default() };
        for (part, image) in sample.images.iter().enumerate() {
            let print = Fingerprint::of(image);
            let same = self.digests.find(&print.digest);
            matches.exact.extend(same.map(|key| (part, key)));
            let Some(hash) = print.hash else { continue };
            self.hashes.within(hash, |image, distance| {
                let is_same = same.is_some_and(|key| {
                    self.digests.owners(key).binary_search(&(image as u32)).is_ok()
                });
                if !is_same && self.colors[image].agree(&print.colors) {
                    matches.near.push((part, image, distance));
                }
            });
        }
        let columns = self.config.columns.as_deref();
        for (part, (_, text)) in texts(&sample.fields, columns).into_iter().enumerate() {
            matches.texts += 1;
            matches
                .whole_texts
                .extend(self.whole_texts.find(&text_hash(text)).map(|key| (part, key)));
            let grams = grams(text, self.config.gram);
            matches.grams.extend(
                grams.iter().filter_map(|gram| self.grams.find(gram)).map(|key| (part, key)),
            );
        }
        matches
    }
}

/// The hashes of a sample of the evaluation set.
struct Hashes {
    images: Vec<Fingerprint>,
    /// Column, hash of the whole and hashes of the n-grams of each text.
    texts: Vec<(String, u64, Vec<u64>)>,
}

impl Hashes {
    fn of(sample: &Sample, config: &ContaminationConfig) -> Self {
        let of_text = |(column, text): (&str, &str)| {
            (column.to_owned(), text_hash(text), grams(text, config.gram))
        };
        let texts = texts(&sample.fields, config.columns.as_deref());
        Self {
            images: sample.images.iter().map(Fingerprint::of).collect(),
            texts: texts.into_iter().map(of_text).collect(),
        }
    }
}

/// An [`Index`] while the evaluation set is read.
#[derive(Default)]
struct Builder {
    images: Vec<Position>,
    colors: Vec<Colors>,
    hashes: Vec<Option<u64>>,
    digests: Vec<([u8; 32], u32)>,
    columns: BTreeMap<String, u32>,
    texts: Vec<Text>,
    whole_texts: Vec<(u64, u32)>,
    grams: Vec<(u64, u32)>,
}

impl Builder {
    /// Adds the sample of index `sample`.
    fn add(&mut self, sample: usize, hashes: Hashes) {
        for (part, print) in hashes.images.into_iter().enumerate() {
            self.digests.push((print.digest, self.images.len() as u32));
            self.images.push(Position::new(0, sample, part));
            self.colors.push(print.colors);
            self.hashes.push(print.hash);
        }
        for (part, (column, whole, grams)) in hashes.texts.into_iter().enumerate() {
            let number = self.texts.len() as u32;
            let next = self.columns.len() as u32;
            let column = *self.columns.entry(column).or_insert(next);
            self.whole_texts.push((whole, number));
            self.grams.extend(grams.into_iter().map(|gram| (gram, number)));
            self.texts.push(Text { position: Position::new(0, sample, part), column, whole: 0 });
        }
    }

    fn finish(
        self,
        dataset: &dyn Dataset,
        config: &ContaminationConfig,
        bad: Vec<BadSample>,
    ) -> Result<Index> {
        let Self {
            images,
            colors,
            hashes,
            digests,
            columns: numbered,
            mut texts,
            whole_texts,
            grams,
        } = self;
        if texts.len().max(images.len()).max(grams.len()) > u32::MAX as usize {
            let message = "more than 2^32 images or n-grams; split the data set";
            return Err(Error::invalid(format!("{}: {message}", dataset.name())));
        }
        let whole_texts = Postings::new(whole_texts);
        for key in 0..whole_texts.len() {
            whole_texts
                .owners(key)
                .iter()
                .for_each(|&text| texts[text as usize].whole = key as u32);
        }
        let digests = Postings::new(digests);
        let mut keys = vec![0; images.len()];
        for key in 0..digests.len() {
            digests.owners(key).iter().for_each(|&image| keys[image as usize] = key as u32);
        }
        let mut columns = vec![String::new(); numbered.len()];
        numbered.into_iter().for_each(|(name, number)| columns[number as usize] = name);
        Ok(Index {
            config: config.clone(),
            contents: Contents { images: images.len(), texts: texts.len(), bad },
            images,
            colors,
            keys,
            digests,
            hashes: HammingIndex::new(&hashes, config.distance),
            columns,
            texts,
            whole_texts,
            grams: Postings::new(grams),
        })
    }
}

/// The matches of one training sample: pairs of its part and the number of the entry matched.
#[derive(Default)]
struct Matches {
    images: usize,
    texts: usize,
    exact: Vec<(usize, usize)>,
    near: Vec<(usize, usize, u32)>,
    whole_texts: Vec<(usize, usize)>,
    grams: Vec<(usize, usize)>,
}

/// Calls `take`, in order, with what `read` makes of each sample of `dataset` on all cores; returns
/// the bad samples.
fn each<T: Send>(
    dataset: &dyn Dataset,
    read: impl Fn(Sample) -> T + Sync,
    progress: &mut dyn FnMut(usize),
    mut take: impl FnMut(usize, T),
) -> Result<Vec<BadSample>> {
    let len = dataset.len();
    if u32::try_from(len).is_err() {
        let message = format!("{} holds more than 2^32 samples", dataset.name());
        return Err(Error::invalid(message));
    }
    let mut bad = Vec::new();
    for start in (0..len).step_by(CHUNK) {
        let end = (start + CHUNK).min(len);
        let found: Vec<_> =
            (start..end).into_par_iter().map(|index| dataset.get(index).map(&read)).collect();
        for (index, found) in (start..end).zip(found) {
            match found {
                Ok(found) => take(index, found),
                Err(error) => bad.push(BadSample { index, reason: error.to_string() }),
            }
        }
        refuse_many_bad(dataset, len, &bad)?;
        progress(end - start);
    }
    Ok(bad)
}
