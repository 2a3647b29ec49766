//! A VQ image tokenizer: pictures to discrete codes and back, and the training of such a tokenizer.
#![deny(missing_docs)]

mod error;
pub mod weights;

pub use error::{Error, Result};

/// The codes of one picture: indices into the codebook, row-major.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Codes {
    /// `height * width` codebook indices, row by row.
    #[serde(rename = "codes")]
    pub ids: Vec<u32>,
    /// Rows of codes.
    pub height: usize,
    /// Codes in a row.
    pub width: usize,
}
