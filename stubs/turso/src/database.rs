//! Opening a file.

use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::config::DbConfig::SQLITE_DBCONFIG_RESET_DATABASE;

use crate::{Connection, Error, Result};

/// How long [`Builder::build`] waits for another process.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a database is opened.
#[derive(Debug)]
pub struct Builder {
    path: String,
    read_only: bool,
}

impl Builder {
    /// The database in the file at `path`, made at the first write if there is none.
    pub fn new_local(path: &str) -> Self {
        Self { path: path.to_owned(), read_only: false }
    }

    /// Whether the file is never changed, and must exist.
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// Nothing: SQLite's files can always be shared by processes.
    pub fn experimental_multiprocess_wal(self, _on: bool) -> Self {
        self
    }

    /// Nothing: SQLite can always compact.
    pub fn experimental_vacuum(self, _on: bool) -> Self {
        self
    }

    /// Opens the database, and empties it if it is damaged and may be changed.
    ///
    /// # Errors
    /// Those of SQLite: if the file cannot be opened, or is damaged and may not be changed.
    pub async fn build(self) -> Result<Database> {
        let database = Database { path: self.path, read_only: self.read_only };
        match database.check() {
            Err(Error::Corrupt(_)) if !database.read_only => database.reset()?,
            checked => checked?,
        }
        Ok(database)
    }
}

/// A database that can be opened; each connection opens the file anew.
#[derive(Debug)]
pub struct Database {
    path: String,
    read_only: bool,
}

impl Database {
    /// A connection.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn connect(&self) -> Result<Connection> {
        let access = match self.read_only {
            true => OpenFlags::SQLITE_OPEN_READ_ONLY,
            false => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        };
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sqlite = rusqlite::Connection::open_with_flags(&self.path, flags)?;
        sqlite.busy_timeout(Duration::ZERO)?;
        Ok(Connection::new(sqlite, PATIENCE))
    }

    /// [`Error::Corrupt`] if the file is damaged: milliseconds, as it has a few megabytes.
    fn check(&self) -> Result<()> {
        let check = "PRAGMA quick_check(1)";
        let found: String =
            self.connect()?.patiently(|sqlite| sqlite.query_row(check, (), |row| row.get(0)))?;
        if found == "ok" { Ok(()) } else { Err(Error::Corrupt(found)) }
    }

    /// Makes the file an empty database, whatever it is, under SQLite's own locks: other processes may have it open.
    fn reset(&self) -> Result<()> {
        self.connect()?.patiently(|sqlite| {
            sqlite.set_db_config(SQLITE_DBCONFIG_RESET_DATABASE, true)?;
            let emptied = sqlite.execute_batch("VACUUM");
            sqlite.set_db_config(SQLITE_DBCONFIG_RESET_DATABASE, false)?;
            emptied
        })
    }
}
