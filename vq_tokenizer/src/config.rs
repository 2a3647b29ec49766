//! The shape of an image tokenizer: Hugging Face's `vq_config` keys and their defaults.
//!
//! Source: `ChameleonVQVAEConfig` of transformers; the older names are those of
//! taming-transformers' `ddconfig`, which configuration files of the first releases have besides
//! the new ones.

mod keys;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::json::read_json;
use crate::quantizer::QuantizerConfig;
use keys::Keys;

/// The default of [`VqConfig::norm_groups`].
pub const NORM_GROUPS: usize = 32;

/// Largest size in a configuration; beyond it, no machine could build the model.
const MAX_SIZE: usize = 1 << 24;

/// The shape of a [`VqModel`](crate::VqModel); absent keys take the values of the released
/// Chameleon tokenizer.
///
/// Old key names (`ch`, `ch_mult`, `n_embed`, `z_channels`, `double_z`, `out_ch`) are read if the new
/// one is absent; unknown keys are ignored, because other programs write to the same file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys")]
pub struct VqConfig {
    /// Whose networks these are.
    #[serde(rename = "model_type", skip_serializing_if = "Architecture::is_default")]
    pub architecture: Architecture,
    /// Width of the first level.
    pub base_channels: usize,
    /// Width of each level in multiples of `base_channels`; each level but the first halves both sides.
    pub channel_multiplier: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub num_res_blocks: usize,
    /// Feature-map sides at which self-attention follows each residual block; in [`Architecture::Emu3`] the
    /// numbers of the levels, from 0.
    pub attn_resolutions: Option<Vec<usize>>,
    /// `vanilla`: attention in the middle block; anything else: none there.
    pub attn_type: String,
    /// Side of the square images the tokenizer was trained on, in pixels.
    pub resolution: usize,
    /// Channels of an input image.
    pub in_channels: usize,
    /// Channels of a decoded image.
    pub out_channels: usize,
    /// Channels between the encoder and the 1x1 convolution before the quantizer.
    pub latent_channels: usize,
    /// Whether the encoder returns mean and variance; no VQ tokenizer does.
    pub double_latent: bool,
    /// Length of a codebook vector.
    pub embed_dim: usize,
    /// Number of codebook vectors.
    pub num_embeddings: usize,
    /// Dropout before the second convolution of a residual block, in `[0, 1)`.
    pub dropout: f64,
    /// Groups of channels that are normalised together; every width is a multiple of it. The
    /// releases have 32, the default. A narrow model needs fewer: with one channel per group the last
    /// normalisation removes the mean colour of an image.
    pub norm_groups: usize,
    /// How latents become codes.
    #[serde(skip_serializing_if = "QuantizerConfig::is_default")]
    pub quantizer: QuantizerConfig,
}

/// What differs between tokenizers beyond sizes; its name in a file is `model_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Architecture {
    /// A convolutional VQGAN, as Chameleon's.
    #[default]
    #[serde(rename = "chameleon_vqgan")]
    Chameleon,
    /// Emu3's: temporal layers around the quantizer, and in the decoder normalisations that the vectors of the codes
    /// condition (`modeling_emu3.py` of transformers). It is not trained here.
    #[serde(rename = "emu3_vqgan")]
    Emu3,
}

impl Architecture {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Chameleon => "chameleon_vqgan",
            Self::Emu3 => "emu3_vqgan",
        }
    }
}

/// What the blocks of an encoder or a decoder have in common.
#[derive(Clone, Debug)]
pub(crate) struct BlockConfig {
    pub norm_groups: usize,
    pub dropout: f64,
    /// Whether the middle block has attention.
    pub attends_in_middle: bool,
    /// The channels of what conditions normalisations, if anything does.
    pub condition: Option<usize>,
}

