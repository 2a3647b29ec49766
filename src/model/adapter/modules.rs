//! The modules of a transformer by name, as adapters name them.

use crate::model::ModelConfig;

/// Name of the head of reward models and value functions.
pub const SCORE: &str = "score";

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A linear layer other than the head.
    Linear,
    /// The output layer.
    Head,
    /// The embedding.
    Embedding,
    /// A norm, which gets no factors.
    Norm,
    /// The score head, which gets none either.
    Score,
}

/// A module with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleShape {
    /// Name, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// What it is.
    pub kind: ModuleKind,
    /// Shape of its weight: `[out, in]`, `[vocab, hidden]`; of norms `[rows, width]`.
    pub shape: [usize; 2],
}

/// The modules of a model of the sizes `config`, in the order of its layers.
pub fn modules(config: &ModelConfig) -> Vec<ModuleShape> {
    use ModuleKind::{Embedding, Head, Linear, Norm, Score};
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let kv = config.num_key_value_heads * config.head_dim();
    let of_layer = [
        ("self_attn.q_proj", Linear, [hidden, hidden]),
        ("self_attn.k_proj", Linear, [kv, hidden]),
        ("self_attn.v_proj", Linear, [kv, hidden]),
        ("self_attn.o_proj", Linear, [hidden, hidden]),
        ("self_attn.q_norm", Norm, [config.num_attention_heads, config.head_dim()]),
        ("self_attn.k_norm", Norm, [config.num_key_value_heads, config.head_dim()]),
        ("mlp.gate_proj", Linear, [inner, hidden]),
        ("mlp.up_proj", Linear, [inner, hidden]),
        ("mlp.down_proj", Linear, [hidden, inner]),
        ("input_layernorm", Norm, [1, hidden]),
        ("post_attention_layernorm", Norm, [1, hidden]),
    ];
    let module = |name: String, kind, shape| ModuleShape { name, kind, shape };
    let table = [config.vocab_size, hidden];
    let mut all = vec![module("model.embed_tokens".to_owned(), Embedding, table)];
    for layer in 0..config.num_hidden_layers {
        let named = |(name, kind, shape): &(&str, _, _)| {
            module(format!("model.layers.{layer}.{name}"), *kind, *shape)
        };
        all.extend(of_layer.iter().map(named));
    }
    all.push(module("model.norm".to_owned(), Norm, [1, hidden]));
    if !config.tie_word_embeddings {
        all.push(module("lm_head".to_owned(), Head, table));
    }
    if config.num_labels > 0 {
        all.push(module(SCORE.to_owned(), Score, [config.num_labels, hidden]));
    }
    all
}
