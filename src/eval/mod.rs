//! Scores of checkpoints on data sets.
//!
//! Each measure is a function over a data set and a closure that does the model's part, such as
//! `|images, questions| pipeline.ask_batch(images, questions, &config)`; so a measure can be
//! tested without a model, and any model can be measured. What comes back is a value that holds the
//! scores with N and 95 % intervals and every item; its `report` goes to a directory as
//! `results.json`, `samples.jsonl` and a sheet of images. [`compare`] sets two such directories side by
//! side; [`contamination`] looks for a measure's items among what a model was trained on.

pub mod bootstrap;
pub mod captioning;
pub mod compare;
pub mod contamination;
pub mod drawing;
mod fid;
pub mod geneval;
pub mod inception;
pub mod loss;
pub mod metrics;
mod official;
mod question;
pub mod reconstruction;
mod report;
mod responses;
mod score;
pub mod task;
pub mod text_to_image;
pub mod vqa;

use rayon::prelude::*;

pub use fid::Fid;
pub use official::Official;
pub use question::Majority;
pub use report::{Environment, Report, SampleRecord};
pub use responses::Responses;
pub use score::{IntervalMethod, Score};

use crate::data::{BadSample, DEFAULT_TOLERANCE, Dataset, Sample};
use crate::error::{Error, Result};
use crate::sheet::Tone;

/// Which part of a data set is measured, and how much of it at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first items only.
    pub limit: Option<usize>,
    /// Items that the model gets at once; at least 1.
    pub batch: usize,
}

impl Default for Extent {
    fn default() -> Self {
        Self { limit: None, batch: 32 }
    }
}

impl Extent {
    /// How many of `len` items are measured.
    pub fn of(&self, len: usize) -> usize {
        self.limit.map_or(len, |limit| limit.min(len))
    }
}

/// Reads `extent` of `dataset` batch by batch; `take` makes of a sample what the measure needs, and `work` gets
/// that of the good ones with their indices. Samples that cannot be read or that `take` refuses are returned.
fn each_batch<T: Send>(
    dataset: &dyn Dataset,
    extent: Extent,
    take: impl Fn(Sample) -> Result<T> + Sync,
    mut work: impl FnMut(Vec<(usize, T)>) -> Result<()>,
) -> Result<Vec<BadSample>> {
    let len = extent.of(dataset.len());
    if len == 0 || extent.batch == 0 {
        let message = "nothing to measure: the data set, the limit or the batch is empty";
        return Err(Error::invalid(format!("{}: {message}", dataset.name())));
    }
    let mut bad = Vec::new();
    for start in (0..len).step_by(extent.batch) {
        let end = (start + extent.batch).min(len);
        let one = |index| {
            let sample = dataset.get(index)?;
            let source = sample.source.clone();
            take(sample).map_err(|e| Error::invalid(format!("{source}: {e}")))
        };
        let read: Vec<_> = (start..end).into_par_iter().map(|i| (i, one(i))).collect();
        let mut good = Vec::with_capacity(read.len());
        for (index, sample) in read {
            match sample {
                Ok(sample) => good.push((index, sample)),
                Err(error) => bad.push(BadSample { index, reason: error.to_string() }),
            }
        }
        refuse_many_bad(dataset, len, &bad)?;
        if !good.is_empty() {
            work(good)?;
        }
    }
    Ok(bad)
}

/// Hands all images in `extent` of `dataset` to `work`, batch by batch; returns the samples that could not be
/// read.
///
/// # Errors
/// Those of `work`; when nothing is to be read or more than [`DEFAULT_TOLERANCE`] of the samples are bad.
pub fn images_of(
    dataset: &dyn Dataset,
    extent: Extent,
    work: &mut dyn FnMut(&[image::RgbImage]) -> Result<()>,
) -> Result<Vec<BadSample>> {
    each_batch(dataset, extent, Ok, |batch| {
        let images: Vec<_> = batch.into_iter().flat_map(|(_, sample)| sample.images).collect();
        work(&images)
    })
}

/// One bad sample is always allowed, unless it is the only one.
fn refuse_many_bad(dataset: &dyn Dataset, len: usize, bad: &[BadSample]) -> Result<()> {
    let allowed = (DEFAULT_TOLERANCE * len as f64).max(1.0);
    match bad.first() {
        Some(first) if bad.len() == len || bad.len() as f64 > allowed => {
            Err(Error::invalid(format!(
                "{}: {} of {len} samples are bad, more than the allowed {} %; the first: {}",
                dataset.name(),
                bad.len(),
                DEFAULT_TOLERANCE * 100.0,
                first.reason
            )))
        }
        _ => Ok(()),
    }
}

/// The only one of a sample's `images`.
fn image(images: Vec<image::RgbImage>) -> Result<image::RgbImage> {
    let found = <[_; 1]>::try_from(images).map(|[image]| image);
    found.map_err(|images| {
        let found = images.len();
        Error::invalid(format!("{found} images; this measure needs exactly one per sample"))
    })
}

/// 1 or 0.
fn number(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// The colour of a text on the sheet.
fn tone(right: bool) -> Tone {
    if right { Tone::Right } else { Tone::Wrong }
}

/// Refuses an answer of the model's side that has not one entry per item.
fn one_each<T>(results: Vec<T>, items: usize) -> Result<Vec<T>> {
    if results.len() == items {
        return Ok(results);
    }
    Err(Error::invalid(format!("{} results for a batch of {items} items", results.len())))
}
