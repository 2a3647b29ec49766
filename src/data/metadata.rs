//! Metadata of an image folder: a table whose rows name images.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use super::csv_table::CsvTable;
use super::dataset::{Dataset, Fields};
use super::image_source::ImageSource;
use super::lines::Lines;
use super::messages::{Checked, item_error, type_name};
use super::parquet::Parquet;
use super::{files, image_file};
use crate::error::{Error, Result};

/// Names of files with metadata; of several in one directory, the first counts.
pub(super) const NAMES: [&str; 3] = ["metadata.jsonl", "metadata.csv", "metadata.parquet"];

/// One file of metadata.
pub(super) struct Metadata {
    path: PathBuf,
    table: Table,
}

enum Table {
    Lines(Lines),
    Csv(CsvTable),
    Parquet(Parquet),
}

impl Metadata {
    /// Opens the file at `path`, whose name is one of [`NAMES`].
    ///
    /// # Errors
    /// Those of the format; if a table with one header for all rows has no column of file names.
    pub(super) fn open(path: &Path) -> Result<Self> {
        files::refuse_wrapped(path)?;
        let table = match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Table::Csv(CsvTable::open(path)?),
            Some("parquet") => Table::Parquet(Parquet::open(path)?),
            _ => Table::Lines(Lines::open(path)?),
        };
        let metadata = Self { path: path.to_owned(), table };
        if let Table::Csv(table) = &metadata.table
            && !table.columns().any(|name| Column::of(name).is_some())
        {
            let columns = table.columns().collect::<Vec<_>>().join(", ");
            let message = format!("{NO_FILE_NAME}; its columns are {columns}");
            return Err(Error::file(path, message));
        }
        Ok(metadata)
    }

    /// The directory that its file names are relative to.
    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        match &self.table {
            Table::Lines(lines) => lines.len(),
            Table::Csv(table) => table.len(),
            Table::Parquet(table) => table.len(),
        }
    }

    /// The columns of row `index`.
    pub(super) fn fields(&self, index: usize) -> Result<Fields> {
        match &self.table {
            Table::Lines(lines) => lines.object(index),
            Table::Csv(table) => table.object(index),
            Table::Parquet(table) => table.raw_fields(index),
        }
    }

    /// Paths of the images that row `index` with these `fields` names, in the order of its columns.
    pub(super) fn images(&self, index: usize, fields: &Fields) -> Result<Vec<PathBuf>> {
        let names = self.names(index, fields)?;
        let paths = names.into_iter().map(|(column, name)| {
            files::inside(self.dir(), name).map_err(|e| format!("column {column}: {e}"))
        });
        paths.collect::<Checked<_>>().map_err(|message| self.error(index, message))
    }

    /// Columns and the file names in them.
    fn names<'a>(&self, index: usize, fields: &'a Fields) -> Result<Vec<(&'a str, &'a str)>> {
        let mut names = Vec::new();
        let mut keys: Vec<&str> = fields.keys().map(String::as_str).collect();
        if keys.iter().filter(|key| may_name_images(key, &fields[**key])).count() > 1 {
            // Only here the order matters, which the fields have lost.
            let order = self.order(index)?;
            keys.sort_by_key(|key| order.iter().position(|name| name == key));
        }
        let found = keys.into_iter().try_for_each(|key| add_names(key, &fields[key], &mut names));
        found.map_err(|message| self.error(index, message))?;
        match names.is_empty() {
            true => Err(self.error(index, NO_FILE_NAME)),
            false => Ok(names),
        }
    }

    /// The names of the columns of row `index` in the order of the file, where it is known.
    fn order(&self, index: usize) -> Result<Vec<String>> {
        match &self.table {
            Table::Lines(lines) => lines.keys(index),
            Table::Csv(table) => Ok(table.columns().map(str::to_owned).collect()),
            Table::Parquet(_) => Ok(Vec::new()),
        }
    }

    /// Decodes the image at `path`, named by row `index`.
    pub(super) fn image(&self, index: usize, path: &Path) -> Result<RgbImage> {
        let source = ImageSource::File(path.to_owned());
        let item = format!("{}: {source}", self.label(index));
        let bytes = source.read().map_err(Error::in_file_because(&self.path, &item))?;
        image_file::decode(&bytes, &format!("{}: {item}", self.path.display()))
    }

    fn error(&self, index: usize, message: impl std::fmt::Display) -> Error {
        item_error(&self.path, &self.label(index), message)
    }

    /// The file and row `index`, for messages.
    pub(super) fn source(&self, index: usize) -> String {
        format!("{}: {}", self.path.display(), self.label(index))
    }

    fn label(&self, index: usize) -> String {
        match &self.table {
            Table::Lines(lines) => lines.label(index),
            Table::Csv(table) => table.label(index),
            Table::Parquet(_) => format!("row {index}"),
        }
    }
}