impl Default for VqConfig {
    /// The released Chameleon tokenizer: 512x512 pixels to 32x32 codes of 8192.
    fn default() -> Self {
        Self {
            architecture: Architecture::Chameleon,
            base_channels: 128,
            channel_multiplier: vec![1, 1, 2, 2, 4],
            num_res_blocks: 2,
            attn_resolutions: None,
            attn_type: "vanilla".to_owned(),
            resolution: 512,
            in_channels: 3,
            out_channels: 3,
            latent_channels: 256,
            double_latent: false,
            embed_dim: 256,
            num_embeddings: 8192,
            dropout: 0.0,
            norm_groups: NORM_GROUPS,
            quantizer: QuantizerConfig::default(),
        }
    }
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

impl VqConfig {
    /// Reads a JSON configuration and checks it.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is no such configuration
    /// or [`VqConfig::validate`] refuses it.
    pub fn load(path: &Path) -> Result<Self> {
        let config: Self = read_json(path, "not an image tokenizer configuration")?;
        config.validate().map_err(Error::in_file(path))?;
        Ok(config)
    }

    /// Writes a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_value(self).expect("plain values always serialise");
        json["model_type"] = self.architecture.name().into();
        std::fs::write(path, format!("{json:#}\n")).map_err(Error::io(path))
    }

    /// The released Emu3 tokenizer: images of about 720x720 pixels, a code of 32,768 for each 8x8 of them.
    fn emu3() -> Self {
        Self {
            architecture: Architecture::Emu3,
            base_channels: 256,
            channel_multiplier: vec![1, 2, 2, 4],
            attn_resolutions: Some(vec![3]),
            resolution: 720,
            latent_channels: 4,
            embed_dim: 4,
            num_embeddings: 32_768,
            ..Self::default()
        }
    }

    /// Pixels per code along one side: 2 to the number of halvings.
    pub fn downsampling(&self) -> usize {
        1 << self.channel_multiplier.len().saturating_sub(1)
    }

    /// Side of the code grid of an image of [`VqConfig::resolution`].
    pub fn grid(&self) -> usize {
        self.resolution / self.downsampling()
    }

    /// Channels of level `level`, from 0 at full resolution.
    pub(crate) fn width(&self, level: usize) -> usize {
        self.base_channels * self.channel_multiplier[level]
    }

    /// Whether residual blocks of level `level` are followed by attention. The side is counted from
    /// the configured resolution, whatever the size of the actual image.
    pub(crate) fn attends(&self, level: usize) -> bool {
        let named = match self.architecture {
            Architecture::Chameleon => self.resolution >> level,
            Architecture::Emu3 => level,
        };
        self.attn_resolutions.as_ref().is_some_and(|all| all.contains(&named))
    }

    /// What blocks have in common whose normalisations have `condition` channels to condition them.
    pub(crate) fn blocks(&self, condition: Option<usize>) -> BlockConfig {
        BlockConfig {
            norm_groups: self.norm_groups,
            dropout: self.dropout,
            attends_in_middle: self.attn_type == "vanilla",
            condition,
        }
    }

    /// Whether there are temporal layers.
    pub(crate) fn is_temporal(&self) -> bool {
        self.architecture == Architecture::Emu3
    }

