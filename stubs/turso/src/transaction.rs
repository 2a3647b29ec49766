use core::ops::Deref;

use crate::{Connection, Result};

/// When a transaction takes the lock for writing.
#[derive(Clone, Copy, Debug)]
pub enum TransactionBehavior {
    /// With its first statement that writes.
    Deferred,
    /// At once.
    Immediate,
}

/// Statements that take effect together, with [`commit`](Self::commit), or not at all.
#[derive(Debug)]
pub struct Transaction<'a> {
    connection: &'a Connection,
    committed: bool,
}

impl<'a> Transaction<'a> {
    pub(crate) fn begin(connection: &'a Connection, behavior: TransactionBehavior) -> Result<Self> {
        connection.run(match behavior {
            TransactionBehavior::Deferred => "BEGIN DEFERRED",
            TransactionBehavior::Immediate => "BEGIN IMMEDIATE",
        })?;
        Ok(Self { connection, committed: false })
    }

    /// Makes what the statements changed lasting.
    ///
    /// # Errors
    /// If it cannot be written; then nothing has changed.
    pub async fn commit(mut self) -> Result<()> {
        self.connection.run("COMMIT")?;
        self.committed = true;
        Ok(())
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // Fails only where SQLite has already rolled back.
            let _ = self.connection.run("ROLLBACK");
        }
    }
}
