//! What of an evaluation set lies in the data that a model was trained on.
//!
//! [`find`] reads the evaluation set once and keeps hashes of it, then streams the training sets past
//! them; of these nothing is kept, so they may be of any size. Memory is some 130 bytes for an image
//! of the evaluation set (140 MB for a million), 40 for a text and 24 for each of its different
//! n-grams. Four kinds of overlap:
//!
//! - *exact images*: the same size and the same RGB pixels after decoding, by SHA-256;
//! - *near images*: not the same, but of a perceptual hash at most [`ContaminationConfig::distance`]
//!   of 64 bits away and of the same mean colours: resized, compressed, brightened. Hashes are searched
//!   by multi-index hashing, which misses none within the distance and compares few. Cropped, turned
//!   or mirrored copies and grey copies of coloured images are *not* found; images that are flat or
//!   of stripes alone have no hash and are only compared exactly;
//! - *exact texts*: the same words in lower case, whatever blanks lie between;
//! - *n-grams*: a run of 13 words, or all words of a shorter text, without case and punctuation, as in
//!   appendix C of GPT-3's paper. Texts are compared by 64-bit hashes.
//!
//! A near duplicate is a hint, not a proof: simple images that were made independently can be as
//! alike as copies, so the worst are shown side by side.

mod fingerprint;
mod index;
mod lookup;
mod outcome;
mod summary;
mod texts;

use serde::Serialize;

pub use outcome::{
    ColumnOverlap, Contamination, Contents, ImageTwin, Overlap, TextTwin, TouchedItem, Twin,
};

use crate::data::Dataset;
use crate::error::{Error, Result};
use index::Index;

/// The largest distance that can be searched for without comparing every pair.
pub const MAX_DISTANCE: u32 = 15;

/// What counts as overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContaminationConfig {
    /// Bits of 64 in which the perceptual hashes of near images differ at most, up to
    /// [`MAX_DISTANCE`]. Distances are even nearly always: half of the bits are ones.
    pub distance: u32,
    /// Words of an n-gram.
    pub gram: usize,
    /// Columns whose strings are compared; all columns with strings or lists of them when `None`.
    pub columns: Option<Vec<String>>,
}

impl Default for ContaminationConfig {
    /// A distance of 8; the words of GPT-3's appendix C.
    fn default() -> Self {
        Self { distance: 8, gram: 13, columns: None }
    }
}

/// Looks for the items of `evaluation` in the `train` sets; `progress` gets how many samples were read
/// since the last call, `evaluation`'s first.
///
/// # Errors
/// When the distance or the gram is out of range, no evaluation item has one of the columns, or more
/// samples than [`crate::data::DEFAULT_TOLERANCE`] are unreadable.
pub fn find(
    evaluation: &dyn Dataset,
    train: &[Box<dyn Dataset>],
    config: &ContaminationConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Contamination> {
    check(config, train.len())?;
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

fn check(config: &ContaminationConfig, sets: usize) -> Result<()> {
    let ContaminationConfig { distance, gram, .. } = config;
    if *distance > MAX_DISTANCE {
        let message = format!("distance is {distance}; allowed: 0 to {MAX_DISTANCE}");
        return Err(Error::invalid(message));
    }
    if *gram == 0 {
        return Err(Error::invalid("a gram has 0 words; allowed: at least 1".to_owned()));
    }
    if sets == 0 || sets > usize::from(u16::MAX) {
        let message = format!("{sets} training sets; allowed: 1 to {}", u16::MAX);
        return Err(Error::invalid(message));
    }
    Ok(())
}
