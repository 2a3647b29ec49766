//! Samples with their images as codes, encoded once and kept on disk for later runs.
//!
//! Training never runs the image tokenizer. Codes are kept by the key of the image, so that only images
//! that are new or have changed are encoded, wherever they lie and whatever the samples are called.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use image::RgbImage;
use rayon::prelude::*;
use vq_tokenizer::{Codes, VqTokenizer};

use super::config::SourceConfig;
use super::counted::Counted;
use super::dataset::{Dataset, Fields};
use super::kept_codes::KeptCodes;
use super::stamps::Stamps;
use crate::error::Result;
use crate::report::Reporter;

/// Number of samples encoded together.
const BATCH: usize = 32;

/// Sample with its images as codes.
#[derive(Clone, Debug)]
pub(super) struct EncodedSample {
    /// The columns that templates use.
    pub(super) fields: Fields,
    /// The codes of the images, in the sample's order.
    pub(super) images: Vec<Codes>,
    /// Its index in the data set.
    pub(super) index: usize,
    /// Where it lies; see [`Dataset::place`].
    pub(super) place: String,
}

/// All readable samples of a source, in memory.
pub(super) struct EncodedSource {
    /// The readable samples in order.
    pub(super) samples: Vec<EncodedSample>,
    /// The data set, which knows its bad samples.
    pub(super) dataset: Counted,
    /// The number of samples, good and bad.
    pub(super) len: usize,
}

/// Image tokenizer with the location of the codes kept for later runs.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The image tokenizer; a text model has none.
    pub vq: Option<&'a VqTokenizer>,
    /// Digest of its files.
    pub digest: &'a str,
    /// Directory of the kept codes.
    pub cache_dir: &'a Path,
    /// Whether to hide the progress bar.
    pub quiet: bool,
}

impl EncodedSource {
    /// Reads all samples of the source; encodes the images whose codes are not kept. Only the fields in
    /// `columns` stay in memory; all of them without `columns`.
    ///
    /// # Errors
    /// If the data set cannot be read, more than `max_bad` of its samples are bad, or the files of kept
    /// codes cannot be read or written.
    pub(super) fn open(
        config: &SourceConfig,
        columns: Option<&BTreeSet<String>>,
        encoding: Encoding<'_>,
    ) -> Result<Self> {
        let mut encoder = ImageEncoder::open(encoding)?;
        let dataset = config.open()?;
        let len = config.len_of(&dataset);
        let mut reporter =
            if encoding.quiet { Reporter::silent() } else { Reporter::bar(len as u64, "images") };
        let mut samples = Vec::with_capacity(len);
        for start in (0..len).step_by(BATCH) {
            let end = (start + BATCH).min(len);
            let mut images = 0;
            for mut sample in encoder.samples(&dataset, start..end)? {
                sample.fields.retain(|name, _| columns.is_none_or(|kept| kept.contains(name)));
                images += sample.images.len();
                samples.push(sample);
            }
            reporter.step(end, images);
        }
        let Counts { encoded, kept } = encoder.counts;
        if kept > 0 {
            let text = format!("{}: {encoded} images encoded, {kept} encoded before", config.path);
            reporter.note(&text);
        }
        reporter.finish();
        Ok(Self { samples, dataset, len })
    }
}

/// The image tokenizer, with the codes that earlier runs kept.
pub(super) struct ImageEncoder<'a> {
    vq: Option<&'a VqTokenizer>,
    stamps: Stamps,
    kept: KeptCodes,
    counts: Counts,
}

/// Numbers of images.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Encoded by this run.
    encoded: usize,
    /// Whose codes were kept by an earlier one.
    kept: usize,
}

/// A readable sample.
struct Found {
    index: usize,
    place: String,
    fields: Fields,
    images: Vec<Slot>,
}

/// An image of a sample.
enum Slot {
    /// Its codes are known.
    Known(Codes),
    /// It is to be encoded; `None` as the key if its codes must not be kept.
    Read(RgbImage, Option<String>),
    /// Its codes are at this position of the batch.
    Queued(usize),
}

/// The different images of a batch.
#[derive(Default)]
struct Queue {
    images: Vec<RgbImage>,
    keys: Vec<Option<String>>,
    places: HashMap<String, usize>,
}

