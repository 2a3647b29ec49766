//! The `[optimizer]` section of a recipe.

use serde::{Deserialize, Serialize};

use super::groups::GroupConfig;
use crate::error::{Error, Result};

/// Settings of the optimizer; the defaults are the paper's (section 2.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// How weights are updated.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay per unit of learning rate; not on norms, biases and embeddings.
    pub weight_decay: f64,
    /// Largest allowed L2 norm of all gradients together; 0 turns clipping off.
    pub grad_clip: f64,
    /// LoRA+ (arXiv 2402.12354): what the learning rate of an adapter's factors `B`, and of its vectors, is
    /// multiplied by; usually 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// With `loraplus_lr_ratio`, the peak learning rate of an embedding's factors.
    #[serde(skip_serializing_if = "is_usual_embedding_lr")]
    pub loraplus_lr_embedding: f64,
    /// Overrides for groups of parameters; the first group that names a parameter counts.
    pub groups: Vec<GroupConfig>,
    /// The only rows that are trained, of the embedding and the output layer; everything else keeps its values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<TrainRows>,
}

/// Rows of embedding and output layer that can be trained alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainRows {
    /// Those of codes, and of begin-image, end-image and the placeholder.
    Images,
}

/// Kinds of optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Orthogonalised momentum for the matrices of the hidden layers, AdamW for everything else:
    /// embeddings, output, norms, biases and convolutions. `betas` and `eps` are AdamW's.
    Muon,
}

/// PEFT's default of `loraplus_lr_embedding`.
const LORAPLUS_LR_EMBEDDING: f64 = 1e-6;

fn is_usual_embedding_lr(lr: &f64) -> bool {
    *lr == LORAPLUS_LR_EMBEDDING
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            lr: 1e-4,
            betas: [0.9, 0.95],
            eps: 1e-5,
            weight_decay: 0.1,
            grad_clip: 1.0,
            loraplus_lr_ratio: None,
            loraplus_lr_embedding: LORAPLUS_LR_EMBEDDING,
            groups: Vec::new(),
            train_rows: None,
        }
    }
}

impl OptimizerConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let invalid = |key: &str, value: f64, range: &str| {
            Err(Error::invalid(format!("optimizer.{key} is {value}; allowed: {range}")))
        };
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return invalid("lr", self.lr, "above 0");
        }
        if let Some(beta) = self.betas.iter().find(|beta| !(0.0..1.0).contains(*beta)) {
            return invalid("betas", *beta, "[0, 1)");
        }
        let ratio = self.loraplus_lr_ratio.unwrap_or(1.0);
        for (key, value) in [
            ("weight_decay", self.weight_decay),
            ("grad_clip", self.grad_clip),
            ("eps", self.eps),
            ("loraplus_lr_ratio", ratio),
            ("loraplus_lr_embedding", self.loraplus_lr_embedding),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(key, value, "at least 0");
            }
        }
        self.groups.iter().try_for_each(GroupConfig::validate)
    }

    /// What LoRA+ multiplies the learning rate of the parameter at `path` by, which has `rank` axes.
    pub(super) fn loraplus_scale(&self, path: &str, rank: usize) -> f64 {
        let Some(ratio) = self.loraplus_lr_ratio else { return 1.0 };
        if path.contains("embed_tokens.lora.") {
            self.loraplus_lr_embedding / self.lr
        } else if path.ends_with(".lora.b") || rank == 1 {
            ratio
        } else {
            1.0
        }
    }

    /// The group of the parameter at `path`.
    pub(super) fn group(&self, path: &str) -> Option<&GroupConfig> {
        self.groups.iter().find(|group| group.names(path))
    }
}
