//! The decoder-only transformer of Chameleon: token ids in, logits out; it knows no modalities.
//!
//! One file per part. [`CausalLm::forward`] is for training, on rows of equal length; [`CausalLm::pass`] is for
//! generation, on new tokens of many sequences with their keys and values in a [`PagedCache`]. Fields are named as
//! the published tensors, so weights load by path.
//! Source: arXiv 2405.09818 section 2.2; Hugging Face `modeling_chameleon.py`.

pub mod adapter;
mod added_norm;
mod attention;
mod causal_lm;
mod config;
mod decoder_layer;
mod experts;
mod feed_forward;
mod latent_attention;
mod linear;
mod loads;
pub mod mask;
mod mlp;
mod modality;
mod norm;
pub mod ops;
mod paged_cache;
mod product;
mod rope;
mod router;
mod router_loss;
mod self_attention;
mod upcycle;

pub use added_norm::QueryKeySquares;
pub use attention::Attention;
pub use causal_lm::{CausalLm, Decoder, Embedding, ModelInput};
pub use config::{
    ExpertGroups, ExpertsConfig, LatentConfig, ModelConfig, QkNorm, RopeScaling, RouterScores, Yarn,
};
pub(crate) use config::{MAX_LAYERS, is_default};
pub use decoder_layer::DecoderLayer;
pub use experts::{Experts, SparseFeedForward};
pub use feed_forward::FeedForward;
pub use kernels::TokenStats;
pub use kernels::paged::{BLOCK, Lane};
pub use latent_attention::LatentAttention;
pub use linear::Linear;
pub use loads::ExpertLoads;
pub use mask::Mask;
pub use mlp::Mlp;
pub use norm::{HeadLayerNorm, HeadNorm, HeadRmsNorm, RmsNorm};
pub use ops::{Drawn, NoDraw};
pub use paged_cache::PagedCache;
pub use rope::Rope;
pub use router::{Router, Routing};
pub use router_loss::RouterLoss;
pub use self_attention::SelfAttention;
