//! The tensors of the original release and their names in Hugging Face's layout.
//!
//! Source: `convert_chameleon_weights_to_hf.py` of transformers and `chameleon/inference/loader.py` of the
//! original release.

use tensor_files::StoredTensor;

use super::join::{Join, element_len};
use crate::error::Result;
use crate::model::ModelConfig;

/// A tensor under both names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The original release's name.
    pub meta: String,
    /// Hugging Face's name.
    pub hf: String,
    /// How its parts join.
    pub join: Join,
}

/// Every tensor of a model of the configuration `config`.
pub fn pairs(config: &ModelConfig) -> Vec<Pair> {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let pair = |meta: String, hf: String, join| Pair { meta, hf, join };
    let mut pairs = vec![
        pair("tok_embeddings.weight".into(), "model.embed_tokens.weight".into(), Join::Columns),
        pair("norm.weight".into(), "model.norm.weight".into(), Join::Same),
        pair("output.weight".into(), "lm_head.weight".into(), Join::Rows),
    ];
    let of_layer = [
        ("attention.wq.weight", "self_attn.q_proj.weight", Join::Rotary(heads)),
        ("attention.wk.weight", "self_attn.k_proj.weight", Join::Rotary(kv_heads)),
        ("attention.wv.weight", "self_attn.v_proj.weight", Join::Rows),
        ("attention.wo.weight", "self_attn.o_proj.weight", Join::Columns),
        ("attention.q_normalization.weight", "self_attn.q_norm.weight", Join::HeadNorm(heads)),
        ("attention.q_normalization.bias", "self_attn.q_norm.bias", Join::HeadNorm(heads)),
        ("attention.k_normalization.weight", "self_attn.k_norm.weight", Join::HeadNorm(kv_heads)),
        ("attention.k_normalization.bias", "self_attn.k_norm.bias", Join::HeadNorm(kv_heads)),
        ("feed_forward.w1.weight", "mlp.gate_proj.weight", Join::Rows),
        ("feed_forward.w3.weight", "mlp.up_proj.weight", Join::Rows),
        ("feed_forward.w2.weight", "mlp.down_proj.weight", Join::Columns),
        ("attention_norm.weight", "input_layernorm.weight", Join::Same),
        ("ffn_norm.weight", "post_attention_layernorm.weight", Join::Same),
    ];
    for layer in 0..config.num_hidden_layers {
        for (meta, hf, join) in of_layer {
            pairs.push(pair(
                format!("layers.{layer}.{meta}"),
                format!("model.layers.{layer}.{hf}"),
                join,
            ));
        }
    }
    pairs
}

/// Reorders a tensor with Hugging Face's name from the original release's rotary order to Hugging Face's.
///
/// # Errors
/// If its shape does not fit its name.
pub fn half_apart(tensor: StoredTensor, name: &str, config: &ModelConfig) -> Result<StoredTensor> {
    let pair = pairs(config).into_iter().find(|pair| pair.hf == name);
    match (pair.map(|pair| pair.join), tensor.shape.as_slice()) {
        (Some(join @ Join::Rotary(_)), _) => join.join(&[tensor]),
        // One row, one for each part of a model trained in parts, or one for each head.
        (Some(join @ Join::HeadNorm(_)), &[.., head_dim]) if head_dim > 0 => {
            let (dtype, row) = (tensor.dtype, head_dim * element_len(tensor.dtype)?);
            let rows = tensor.bytes.chunks_exact(row).map(<[u8]>::to_vec);
            let rows = rows.map(|bytes| StoredTensor { dtype, shape: vec![head_dim], bytes });
            join.join(&rows.collect::<Vec<_>>())
        }
        _ => Ok(tensor),
    }
}