const NO_FILE_NAME: &str =
    "there is no string file_name or *_file_name, nor a list file_names or *_file_names";

/// What a column says of images, by its name. Source: `folder_based_builder.py` of `datasets`.
#[derive(Clone, Copy)]
enum Column {
    /// The name of one image.
    One,
    /// A list of names.
    Many,
}

impl Column {
    fn of(name: &str) -> Option<Self> {
        let is = |key: &str| {
            name.strip_suffix(key).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
        };
        if is("file_name") {
            Some(Self::One)
        } else if is("file_names") {
            Some(Self::Many)
        } else {
            None
        }
    }
}

fn may_name_images(key: &str, value: &Value) -> bool {
    Column::of(key).is_some() || value.is_object() || value.is_array()
}

/// Adds the file names in the column `key`, also those inside of structs and lists of them.
fn add_names<'a>(
    key: &'a str,
    value: &'a Value,
    names: &mut Vec<(&'a str, &'a str)>,
) -> Checked<()> {
    match (Column::of(key), value) {
        (Some(_), Value::Null) => {}
        (Some(Column::One), Value::String(name)) => names.push((key, name)),
        (Some(Column::Many), Value::Array(list)) => {
            for (n, entry) in list.iter().enumerate() {
                let found = type_name(entry);
                let name = entry.as_str();
                let name =
                    name.ok_or_else(|| format!("{key}[{n}] is a {found}, not a file name"))?;
                names.push((key, name));
            }
        }
        (Some(Column::One), other) => {
            return Err(format!("{key} is a {}, not a string", type_name(other)));
        }
        (Some(Column::Many), other) => {
            return Err(format!("{key} is a {}, not a list", type_name(other)));
        }
        (None, Value::Object(fields)) => {
            for (key, value) in fields {
                add_names(key, value, names)?;
            }
        }
        (None, Value::Array(list)) if list.iter().any(Value::is_object) => {
            for entry in list {
                add_names(key, entry, names)?;
            }
        }
        (None, _) => {}
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(row: Value) -> Result<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata.jsonl");
        // The text of `row` would be in alphabetical order.
        std::fs::write(&path, row.as_str().unwrap()).unwrap();
        let metadata = Metadata::open(&path).unwrap();
        let fields = metadata.fields(0).unwrap();
        let names = metadata.names(0, &fields)?;
        Ok(names.into_iter().map(|(column, name)| format!("{column}={name}")).collect())
    }

    #[test]
    fn columns_of_file_names_are_those_of_datasets_in_their_order() {
        for (row, expected) in [
            (r#"{"file_name": "a"}"#, &["file_name=a"][..]),
            (
                r#"{"right_file_name": "b", "file_name": null, "left_file_name": "a"}"#,
                &["right_file_name=b", "left_file_name=a"],
            ),
            (
                r#"{"file_names": ["b", "a"], "file_name": "c"}"#,
                &["file_names=b", "file_names=a", "file_name=c"],
            ),
            (
                r#"{"x_file_names": [], "z": {"file_name": "b"}, "y": [{"file_name": "a"}, {"file_name": null}]}"#,
                &["file_name=b", "file_name=a"],
            ),
            (
                r#"{"file_name": "a", "profile_name": "b", "profile_names": "c", "words": ["d"]}"#,
                &["file_name=a"],
            ),
        ] {
            assert_eq!(names(json!(row)).unwrap(), expected, "{row}");
        }
    }

    #[test]
    fn what_is_no_file_name_is_named() {
        for (row, words) in [
            (r#"{"file_names": ["a", null, 3]}"#, "line 1: file_names[1] is a null"),
            (r#"{"x_file_names": ["a", 3]}"#, "x_file_names[1] is a integer"),
            (r#"{"file_name": 3}"#, "file_name is a integer, not a string"),
            (r#"{"file_names": "a"}"#, "file_names is a string, not a list"),
            (r#"{"file_name": null}"#, "no string file_name"),
            (r#"{"file_names": []}"#, "no string file_name"),
        ] {
            let message = names(json!(row)).unwrap_err().to_string();
            assert!(message.contains(words), "{row}: {message}");
        }
    }
}
