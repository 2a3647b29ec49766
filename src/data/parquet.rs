//! Parquet files as Hugging Face, img2dataset and pandas write them: structs of `bytes` and `path`, and
//! plain bytes that begin like images, are images; all other columns become JSON values.
//!
//! Rows stay in memory as JSON values and compressed images; an image that a column chunk stores
//! once for many rows (one row per question about it) is held once. The reader is that of the
//! `parquet` crate without Arrow, whose crates would take a tenth of the build time.

mod load;
mod pages;
mod row;
mod scalar;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod time;

use std::fs::File;
use std::path::{Path, PathBuf};

use image::RgbImage;
use sha2::{Digest, Sha256};

use self::load::Loaded;
use self::row::{StoredImage, StoredRow};
use super::conversation::place_marks;
use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::Place;
use super::messages::item_error;
use super::{files, image_file};
use crate::error::{Error, Result};
use crate::files::{hex, refuse_lfs_pointer_at};

/// One Parquet file. Structs of binary `bytes` with or without `path`, columns of plain bytes that begin
/// like image files, and lists and structs of both are images (in column order, without nulls). An image
/// without bytes is read from its path, relative to the file's directory.
///
/// All other columns are fields: numbers, booleans, strings, lists, structs, and maps as objects. Dates
/// and times are strings in the form of ISO 8601, decimals and UUIDs strings as well. Columns of types
/// without a counterpart are [`unused`](Dataset::unused).
pub struct Parquet {
    path: PathBuf,
    name: String,
    loaded: Loaded,
}

impl Parquet {
    /// Loads the columns of the file at `path`, which may have no rows.
    ///
    /// Rows of a damaged row group are bad samples.
    ///
    /// # Errors
    /// If the file cannot be read, or none of its rows.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_lfs_pointer_at(path)?;
        let file = File::open(path).map_err(Error::io(path))?;
        let loaded =
            Loaded::read(file).map_err(Error::in_file_because(path, "not a whole Parquet file"))?;
        Ok(Self { path: path.to_owned(), name: path.display().to_string(), loaded })
    }

    /// Row `index`, if it can be read.
    fn row(&self, index: usize) -> Result<&StoredRow> {
        in_range(self, index)?;
        let row = &self.loaded.rows[index];
        match &row.fault {
            Some(reason) => Err(item_error(&self.path, &format!("row {index}"), reason)),
            None => Ok(row),
        }
    }

    /// The columns of row `index` as they are stored, for tables whose images lie elsewhere; those of
    /// [`Dataset::fields`] have segments in place of marks.
    pub(super) fn raw_fields(&self, index: usize) -> Result<Fields> {
        Ok(self.row(index)?.fields.clone())
    }

    /// The fields of row `index`, in which segments stand for its images.
    fn placed(&self, index: usize) -> Result<Fields> {
        let row = self.row(index)?;
        let mut fields = row.fields.clone();
        place_marks(&mut fields, row.images.len())
            .map_err(|message| item_error(&self.path, &format!("row {index}"), message))?;
        Ok(fields)
    }

    /// Row and column of `image` in messages.
    fn item(&self, row: usize, image: &StoredImage) -> String {
        format!("row {row}, column {}", self.loaded.images[image.column].name)
    }

    /// The file that holds `image`, which has no bytes.
    fn file_of(&self, row: usize, image: &StoredImage) -> Result<PathBuf> {
        let failed = |message: String| {
            Error::file(&self.path, format!("{}: {message}", self.item(row, image)))
        };
        let path = image.path.as_ref();
        let path = path.ok_or_else(|| failed("the image has neither bytes nor a path".into()))?;
        let dir = self.path.parent().unwrap_or(Path::new(""));
        files::inside(dir, path).map_err(failed)
    }

    fn decode(&self, row: usize, image: &StoredImage) -> Result<RgbImage> {
        let origin = format!("{}: {}", self.name, self.item(row, image));
        if let Some(bytes) = &image.bytes {
            return image_file::decode(bytes.data(), &origin);
        }
        let file = self.file_of(row, image)?;
        image_file::decode(&files::read(&file).map_err(Error::io(&file))?, &origin)
    }

    /// A digest of the image file's bytes, wherever they are.
    fn key(&self, row: usize, image: &StoredImage) -> Result<String> {
        let digest = |bytes: &[u8]| hex(&Sha256::digest(bytes)[..16]);
        if let Some(bytes) = &image.bytes {
            return Ok(digest(bytes.data()));
        }
        let file = self.file_of(row, image)?;
        Ok(digest(&files::read(&file).map_err(Error::io(&file))?))
    }
}

impl Dataset for Parquet {
    fn len(&self) -> usize {
        self.loaded.rows.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields = self.placed(index)?;
        let images = self.row(index)?.images.iter().map(|image| self.decode(index, image));
        let images = images.collect::<Result<_>>()?;
        let source = format!("{}: row {index}", self.name);
        Ok(Sample { fields, images, source })
    }

    fn unused(&self) -> Vec<Unused> {
        let unread = self.loaded.unread.iter().map(|unread| Unused {
            what: format!("{}: column {}", self.name, unread.column),
            count: 1,
            reason: unread.reason.clone(),
        });
        unread.collect()
    }

    fn place(&self, index: usize) -> String {
        format!("{}: row {index}", self.name)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        self.placed(index)
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        let place = |(number, image): (usize, &StoredImage)| match image.bytes {
            Some(_) => Ok(Place::part(&self.path, format!("{index}/{number}"))),
            None => self.file_of(index, image).map(Place::file),
        };
        self.row(index)?.images.iter().enumerate().map(place).collect::<Result<_>>().map(Some)
    }

    fn image_keys(&self, index: usize) -> Result<Vec<String>> {
        self.row(index)?.images.iter().map(|image| self.key(index, image)).collect()
    }
}
