//! What a run left out of its data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was left out of a source for one kind of reason; a sentence as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Omission {
    /// The source's name.
    pub source: String,
    /// `bad samples`, `long documents`, `unlearnt documents`, `cut documents`, `short documents` or `unused parts`.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Of how many, if that is known.
    pub of: Option<u64>,
    /// What is wrong, in words, such as `50 of 100 documents are longer than 512 tokens`.
    pub text: String,
    /// The first ones, each with its file and line, row or member; bad ones with the reason.
    pub examples: Vec<String>,
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, text, .. } = self;
        match text.starts_with(source.as_str()) {
            true => f.write_str(text)?,
            false => write!(f, "{source}: {text}")?,
        }
        match &self.examples[..] {
            [] => Ok(()),
            [one] if self.count == 1 => write!(f, ": {one}"),
            // Reasons are long, places are not.
            all if self.kind == "bad samples" => write!(f, ":\n  {}", all.join("\n  ")),
            all => write!(f, ", e.g. {}", all.join(", ")),
        }
    }
}
