//! Parquet files as Hugging Face writes them: images are `struct{bytes, path}` columns, all
//! other columns become JSON values.
//!
//! The columns are held in memory as they were encoded: images compressed, and repeated
//! images (one row a question, several questions an image) once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StructArray, types};
use arrow_schema::{DataType, Field, Fields as ArrowFields, Schema};
use image::RgbImage;
use serde_json::Value;

use super::{Dataset, Fields, Sample, files, image_file, in_range, item_error};
use crate::{Error, Result};

/// Rows that are decoded together; small, so that no batch of images passes 2 GiB.
const BATCH_ROWS: usize = 256;

/// One Parquet file. Columns of type `struct{bytes, path}`, or lists of it, are images (in
/// column order, null ones left out); booleans, integers, floats, strings, lists and structs of
/// them are fields; columns of other types are left out. An image without bytes is read from
/// its path, relative to the file's directory.
pub struct Parquet {
    path: PathBuf,
    name: String,
    batches: Vec<RecordBatch>,
    /// First row of each batch, and the total.
    starts: Vec<usize>,
}

impl Parquet {
    /// Loads the columns of the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or holds no row.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let batches =
            load(file).map_err(|e| Error::file(path, format!("not a whole Parquet file: {e}")))?;
        let mut starts = vec![0];
        let mut rows = 0;
        for batch in &batches {
            rows += batch.num_rows();
            starts.push(rows);
        }
        if rows == 0 {
            return Err(Error::file(path, "holds no rows"));
        }
        let name = path.display().to_string();
        Ok(Self { path: path.to_owned(), name, batches, starts })
    }

    fn locate(&self, index: usize) -> Result<(&RecordBatch, usize)> {
        in_range(self, index)?;
        let batch = self.starts.partition_point(|&start| start <= index) - 1;
        Ok((&self.batches[batch], index - self.starts[batch]))
    }

    fn decode(&self, column: &str, row: &Row<'_>, images: &mut Vec<RgbImage>) -> Result<()> {
        let (array, at) = resolve(row.array, row.at);
        if array.is_null(at) {
            return Ok(());
        }
        match array.data_type() {
            DataType::Struct(_) => images.push(self.image(column, array.as_struct(), at, row)?),
            _ => {
                if let Some(items) = list_items(array, at) {
                    for item in 0..items.len() {
                        let row = Row { array: items.as_ref(), at: item, number: row.number };
                        self.decode(column, &row, images)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn image(
        &self,
        name: &str,
        column: &StructArray,
        at: usize,
        row: &Row<'_>,
    ) -> Result<RgbImage> {
        let item = format!("row {}, column {name}", row.number);
        let broken = |e: &dyn std::fmt::Display| item_error(&self.path, &item, e);
        let origin = format!("{}: {item}", self.name);
        if let Some(bytes) = column.column_by_name("bytes").and_then(|b| bytes(b.as_ref(), at)) {
            return image_file::decode(bytes, &origin);
        }
        let path = column.column_by_name("path").map(|p| value(p.as_ref(), at));
        let Some(Some(Value::String(path))) = path else {
            return Err(broken(&"the image has neither bytes nor a path"));
        };
        let dir = self.path.parent().unwrap_or(Path::new(""));
        let file = files::inside(dir, &path).map_err(|e| broken(&e))?;
        image_file::decode(&files::read(&file).map_err(Error::io(&file))?, &origin)
    }
}

/// One place in a column, and the row's number in the file for messages.
struct Row<'a> {
    array: &'a dyn Array,
    at: usize,
    number: usize,
}

impl Dataset for Parquet {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (batch, at) = self.locate(index)?;
        let mut images = Vec::new();
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if is_image(field.data_type()) {
                let row = Row { array: column.as_ref(), at, number: index };
                self.decode(field.name(), &row, &mut images)?;
            }
        }
        let source = format!("{}: row {index}", self.name);
        Ok(Sample { fields: self.fields(index)?, images, source })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let (batch, at) = self.locate(index)?;
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        Ok(columns
            .filter(|(field, _)| !is_image(field.data_type()))
            .filter_map(|(field, column)| Some((field.name().clone(), value(column, at)?)))
            .collect())
    }
}

fn load(file: File) -> ::parquet::errors::Result<Vec<RecordBatch>> {
    let plain = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let options = ArrowReaderOptions::new().with_schema(Arc::new(keep_encoded(plain.schema())));
    // a file whose types do not allow the dictionary is read as it is
    let metadata = ArrowReaderMetadata::try_new(plain.metadata().clone(), options);
    let metadata = metadata.unwrap_or(plain);
    ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_batch_size(BATCH_ROWS)
        .build()?
        .map(|batch| Ok(batch?))
        .collect()
}

/// `schema` with the bytes of images as dictionaries, so that repeated ones stay single.
fn keep_encoded(schema: &Schema) -> Schema {
    let fields: ArrowFields = schema.fields().iter().map(|f| encoded_field(f)).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn encoded_field(field: &Field) -> Field {
    match field.data_type() {
        DataType::Struct(children) if is_image(field.data_type()) => {
            let children: ArrowFields = children
                .iter()
                .map(|child| match child.data_type() {
                    DataType::Binary | DataType::LargeBinary => {
                        let values = Box::new(child.data_type().clone());
                        let kind = DataType::Dictionary(Box::new(DataType::Int32), values);
                        child.as_ref().clone().with_data_type(kind)
                    }
                    _ => child.as_ref().clone(),
                })
                .collect();
            field.clone().with_data_type(DataType::Struct(children))
        }
        _ => field.clone(),
    }
}

/// Whether a column of this type holds images: a struct with binary `bytes`, or a list of it.
fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(children) => {
            children.iter().any(|child| child.name() == "bytes" && is_binary(child.data_type()))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_image(item.data_type())
        }
        _ => false,
    }
}

