//! Data sets: samples of pictures and named fields, read at random access.

use crate::error::Result;
use image::RgbImage;

pub mod scenes;

/// One sample of a data set.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The sample's columns by name.
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// The sample's pictures, in the order in which a document shows them.
    pub images: Vec<RgbImage>,
    /// Where the sample came from, for messages.
    pub source: String,
}

/// Samples at random access, from any thread.
pub trait Dataset: Send + Sync {
    /// The number of samples.
    fn len(&self) -> usize;
    /// Whether there are no samples at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Sample number `index`.
    ///
    /// # Errors
    /// When `index` is out of range or the sample cannot be read.
    fn get(&self, index: usize) -> Result<Sample>;
    /// The name of the data set, for messages and reports.
    fn name(&self) -> &str;
}
