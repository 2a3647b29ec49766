#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod blocks;
mod config;
mod decoder;
mod encoder;
mod error;
mod folded;
pub mod init;
mod json;
mod layers;
pub mod metrics;
mod model;
mod ops;
pub mod preprocess;
pub mod quantizer;
mod temporal;
mod tiles;
mod tokenizer;
pub mod train;

pub use config::{Architecture, NORM_GROUPS, VqConfig};
pub use error::{Error, Result};
pub use model::VqModel;
pub use ops::{GroupNormOptions, group_norm};
pub use quantizer::{EmaState, Estimator, Quantized, Quantizer, QuantizerConfig};
pub use tiles::Tiles;
pub use tokenizer::VqTokenizer;

/// The codes of one image: indices into the codebook, row-major.
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
