//! Parquet files as Hugging Face writes them: `struct{bytes, path}` columns are images, all other
//! columns become JSON values.
//!
//! Rows stay in memory as JSON values and compressed images; an image that a column chunk stores
//! once for many rows (one row per question about it) is held once. The reader is that of the
//! `parquet` crate without Arrow, whose crates would take a tenth of the build time.

mod shape;

use std::fs::File;
use std::path::{Path, PathBuf};

use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::Type;
use image::RgbImage;

use self::shape::Shape;
use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::messages::item_error;
use super::{files, image_file};
use crate::error::{Error, Result};

/// One Parquet file. Columns of type `struct{bytes, path}`, or lists of it, are images (in column
/// order, without nulls); booleans, integers, floats, strings, lists and structs of them are fields;
/// columns of other types are ignored. An image without bytes is read from its path, relative to
/// the file's directory.
pub struct Parquet {
    path: PathBuf,
    name: String,
    rows: Vec<Stored>,
}

/// A row in memory.
#[derive(Default)]
struct Stored {
    fields: Fields,
    images: Vec<StoredImage>,
}

struct StoredImage {
    column: String,
    /// The content of an image file, shared with other rows where the file shares it.
    bytes: Option<ByteArray>,
    path: Option<String>,
}

impl Parquet {
    /// Loads the columns of the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or holds no row.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let rows = load(file).map_err(Error::in_file_because(path, "not a whole Parquet file"))?;
        if rows.is_empty() {
            return Err(Error::file(path, "holds no rows"));
        }
        Ok(Self { path: path.to_owned(), name: path.display().to_string(), rows })
    }

    fn decode(&self, row: usize, image: &StoredImage) -> Result<RgbImage> {
        let item = format!("row {row}, column {}", image.column);
        let origin = format!("{}: {item}", self.name);
        if let Some(bytes) = &image.bytes {
            return image_file::decode(bytes.data(), &origin);
        }
        let Some(path) = &image.path else {
            return Err(item_error(&self.path, &item, "the image has neither bytes nor a path"));
        };
        let dir = self.path.parent().unwrap_or(Path::new(""));
        let file = files::inside(dir, path).map_err(|e| item_error(&self.path, &item, e))?;
        image_file::decode(&files::read(&file).map_err(Error::io(&file))?, &origin)
    }
}

impl Dataset for Parquet {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields = self.fields(index)?;
        let images = self.rows[index].images.iter().map(|image| self.decode(index, image));
        let images = images.collect::<Result<_>>()?;
        Ok(Sample { fields, images, source: format!("{}: row {index}", self.name) })
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn place(&self, index: usize) -> String {
        format!("{}: row {index}", self.name)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        Ok(self.rows[index].fields.clone())
    }
}

fn load(file: File) -> std::result::Result<Vec<Stored>, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let metadata = reader.metadata().file_metadata();
    let schema = metadata.schema();
    let kept = schema.get_fields().iter().filter_map(|kind| {
        let shape = Shape::of_column(kind)?;
        Some((kind.clone(), shape))
    });
    let (kinds, shapes): (Vec<_>, Vec<_>) = kept.unzip();
    if shapes.is_empty() {
        let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
        return Ok((0..rows).map(|_| Stored::default()).collect());
    }
    let read = Type::group_type_builder(schema.name()).with_fields(kinds).build()?;
    reader.get_row_iter(Some(read))?.map(|row| Ok(stored(row?, &shapes))).collect()
}

fn stored(row: Row, shapes: &[Shape]) -> Stored {
    let mut stored = Stored::default();
    for ((name, value), shape) in row.into_columns().into_iter().zip(shapes) {
        if shape.holds_images() {
            add_images(&name, value, &mut stored.images);
        } else if let Some(value) = shape.json(&value) {
            stored.fields.insert(name, value);
        }
    }
    stored
}

/// Adds the images in `value`, one or a list; nulls are left out.
fn add_images(column: &str, value: Field, images: &mut Vec<StoredImage>) {
    match value {
        Field::Group(row) => {
            let mut image = StoredImage { column: column.to_owned(), bytes: None, path: None };
            for (name, value) in row.into_columns() {
                match (name.as_str(), value) {
                    ("bytes", Field::Bytes(bytes)) => image.bytes = Some(bytes),
                    ("path", Field::Str(path)) => image.path = Some(path),
                    _ => {}
                }
            }
            images.push(image);
        }
        Field::ListInternal(list) => {
            for item in list.elements() {
                add_images(column, item.clone(), images);
            }
        }
        _ => {}
    }
}
