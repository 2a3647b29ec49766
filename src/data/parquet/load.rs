//! Reading all rows of a file; a part that is damaged costs its rows, not the file.

use std::fs::File;
use std::sync::Arc;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::file::serialized_reader::ReadOptionsBuilder;
use ::parquet::schema::types::{SchemaDescriptor, Type};
use image::ImageFormat;

use super::pages::CheckedGroup;
use super::row::StoredRow;
use super::shape::{Columns, ImageColumn, Unread, bare};
use super::source::Source;
use crate::guard;

/// Most rows of a row group that are kept as unreadable or without a value; a damaged number of rows
/// would otherwise cost all memory.
const MAX_EMPTY_ROWS: usize = 1 << 24;

/// Formats by which a column of plain bytes is recognised as images; those of fewer tell-tale bytes are
/// not among them.
const FORMATS: [ImageFormat; 7] = [
    ImageFormat::Avif,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::Tiff,
    ImageFormat::WebP,
];

/// A column of plain bytes holds images if one in this many values begins like one: downloads that
/// failed are among them, and other data begin so by chance.
const ONE_IMAGE_IN: usize = 10;

/// The content of a file.
pub(super) struct Loaded {
    pub rows: Vec<StoredRow>,
    /// The columns that rows number in their images.
    pub images: Vec<ImageColumn>,
    pub unread: Vec<Unread>,
}

impl Loaded {
    /// Reads `file`.
    pub(super) fn read(file: File) -> Result<Self, ParquetError> {
        let source = Source::new(file)?;
        let schema = guarded(|| {
            let reader = SerializedFileReader::new(source.try_clone()?)?;
            let schema = reader.metadata().file_metadata().schema();
            Ok((Columns::of(schema)?, bare(schema)?))
        })?;
        let (columns, schema) = schema;
        let name = schema.name().to_owned();
        let options = ReadOptionsBuilder::new()
            .with_parquet_schema(Arc::new(SchemaDescriptor::new(Arc::new(schema))))
            .build();
        let reader = guarded(|| SerializedFileReader::new_with_options(source, options))?;
        let Columns { shapes, kinds, images, unread } = columns;
        let projection = Type::group_type_builder(&name).with_fields(kinds).build()?;
        let (mut rows, mut damage) = (Vec::new(), None);
        for group in 0..reader.num_row_groups() {
            let num_rows = reader.metadata().row_group(group).num_rows();
            let end = rows.len().saturating_add(usize::try_from(num_rows).unwrap_or(0));
            let read = guarded(|| {
                if shapes.is_empty() {
                    return Ok(());
                }
                let group = CheckedGroup(reader.get_row_group(group)?);
                for row in group.get_row_iter(Some(projection.clone()))? {
                    rows.push(StoredRow::of(row?.into_columns(), &shapes));
                }
                Ok(())
            });
            let empty = end.saturating_sub(rows.len());
            if empty > MAX_EMPTY_ROWS {
                let reason = read.err().map(|e| format!(": {e}")).unwrap_or_default();
                return Err(general(format!(
                    "row group {group} says that it holds {num_rows} rows{reason}"
                )));
            }
            let reason = read.err().map(|e| format!("row group {group} is damaged: {e}"));
            let reason: Option<Arc<str>> = reason.map(Arc::from);
            let broken = || match &reason {
                Some(reason) => StoredRow::broken(Arc::clone(reason)),
                None => StoredRow::default(),
            };
            rows.extend(std::iter::repeat_with(broken).take(empty));
            damage = damage.or(reason);
        }
        match damage {
            Some(reason) if rows.iter().all(|row| row.fault.is_some()) => {
                Err(general(reason.to_string()))
            }
            _ => {
                let mut loaded = Self { rows, images, unread };
                loaded.drop_other_bytes();
                Ok(loaded)
            }
        }
    }

    /// Drops the values of columns of plain bytes that hold no images.
    fn drop_other_bytes(&mut self) {
        let mut counts = vec![(0, 0); self.images.len()];
        for image in self.rows.iter().flat_map(|row| &row.images) {
            let (values, found) = &mut counts[image.column];
            *values += 1;
            *found += usize::from(image.bytes.as_ref().is_some_and(|b| begins_as_image(b.data())));
        }
        let is_other: Vec<bool> = self
            .images
            .iter()
            .zip(counts)
            .map(|(column, (values, found))| {
                column.is_binary && (found == 0 || found * ONE_IMAGE_IN < values)
            })
            .collect();
        for row in &mut self.rows {
            row.images.retain(|image| !is_other[image.column]);
        }
        for (column, _) in self.images.iter().zip(is_other).filter(|(_, is_other)| *is_other) {
            let reason = format!("{} values that do not begin like images", column.kind);
            self.unread.push(Unread { column: column.name.clone(), reason });
        }
    }
}

fn begins_as_image(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok_and(|format| FORMATS.contains(&format))
}

/// The result of `read`; a panic of the Parquet crate, which trusts damaged files in places, is an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    guard::guarded(read).unwrap_or_else(|| Err(general("the data are inconsistent".to_owned())))
}

fn general(message: String) -> ParquetError {
    ParquetError::General(message)
}