fn is_binary(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => is_binary(values),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        _ => false,
    }
}

/// The array and position that hold the value itself: through a dictionary, if there is one.
fn resolve(array: &dyn Array, at: usize) -> (&dyn Array, usize) {
    match array.as_any_dictionary_opt() {
        Some(dictionary) if array.is_valid(at) => {
            let key = integer(dictionary.keys(), at).and_then(|key| usize::try_from(key).ok());
            (dictionary.values().as_ref(), key.unwrap_or(0))
        }
        _ => (array, at),
    }
}

fn bytes(array: &dyn Array, at: usize) -> Option<&[u8]> {
    let (array, at) = resolve(array, at);
    if array.is_null(at) {
        return None;
    }
    match array.data_type() {
        DataType::Binary => Some(array.as_binary::<i32>().value(at)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(at)),
        DataType::BinaryView => Some(array.as_binary_view().value(at)),
        _ => None,
    }
}

fn list_items(array: &dyn Array, at: usize) -> Option<Arc<dyn Array>> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(at)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(at)),
        DataType::FixedSizeList(..) => Some(array.as_fixed_size_list().value(at)),
        _ => None,
    }
}

fn integer(array: &dyn Array, at: usize) -> Option<i128> {
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<types::Int8Type>().value(at).into(),
        DataType::Int16 => array.as_primitive::<types::Int16Type>().value(at).into(),
        DataType::Int32 => array.as_primitive::<types::Int32Type>().value(at).into(),
        DataType::Int64 => array.as_primitive::<types::Int64Type>().value(at).into(),
        DataType::UInt8 => array.as_primitive::<types::UInt8Type>().value(at).into(),
        DataType::UInt16 => array.as_primitive::<types::UInt16Type>().value(at).into(),
        DataType::UInt32 => array.as_primitive::<types::UInt32Type>().value(at).into(),
        DataType::UInt64 => array.as_primitive::<types::UInt64Type>().value(at).into(),
        _ => return None,
    })
}

/// The value as JSON; `None` for types that have no plain counterpart there.
fn value(array: &dyn Array, at: usize) -> Option<Value> {
    let (array, at) = resolve(array, at);
    if let Some(items) = list_items(array, at) {
        if array.is_null(at) {
            return Some(Value::Null);
        }
        return (0..items.len()).map(|item| value(items.as_ref(), item)).collect();
    }
    let found = match array.data_type() {
        DataType::Null => Value::Null,
        _ if array.is_null(at) => Value::Null,
        DataType::Boolean => array.as_boolean().value(at).into(),
        DataType::Utf8 => array.as_string::<i32>().value(at).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(at).into(),
        DataType::Utf8View => array.as_string_view().value(at).into(),
        DataType::Float64 => array.as_primitive::<types::Float64Type>().value(at).into(),
        DataType::Float32 => {
            // the shortest decimal, not the double that the bits widen to
            let number = array.as_primitive::<types::Float32Type>().value(at);
            number.to_string().parse::<f64>().ok().into()
        }
        DataType::Struct(children) => {
            let columns = array.as_struct().columns();
            let named = children.iter().zip(columns);
            Value::Object(
                named.filter_map(|(f, c)| Some((f.name().clone(), value(c, at)?))).collect(),
            )
        }
        _ => {
            let number = integer(array, at)?;
            match (u64::try_from(number), i64::try_from(number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => return None,
            }
        }
    };
    Some(found)
}
