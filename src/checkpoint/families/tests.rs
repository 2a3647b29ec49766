#![allow(clippy::unwrap_used, reason = "tests")]

use super::super::config::config_from_json;
use super::*;
use crate::model::{ExpertGroups, ExpertsConfig, LatentConfig, RopeScaling, RouterScores, Yarn};

fn keys(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rope_theta": 5e3,
    })
}

fn read(model_type: &str, more: Value) -> Result<ModelConfig> {
    let mut json = keys(model_type);
    json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config_from_json(&json)
}

fn yarn() -> RopeScaling {
    RopeScaling::Yarn(Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        beta_fast: 8.0,
        beta_slow: 0.5,
        attention_factor: None,
        mscale: Some(1.0),
        mscale_all_dim: Some(1.0),
        truncate: true,
    })
}

/// A model of each family, with everything that the family has.
fn models() -> Vec<(Family, ModelConfig)> {
    let dense = read("llama", json!({})).unwrap();
    let experts = ExpertsConfig { router_aux_loss_coef: 0.25, ..ExpertsConfig::new(8, 3, 48) };
    let mixtral = ModelConfig { experts: Some(experts.clone()), ..dense.clone() };
    let olmoe = ExpertsConfig { norm_topk_prob: false, ..experts.clone() };
    let narrow = ExpertsConfig { dense_layers: vec![0], moe_intermediate_size: 16, ..experts };
    let qwen3 = ModelConfig { qk_norm: QkNorm::Rms, head_dim: Some(16), ..dense.clone() };
    let shared =
        ExpertsConfig { n_shared_experts: 2, routed_scaling_factor: 1.5, ..narrow.clone() };
    let v2 = ExpertsConfig { norm_topk_prob: false, ..shared.clone() };
    let groups = ExpertGroups { n_group: 4, topk_group: 2, by_two_best: true };
    let v3 = ExpertsConfig { scores: RouterScores::Sigmoid, groups: Some(groups), ..shared };
    let latent = LatentConfig {
        q_lora_rank: Some(24),
        kv_lora_rank: 20,
        qk_nope_head_dim: 12,
        qk_rope_head_dim: 8,
        v_head_dim: 10,
    };
    let latent = ModelConfig { latent: Some(latent), num_key_value_heads: 4, ..dense.clone() };
    let yarn = yarn();
    vec![
        (Family::Chameleon, ModelConfig { rms_norm_eps: 1e-4, ..ModelConfig::default() }),
        (Family::Calumma, ModelConfig { mlp_bias: true, qkv_bias: true, ..dense.clone() }),
        (Family::Calumma, ModelConfig { head_dim: Some(64), ..ModelConfig::default() }),
        (Family::Llama, ModelConfig { qkv_bias: true, o_bias: true, ..dense.clone() }),
        (Family::Llama, ModelConfig { rope_scaling: yarn.clone(), ..dense.clone() }),
        (Family::Qwen2, ModelConfig { qkv_bias: true, tie_word_embeddings: true, ..dense.clone() }),
        (Family::Qwen3, qwen3.clone()),
        (Family::Mixtral, mixtral),
        (Family::Qwen3Moe, ModelConfig { experts: Some(narrow), ..qwen3 }),
        (
            Family::Olmoe,
            ModelConfig { qk_norm: QkNorm::RmsProjection, experts: Some(olmoe), ..dense },
        ),
        (Family::DeepseekV2, ModelConfig { experts: Some(v2), ..latent.clone() }),
        (Family::DeepseekV3, ModelConfig { experts: Some(v3), ..latent.clone() }),
        (Family::DeepseekV3, ModelConfig { rope_scaling: yarn, ..latent }),
    ]
}

#[test]
fn a_model_of_each_family_reads_back_as_it_was_written() {
    for (family, model) in models() {
        assert_eq!(Family::having(&model), family, "{model:?}");
        let mut json = json!(model);
        family.write(json.as_object_mut().unwrap(), &model);
        assert_eq!(config_from_json(&json).unwrap(), model, "{family:?}: {json}");
    }
}

#[test]
fn absent_keys_have_the_defaults_of_their_classes() {
    let none = || json!({});
    let llama = read("llama", none()).unwrap();
    assert_eq!((llama.rms_norm_eps, llama.tie_word_embeddings), (1e-6, false));
    assert_eq!((llama.qk_norm, llama.qkv_bias, llama.o_bias), (QkNorm::None, false, false));
    assert_eq!(llama.head_dim(), 8);
    let all_heads = read("llama", json!({ "num_key_value_heads": null })).unwrap();
    assert_eq!(all_heads.num_key_value_heads, 4);
    let qwen2 = read("qwen2", json!({ "sliding_window": 64 })).unwrap();
    assert_eq!((qwen2.qkv_bias, qwen2.o_bias), (true, false));
    let qwen3 = read("qwen3", none()).unwrap();
    assert_eq!((qwen3.head_dim(), qwen3.qk_norm), (128, QkNorm::Rms));
    assert!(read("mistral", none()).is_ok());
    let dense = read(
        "deepseek_v3",
        json!({
            "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4,
            "first_k_dense_replace": 2,
        }),
    );
    assert_eq!(dense.unwrap().experts, None);
}

#[test]
fn what_changes_the_result_and_is_not_supported_is_refused_by_name() {
    for (model_type, more, named) in [
        ("gpt2", json!({}), "model_type is \"gpt2\"; supported: chameleon"),
        ("llama", json!({ "hidden_act": "gelu" }), "hidden_act is \"gelu\"; only \"silu\""),
        ("llama", json!({ "vocab_size": null }), "vocab_size is missing"),
        ("qwen2", json!({ "num_key_value_heads": null }), "num_key_value_heads is missing"),
        ("llama", json!({ "quantization_config": { "bits": 4 } }), "quantization_config is"),
        (
            "qwen3_moe",
            json!({ "decoder_sparse_step": 0 , "num_experts": 4 }),
            "decoder_sparse_step is 0",
        ),
        ("qwen3_moe", json!({ "num_hidden_layers": 1_u64 << 60 }), "num_hidden_layers is"),
        ("deepseek_v2", json!({ "mlp_bias": true }), "mlp_bias is true"),
        ("mistral", json!({ "sliding_window": 64 }), "sliding_window is 64"),
        ("mistral", json!({ "max_position_embeddings": 8192 }), "sliding_window is 4096"),
        ("qwen2", json!({ "sliding_window": 64, "use_sliding_window": true }), "sliding_window"),
        (
            "qwen3",
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
            "layer_types has \"sliding_attention\"",
        ),
        ("olmoe", json!({ "clip_qkv": 8.0 }), "clip_qkv is 8.0; it is not supported"),
        ("mixtral", json!({}), "num_local_experts is missing"),
        ("qwen3", json!({ "head_dim": 7 }), "head_dim is 7"),
        ("chameleon", json!({ "attention_bias": true }), "attention_bias is true"),
    ] {
        let message = read(model_type, more).unwrap_err().to_string();
        assert!(message.contains(named), "{model_type}: {message}");
    }
}