    /// Checks that a model of this shape can be built and applied.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first key at fault, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("base_channels", self.base_channels),
            ("num_res_blocks", self.num_res_blocks),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("embed_dim", self.embed_dim),
            ("num_embeddings", self.num_embeddings),
            ("resolution", self.resolution),
            ("norm_groups", self.norm_groups),
        ];
        if let Some((key, value)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("{key} is {value}; it must be at least 1")));
        }
        if let Some((key, value)) = positive.iter().find(|(_, value)| *value > MAX_SIZE) {
            return Err(Error::invalid(format!("{key} is {value}; allowed: at most {MAX_SIZE}")));
        }
        let levels = self.channel_multiplier.len();
        if levels == 0 || levels > 12 {
            let message = format!("channel_multiplier has {levels} levels; allowed: 1 to 12");
            return Err(Error::invalid(message));
        }
        for &multiplier in &self.channel_multiplier {
            let width = multiplier.saturating_mul(self.base_channels);
            if width == 0 || width > MAX_SIZE || !width.is_multiple_of(self.norm_groups) {
                return Err(Error::invalid(format!(
                    "channel_multiplier {multiplier} times base_channels {} is {width}; every level \
                     must be a positive multiple of norm_groups {} channels, at most {MAX_SIZE}",
                    self.base_channels, self.norm_groups
                )));
            }
        }
        if !self.resolution.is_multiple_of(self.downsampling()) {
            return Err(Error::invalid(format!(
                "resolution {} is not a multiple of {}, the pixels per code of {levels} levels",
                self.resolution,
                self.downsampling()
            )));
        }
        if self.double_latent {
            return Err(Error::invalid(
                "double_latent is true; a VQ tokenizer quantizes a single latent",
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let message = format!("dropout is {}; allowed: 0 up to but not 1", self.dropout);
            return Err(Error::invalid(message));
        }
        if self.is_temporal() && self.latent_channels != self.embed_dim {
            return Err(Error::invalid(format!(
                "latent_channels is {}; allowed: embed_dim, {}, as both go through the same temporal layers",
                self.latent_channels, self.embed_dim
            )));
        }
        if self.is_temporal() && !self.quantizer.is_default() {
            return Err(Error::invalid("quantizer: Emu3's is a plain table alone"));
        }
        self.quantizer.validate(self.num_embeddings, self.embed_dim)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_give_the_release() {
        let config = VqConfig::default();
        assert_eq!(config.channel_multiplier, [1, 1, 2, 2, 4]);
        assert_eq!((config.resolution, config.downsampling(), config.grid()), (512, 16, 32));
        config.validate().unwrap();
    }

    #[test]
    fn old_keys_count_only_where_new_ones_are_absent() {
        let text = r#"{"ch": 64, "ch_mult": [1, 2], "n_embed": 7, "num_embeddings": 9, "z_channels": 5,
            "out_ch": 3, "model_type": "chameleon_vqgan", "initializer_range": 0.02}"#;
        let config: VqConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.base_channels, 64);
        assert_eq!(config.channel_multiplier, [1, 2]);
        assert_eq!((config.num_embeddings, config.latent_channels), (9, 5));
    }

    #[test]
    fn the_keys_of_emu3_are_read_and_written() {
        let config: VqConfig = serde_json::from_str(r#"{"model_type": "emu3_vqgan"}"#).unwrap();
        config.validate().unwrap();
        assert_eq!((config.downsampling(), config.grid(), config.num_embeddings), (8, 90, 32_768));
        assert_eq!([2, 3].map(|level| config.attends(level)), [false, true]);
        let text = r#"{"model_type": "emu3_vqgan", "codebook_size": 64, "attn_resolutions": [1]}"#;
        let config: VqConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.num_embeddings, config.attends(1)), (64, true));
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VqConfig>(&again).unwrap(), config);
        for (key, allowed) in
            [("temporal_downsample_factor", "only 4"), ("num_attention_heads", "only 1")]
        {
            let text = format!(r#"{{"model_type": "emu3_vqgan", "{key}": 2}}"#);
            let message = serde_json::from_str::<VqConfig>(&text).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains(allowed), "{message}");
        }
        let message = VqConfig { latent_channels: 8, ..config }.validate().unwrap_err().to_string();
        assert!(message.contains("latent_channels is 8"), "{message}");
    }

    #[test]
    fn a_written_configuration_is_read_back() {
        let config =
            VqConfig { attn_resolutions: Some(vec![16]), dropout: 0.1, ..VqConfig::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<VqConfig>(&text).unwrap(), config);
    }

    #[test]
    fn refusals_name_key_and_value() {
        let refused = |change: fn(&mut VqConfig)| {
            let mut config = VqConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.base_channels = 48).contains("base_channels 48"));
        assert!(refused(|c| c.resolution = 100).contains("resolution 100"));
        assert!(refused(|c| c.num_embeddings = 0).contains("num_embeddings is 0"));
        assert!(refused(|c| c.channel_multiplier = vec![]).contains("0 levels"));
        assert!(refused(|c| c.dropout = 1.0).contains("dropout is 1"));
        assert!(refused(|c| c.double_latent = true).contains("double_latent"));
    }
}
