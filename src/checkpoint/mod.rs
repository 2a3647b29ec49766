//! Checkpoints: directories of weights, tokenizers, settings and a manifest of their digests.
//!
//! The files carry Hugging Face's names and keys, so that other tools can read them;
//! `vq_tokenizer/` holds the image tokenizer and `trainer/` (only while training) the state of the
//! run.

pub mod adapter;
mod chat_template;
mod config;
mod convert;
mod directory;
mod emu3;
mod expert_keys;
mod experts;
mod extend;
mod families;
mod family;
mod generation;
mod hugging_face;
mod manifest;
pub mod meta;
mod names;
mod open;
mod parts;
mod rope;
mod source;
mod stored;
mod tensors;
mod text_model;
pub mod torch_file;
mod transformers;
mod weight_files;

pub use chat_template::chat_template;
pub use config::{config_from_json, config_to_json};
pub use convert::{Conversion, Layout};
pub use directory::{require_directory, write_directory};
pub(crate) use experts::ExpertStacks;
pub use extend::{Extension, Marker, MarkerNames, Plan, RowInit};
pub use generation::{generation_settings, kept_settings};
pub use hugging_face::image_tokenizer;
pub use manifest::{DOCUMENTS, Manifest};
pub(crate) use names::VQ_DIR;
pub use open::Checkpoint;
pub use parts::Parts;
pub use source::RotaryOrder;
pub use tensors::VQ_PREFIX;
pub use text_model::{processor, text_tokenizer};
pub use weight_files::{SHARD_SIZE, weight_files, write_weights};
