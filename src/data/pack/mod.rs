//! Packing of documents into rows of equal length; neither images nor documents are ever cut.
//!
//! A row holds the oldest waiting document and the subset of the next ones that fills it best. Few
//! documents wait (about a quarter of a batch), and they are part of the packer's
//! [state](PackerState), so that a resumed run packs exactly as an uninterrupted one.

mod batch;
mod best_fit;
mod packer;
mod state;
mod subset;

pub use batch::{Document, NextTokenBatch, PackedBatch};
pub use best_fit::best_fit_decreasing;
pub use packer::Packer;
pub use state::{PackReport, PackerState};
