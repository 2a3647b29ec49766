//! CSV files with a header, read as `pandas.read_csv` does, which `datasets` uses.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder};
use serde_json::{Number, Value};

use super::dataset::Fields;
use super::files;
use super::messages::item_error;
use crate::error::{Error, Result};
use crate::json;

/// Cells without a value. Source: the defaults of `pandas.read_csv` (`na_values`).
const EMPTY: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// A table in memory.
pub(super) struct CsvTable {
    path: PathBuf,
    columns: Vec<(String, Kind)>,
    rows: Vec<Row>,
}

struct Row {
    /// Line of the file where it starts, from 1.
    line: usize,
    /// The cells, or what is wrong with the row.
    cells: std::result::Result<Vec<Option<Box<str>>>, String>,
}

/// The type of a column: the narrowest that all of its cells have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Float,
    Boolean,
    Text,
}

impl CsvTable {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is UTF-16, or holds no row below its header.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = files::read(path).map_err(Error::io(path))?;
        if let Some(message) = json::utf_16(&bytes) {
            return Err(Error::file(path, message));
        }
        let text = bytes.strip_prefix(json::BOM).unwrap_or(&bytes);
        let reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        let mut names = Vec::new();
        let mut rows = Vec::new();
        for record in reader.into_byte_records() {
            let record = record.map_err(Error::in_file(path))?;
            if names.is_empty() {
                let utf_8 = cells(&record).map_err(|message| item_error(path, "line 1", message));
                names = unique(utf_8?);
            } else if record.len() > 1 || names.len() == 1 || !record[0].trim_ascii().is_empty() {
                rows.push(Row::new(&record, text, names.len()));
            }
        }
        if rows.is_empty() {
            return Err(Error::file(path, "holds no rows"));
        }
        let kinds: Vec<_> = (0..names.len()).map(|column| kind(&rows, column)).collect();
        Ok(Self { path: path.to_owned(), columns: names.into_iter().zip(kinds).collect(), rows })
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The names of the columns in order.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// Row `index` with numbers and booleans where all of a column are; empty cells are null.
    pub(super) fn object(&self, index: usize) -> Result<Fields> {
        let cells = self.rows[index].cells.as_ref();
        let cells = cells.map_err(|message| item_error(&self.path, &self.label(index), message))?;
        let value = |(column, (name, kind)): (usize, &(String, Kind))| {
            let cell = cells.get(column).and_then(Option::as_deref);
            (name.clone(), cell.map_or(Value::Null, |cell| kind.value(cell)))
        };
        Ok(self.columns.iter().enumerate().map(value).collect())
    }

    /// The name of row `index` in messages.
    pub(super) fn label(&self, index: usize) -> String {
        format!("line {}", self.rows[index].line)
    }
}

impl Row {
    /// The row of `record`, which was read from `text`.
    fn new(record: &ByteRecord, text: &[u8], num_columns: usize) -> Self {
        let line = record.position().map_or(0, |position| {
            // The reader skips blank lines after it has noted the position.
            let rest = text.get(position.byte() as usize..).unwrap_or_default();
            let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            position.line() as usize + blank.filter(|byte| **byte == b'\n').count()
        });
        let cells = match record.len() > num_columns {
            true => Err(format!("has {} cells; the header names {num_columns}", record.len())),
            false => cells(record).map(|cells| {
                let given = |cell: &String| !EMPTY.contains(&cell.as_str());
                let cells = cells.into_iter();
                cells.map(|cell| Some(cell).filter(given).map(String::into_boxed_str)).collect()
            }),
        };
        Self { line, cells }
    }
}

/// The cells of `record` as text; the error is the message.
fn cells(record: &ByteRecord) -> std::result::Result<Vec<String>, String> {
    let text =
        |cell: &[u8]| String::from_utf8(cell.to_vec()).map_err(|_| "is not UTF-8".to_owned());
    record.iter().map(text).collect()
}

/// Names of columns as pandas makes them unique: `a`, `a.1`, or the next number that no other column has;
/// `Unnamed: 2` for an empty third one.
fn unique(names: Vec<String>) -> Vec<String> {
    let unnamed = |(n, name): (usize, String)| match name.is_empty() {
        true => format!("Unnamed: {n}"),
        false => name,
    };
    let mut names: Vec<String> = names.into_iter().enumerate().map(unnamed).collect();
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    // The next number for each name that has occurred.
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for name in &mut names {
        let Some(number) = numbers.get_mut(name.as_str()) else {
            numbers.insert(name.clone(), 1);
            continue;
        };
        let base = name.clone();
        while !taken.insert(name.clone()) {
            *name = format!("{base}.{number}");
            *number += 1;
        }
    }
    names
}

