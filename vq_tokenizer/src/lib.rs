//! A VQ image tokenizer: pictures to discrete codes and back, and the training of such a tokenizer.
#![deny(missing_docs)]

mod blocks;
mod config;
mod decoder;
mod encoder;
mod error;
mod model;
#[cfg(feature = "cpu")]
mod ops;
mod quantizer;
pub mod train;
pub mod weights;

pub use config::{NORM_GROUPS, VqConfig};
pub use error::{Error, Result};
pub use model::VqModel;
pub use quantizer::{Quantized, VectorQuantizer};

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
mod stub; pub use stub::*;
