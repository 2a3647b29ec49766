//! Stands in for the crates.io package `turso`, with SQLite below the same interface.
//!
//! CubeCL keeps compiled kernels on disk (its feature `persistence`) in a SQLite file that it writes
//! through `turso`, a database engine that is in beta and needs some 95 packages. The statements that
//! `cubecl-environment` 0.11 sends are plain SQLite, so the workspace patches the dependency with this
//! crate: the items that `cubecl-environment` names, on SQLite itself. Every future is ready at once.
//!
//! Three things differ, all of them because the file is a cache that may be lost:
//!
//! - The journal is SQLite's default, a rollback journal, not a write-ahead log: one file, which also
//!   works in home directories on network file systems. `cubecl-environment` marks files that it ships as
//!   such by two bytes of the header, which hold these values already.
//! - A file that is damaged, or no database, is emptied when it is opened for writing.
//! - Of the namespace [`cuda-second-line`](Connection::execute) nothing is kept.
//!
//! To try the engine itself, delete the `[patch.crates-io]` entry of the root manifest.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod connection;
mod database;
mod error;
mod params;
mod rows;
/// Transactions of a [`Connection`].
pub mod transaction;

pub use connection::Connection;
pub use database::{Builder, Database};
pub use error::{Error, Result};
pub use params::IntoParams;
pub use rows::{Row, Rows};

#[cfg(test)]
mod tests;
