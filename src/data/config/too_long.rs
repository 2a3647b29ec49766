//! What becomes of documents that are longer than a row.

use serde::{Deserialize, Serialize};

/// What becomes of a document that is longer than a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TooLong {
    /// It is left out.
    #[default]
    Drop,
    /// Its end is left out, but no part of an image: an image that does not fit goes as a whole. A document of
    /// which nothing is left to learn is left out.
    Truncate,
}

impl TooLong {
    /// Whether it is the default, which is not written: the identity of token shards depends on what is.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
