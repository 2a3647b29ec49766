//! Parquet files as Hugging Face writes them: `struct{bytes, path}` columns are images, all other
//! columns become JSON values.
//!
//! The columns stay in memory as they were encoded: images compressed, and a repeated image (with one
//! row per question about it) once.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields as ArrowFields, Schema};
use image::RgbImage;
use serde_json::Value;

use super::arrow::{bytes, is_image, list_items, resolve, value};
use super::dataset::{Dataset, Fields, Sample, in_range};
use super::messages::{because_in, item_error};
use super::{files, image_file};
use crate::error::{Error, Result};

/// Rows per record batch; few, so that the images of a batch stay below 2 GiB.
const BATCH_ROWS: usize = 256;

/// One Parquet file. Columns of type `struct{bytes, path}`, or lists of it, are images (in column
/// order, without nulls); booleans, integers, floats, strings, lists and structs of them are fields;
/// columns of other types are ignored. An image without bytes is read from its path, relative to
/// the file's directory.
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
    /// If the file cannot be read, is damaged, or holds no row.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let batches = load(file).map_err(because_in(path, "not a whole Parquet file"))?;
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

    /// Adds the images at `row` of `column`, one or a list.
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

    /// The image in the struct at `at`, from its bytes or its path.
    fn image(
        &self,
        name: &str,
        column: &StructArray,
        at: usize,
        row: &Row<'_>,
    ) -> Result<RgbImage> {
        let item = format!("row {}, column {name}", row.number);
        let origin = format!("{}: {item}", self.name);
        if let Some(bytes) = column.column_by_name("bytes").and_then(|b| bytes(b.as_ref(), at)) {
            return image_file::decode(bytes, &origin);
        }
        let path = column.column_by_name("path").map(|p| value(p.as_ref(), at));
        let Some(Some(Value::String(path))) = path else {
            return Err(item_error(&self.path, &item, "the image has neither bytes nor a path"));
        };
        let dir = self.path.parent().unwrap_or(Path::new(""));
        let file = files::inside(dir, &path).map_err(|e| item_error(&self.path, &item, e))?;
        image_file::decode(&files::read(&file).map_err(Error::io(&file))?, &origin)
    }
}

/// One position in a column, and the row's number in the file for messages.
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

/// All rows of `file`, the bytes of images dictionary-encoded where the file allows it.
fn load(file: File) -> ::parquet::errors::Result<Vec<RecordBatch>> {
    let plain = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let options = ArrowReaderOptions::new().with_schema(Arc::new(keep_encoded(plain.schema())));
    // if the types do not allow a dictionary, read the columns as they are
    let metadata = ArrowReaderMetadata::try_new(plain.metadata().clone(), options);
    let metadata = metadata.unwrap_or(plain);
    ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
        .with_batch_size(BATCH_ROWS)
        .build()?
        .map(|batch| Ok(batch?))
        .collect()
}

/// `schema` with the bytes of images as dictionaries, which hold repeated images once.
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
