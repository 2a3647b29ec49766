//! Estimates of what a training run costs: operations and memory.

use calumma::model::ModelConfig;
use calumma::train::LanguageRecipe;

/// Bytes of an f32.
const FLOAT: f64 = 4.0;
/// Rows of logits in memory at a time.
const LOGIT_ROWS: usize = 1024;

/// The estimated cost of a training run.
#[derive(Clone, Debug)]
pub struct TrainingCost {
    /// Parameters of the model.
    pub parameters: usize,
    /// Tokens of all batches, padding included.
    pub tokens: usize,
    /// Floating point operations of all steps.
    pub flops: f64,
    /// Peak memory of a step in bytes, by content.
    pub memory: Vec<(&'static str, f64)>,
}

impl TrainingCost {
    /// Estimates the cost of `recipe` for a model with `parameters` weights whose matrix products take
    /// values of `value_bytes`.
    ///
    /// Operations: [`ModelConfig::training_flops`], plus one more forward pass with activation
    /// checkpointing. Memory: weights, gradients and two moments in f32; the activations of one batch
    /// that the backward pass needs: per layer and token about 18 values per channel of the residual
    /// stream and 5 per channel of the feed-forward layer (attention scores are recomputed), or with
    /// activation checkpointing one value per channel and all activations of a single layer; 1,024 rows
    /// of logits with their gradient.
    pub fn of(
        recipe: &LanguageRecipe,
        config: &ModelConfig,
        parameters: usize,
        value_bytes: f64,
    ) -> Self {
        let seq = recipe.batch.seq_len;
        let batch = recipe.batch.sequences * seq;
        let tokens = batch * recipe.batch.accumulate * recipe.run.steps;
        let recomputed = recipe.batch.activation_checkpointing;
        let passes = if recomputed { 4.0 / 3.0 } else { 1.0 };
        let flops = tokens as f64 * config.training_flops(seq) * passes;
        let hidden = config.hidden_size as f64;
        let per_layer = 18.0 * hidden + 5.0 * config.intermediate_size as f64;
        let layers = config.num_hidden_layers as f64;
        let kept = if recomputed { layers * hidden + per_layer } else { layers * per_layer };
        let weights = FLOAT * parameters as f64;
        let rows = batch.min(LOGIT_ROWS) as f64;
        let averages = if recipe.average.decay > 0.0 { weights } else { 0.0 };
        let memory = vec![
            ("weights", weights),
            ("gradients", weights),
            ("optimizer", 2.0 * weights),
            ("averages", averages),
            ("activations", value_bytes * batch as f64 * kept),
            ("logits", 2.0 * FLOAT * rows * config.vocab_size as f64),
        ];
        Self { parameters, tokens, flops, memory }
    }

    /// Total memory in bytes.
    pub fn memory_bytes(&self) -> f64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}
