//! Train, evaluate and run unified early-fusion models of text and pictures.
#![deny(missing_docs)]

pub mod checkpoint;
pub mod data;
pub mod error;
pub mod eval;
pub mod generate;
pub mod model;
pub mod tokenize;
pub mod train;

pub use error::{Error, Result};
