//! The keys of a configuration file.

use serde::Deserialize;

use crate::quantizer::QuantizerConfig;

/// Every key a configuration file may have, new and old, of either architecture.
#[derive(Deserialize)]
pub(super) struct Keys {
    pub model_type: Option<serde_json::Value>,
    pub codebook_size: Option<usize>,
    pub temporal_downsample_factor: Option<usize>,
    pub num_attention_heads: Option<usize>,
    pub base_channels: Option<usize>,
    pub ch: Option<usize>,
    pub channel_multiplier: Option<Vec<usize>>,
    pub ch_mult: Option<Vec<usize>>,
    pub num_res_blocks: Option<usize>,
    pub attn_resolutions: Option<Vec<usize>>,
    pub attn_type: Option<String>,
    pub resolution: Option<usize>,
    pub in_channels: Option<usize>,
    pub out_channels: Option<usize>,
    pub out_ch: Option<usize>,
    pub latent_channels: Option<usize>,
    pub z_channels: Option<usize>,
    pub double_latent: Option<bool>,
    pub double_z: Option<bool>,
    pub embed_dim: Option<usize>,
    pub num_embeddings: Option<usize>,
    pub n_embed: Option<usize>,
    pub dropout: Option<f64>,
    pub norm_groups: Option<usize>,
    pub quantizer: Option<QuantizerConfig>,
}
