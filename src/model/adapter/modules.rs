//! The modules of a transformer by name, as adapters name them.

use crate::model::{LatentConfig, ModelConfig, QkNorm};

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
    /// Shape of its weight: `[out, in]`, `[vocab, hidden]`; of norms `[rows, width]`, of which one row is stored as a
    /// vector.
    pub shape: [usize; 2],
    /// Whether it has a bias.
    pub has_bias: bool,
}

impl ModuleShape {
    /// Name and shape of its parameters.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>)> {
        let [rows, width] = self.shape;
        let weight = match self.kind {
            ModuleKind::Norm if rows == 1 => vec![width],
            _ => vec![rows, width],
        };
        // Of norms it has the shape of the weight, of linear layers a number for each output.
        let bias = if self.kind == ModuleKind::Norm { weight.clone() } else { vec![rows] };
        let mut all = vec![("weight", weight)];
        all.extend(self.has_bias.then_some(("bias", bias)));
        all
    }
}

/// The modules of a model of the sizes `config`, in the order of its layers.
pub fn modules(config: &ModelConfig) -> Vec<ModuleShape> {
    use ModuleKind::{Embedding, Head, Norm, Score};
    let hidden = config.hidden_size;
    let module = |name: String, kind, shape, has_bias| ModuleShape { name, kind, shape, has_bias };
    let table = [config.vocab_size, hidden];
    let mut all = vec![module("model.embed_tokens".to_owned(), Embedding, table, false)];
    for layer in 0..config.num_hidden_layers {
        let of_layer = [of_attention(config), of_feed_forward(config, layer)].concat();
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let of_layer =
            of_layer.into_iter().chain(norms.map(|name| (name, Norm, [1, hidden], false)));
        let named = |(name, kind, shape, has_bias): Row| {
            module(format!("model.layers.{layer}.{name}"), kind, shape, has_bias)
        };
        all.extend(of_layer.map(named));
    }
    all.push(module("model.norm".to_owned(), Norm, [1, hidden], false));
    if !config.tie_word_embeddings {
        all.push(module("lm_head".to_owned(), Head, table, false));
    }
    if config.num_labels > 0 {
        all.push(module(SCORE.to_owned(), Score, [config.num_labels, hidden], false));
    }
    all
}

/// Name, kind, shape, and whether there is a bias.
type Row = (&'static str, ModuleKind, [usize; 2], bool);

fn of_attention(config: &ModelConfig) -> Vec<Row> {
    use ModuleKind::{Linear, Norm};
    if let Some(latent) = &config.latent {
        return of_latent_attention(config, latent);
    }
    let (q, k, hidden) = (config.query_width(), config.key_width(), config.hidden_size);
    let mut all = vec![
        ("self_attn.q_proj", Linear, [q, hidden], config.qkv_bias),
        ("self_attn.k_proj", Linear, [k, hidden], config.qkv_bias),
        ("self_attn.v_proj", Linear, [k, hidden], config.qkv_bias),
        ("self_attn.o_proj", Linear, [hidden, q], config.o_bias),
    ];
    let norm = |heads: usize| match config.qk_norm {
        QkNorm::LayerNorm => Some(([heads, config.head_dim()], true)),
        QkNorm::None => None,
        QkNorm::Rms => Some(([1, config.head_dim()], false)),
        QkNorm::RmsProjection => Some(([1, heads * config.head_dim()], false)),
    };
    let heads = [
        ("self_attn.q_norm", config.num_attention_heads),
        ("self_attn.k_norm", config.num_key_value_heads),
    ];
    for (name, heads) in heads {
        all.extend(norm(heads).map(|(shape, has_bias)| (name, Norm, shape, has_bias)));
    }
    all
}

fn of_latent_attention(config: &ModelConfig, latent: &LatentConfig) -> Vec<Row> {
    use ModuleKind::{Linear, Norm};
    let (hidden, heads, rank) =
        (config.hidden_size, config.num_attention_heads, latent.kv_lora_rank);
    let (q, values) = (heads * latent.qk_head_dim(), heads * latent.v_head_dim);
    let mut all = match latent.q_lora_rank {
        Some(low) => vec![
            ("self_attn.q_a_proj", Linear, [low, hidden], config.qkv_bias),
            ("self_attn.q_a_layernorm", Norm, [1, low], false),
            ("self_attn.q_b_proj", Linear, [q, low], false),
        ],
        None => vec![("self_attn.q_proj", Linear, [q, hidden], false)],
    };
    let expanded = heads * latent.qk_nope_head_dim + values;
    all.extend([
        ("self_attn.kv_a_proj_with_mqa", Linear, [latent.cached(), hidden], config.qkv_bias),
        ("self_attn.kv_a_layernorm", Norm, [1, rank], false),
        ("self_attn.kv_b_proj", Linear, [expanded, rank], false),
        ("self_attn.o_proj", Linear, [hidden, values], config.o_bias),
    ]);
    all
}

/// Of a sparse layer those of the shared experts: the others' matrices are one stack, and routers get no factors.
fn of_feed_forward(config: &ModelConfig, layer: usize) -> Vec<Row> {
    let (names, inner) = match &config.experts {
        Some(experts) if experts.is_sparse(layer) => {
            if experts.n_shared_experts == 0 {
                return Vec::new();
            }
            let names = [
                "mlp.shared_experts.gate_proj",
                "mlp.shared_experts.up_proj",
                "mlp.shared_experts.down_proj",
            ];
            (names, experts.n_shared_experts * experts.moe_intermediate_size)
        }
        _ => (["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"], config.intermediate_size),
    };
    let [gate, up, down] = names;
    let (hidden, has_bias) = (config.hidden_size, config.mlp_bias);
    vec![
        (gate, ModuleKind::Linear, [inner, hidden], has_bias),
        (up, ModuleKind::Linear, [inner, hidden], has_bias),
        (down, ModuleKind::Linear, [hidden, inner], has_bias),
    ]
}
