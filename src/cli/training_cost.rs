//! Estimates of what a training run costs: operations and memory.

use burn::tensor::Device;
use calumma::model::{LatentConfig, ModelConfig, ops};
use calumma::train::LanguageRecipe;
use calumma::train::objective::logit_rows;
use calumma::train::objective::preference::PreferenceConfig;

/// Bytes of an f32.
const FLOAT: f64 = 4.0;

/// The estimated cost of a training run.
#[derive(Clone, Debug)]
pub struct TrainingCost {
    /// Parameters of the model.
    pub parameters: usize,
    /// Those that one token passes.
    pub active: usize,
    /// Those that are trained.
    pub trained: usize,
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
    /// `adapted` is the number of those that are trained, if an adapter is or chosen rows are.
    ///
    /// Operations: [`ModelConfig::training_flops`], or [`ModelConfig::adapter_flops`], plus one more forward pass with activation
    /// checkpointing. Memory: weights, gradients and two moments in f32; what the backward pass needs of one batch
    /// ([`activations`]), or with activation checkpointing the input of each layer and that of a single one; the
    /// scores of attention ([`attention`]); the logits of a chunk, which their gradient replaces.
    pub fn of(
        recipe: &LanguageRecipe,
        config: &ModelConfig,
        parameters: usize,
        adapted: Option<usize>,
        value_bytes: usize,
        device: &Device,
    ) -> Self {
        let (seq, value_bytes) = (recipe.batch.seq_len, value_bytes as f64);
        // A pair is two documents.
        let documents =
            if recipe.preference.is_some() || recipe.reward_model.is_some() { 2 } else { 1 };
        let rows_of_batch = recipe.batch.sequences * documents;
        let batch = rows_of_batch * seq;
        let of_step = match &recipe.rl {
            // Each answer in a row of its own, at most.
            Some(rl) => rl.prompts_per_step * rl.advantage.num_generations * seq,
            None => batch * recipe.batch.accumulate,
        };
        let tokens = of_step * recipe.run.steps;
        let recomputed = recipe.batch.activation_checkpointing;
        let passes = if recomputed { 4.0 / 3.0 } else { 1.0 };
        let of_token = match adapted {
            Some(trained) => config.adapter_flops(seq, trained),
            None => config.training_flops(seq),
        };
        let flops = tokens as f64 * of_token * passes;
        let layers = 0..config.num_hidden_layers;
        let of_layers = layers.map(|layer| activations(config, layer, adapted.is_some()));
        let kept = match recomputed {
            true => config.num_hidden_layers * config.hidden_size + of_layers.max().unwrap_or(0),
            false => of_layers.sum(),
        };
        let weights = FLOAT * parameters as f64;
        let rows = batch.min(logit_rows(config.vocab_size, config.hidden_size, device)) as f64;
        let trained = adapted.unwrap_or(parameters);
        let gradients = FLOAT * trained as f64;
        let averages = if recipe.average.decay > 0.0 { gradients } else { 0.0 };
        let refers = recipe.preference.as_ref().map(PreferenceConfig::needs_reference);
        let has_copy = refers.unwrap_or(recipe.kto.is_some())
            && adapted.is_none()
            && !recipe.reference.precompute;
        let rl = recipe.rl.as_ref();
        let has_copy =
            has_copy || rl.is_some_and(|rl| rl.policy.needs_reference()) && adapted.is_none();
        // A copy with its own gradients and moments.
        let critic =
            rl.and_then(|rl| rl.critic.as_ref()).map_or(0.0, |_| weights + 3.0 * gradients);
        let memory = vec![
            ("weights", weights),
            ("value function", critic),
            ("reference", if has_copy { weights } else { 0.0 }),
            ("gradients", gradients),
            ("optimizer", 2.0 * gradients),
            ("averages", averages),
            ("activations", value_bytes * (batch * kept) as f64),
            ("attention", attention(config, rows_of_batch, seq, value_bytes)),
            ("logits", FLOAT * rows * config.vocab_size as f64),
        ];
        let active = config.active_parameters();
        Self { parameters, active, trained, tokens, flops, memory }
    }

