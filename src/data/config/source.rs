//! Selection of the samples to read.

use super::check::{at, in_range};
use crate::data::counted::{Counted, DEFAULT_TOLERANCE};
use crate::data::dataset::Dataset;
use crate::data::open::open_as;
use crate::error::{Error, Result};

/// The samples of a data set to read, and their form.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceConfig {
    /// A path or a specification that [`open`](crate::data::open()) knows.
    pub path: String,
    /// Rows with equal values in this column become one sample whose list `turns` holds the other columns.
    pub group_by: Option<String>,
    /// One sample per entry of this list-valued column.
    pub explode: Option<String>,
    /// If given, only the first `limit` samples are read.
    pub limit: Option<usize>,
    /// Share of the samples, 0 to 1, that may be bad; they are listed and skipped.
    pub max_bad: f64,
    /// Whether one bad sample among others is allowed whatever `max_bad` says, as in evaluations.
    pub allows_one: bool,
}

impl SourceConfig {
    /// All samples at `path`, unchanged.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            group_by: None,
            explode: None,
            limit: None,
            max_bad: DEFAULT_TOLERANCE,
            allows_one: false,
        }
    }

    /// Opens the data set; its bad samples are counted.
    ///
    /// # Errors
    /// As [`open_as`].
    pub fn open(&self) -> Result<Counted> {
        let dataset = open_as(&self.path, self.explode.as_deref(), self.group_by.as_deref())?;
        let len = self.len_of(dataset.as_ref());
        let one = if self.allows_one && len > 1 { 1.0 / len as f64 } else { 0.0 };
        Ok(Counted::new(dataset, self.max_bad.max(one))?.of_first(len))
    }

    /// The number of samples of `dataset` within the limit.
    pub fn len_of(&self, dataset: &dyn Dataset) -> usize {
        self.limit.map_or(dataset.len(), |limit| limit.min(dataset.len()))
    }

    /// Checks the ranges.
    pub(super) fn validate(&self) -> Result<()> {
        if self.limit == Some(0) {
            return Err(Error::invalid(at(&self.path, "limit is 0; allowed: at least 1")));
        }
        in_range(&self.path, "max_bad", self.max_bad, 0.0..=1.0)
    }
}
