//! The evaluation set as hashes, and where in the training data each was met first.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::ContaminationConfig;
use super::fingerprint::{Colors, Fingerprint};
use super::lookup::{HammingIndex, Postings};
use super::texts::{grams, texts, whole};
use crate::data::{BadSample, Dataset, Sample};
use crate::error::{Error, Result};
use crate::eval::refuse_many_bad;

/// Samples that are read at once; only those that are being looked at are decoded.
const CHUNK: usize = 512;

/// An image or text of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which training set; 0 for the evaluation set.
    pub set: u16,
    /// Which of the sample's images or texts.
    pub part: u16,
    /// The sample's index.
    pub sample: u32,
}

impl Place {
    fn new(set: usize, sample: usize, part: usize) -> Self {
        // The numbers of sets and samples are checked before they are read.
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
    pub place: Place,
    /// Its column's number.
    pub column: u32,
    /// The number of its whole's hash.
    pub whole: u32,
}

/// Counts of a data set that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    pub images: usize,
    pub texts: usize,
    pub bad: Vec<BadSample>,
}

/// The hashes of an evaluation set: of an image some 130 bytes, of a text 40 and of each of its
/// different grams 24.
pub(super) struct Index {
    config: ContaminationConfig,
    pub contents: Contents,
    /// Where each image is.
    pub images: Vec<Place>,
    colors: Vec<Colors>,
    /// The number of each image's digest.
    pub keys: Vec<u32>,
    pub digests: Postings<[u8; 32]>,
    hashes: HammingIndex,
    /// Names of the columns with texts.
    pub columns: Vec<String>,
    pub texts: Vec<Text>,
    pub wholes: Postings<u64>,
    pub grams: Postings<u64>,
}

/// Where what the index holds was met in the training data.
pub(super) struct Hits {
    /// By digest: the first image that is the same.
    pub exact: Vec<Option<Place>>,
    /// By image: the nearest that is not the same, with its distance.
    pub near: Vec<Option<(u32, Place)>>,
    /// By hash of a whole text: the first.
    pub wholes: Vec<Option<Place>>,
    /// By gram: the first.
    pub grams: Vec<Option<Place>>,
}

impl Index {
    /// Reads all of `dataset`.
    pub fn of(
        dataset: &dyn Dataset,
        config: &ContaminationConfig,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        let columns_wanted = config.columns.as_deref();
        let read = |sample: Sample| {
            let prints: Vec<_> = sample.images.iter().map(Fingerprint::of).collect();
            let of_text = |(column, text): (&str, &str)| {
                (column.to_owned(), whole(text), grams(text, config.gram))
            };
            let texts: Vec<_> =
                texts(&sample.fields, columns_wanted).into_iter().map(of_text).collect();
            (prints, texts)
        };
        let (mut images, mut colors, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut digests, mut wholes, mut all_grams) = (Vec::new(), Vec::new(), Vec::new());
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let mut found = Vec::new();
        let bad = each(dataset, read, progress, |index, (prints, texts)| {
            for (part, print) in prints.into_iter().enumerate() {
                digests.push((print.digest, images.len() as u32));
                images.push(Place::new(0, index, part));
                colors.push(print.colors);
                hashes.push(print.hash);
            }
            for (part, (column, whole, grams)) in texts.into_iter().enumerate() {
                let number = found.len() as u32;
                let next = names.len() as u32;
                let column = *names.entry(column).or_insert(next);
                wholes.push((whole, number));
                all_grams.extend(grams.into_iter().map(|gram| (gram, number)));
                found.push(Text { place: Place::new(0, index, part), column, whole: 0 });
            }
        })?;
        if found.len().max(images.len()).max(all_grams.len()) > u32::MAX as usize {
            let message = "more than 2^32 images or grams; take the data set apart";
            return Err(Error::invalid(format!("{}: {message}", dataset.name())));
        }
        let wholes = Postings::new(wholes);
        for place in 0..wholes.len() {
            wholes.owners(place).iter().for_each(|&text| found[text as usize].whole = place as u32);
        }
        let digests = Postings::new(digests);
        let mut keys = vec![0; images.len()];
        for key in 0..digests.len() {
            digests.owners(key).iter().for_each(|&image| keys[image as usize] = key as u32);
        }
        let mut columns = vec![String::new(); names.len()];
        names.into_iter().for_each(|(name, number)| columns[number as usize] = name);
        Ok(Self {
            config: config.clone(),
            contents: Contents { images: images.len(), texts: found.len(), bad },
            images,
            colors,
            keys,
            digests,
            hashes: HammingIndex::new(&hashes, config.distance),
            columns,
            texts: found,
            wholes,
            grams: Postings::new(all_grams),
        })
    }

    /// Nothing met yet.
    pub fn no_hits(&self) -> Hits {
        Hits {
            exact: vec![None; self.digests.len()],
            near: vec![None; self.images.len()],
            wholes: vec![None; self.wholes.len()],
            grams: vec![None; self.grams.len()],
        }
    }

    /// Looks up all of the training set `dataset`, the one of number `set`.
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
            |index, met| {
                contents.images += met.images;
                contents.texts += met.texts;
                let place = |part| Place::new(set, index, part);
                for (part, key) in met.exact {
                    hits.exact[key].get_or_insert(place(part));
                }
                for (part, image, distance) in met.near {
                    let known = &mut hits.near[image];
                    if known.is_none_or(|(nearest, _)| distance < nearest) {
                        *known = Some((distance, place(part)));
                    }
                }
                for (part, key) in met.wholes {
                    hits.wholes[key].get_or_insert(place(part));
                }
                for (part, key) in met.grams {
                    hits.grams[key].get_or_insert(place(part));
                }
            },
        )?;
        Ok(contents)
    }

    fn look_up(&self, sample: &Sample) -> Met {
        let mut met = Met { images: sample.images.len(), ..Met::default() };
        for (part, image) in sample.images.iter().enumerate() {
            let print = Fingerprint::of(image);
            let same = self.digests.find(&print.digest);
            met.exact.extend(same.map(|key| (part, key)));
            let Some(hash) = print.hash else { continue };
            self.hashes.within(hash, |image, distance| {
                let is_same = same.is_some_and(|key| {
                    self.digests.owners(key).binary_search(&(image as u32)).is_ok()
                });
                if !is_same && self.colors[image].agree(&print.colors) {
                    met.near.push((part, image, distance));
                }
            });
        }
        let columns = self.config.columns.as_deref();
        for (part, (_, text)) in texts(&sample.fields, columns).into_iter().enumerate() {
            met.texts += 1;
            met.wholes.extend(self.wholes.find(&whole(text)).map(|key| (part, key)));
            let grams = grams(text, self.config.gram);
            met.grams.extend(
                grams.iter().filter_map(|gram| self.grams.find(gram)).map(|key| (part, key)),
            );
        }
        met
    }
}

/// What one sample has in common with the index: its part and the number of what it met.
#[derive(Default)]
struct Met {
    images: usize,
    texts: usize,
    exact: Vec<(usize, usize)>,
    near: Vec<(usize, usize, u32)>,
    wholes: Vec<(usize, usize)>,
    grams: Vec<(usize, usize)>,
}

/// Reads every sample of `dataset` on all cores; `take` gets what `read` makes of them, in order.
/// Returns the bad ones.
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