impl Queue {
    /// Queues the image of `slot` if it is to be encoded and not queued already.
    fn add(&mut self, slot: Slot) -> Slot {
        let Slot::Read(image, key) = slot else { return slot };
        let next = self.images.len();
        if let Some(key) = &key {
            let place = *self.places.entry(key.clone()).or_insert(next);
            if place < next {
                return Slot::Queued(place);
            }
        }
        self.images.push(image);
        self.keys.push(key);
        Slot::Queued(next)
    }
}

impl<'a> ImageEncoder<'a> {
    /// Opens the kept codes. To be called before the data sets are opened, so that files written since
    /// are not taken for old.
    pub(super) fn open(encoding: Encoding<'a>) -> Result<Self> {
        let Encoding { vq, digest, cache_dir, .. } = encoding;
        let stamps = Stamps::open(cache_dir, SystemTime::now())?;
        let kept = KeptCodes::open(cache_dir, vq, digest)?;
        Ok(Self { vq, stamps, kept, counts: Counts::default() })
    }

    /// The number of images encoded so far.
    pub(super) fn encoded(&self) -> usize {
        self.counts.encoded
    }

    /// The state of the samples in `range`; see [`Stamps::digest`].
    pub(super) fn digest(&self, dataset: &Counted, range: Range<usize>) -> Result<String> {
        let digest = self.stamps.digest(dataset, range, true);
        self.stamps.save()?;
        Ok(digest)
    }

    /// The readable samples in `range`; those images whose codes are not kept are encoded together.
    /// `dataset` counts the bad samples, which every run tries again.
    pub(super) fn samples(
        &mut self,
        dataset: &Counted,
        range: Range<usize>,
    ) -> Result<Vec<EncodedSample>> {
        let read = |index| self.read(dataset, index);
        let found: Vec<Found> = range.into_par_iter().filter_map(read).collect();
        dataset.check()?;
        let mut queue = Queue::default();
        let mut queued: Vec<Found> = Vec::with_capacity(found.len());
        for found in found {
            let images = found.images.into_iter().map(|slot| queue.add(slot)).collect();
            queued.push(Found { images, ..found });
        }
        let codes = match self.vq {
            Some(vq) => vq.encode(&queue.images)?,
            None => Vec::new(),
        };
        let named = queue.keys.into_iter().zip(&codes);
        let entries: Vec<_> =
            named.filter_map(|(key, codes)| Some((key?, codes.clone()))).collect();
        self.kept.add(&entries)?;
        self.stamps.save()?;
        self.counts.encoded += codes.len();
        let mut of_slot = |slot| match slot {
            Slot::Known(known) => {
                self.counts.kept += 1;
                known
            }
            Slot::Queued(place) => codes[place].clone(),
            Slot::Read(..) => unreachable!("every image that was read is queued"),
        };
        let encoded = queued.into_iter().map(|Found { index, place, fields, images }| {
            let images = images.into_iter().map(&mut of_slot).collect();
            EncodedSample { fields, images, index, place }
        });
        Ok(encoded.collect())
    }

    /// Sample `index`, decoded unless the codes of all its images are kept; `None` if it is bad.
    fn read(&self, dataset: &Counted, index: usize) -> Option<Found> {
        let keys = self.stamps.keys(dataset, index).ok();
        // Without an image there is nothing to spare, and only the reader knows whether that is a fault.
        if let Some(keys) = &keys
            && !keys.is_empty()
            && let Some(codes) =
                keys.iter().map(|key| self.kept.get(key)).collect::<Option<Vec<_>>>()
            && let Ok(fields) = dataset.fields(index)
        {
            let images = codes.into_iter().map(Slot::Known).collect();
            return Some(Found { index, place: dataset.place(index), fields, images });
        }
        let sample = dataset.get(index).ok()?;
        // A file may have changed since its key was computed.
        let is_current = |keys: &Vec<String>| match dataset.image_places(index) {
            Ok(None) => true,
            _ => self.stamps.keys(dataset, index).is_ok_and(|now| now == *keys),
        };
        let keys = keys.filter(|keys| keys.len() == sample.images.len() && is_current(keys));
        let mut keys = keys.unwrap_or_default().into_iter();
        let slot = |image| {
            let key = keys.next();
            match key.as_ref().and_then(|key| self.kept.get(key)) {
                Some(codes) => Slot::Known(codes),
                None => Slot::Read(image, key),
            }
        };
        // A text model's documents have none; where one would, the sample is refused when it is rendered.
        let images = sample.images.into_iter().filter(|_| self.vq.is_some()).map(slot).collect();
        Some(Found { index, place: sample.source, fields: sample.fields, images })
    }
}
