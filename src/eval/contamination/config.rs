//! Settings of the search for overlap.

use serde::Serialize;

use crate::error::{Error, Result};

/// The largest distance that can be searched without comparing all pairs.
pub const MAX_DISTANCE: u32 = 15;

/// Settings of the search for overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContaminationConfig {
    /// The largest distance between perceptual hashes of near images, in bits of 64; at most
    /// [`MAX_DISTANCE`]. Nearly all distances are even, since half of the bits of a hash are ones.
    pub distance: u32,
    /// Words per n-gram.
    pub gram: usize,
    /// Columns whose strings are compared; if `None`, all columns with strings or lists of strings.
    pub columns: Option<Vec<String>>,
}

impl Default for ContaminationConfig {
    /// Distance 8; 13-grams, as in GPT-3's appendix C.
    fn default() -> Self {
        Self { distance: 8, gram: 13, columns: None }
    }
}

impl ContaminationConfig {
    /// Checks the values, and the number of training `sets`.
    pub(super) fn validate(&self, sets: usize) -> Result<()> {
        let Self { distance, gram, .. } = self;
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
}
