//! Counting of bad samples; too many of them stop a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::Place;
use super::left_out::{BadSample, LeftOut, refuse_too_many};
use crate::error::{Error, Result};

/// Default fraction of bad samples that a run tolerates.
pub const DEFAULT_TOLERANCE: f64 = 0.01;

/// Data set that records its bad samples.
pub struct Counted {
    inner: Box<dyn Dataset>,
    tolerance: f64,
    /// The number of samples that are read.
    read: usize,
    bad: Mutex<BTreeMap<usize, String>>,
    unused: OnceLock<Vec<Unused>>,
}

impl Counted {
    /// Wraps `inner`; `tolerance` is the fraction of samples that may be bad, 0 to 1.
    ///
    /// # Errors
    /// If `tolerance` is not between 0 and 1.
    pub fn new(inner: Box<dyn Dataset>, tolerance: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&tolerance) {
            let message =
                format!("tolerated fraction of bad samples is {tolerance}; allowed: 0 to 1");
            return Err(Error::invalid(message));
        }
        let read = inner.len();
        Ok(Self { inner, tolerance, read, bad: Mutex::default(), unused: OnceLock::new() })
    }

    /// The same data set, of which only the first `samples` are read: the share of bad ones is theirs.
    #[must_use]
    pub fn of_first(self, samples: usize) -> Self {
        Self { read: samples.min(self.inner.len()), ..self }
    }

    /// Sample `index`, or `None` if it is unreadable but bad samples are within tolerance.
    ///
    /// # Errors
    /// If `index` is out of range or more than the tolerated fraction of the samples is bad.
    pub fn take(&self, index: usize) -> Result<Option<Sample>> {
        in_range(self, index)?;
        match self.get(index) {
            Ok(sample) => Ok(Some(sample)),
            Err(_) => self.check().map(|()| None),
        }
    }

    /// Records sample `index` as bad, however many there are; see [`check`](Self::check).
    pub(crate) fn record(&self, index: usize, reason: String) {
        self.bad_samples().insert(index, reason);
    }

    /// The bad samples found so far, ordered by index.
    pub fn bad(&self) -> Vec<BadSample> {
        let bad = self.bad_samples();
        bad.iter().map(|(&index, reason)| BadSample { index, reason: reason.clone() }).collect()
    }

    /// What is left out of the first `samples` samples as far as is known.
    pub fn left_out(&self, samples: usize) -> LeftOut {
        LeftOut::of(self, samples, &self.bad())
    }

    /// The number of bad samples found so far.
    pub(crate) fn num_bad(&self) -> usize {
        self.bad_samples().len()
    }

    /// Fails if more than the tolerated fraction of the samples read is bad; lists the first ones.
    ///
    /// # Errors
    /// [`Error::Invalid`] then.
    pub fn check(&self) -> Result<()> {
        let (bad, len) = (self.bad_samples(), self.read);
        let reasons = bad.values().map(String::as_str);
        let allowed = (self.tolerance * len as f64, self.tolerance);
        refuse_too_many((self.inner.name(), len), (bad.len(), reasons), allowed)
    }

    fn bad_samples(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dataset for Counted {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        in_range(self, index)?;
        self.inner.get(index).inspect_err(|e| self.record(index, e.to_string()))
    }

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        self.inner.image_keys(index)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        self.inner.image_places(index)
    }

    fn unused(&self) -> Vec<Unused> {
        self.unused.get_or_init(|| self.inner.unused()).clone()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        self.inner.fields(index)
    }

    fn place(&self, index: usize) -> String {
        self.inner.place(index)
    }
}
