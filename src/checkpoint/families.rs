//! The decoders of other projects by the `model_type` of their `config.json`: their keys to those of [`ModelConfig`],
//! and back. Source: `configuration_*.py` and `modeling_*.py` of transformers 5.24.
//!
//! Keys that change the result and are not supported are errors; keys of no family are ignored, as by transformers.

use serde_json::{Map, Value, json};

use super::expert_keys;
use super::family::{Family, check, default, flag};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, QkNorm};

/// Keys that change the result in a way that is not supported, unless they have one of these values; null is always
/// allowed.
fn only() -> [(&'static str, Vec<Value>); 15] {
    let (no, none) = (vec![json!(false)], Vec::new);
    [
        ("hidden_act", vec![json!("silu")]),
        ("router_jitter_noise", vec![json!(0.0), json!(0)]),
        ("rope_interleave", vec![json!(true)]),
        ("moe_layer_freq", vec![json!(1)]),
        ("use_mrope", no.clone()),
        ("use_qk_norm", no.clone()),
        ("clip_qkv", none()),
        ("quantization_config", none()),
        ("no_rope_layers", none()),
        ("attn_logit_softcapping", none()),
        ("final_logit_softcapping", none()),
        ("logit_scale", none()),
        ("embedding_multiplier", none()),
        ("residual_multiplier", none()),
        ("attention_multiplier", none()),
    ]
}

/// Sizes that have no default.
const NEEDED: [&str; 6] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
];

impl Family {
    /// The family that has all of `config`.
    pub(super) fn having(config: &ModelConfig) -> Self {
        let ModelConfig { qkv_bias, o_bias, mlp_bias, .. } = *config;
        if config.qk_norm_share < 1.0 {
            return Self::Calumma;
        }
        if config.swin_norm || config.qk_norm == QkNorm::LayerNorm {
            let is_plain = !(qkv_bias || o_bias || mlp_bias)
                && config.head_dim.is_none_or(|width| {
                    width.checked_mul(config.num_attention_heads) == Some(config.hidden_size)
                })
                && config.latent.is_none()
                && config.experts.is_none()
                && config.rope_scaling == Default::default()
                && config.qk_norm == QkNorm::LayerNorm;
            return if is_plain { Self::Chameleon } else { Self::Calumma };
        }
        if config.latent.is_some() || config.experts.is_some() {
            return expert_keys::family(config);
        }
        match (config.qk_norm, qkv_bias, o_bias) {
            (QkNorm::Rms, ..) if qkv_bias == o_bias && !mlp_bias => Self::Qwen3,
            (QkNorm::None, true, false) if !mlp_bias => Self::Qwen2,
            (QkNorm::None, ..) if qkv_bias == o_bias => Self::Llama,
            _ => Self::Calumma,
        }
    }

