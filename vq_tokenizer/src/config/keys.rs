//! The keys of a configuration file.

use serde::Deserialize;

use super::{Architecture, VqConfig};
use crate::quantizer::QuantizerConfig;

/// Every key a configuration file may have, new and old, of either architecture.
#[derive(Deserialize)]
pub(super) struct Keys {
    model_type: Option<serde_json::Value>,
    codebook_size: Option<usize>,
    temporal_downsample_factor: Option<usize>,
    num_attention_heads: Option<usize>,
    base_channels: Option<usize>,
    ch: Option<usize>,
    channel_multiplier: Option<Vec<usize>>,
    ch_mult: Option<Vec<usize>>,
    num_res_blocks: Option<usize>,
    attn_resolutions: Option<Vec<usize>>,
    attn_type: Option<String>,
    resolution: Option<usize>,
    in_channels: Option<usize>,
    out_channels: Option<usize>,
    out_ch: Option<usize>,
    latent_channels: Option<usize>,
    z_channels: Option<usize>,
    double_latent: Option<bool>,
    double_z: Option<bool>,
    embed_dim: Option<usize>,
    num_embeddings: Option<usize>,
    n_embed: Option<usize>,
    dropout: Option<f64>,
    norm_groups: Option<usize>,
    quantizer: Option<QuantizerConfig>,
}

impl TryFrom<Keys> for VqConfig {
    type Error = String;

    fn try_from(keys: Keys) -> std::result::Result<Self, String> {
        // Others are those of other programs, whose shapes are Chameleon's.
        let architecture = match keys.model_type {
            Some(name) if name == Architecture::Emu3.name() => Architecture::Emu3,
            _ => Architecture::Chameleon,
        };
        let release = match architecture {
            Architecture::Chameleon => Self::default(),
            Architecture::Emu3 => Self::emu3(),
        };
        for (key, value, only) in [
            ("temporal_downsample_factor", keys.temporal_downsample_factor, 4),
            ("num_attention_heads", keys.num_attention_heads, 1),
        ] {
            if architecture == Architecture::Emu3 && value.is_some_and(|value| value != only) {
                let value = value.unwrap_or_default();
                return Err(format!("{key} is {value}; only {only} is supported"));
            }
        }
        let (embeddings, codebook) = (keys.num_embeddings.or(keys.n_embed), keys.codebook_size);
        Ok(Self {
            architecture,
            base_channels: keys.base_channels.or(keys.ch).unwrap_or(release.base_channels),
            channel_multiplier: keys
                .channel_multiplier
                .or(keys.ch_mult)
                .unwrap_or(release.channel_multiplier),
            num_res_blocks: keys.num_res_blocks.unwrap_or(release.num_res_blocks),
            attn_resolutions: keys.attn_resolutions.or(release.attn_resolutions),
            attn_type: keys.attn_type.unwrap_or(release.attn_type),
            resolution: keys.resolution.unwrap_or(release.resolution),
            in_channels: keys.in_channels.unwrap_or(release.in_channels),
            out_channels: keys.out_channels.or(keys.out_ch).unwrap_or(release.out_channels),
            latent_channels: keys
                .latent_channels
                .or(keys.z_channels)
                .unwrap_or(release.latent_channels),
            double_latent: keys.double_latent.or(keys.double_z).unwrap_or(release.double_latent),
            embed_dim: keys.embed_dim.unwrap_or(release.embed_dim),
            num_embeddings: embeddings.or(codebook).unwrap_or(release.num_embeddings),
            dropout: keys.dropout.unwrap_or(release.dropout),
            norm_groups: keys.norm_groups.unwrap_or(release.norm_groups),
            quantizer: keys.quantizer.unwrap_or(release.quantizer),
        })
    }
}
