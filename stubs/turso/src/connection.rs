//! Statements.

use core::cell::Cell;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::params_from_iter;
use rusqlite::types::Value;

use crate::transaction::{Transaction, TransactionBehavior};
use crate::{Error, IntoParams, Result, Row, Rows};

/// Rows whose first value begins with this are not kept.
const NOT_KEPT: &str = "cuda-second-line/";
/// The time between two attempts to take a lock. SQLite's own waiting grows to 100 ms, in which others overtake.
const PAUSE: Duration = Duration::from_millis(1);
/// How long a writer leaves the lock to those that wait for it: without it, of 16 processes that write at once some
/// wait for longer than 5 s.
const LEFT: Duration = Duration::from_millis(2);

/// A connection to a [`Database`](crate::Database).
#[derive(Debug)]
pub struct Connection {
    sqlite: rusqlite::Connection,
    patience: Cell<Duration>,
}

impl Connection {
    pub(crate) fn new(sqlite: rusqlite::Connection, patience: Duration) -> Self {
        Self { sqlite, patience: Cell::new(patience) }
    }

    /// How long a statement waits for a lock of another connection before it fails.
    ///
    /// # Errors
    /// None here.
    pub fn busy_timeout(&self, duration: Duration) -> Result<()> {
        self.patience.set(duration);
        Ok(())
    }

    /// Runs a statement that returns no rows; returns the number of rows that it changed.
    ///
    /// A row for the namespace `cuda-second-line/…` is not inserted, but counted as if it were. There
    /// `cubecl-cuda` notes which kernel has a given source, so that a program that was built anew finds
    /// kernels whose names changed. It then deletes the kernel, inserts it under its new name, reads it back
    /// and panics if it is not there: if the disk is full, the file may only be read, or another process is at
    /// the same place. Moreover the source does not say how much shared memory a launch takes.
    ///
    /// # Errors
    /// Those of SQLite.
    pub async fn execute(&self, sql: impl AsRef<str>, params: impl IntoParams) -> Result<u64> {
        let (sql, params) = (sql.as_ref(), params.into_params());
        if is_not_kept(sql, &params) {
            return Ok(1);
        }
        let changed =
            self.patiently(|sqlite| Ok(sqlite.execute(sql, params_from_iter(&params))? as u64))?;
        if changed > 0 && self.sqlite.is_autocommit() {
            sleep(LEFT);
        }
        Ok(changed)
    }

    /// Runs a statement that returns rows.
    ///
    /// # Errors
    /// Those of SQLite.
    pub async fn query(&self, sql: impl AsRef<str>, params: impl IntoParams) -> Result<Rows> {
        Ok(Rows::new(self.rows(sql.as_ref(), &params.into_params())?))
    }

    /// Runs `PRAGMA {pragma}` and shows each row to `visit`.
    ///
    /// # Errors
    /// Those of SQLite and of `visit`.
    pub async fn pragma_query(
        &self,
        pragma: &str,
        visit: impl FnMut(&Row) -> Result<()>,
    ) -> Result<()> {
        self.rows(&format!("PRAGMA {pragma}"), &[])?.iter().try_for_each(visit)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// If another connection holds the lock.
    pub async fn transaction_with_behavior(
        &mut self,
        behavior: TransactionBehavior,
    ) -> Result<Transaction<'_>> {
        Transaction::begin(self, behavior)
    }

    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        self.patiently(|sqlite| sqlite.execute_batch(sql))
    }

    fn rows(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>> {
        self.patiently(|sqlite| {
            let mut statement = sqlite.prepare(sql)?;
            let columns = statement.column_count();
            let read = |row: &rusqlite::Row<'_>| Row::read(row, columns);
            statement.query_map(params_from_iter(params), read)?.collect()
        })
    }

    /// The result of `work`, tried again for as long as another connection holds the lock and patience lasts.
    pub(crate) fn patiently<T>(
        &self,
        mut work: impl FnMut(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            match work(&self.sqlite).map_err(Error::from) {
                Err(Error::Busy(_)) if start.elapsed() < self.patience.get() => sleep(PAUSE),
                done => return done,
            }
        }
    }
}

fn is_not_kept(sql: &str, params: &[Value]) -> bool {
    let first = params.first();
    sql.starts_with("INSERT INTO entries")
        && matches!(first, Some(Value::Text(namespace)) if namespace.starts_with(NOT_KEPT))
}
