//! Contamination: evaluation items that occur in training data.
//!
//! [`find`] reads the evaluation set once and keeps hashes of it, then streams the training sets,
//! of which nothing is kept, so they may have any size. Memory is some 130 bytes per image of the
//! evaluation set (140 MB for a million), 40 per text and 24 per distinct n-gram. Four kinds of
//! overlap:
//!
//! - *exact images*: the same size and the same decoded RGB pixels, by SHA-256;
//! - *near images*: not the same, but with perceptual hashes within
//!   [`ContaminationConfig::distance`] of 64 bits and the same mean colours: resized, compressed or
//!   brightened copies. Multi-index hashing finds all hashes within the distance and compares few.
//!   Cropped, rotated or mirrored copies and grey copies of coloured images are *not* found; images
//!   that are flat or consist of stripes have no hash and are only compared exactly;
//! - *exact texts*: the same words in lower case, with any blanks between them;
//! - *n-grams*: a run of 13 words, or all words of a shorter text, ignoring case and punctuation,
//!   as in appendix C of GPT-3's paper. Texts are compared by 64-bit hashes.
//!
//! A near duplicate is a hint, not a proof: simple images made independently can be as similar as
//! copies, so the closest pairs are shown side by side.

mod config;
mod fingerprint;
mod index;
mod lookup;
mod outcome;
mod summary;
mod texts;

pub use config::{ContaminationConfig, MAX_DISTANCE};
pub use outcome::{
    AffectedItem, ColumnOverlap, Contamination, Contents, ImageTwin, Overlap, TextTwin, Twin,
};

use crate::data::Dataset;
use crate::error::{Error, Result};
use index::Index;

/// Searches the `train` sets for the items of `evaluation`; `progress` is called with the number of
/// samples read since the last call, those of `evaluation` first.
///
/// # Errors
/// If a value of `config` is out of range, no evaluation item has one of the columns, or more samples than
/// [`crate::data::DEFAULT_TOLERANCE`] are unreadable.
pub fn find(
    evaluation: &dyn Dataset,
    train: &[Box<dyn Dataset>],
    config: &ContaminationConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Contamination> {
    config.validate(train.len())?;
    let index = Index::of(evaluation, config, progress)?;
    let missing = config.columns.iter().flatten().find(|name| !index.columns.contains(name));
    if let Some(name) = missing {
        let message = format!("{}: no sample has text in a column {name}", evaluation.name());
        return Err(Error::invalid(message));
    }
    let mut hits = index.no_hits();
    let mut contents = Vec::with_capacity(train.len());
    for (set, dataset) in train.iter().enumerate() {
        contents.push(index.search(dataset.as_ref(), set, &mut hits, progress)?);
    }
    summary::Finished { evaluation, train, config, index: &index, hits: &hits }.outcome(&contents)
}
