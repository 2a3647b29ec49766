//! Rows in memory: JSON values and the content of images.

use std::sync::Arc;

use ::parquet::data_type::ByteArray;
use ::parquet::record::Field;
use serde_json::Value;

use super::super::dataset::Fields;
use super::shape::Shape;

/// A row in memory.
#[derive(Default)]
pub(super) struct StoredRow {
    pub fields: Fields,
    pub images: Vec<StoredImage>,
    /// Why the row cannot be read, shared with the other rows of a damaged row group.
    pub fault: Option<Arc<str>>,
}

/// An image of a row.
pub(super) struct StoredImage {
    /// The number of its image column.
    pub column: usize,
    /// The content of an image file, shared with other rows where the file shares it.
    pub bytes: Option<ByteArray>,
    pub path: Option<String>,
}

impl StoredRow {
    /// A row that cannot be read.
    pub(super) fn broken(reason: Arc<str>) -> Self {
        Self { fault: Some(reason), ..Self::default() }
    }

    /// The row of the values of `columns`, which have the given shapes.
    pub(super) fn of(columns: Vec<(String, Field)>, shapes: &[Shape]) -> Self {
        let mut row = Self::default();
        for ((name, value), shape) in columns.into_iter().zip(shapes) {
            match row.json(shape, value) {
                Ok(Some(value)) => _ = row.fields.insert(name, value),
                Ok(None) => {}
                Err(reason) => return Self::broken(format!("column {name}: {reason}").into()),
            }
        }
        row
    }

    /// `value` as JSON, its images added to the row; `None` if nothing but images has a counterpart
    /// in JSON.
    fn json(&mut self, shape: &Shape, value: Field) -> Result<Option<Value>, String> {
        let found = match (shape, value) {
            (Shape::Unread, _) => return Ok(None),
            (_, Field::Null) => Value::Null,
            (Shape::Scalar(scalar), value) => scalar.json(&value)?,
            (Shape::Binary(column), Field::Bytes(bytes)) => {
                self.images.push(StoredImage { column: *column, bytes: Some(bytes), path: None });
                Value::Null
            }
            (Shape::Image(column), Field::Group(row)) => {
                let mut image = StoredImage { column: *column, bytes: None, path: None };
                for (name, value) in row.into_columns() {
                    match (name.as_str(), value) {
                        ("bytes", Field::Bytes(bytes)) => image.bytes = Some(bytes),
                        ("path", Field::Bytes(path)) => {
                            image.path = Some(String::from_utf8_lossy(path.data()).into_owned());
                        }
                        _ => {}
                    }
                }
                self.images.push(image);
                Value::Null
            }
            (Shape::Struct(members), Field::Group(row)) => {
                let mut found = Fields::new();
                for ((name, value), (_, shape)) in row.into_columns().into_iter().zip(members) {
                    found.extend(self.json(shape, value)?.map(|value| (name, value)));
                }
                Value::Object(found)
            }
            (Shape::List { item, is_annotated, is_wrapped }, value) => {
                let list = if *is_annotated { only_member(value)? } else { value };
                let mut found = Vec::new();
                for element in elements(list)? {
                    let element = if *is_wrapped { only_member(element)? } else { element };
                    found.extend(self.json(item, element)?);
                }
                Value::Array(found)
            }
            (Shape::Map { key, value: kind }, value) => {
                self.map(key, kind.as_deref(), only_member(value)?)?
            }
            (shape, value) => return Err(format!("{value} does not fit {shape:?}")),
        };
        Ok(shape.has_json().then_some(found))
    }

    /// The object of the entries in `list`, or the list of the keys if there are no values.
    fn map(&mut self, key: &Shape, kind: Option<&Shape>, list: Field) -> Result<Value, String> {
        let (mut object, mut keys) = (Fields::new(), Vec::new());
        for entry in elements(list)? {
            let Field::Group(entry) = entry else { return Err("a map's entry is null".to_owned()) };
            let mut members = entry.into_columns().into_iter().map(|(_, value)| value);
            let name = self.json(key, members.next().unwrap_or(Field::Null))?;
            let name = name.unwrap_or_default();
            let Some(kind) = kind else {
                keys.push(name);
                continue;
            };
            let value = self.json(kind, members.next().unwrap_or(Field::Null))?;
            let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            object.extend(value.map(|value| (name, value)));
        }
        Ok(if kind.is_some() { Value::Object(object) } else { Value::Array(keys) })
    }
}

/// The value of the only member of a group.
fn only_member(value: Field) -> Result<Field, String> {
    match value {
        Field::Group(row) if row.len() == 1 => {
            Ok(row.into_columns().pop().map_or(Field::Null, |(_, value)| value))
        }
        Field::Null => Ok(Field::Null),
        other => Err(format!("{other} is no group of one member")),
    }
}

/// The elements of a list.
fn elements(value: Field) -> Result<Vec<Field>, String> {
    match value {
        Field::ListInternal(list) => Ok(list.elements().to_vec()),
        Field::Null => Ok(Vec::new()),
        other => Err(format!("{other} is no list")),
    }
}