/// The kind of a column.
fn kind(rows: &[Row], column: usize) -> Kind {
    let rows = rows.iter().filter_map(|row| row.cells.as_ref().ok());
    let cells: Vec<Option<&str>> =
        rows.map(|cells| cells.get(column).and_then(Option::as_deref)).collect();
    let all = |is: fn(&str) -> bool| cells.iter().flatten().all(|cell| is(cell));
    let has_shape_of_integer = |cell: &str| {
        let cell = cell.trim_ascii();
        let digits = cell.strip_prefix(['+', '-']).unwrap_or(cell);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if all(has_shape_of_integer) {
        return match (all(|cell| integer(cell).is_some()), cells.contains(&None)) {
            (true, false) => Kind::Integer,
            // Integers have no empty value in pandas.
            (true, true) => Kind::Float,
            (false, _) => Kind::Text,
        };
    }
    if all(|cell| float(cell).is_some()) {
        Kind::Float
    } else if all(|cell| boolean(cell).is_some()) {
        Kind::Boolean
    } else {
        Kind::Text
    }
}

impl Kind {
    /// The value of a cell in a column of this kind; infinity is null.
    fn value(self, cell: &str) -> Value {
        let value = match self {
            Self::Integer => integer(cell).map(Value::Number),
            Self::Float => {
                return float(cell).and_then(Number::from_f64).map_or(Value::Null, Value::Number);
            }
            Self::Boolean => boolean(cell).map(Value::Bool),
            Self::Text => None,
        };
        value.unwrap_or_else(|| Value::String(cell.to_owned()))
    }
}

fn integer(cell: &str) -> Option<Number> {
    let cell = cell.trim_ascii();
    let signed = cell.parse::<i64>().map(Number::from);
    signed.or_else(|_| cell.parse::<u64>().map(Number::from)).ok()
}

fn float(cell: &str) -> Option<f64> {
    cell.trim_ascii().parse::<f64>().ok().filter(|value| !value.is_nan())
}

fn boolean(cell: &str) -> Option<bool> {
    match cell {
        "True" | "TRUE" | "true" => Some(true),
        "False" | "FALSE" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(text: &[u8]) -> Result<CsvTable> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        CsvTable::open(file.path())
    }

    fn column(cells: &str) -> Vec<Value> {
        let table = table(format!("n,x\n{cells}").as_bytes()).unwrap();
        (0..table.len()).map(|index| table.object(index).unwrap()["x"].clone()).collect()
    }

    #[test]
    fn columns_have_the_types_that_pandas_infers() {
        for (cells, expected) in [
            ("0,1\n0,-2\n0, 007\n", json!([1, -2, 7])),
            ("0,1\n0,\n0,3\n", json!([1.0, null, 3.0])),
            ("0,1\n0,2.5\n0,1e3\n0,.5\n", json!([1.0, 2.5, 1000.0, 0.5])),
            ("0,inf\n0,1\n", json!([null, 1.0])),
            ("0,True\n0,false\n0,\n", json!([true, false, null])),
            ("0,1\n0,a\n0,NA\n0,\"\"\n0,null\n", json!(["1", "a", null, null, null])),
            ("0,18446744073709551615\n", json!([18_446_744_073_709_551_615_u64])),
            ("0,18446744073709551616\n", json!(["18446744073709551616"])),
            ("0,nan\n0,\n", json!([null, null])),
        ] {
            assert_eq!(Value::from(column(cells)), expected, "{cells}");
        }
    }

    #[test]
    fn quotes_line_ends_blank_lines_and_marks_are_read() {
        let text = "\u{FEFF}x,x,\r\n\r\n\"a, \"\"b\"\"\nc\",d,1\r\n  \r\ne\r\n";
        let table = table(text.as_bytes()).unwrap();
        assert_eq!(table.columns().collect::<Vec<_>>(), ["x", "x.1", "Unnamed: 2"]);
        let expected = [
            json!({ "x": "a, \"b\"\nc", "x.1": "d", "Unnamed: 2": 1.0 }),
            json!({ "x": "e", "x.1": null, "Unnamed: 2": null }),
        ];
        let found: Vec<Value> = (0..2).map(|index| table.object(index).unwrap().into()).collect();
        assert_eq!(found, expected);
        assert_eq!((table.label(0), table.label(1)), ("line 3".to_owned(), "line 6".to_owned()));
    }

    #[test]
    fn numbered_names_pass_over_those_that_are_taken() {
        for (names, expected) in [
            (&["a", "a", "a.1"][..], &["a", "a.2", "a.1"][..]),
            (&["a.1", "a", "a", "a", "a.1"], &["a.1", "a", "a.2", "a.3", "a.1.1"]),
            (&["Unnamed: 1", "", ""], &["Unnamed: 1", "Unnamed: 1.1", "Unnamed: 2"]),
        ] {
            assert_eq!(unique(names.iter().map(|&name| name.to_owned()).collect()), expected);
        }
    }

    #[test]
    fn a_bad_row_is_one_bad_sample() {
        let table = table(b"a,b\n1,2,3\n\xE9,2\n1,2\n").unwrap();
        for (index, words) in
            [(0, "line 2: has 3 cells; the header names 2"), (1, "line 3: is not UTF-8")]
        {
            assert!(table.object(index).unwrap_err().to_string().contains(words));
        }
        assert_eq!(Value::from(table.object(2).unwrap()), json!({ "a": 1, "b": 2 }));
    }

    #[test]
    fn files_without_rows_and_utf_16_are_refused() {
        let wide: Vec<u8> = "\u{FEFF}a,b".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (text, words) in
            [(&b""[..], "holds no rows"), (b"a,b\n", "holds no rows"), (&wide, "UTF-16")]
        {
            assert!(table(text).err().unwrap().to_string().contains(words));
        }
    }
}
