//! Train, evaluate and run unified early-fusion models of text and pictures.
#![deny(missing_docs)]

pub mod allocator;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod generate;
pub mod model;
pub mod pipeline;
pub mod report;
pub mod sheet;
pub mod tokenize;
pub mod train;

pub use error::{Error, Result};
