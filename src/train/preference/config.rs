//! The `[reference]` section of a recipe.

use serde::{Deserialize, Serialize};

/// How answers are scored by policy and reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceConfig {
    /// Whether the reference scores all answers once, before the first step, and is then dropped: two numbers a pair
    /// instead of a forward pass in every step.
    pub precompute: bool,
    /// The distribution that image codes are scored under.
    pub image_log_probs: ImageLogProbs,
}

/// The distribution of image codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageLogProbs {
    /// Over the image codes, as they are drawn; begin and end of an image are not scored, as the grammar forces them.
    #[default]
    Allowed,
    /// Over the whole vocabulary, as for text.
    Full,
}
