//! Parquet files as Hugging Face writes them: `struct{bytes, path}` columns are images, all other
//! columns become JSON values.
//!
//! Rows stay in memory as JSON values and compressed images; an image that a column chunk stores
//! once for many rows (one row per question about it) is held once. The reader is that of the
//! `parquet` crate without Arrow, whose crates would take a tenth of the build time.

use std::fs::File;
use std::path::{Path, PathBuf};

use ::parquet::basic::{ConvertedType, LogicalType, Type as PhysicalType};
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, List, Row};
use ::parquet::schema::types::Type;
use image::RgbImage;
use serde_json::Value;

use super::dataset::{Dataset, Fields, Sample, in_range};
use super::messages::{because_in, item_error};
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
        let rows = load(file).map_err(because_in(path, "not a whole Parquet file"))?;
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

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        Ok(self.rows[index].fields.clone())
    }
}

/// How a column is read, by its type.
#[derive(Clone, Copy, PartialEq)]
enum Column {
    Images,
    Field,
    Ignored,
}

fn load(file: File) -> std::result::Result<Vec<Stored>, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns: Vec<Column> = schema.get_fields().iter().map(|kind| column(kind)).collect();
    reader.get_row_iter(None)?.map(|row| Ok(stored(row?, &columns))).collect()
}

fn stored(row: Row, columns: &[Column]) -> Stored {
    let mut stored = Stored { fields: Fields::new(), images: Vec::new() };
    for ((name, value), column) in row.into_columns().into_iter().zip(columns) {
        match column {
            Column::Images => add_images(&name, value, &mut stored.images),
            Column::Field => {
                if let Some(value) = json(&value) {
                    stored.fields.insert(name, value);
                }
            }
            Column::Ignored => {}
        }
    }
    stored
}

/// The kind of a top-level column, of a struct's child or of a list's elements.
fn column(kind: &Type) -> Column {
    if is_image(kind) {
        return Column::Images;
    }
    let children = || kind.get_fields().iter().map(|child| column(child));
    match kind {
        Type::GroupType { .. } if is_annotated(kind, ConvertedType::MAP) => Column::Ignored,
        Type::GroupType { .. } => {
            // a list or a struct: its elements or members say what it is
            match children().find(|child| *child != Column::Ignored) {
                Some(Column::Images) if is_list(kind) => Column::Images,
                Some(_) => Column::Field,
                None => Column::Ignored,
            }
        }
        Type::PrimitiveType { .. } if has_json(kind) => Column::Field,
        Type::PrimitiveType { .. } => Column::Ignored,
    }
}

fn is_annotated(kind: &Type, annotation: ConvertedType) -> bool {
    kind.get_basic_info().converted_type() == annotation
}

fn is_list(kind: &Type) -> bool {
    let info = kind.get_basic_info();
    // the group inside a list has no annotation, but it repeats
    let repeated =
        info.has_repetition() && info.repetition() == ::parquet::basic::Repetition::REPEATED;
    is_annotated(kind, ConvertedType::LIST) || repeated
}

/// Whether `kind` is a struct with binary `bytes`.
fn is_image(kind: &Type) -> bool {
    kind.is_group()
        && kind.get_fields().iter().any(|child| {
            child.name() == "bytes"
                && child.is_primitive()
                && child.get_physical_type() == PhysicalType::BYTE_ARRAY
                && !is_text(child)
        })
}

fn is_text(kind: &Type) -> bool {
    let info = kind.get_basic_info();
    let text = [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON];
    matches!(info.logical_type_ref(), Some(LogicalType::String | LogicalType::Json))
        || text.contains(&info.converted_type())
}

/// Whether values of the primitive type `kind` have a counterpart in JSON.
fn has_json(kind: &Type) -> bool {
    use ConvertedType as C;
    let integers = [
        C::NONE,
        C::INT_8,
        C::INT_16,
        C::INT_32,
        C::INT_64,
        C::UINT_8,
        C::UINT_16,
        C::UINT_32,
        C::UINT_64,
    ];
    match kind.get_physical_type() {
        PhysicalType::BOOLEAN | PhysicalType::FLOAT | PhysicalType::DOUBLE => true,
        PhysicalType::INT32 | PhysicalType::INT64 => {
            integers.contains(&kind.get_basic_info().converted_type())
        }
        PhysicalType::BYTE_ARRAY => is_text(kind),
        PhysicalType::INT96 | PhysicalType::FIXED_LEN_BYTE_ARRAY => false,
    }
}

/// Adds the images in `value`, one or a list; nulls are skipped.
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

/// `value` as JSON; `None` for types without a counterpart there.
fn json(value: &Field) -> Option<Value> {
    Some(match value {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        // the shortest decimal, not the double that the bits widen to
        Field::Float(value) => value.to_string().parse::<f64>().ok().into(),
        Field::Double(value) => (*value).into(),
        Field::Str(value) => value.as_str().into(),
        Field::Group(row) => row
            .get_column_iter()
            .filter_map(|(name, value)| Some((name.clone(), json(value)?)))
            .collect::<Fields>()
            .into(),
        Field::ListInternal(list) => return list_json(list),
        _ => return None,
    })
}

fn list_json(list: &List) -> Option<Value> {
    list.elements().iter().map(json).collect()
}
