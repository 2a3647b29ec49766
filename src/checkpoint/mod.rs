//! A checkpoint is one directory: weights, tokenizers, settings, and a manifest of their digests.
//!
//! The files carry Hugging Face's names and keys, so that other tools can read them; `vq_tokenizer/`
//! holds the image tokenizer and `trainer/` (only while training) what a resumed run needs.

mod config;
mod convert;
mod directory;
mod manifest;
pub mod meta;
mod open;
mod parts;
mod rope;
mod stored;
mod tensors;
pub mod torch_file;
mod weight_files;

pub use config::{config_from_json, config_to_json};
pub use convert::{Conversion, Layout, RotaryOrder};
pub use directory::write_directory;
pub use manifest::{DOCUMENTS, Manifest};
pub use open::{Checkpoint, image_tokenizer};
pub use parts::Parts;
pub use tensors::VQ_PREFIX;
pub use weight_files::{SHARD_SIZE, weight_files, write_weights};

/// The folder of the image tokenizer.
pub(crate) const VQ_DIR: &str = "vq_tokenizer";