    /// Total memory in bytes.
    pub fn memory_bytes(&self) -> f64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Values per token that the backward pass through layer `layer` needs: the inputs of both norms and their results,
/// queries before and after norm and rotation and the results of attention; keys before and after, and values; gate, up
/// and their product. Scores of attention are computed again, and with an adapter of all matrices the results of norms
/// and the product of gate and up too.
fn activations(config: &ModelConfig, layer: usize, is_adapted: bool) -> usize {
    let hidden = config.hidden_size;
    let [q, k, v, y] = match &config.latent {
        Some(latent) => {
            let widths =
                [latent.qk_head_dim(), latent.v_head_dim].map(|d| config.num_attention_heads * d);
            [widths[0], widths[0], widths[1], widths[1]]
        }
        None => {
            let (q, k) = (config.query_width(), config.key_width());
            [q, k, k, q]
        }
    };
    let of_mlp = feed_forward(config, layer, is_adapted);
    match is_adapted {
        true => 2 * hidden + q + k + v + y + of_mlp,
        false => 4 * hidden + 2 * (q + k) + v + y + of_mlp,
    }
}

/// The part of the feed-forward in [`activations`]. Of a sparse layer that of the experts of a token, with each one's
/// result and a copy of its input; an adapter does not train experts, so that their inputs are not kept.
fn feed_forward(config: &ModelConfig, layer: usize, is_adapted: bool) -> usize {
    let of_width = |inner: usize| if is_adapted { 2 * inner } else { 3 * inner };
    match &config.experts {
        Some(experts) if experts.is_sparse(layer) => {
            let width = experts.moe_intermediate_size;
            let rows = if is_adapted { 1 } else { 2 } * config.hidden_size;
            experts.num_experts_per_tok * (of_width(width) + rows)
                + of_width(experts.n_shared_experts * width)
        }
        _ => of_width(config.intermediate_size),
    }
}

/// Bytes of scores in f32 and of weights of the values' format of a chunk of attention by products, and of the sums in f32
/// that become the gradients of queries. Only half formats take products, and only GPUs compute in those.
fn attention(config: &ModelConfig, sequences: usize, seq: usize, value_bytes: f64) -> f64 {
    let heads = sequences * config.num_attention_heads;
    let chunk = ops::attention_chunk(heads, seq, seq).filter(|_| value_bytes < FLOAT);
    let width = config.latent.as_ref().map_or(config.head_dim(), LatentConfig::qk_head_dim);
    let of_chunk = |chunk: usize| {
        let scores = chunk.max(width) as f64 * (FLOAT + value_bytes);
        (heads * seq) as f64 * (scores + FLOAT * width as f64)
    };
    chunk.map_or(0.0, of_chunk)
}

#[cfg(test)]
mod tests {
    use calumma::model::ExpertsConfig;

    use super::*;

    #[test]
    fn a_sparse_layer_keeps_the_rows_of_the_experts_of_a_token() {
        let experts = ExpertsConfig {
            n_shared_experts: 2,
            dense_layers: vec![0],
            ..ExpertsConfig::new(16, 3, 5)
        };
        let config = ModelConfig {
            hidden_size: 8,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            experts: Some(experts),
            ..ModelConfig::default()
        };
        // Norms; queries and keys before and after rotation, values and results.
        let attention = 4 * 8 + 6 * 8;
        assert_eq!(activations(&config, 0, false), attention + 3 * 40);
        assert_eq!(activations(&config, 1, false), attention + 3 * (3 * 5 + 2 * 8) + 3 * 10);
        let attention = 2 * 8 + 4 * 8;
        assert_eq!(activations(&config, 0, true), attention + 2 * 40);
        assert_eq!(activations(&config, 1, true), attention + 3 * (2 * 5 + 8) + 2 * 10);
    }
}
