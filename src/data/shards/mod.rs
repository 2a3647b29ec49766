//! Token shards: documents as ids in safetensors files, made once by `calumma tokenize` and mapped into
//! memory by every training run.
//!
//! | tensor | type | shape | content |
//! |---|---|---|---|
//! | `ids` | U16 or U32 | `[tokens]` | ids of all documents, one after the other |
//! | `offsets` | U64 | `[documents + 1]` | start of each document, and the end |
//! | `loss_mask` | U8 | `[ceil(tokens / 8)]` | a bit per id, lowest first: whether it is a target |
//! | `sources` | U16 | `[documents]` | an index into the list `sources` of the metadata |
//!
//! The metadata holds `format`, `version`, `tokenizer` (a digest of text and image tokenizer), `sources` (a
//! JSON list of names), `made_of` (a digest of everything that decides the content) and SHA-256 sums
//! of header and data. The header is verified when a shard is opened, the data before the first document
//! is read, so that no flipped bit goes unnoticed.

mod content;
mod locate;
mod make;
mod recipe;
mod remote;
mod shard;
mod token_shards;

pub use content::{ShardContent, tokenizer_digest};
pub use locate::{files_in, is_shard, is_spec};
pub use make::{ShardJob, ShardReport};
pub use recipe::{TokensRecipe, TokensRunConfig};
pub use shard::Shard;
pub use token_shards::TokenShards;
