//! The settings of an adapter, under the keys of PEFT's `LoraConfig`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::modules::SCORE;
use super::names::{Names, OneOrMany};
use super::patterns::Patterns;
use crate::error::{Error, Result};
use crate::model::is_default;

/// Ids whose rows an adapter replaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a list of ids, or lists by module (embed_tokens, lm_head)")]
pub enum RowIds {
    /// Of the embedding.
    Embedding(Vec<u32>),
    /// By the end of a module's name: `embed_tokens` or `lm_head`.
    ByModule(BTreeMap<String, Vec<u32>>),
}

/// How the factors begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitKind {
    /// `A` uniform in `±1/sqrt(in)`, `B` zero; of an embedding `A` zero, `B` normal. PEFT's `true`.
    #[default]
    Uniform,
    /// `A` normal with deviation `1/rank`, `B` zero.
    Gaussian,
    /// Both random, for tests. PEFT's `false`.
    Random,
}

/// The settings of an adapter. Absent keys take PEFT's defaults; lists of names match as PEFT's do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterConfig {
    /// Rank of the factors.
    pub r: usize,
    /// Scale of the product of the factors, which is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Share of a layer's input that is dropped before the factors while training; none of the head's, whose factors
    /// are merged for the loss.
    pub lora_dropout: f64,
    /// Whether the scale is `lora_alpha / sqrt(r)` (arXiv 2312.03732).
    pub use_rslora: bool,
    /// Whether a magnitude for each output is trained besides the direction (arXiv 2402.09353).
    pub use_dora: bool,
    /// Modules with factors; `all-linear` are all linear layers but the head.
    pub target_modules: Names,
    /// Modules that get no factors although they are targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Names>,
    /// Numbers of the layers whose modules get factors; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<OneOrMany<usize>>,
    /// Name of the list of layers, such as `layers`, for `layers_to_transform`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_pattern: Option<Names>,
    /// Ranks by regular expression over the end of a module's name; the first match counts.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// As `rank_pattern`, for `lora_alpha`.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
    /// Modules trained whole, by the end of their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_to_save: Option<Vec<String>>,
    /// Ids whose rows in embedding or head are trained and replace the model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable_token_indices: Option<RowIds>,
    /// How the factors begin: `true`, `false` or `"gaussian"`.
    #[serde(skip_serializing_if = "is_default")]
    pub init_lora_weights: InitKind,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            target_modules: Names::One("all-linear".to_owned()),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            modules_to_save: None,
            trainable_token_indices: None,
            init_lora_weights: InitKind::default(),
        }
    }
}

impl AdapterConfig {
    /// The keys.
    pub const KEYS: [&'static str; 14] = [
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "use_dora",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "trainable_token_indices",
        "init_lora_weights",
    ];

    /// Whether it brings the head of a reward model or a value function.
    pub fn has_score(&self) -> bool {
        self.modules_to_save.iter().flatten().any(|name| name == SCORE)
    }

    /// The same with that head.
    #[must_use]
    pub fn with_score(mut self) -> Self {
        if !self.has_score() {
            self.modules_to_save.get_or_insert_default().push(SCORE.to_owned());
        }
        self
    }

    /// Checks the ranges; [`Self::plan`](Self::plan) checks the names.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let invalid = |key: &str, value: String, range: &str| {
            Err(Error::invalid(format!("{key} is {value}; allowed: {range}")))
        };
        let ranks = self.rank_pattern.values().copied().chain([self.r]);
        if let Some(rank) = ranks.clone().find(|rank| *rank == 0) {
            return invalid("r", rank.to_string(), "at least 1");
        }
        let mut alphas = self.alpha_pattern.values().copied().chain([self.lora_alpha]);
        if let Some(alpha) = alphas.find(|alpha| !(*alpha > 0.0 && alpha.is_finite())) {
            return invalid("lora_alpha", alpha.to_string(), "above 0");
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return invalid("lora_dropout", self.lora_dropout.to_string(), "[0, 1)");
        }
        Ok(())
    }

    /// The factor of the product of the factors, for their rank and alpha.
    pub fn scale(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

impl Serialize for InitKind {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Uniform => serializer.serialize_bool(true),
            Self::Random => serializer.serialize_bool(false),
            Self::Gaussian => serializer.serialize_str("gaussian"),
        }
    }
}

impl<'de> Deserialize<'de> for InitKind {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be true, false or \"gaussian\"")]
        enum Form {
            Flag(bool),
            Name(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Flag(true) => Ok(Self::Uniform),
            Form::Flag(false) => Ok(Self::Random),
            Form::Name(name) if name == "gaussian" => Ok(Self::Gaussian),
            Form::Name(name) => Err(serde::de::Error::custom(format_args!(
                "init_lora_weights is {name:?}; allowed: true, false, \"gaussian\""
            ))),
        }
    }
}
