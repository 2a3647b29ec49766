//! What can go wrong.

use core::fmt;
use std::io::ErrorKind;

use rusqlite::ErrorCode;

/// What an operation returns.
pub type Result<T> = core::result::Result<T, Error>;

/// Why an operation failed.
#[derive(Debug)]
pub enum Error {
    /// Another connection holds the lock.
    Busy(String),
    /// Another connection wrote since this one began to read. SQLite says [`Error::Busy`] instead.
    BusySnapshot(String),
    /// The file is damaged, or no database.
    Corrupt(String),
    /// Reading or writing a file failed: the kind of error, and during what.
    IoError(ErrorKind, &'static str),
    /// Anything else.
    Error(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(text)
            | Self::BusySnapshot(text)
            | Self::Corrupt(text)
            | Self::Error(text) => f.write_str(text),
            Self::IoError(kind, during) => write!(f, "{during}: {kind}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(text),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(text),
            _ => Self::Error(text),
        }
    }
}
