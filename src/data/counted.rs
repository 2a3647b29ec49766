//! Counting of bad samples; too many of them stop a run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::Place;
use crate::error::{Error, Result};

/// Default fraction of bad samples that a run tolerates.
pub const DEFAULT_TOLERANCE: f64 = 0.01;

/// Bad sample, which cannot be read or used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSample {
    /// Its index in the data set.
    pub index: usize,
    /// The reason, with file and member, row or line.
    pub reason: String,
}

/// Data set that records its bad samples.
pub struct Counted {
    inner: Box<dyn Dataset>,
    tolerance: f64,
    bad: Mutex<BTreeMap<usize, String>>,
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
        Ok(Self { inner, tolerance, bad: Mutex::default() })
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

    /// Records sample `index`, which is readable but unusable, as bad.
    ///
    /// # Errors
    /// If this exceeds the tolerated fraction.
    pub fn reject(&self, index: usize, reason: String) -> Result<()> {
        self.bad_samples().insert(index, reason);
        self.check()
    }

    /// The bad samples found so far, ordered by index.
    pub fn bad(&self) -> Vec<BadSample> {
        let bad = self.bad_samples();
        bad.iter().map(|(&index, reason)| BadSample { index, reason: reason.clone() }).collect()
    }

    /// Fails if more than the tolerated fraction of the samples is bad.
    fn check(&self) -> Result<()> {
        let bad = self.bad_samples();
        if bad.len() as f64 <= self.tolerance * self.inner.len() as f64 {
            return Ok(());
        }
        let first = bad.values().next().map_or("", String::as_str);
        Err(Error::invalid(format!(
            "{}: {} of {} samples are bad, more than the allowed {} %; the first: {first}",
            self.inner.name(),
            bad.len(),
            self.inner.len(),
            self.tolerance * 100.0
        )))
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
        self.inner.get(index).inspect_err(|e| drop(self.bad_samples().insert(index, e.to_string())))
    }

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        self.inner.image_keys(index)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        self.inner.image_places(index)
    }

    fn unused(&self) -> Vec<Unused> {
        self.inner.unused()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        self.inner.fields(index)
    }
}
