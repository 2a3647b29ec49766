//! The interface of all readers: a data set of samples with random access.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::image_key::{Place, file_key};
use crate::error::{Error, Result};
use crate::files::hex;

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

/// Part of a data set that belongs to no sample, such as an archive member or a column of a kind that
/// is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// File, and the members, columns or names in it; the first one stands for all of its kind.
    pub what: String,
    /// How many there are.
    pub count: usize,
    /// Why they are not read.
    pub reason: String,
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

    /// What the data set holds beside its samples, a line per kind; never dropped silently.
    fn unused(&self) -> Vec<Unused>;

    /// The fields of sample `index`; readers return them without decoding images.
    ///
    /// # Errors
    /// As [`get`](Self::get), but a broken image may go unnoticed.
    fn fields(&self, index: usize) -> Result<Fields> {
        self.get(index).map(|sample| sample.fields)
    }

    /// A key for each image of sample `index`: equal keys mean equal images. Readers return them without
    /// decoding images; the default is a digest of each whole file of
    /// [`image_places`](Self::image_places), else of the pixels.
    ///
    /// # Errors
    /// As [`get`](Self::get), but a broken image may go unnoticed.
    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        match self.image_places(index)? {
            Some(places) if places.iter().all(|place| place.part.is_none()) => {
                let key = |Place { file, .. }: &Place| file_key(file).map_err(Error::io(file));
                places.iter().map(key).collect()
            }
            _ => Ok(self.get(index)?.images.iter().map(pixel_key).collect()),
        }
    }

    /// Where the images of sample `index` lie, in their order, so that images of unchanged files need not
    /// be read again; `None`, the default, if they lie in no file.
    ///
    /// # Errors
    /// As [`get`](Self::get), but missing and broken images may go unnoticed.
    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        in_range(self, index).map(|()| None)
    }

    /// File and line, row or member of sample `index`, which exists; [`Sample::source`] without reading it.
    fn place(&self, index: usize) -> String {
        format!("{}: sample {index}", self.name())
    }

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A digest of the size and pixels of `image`.
pub(super) fn pixel_key(image: &RgbImage) -> String {
    let (width, height) = image.dimensions();
    let pixels = Sha256::new().chain_update(image.as_raw()).finalize();
    format!("{width}x{height}:{}", hex(&pixels[..16]))
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
