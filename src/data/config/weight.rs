//! How often a source is drawn.

use serde::{Deserialize, Serialize};

/// Relative share of the draws from a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Weight {
    /// The same in all stages of the curriculum.
    Throughout(f64),
    /// One for each stage.
    ByStage(Vec<f64>),
}

impl Default for Weight {
    fn default() -> Self {
        Self::Throughout(1.0)
    }
}

impl Weight {
    /// One weight for all stages, or one for each.
    pub fn stages(&self) -> &[f64] {
        match self {
            Self::Throughout(weight) => std::slice::from_ref(weight),
            Self::ByStage(weights) => weights,
        }
    }
}
