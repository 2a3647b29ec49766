//! The interface of all readers: a data set of samples with random access.

use image::RgbImage;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The columns of a sample by name.
pub type Fields = Map<String, Value>;

/// One sample of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Columns by name, without images.
    pub fields: Fields,
    /// Decoded images in the sample's order, composited on white.
    pub images: Vec<RgbImage>,
    /// File and member, row or line that the sample was read from.
    pub source: String,
}

/// A data set with random access from any thread. An unreadable sample is an error for its index
/// only; see [`Counted`](super::Counted).
pub trait Dataset: Send + Sync {
    /// The number of samples, good and bad.
    fn len(&self) -> usize;

    /// Sample `index` with its images decoded.
    ///
    /// # Errors
    /// If `index` is not below [`len`](Self::len), or the sample cannot be read; the message
    /// names file and member.
    fn get(&self, index: usize) -> Result<Sample>;

    /// The data set's name in messages, usually its path.
    fn name(&self) -> &str;

    /// The fields of sample `index`; readers return them without decoding images.
    ///
    /// # Errors
    /// As [`get`](Self::get), but a broken image may go unnoticed.
    fn fields(&self, index: usize) -> Result<Fields> {
        self.get(index).map(|sample| sample.fields)
    }

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Refuses an index beyond the end of `dataset`.
pub(super) fn in_range<D: Dataset + ?Sized>(dataset: &D, index: usize) -> Result<()> {
    if index < dataset.len() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "sample {index} of {} does not exist; it has {}",
        dataset.name(),
        dataset.len()
    )))
}
