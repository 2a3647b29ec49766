//! A checkpoint is one directory: weights, tokenizers, settings, and a manifest of their digests.
//!
//! The files carry Hugging Face's names and keys, so that other tools can read them; `vq_tokenizer/`
//! holds the image tokenizer and `trainer/` (only while training) what a resumed run needs.

mod directory;
mod manifest;
mod open;

pub use directory::write_directory;
pub use manifest::Manifest;
pub use open::{Checkpoint, Parts, config_from_json, config_to_json};
