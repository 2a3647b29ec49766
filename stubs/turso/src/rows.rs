//! What a query found.

use std::vec::IntoIter;

use rusqlite::types::{FromSql, Value};

use crate::{Error, Result};

/// The rows that a query found, read before it returned: none of them holds a lock.
#[derive(Debug)]
pub struct Rows {
    rows: IntoIter<Row>,
}

impl Rows {
    pub(crate) fn new(rows: Vec<Row>) -> Self {
        Self { rows: rows.into_iter() }
    }

    /// The next row, or `None` after the last.
    ///
    /// # Errors
    /// None here.
    pub async fn next(&mut self) -> Result<Option<Row>> {
        Ok(self.rows.next())
    }
}

/// The values of a row.
#[derive(Debug)]
pub struct Row {
    values: Vec<Value>,
}

impl Row {
    /// Reads the row that a statement is at.
    pub(crate) fn read(row: &rusqlite::Row<'_>, columns: usize) -> rusqlite::Result<Self> {
        let values = (0..columns).map(|column| row.get(column));
        Ok(Self { values: values.collect::<rusqlite::Result<_>>()? })
    }

    /// The value of a column, counted from 0.
    ///
    /// # Errors
    /// If there is no such column, or its value has another type.
    pub fn get<T: FromSql>(&self, column: usize) -> Result<T> {
        let found = self.values.get(column);
        let value = found.ok_or_else(|| Error::Error(format!("there is no column {column}")))?;
        T::column_result(value.into())
            .map_err(|error| Error::Error(format!("column {column}: {error}")))
    }
}
