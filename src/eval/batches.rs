//! Reading a data set in batches, and limits on bad samples.

use image::RgbImage;
use rayon::prelude::*;

use crate::data::{BadSample, DEFAULT_TOLERANCE, Dataset, LeftOut, Sample, refuse_too_many};
use crate::error::{Error, Result};
use crate::report::Omission;

/// How much of a data set is measured, and the batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// If given, only the first `limit` items are measured.
    pub limit: Option<usize>,
    /// Items given to the model at once; at least 1.
    pub batch: usize,
}

impl Default for Extent {
    fn default() -> Self {
        Self { limit: None, batch: 32 }
    }
}

impl Extent {
    /// The number of items measured in a data set of `len`.
    pub fn of(&self, len: usize) -> usize {
        self.limit.map_or(len, |limit| limit.min(len))
    }
}

/// Calls `work` with each batch of `dataset`: pairs of a sample's index and what `take` extracts from it.
/// Returns the bad samples in order: those that cannot be read, that `take` refuses, or whose prompt does
/// not fit the context.
pub(super) fn each_batch<T: Send + Clone>(
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
        let read_one = |index| {
            let sample = dataset.get(index)?;
            let source = sample.source.clone();
            take(sample).map_err(Error::because(source))
        };
        let read: Vec<_> = (start..end).into_par_iter().map(|i| (i, read_one(i))).collect();
        let mut good = Vec::with_capacity(read.len());
        for (index, sample) in read {
            match sample {
                Ok(sample) => good.push((index, sample)),
                Err(error) => bad.push(BadSample { index, reason: error.to_string() }),
            }
        }
        refuse_many_bad(dataset, len, &bad)?;
        let too_long = work_on(good, &mut work)?;
        if !too_long.is_empty() {
            bad.extend(too_long.into_iter().map(|(index, error)| BadSample {
                index,
                reason: format!("{}: {error}", dataset.place(index)),
            }));
            bad.sort_by_key(|bad| bad.index);
            refuse_many_bad(dataset, len, &bad)?;
        }
    }
    Ok(bad)
}

/// Calls `work` with `batch`, or, if a prompt in it does not fit the context, with one item after the other;
/// returns those that do not fit.
fn work_on<T: Clone>(
    batch: Vec<(usize, T)>,
    work: &mut impl FnMut(Vec<(usize, T)>) -> Result<()>,
) -> Result<Vec<(usize, Error)>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    match work(batch.clone()) {
        Err(Error::PromptTooLong { .. }) => {}
        done => return done.map(|()| Vec::new()),
    }
    let mut too_long = Vec::new();
    for (index, item) in batch {
        match work(vec![(index, item)]) {
            Err(error @ Error::PromptTooLong { .. }) => too_long.push((index, error)),
            done => done?,
        }
    }
    Ok(too_long)
}

/// Calls `work` with the images of each batch of `dataset`; returns the samples that could not be read.
///
/// # Errors
/// Those of `work`; if there is nothing to read, or more than [`DEFAULT_TOLERANCE`] of the samples are bad.
pub fn images_of(
    dataset: &dyn Dataset,
    extent: Extent,
    work: &mut dyn FnMut(&[RgbImage]) -> Result<()>,
) -> Result<Vec<BadSample>> {
    each_batch(dataset, extent, Ok, |batch| {
        let images: Vec<_> = batch.into_iter().flat_map(|(_, sample)| sample.images).collect();
        work(&images)
    })
}

/// Fails if more than [`DEFAULT_TOLERANCE`] of `len` samples are `bad`, and lists the first ones. A single
/// bad sample is tolerated, unless it is the only sample.
pub(super) fn refuse_many_bad(dataset: &dyn Dataset, len: usize, bad: &[BadSample]) -> Result<()> {
    let allowed = (DEFAULT_TOLERANCE * len as f64).max(1.0).min(len as f64 - 1.0);
    let reasons = bad.iter().map(|bad| bad.reason.as_str());
    let measured = (dataset.name(), len);
    refuse_too_many(measured, (bad.len(), reasons), (allowed, DEFAULT_TOLERANCE))
}

/// What was left out of the part of `dataset` that was measured: the samples in `bad`, and what belongs to
/// no sample.
pub fn left_out(dataset: &dyn Dataset, extent: Extent, bad: &[BadSample]) -> Vec<Omission> {
    LeftOut::of(dataset, extent.of(dataset.len()), bad).omissions()
}

/// The image of a sample that must have exactly one.
pub(super) fn single_image(images: Vec<RgbImage>) -> Result<RgbImage> {
    let found = <[_; 1]>::try_from(images).map(|[image]| image);
    found.map_err(|images| {
        let found = images.len();
        Error::invalid(format!("{found} images; this measure needs exactly one per sample"))
    })
}

/// `results` if there is one for each of `items` items, else an error.
pub(super) fn one_per_item<T>(results: Vec<T>, items: usize) -> Result<Vec<T>> {
    if results.len() == items {
        return Ok(results);
    }
    Err(Error::invalid(format!("{} results for a batch of {items} items", results.len())))
}