    /// Rewrites the keys of this family to those of [`ModelConfig`].
    ///
    /// # Errors
    /// [`Error::Invalid`] that names a key with an unsupported value.
    pub(super) fn read(self, config: &mut Map<String, Value>) -> Result<()> {
        for (key, allowed) in only() {
            check(config, key, &allowed)?;
        }
        if self == Self::Chameleon {
            for key in ["attention_bias", "mlp_bias"] {
                check(config, key, &[json!(false)])?;
            }
        }
        if matches!(self, Self::Chameleon | Self::Calumma) {
            return Ok(());
        }
        if let Some(key) = NEEDED.iter().find(|key| config.get(**key).is_none_or(Value::is_null)) {
            return Err(Error::invalid(format!("{key} is missing")));
        }
        self.check_windows(config)?;
        let bias = flag(config, "attention_bias");
        let [qkv_bias, o_bias] = match self {
            Self::Qwen2 => [true, false],
            Self::Mistral | Self::Mixtral => [false; 2],
            _ => [bias; 2],
        };
        if !matches!(self, Self::Llama | Self::Emu3) {
            check(config, "mlp_bias", &[json!(false)])?;
        }
        let mlp_bias = flag(config, "mlp_bias");
        let qk_norm = match self {
            Self::Qwen3 | Self::Qwen3Moe => QkNorm::Rms,
            Self::Olmoe => QkNorm::RmsProjection,
            _ => QkNorm::None,
        };
        config.extend([
            ("qkv_bias".to_owned(), json!(qkv_bias)),
            ("o_bias".to_owned(), json!(o_bias)),
            ("mlp_bias".to_owned(), json!(mlp_bias)),
            ("qk_norm".to_owned(), json!(qk_norm)),
            ("swin_norm".to_owned(), json!(false)),
        ]);
        let eps = if matches!(self, Self::Mixtral | Self::Olmoe) { 1e-5 } else { 1e-6 };
        default(config, "rms_norm_eps", json!(eps));
        default(config, "tie_word_embeddings", json!(false));
        default(config, "rope_theta", json!(if self == Self::Mixtral { 1e6 } else { 1e4 }));
        let heads = config["num_attention_heads"].clone();
        if matches!(self, Self::Llama | Self::DeepseekV2 | Self::DeepseekV3) {
            default(config, "num_key_value_heads", heads);
        } else if config.get("num_key_value_heads").is_none_or(Value::is_null) {
            return Err(Error::invalid("num_key_value_heads is missing"));
        }
        if self == Self::Qwen3 {
            default(config, "head_dim", json!(128));
        }
        // One way to say it, so that configurations can be compared.
        let number = |key: &str| config.get(key).and_then(Value::as_u64);
        if let (Some(width), Some(heads)) = (number("head_dim"), number("num_attention_heads"))
            && number("hidden_size") == width.checked_mul(heads)
        {
            config.remove("head_dim");
        }
        expert_keys::read(self, config)
    }

    /// Refuses attention over a window that is shorter than the context.
    fn check_windows(self, config: &mut Map<String, Value>) -> Result<()> {
        if let Some(Value::Array(kinds)) = config.get("layer_types")
            && let Some(kind) = kinds.iter().find(|kind| **kind != "full_attention")
        {
            let message = format!("layer_types has {kind}; only \"full_attention\" is supported");
            return Err(Error::invalid(message));
        }
        // The classes of Qwen have a switch, which is off by default; that of Mistral a window by default.
        let is_off = matches!(self, Self::Qwen2 | Self::Qwen3 | Self::Qwen3Moe)
            && !flag(config, "use_sliding_window");
        if self == Self::Mistral {
            config.entry("sliding_window").or_insert(json!(4096));
        }
        let (window, context) = (&config.get("sliding_window"), &config["max_position_embeddings"]);
        let is_short = |window: &Value| window.as_f64() < context.as_f64();
        match window {
            Some(window) if !window.is_null() && !is_off && is_short(window) => {
                Err(Error::invalid(format!(
                    "sliding_window is {window}; only windows of at least max_position_embeddings ({context}) are \
                     supported"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Rewrites the keys of `config`, as [`ModelConfig`] writes them, to those of this family.
    pub(super) fn write(self, config: &mut Map<String, Value>, model: &ModelConfig) {
        let [name, class] = self.names();
        config.insert("model_type".to_owned(), json!(name));
        config.insert("architectures".to_owned(), json!([class]));
        config.insert("hidden_act".to_owned(), json!("silu"));
        config.insert("attention_dropout".to_owned(), json!(0.0));
        let mut rope = json!(model.rope_scaling);
        rope["rope_theta"] = json!(model.rope_theta);
        config.insert("rope_parameters".to_owned(), rope);
        if self == Self::Calumma {
            return;
        }
        config.remove("rope_scaling");
        let own = ["qk_norm", "qkv_bias", "o_bias", "latent", "experts"];
        own.iter().for_each(|key| _ = config.remove(*key));
        config.insert("attention_bias".to_owned(), json!(model.o_bias));
        config.insert("mlp_bias".to_owned(), json!(model.mlp_bias));
        if self == Self::Chameleon {
            return;
        }
        ["swin_norm", "model_parallel_size"].iter().for_each(|key| _ = config.remove(*key));
        if model.dropout == 0.0 {
            config.remove("dropout");
        }
        config.insert("head_dim".to_owned(), json!(model.head_dim()));
        if self != Self::Llama {
            config.insert("sliding_window".to_owned(), Value::Null);
            config.insert("use_sliding_window".to_owned(), json!(false));
        }
        expert_keys::write(self, config, model);
    }
}

#[cfg(test)]
mod tests;
