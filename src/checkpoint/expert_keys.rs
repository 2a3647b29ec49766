//! The keys of families with experts and latent attention.

use serde_json::{Map, Value, json};

use super::family::{Family, check, default, flag};
use crate::error::{Error, Result};
use crate::model::{
    ExpertGroups, ExpertsConfig, LatentConfig, MAX_LAYERS, ModelConfig, QkNorm, RouterScores,
};

/// The family that has the experts or the latent attention of `config`.
pub(super) fn family(config: &ModelConfig) -> Family {
    let ModelConfig { qkv_bias, o_bias, mlp_bias, .. } = *config;
    let Some(experts) = &config.experts else {
        let fits = config.latent.is_some() && qkv_bias == o_bias && !mlp_bias;
        return if fits { Family::DeepseekV3 } else { Family::Calumma };
    };
    let is_leading = experts.dense_layers.iter().copied().eq(0..experts.dense_layers.len());
    let is_sigmoid = experts.scores == RouterScores::Sigmoid;
    let by_two = experts.groups.is_none_or(|groups| groups.by_two_best);
    let by_one = experts.groups.is_none_or(|groups| !groups.by_two_best);
    let is_plain = !is_sigmoid
        && experts.n_shared_experts == 0
        && experts.groups.is_none()
        && experts.routed_scaling_factor == 1.0;
    if qkv_bias != o_bias || mlp_bias || experts.modality_groups.is_some() {
        return Family::Calumma;
    }
    if config.latent.is_some() {
        return match (is_sigmoid, experts.norm_topk_prob) {
            (true, _) if is_leading && by_two => Family::DeepseekV3,
            (false, false) if is_leading && by_one => Family::DeepseekV2,
            _ => Family::Calumma,
        };
    }
    let is_of_one_width = experts.moe_intermediate_size == config.intermediate_size;
    let all_sparse = experts.dense_layers.is_empty() && is_of_one_width;
    match config.qk_norm {
        QkNorm::Rms if is_plain => Family::Qwen3Moe,
        QkNorm::RmsProjection if is_plain && all_sparse => Family::Olmoe,
        QkNorm::None if is_plain && all_sparse && !qkv_bias && experts.norm_topk_prob => {
            Family::Mixtral
        }
        _ => Family::Calumma,
    }
}

/// Adds `experts` and `latent` from the keys of `family`.
///
/// # Errors
/// [`Error::Invalid`] that names a key that is missing or has an unsupported value.
pub(super) fn read(family: Family, config: &mut Map<String, Value>) -> Result<()> {
    let layers = number(config, "num_hidden_layers")?;
    if layers > MAX_LAYERS {
        let message = format!("num_hidden_layers is {layers}; allowed: at most {MAX_LAYERS}");
        return Err(Error::invalid(message));
    }
    let experts = match family {
        Family::Mixtral | Family::Qwen3Moe | Family::Olmoe => Some(of_qwen(family, config)?),
        Family::DeepseekV2 | Family::DeepseekV3 => {
            let latent = LatentConfig {
                q_lora_rank: optional(config, "q_lora_rank")?,
                kv_lora_rank: number(config, "kv_lora_rank")?,
                qk_nope_head_dim: number(config, "qk_nope_head_dim")?,
                qk_rope_head_dim: number(config, "qk_rope_head_dim")?,
                v_head_dim: number(config, "v_head_dim")?,
            };
            let heads = config["num_attention_heads"].clone();
            config.insert("latent".to_owned(), json!(latent));
            // These files name the width of the rotated part, and keys of all heads.
            config.insert("head_dim".to_owned(), Value::Null);
            config.insert("num_key_value_heads".to_owned(), heads);
            of_deepseek(family, config)?
        }
        _ => None,
    };
    config.insert("experts".to_owned(), json!(experts));
    Ok(())
}

fn of_qwen(family: Family, config: &Map<String, Value>) -> Result<ExpertsConfig> {
    let layers = number(config, "num_hidden_layers")?;
    let experts = match optional(config, "num_experts")? {
        Some(experts) if family != Family::Mixtral => experts,
        _ => number(config, "num_local_experts")?,
    };
    let (width, dense_layers) = match family {
        Family::Qwen3Moe => {
            let step = optional(config, "decoder_sparse_step")?.unwrap_or(1);
            if step == 0 {
                let message = "decoder_sparse_step is 0; it must be at least 1";
                return Err(Error::invalid(message));
            }
            let only: Vec<usize> = match config.get("mlp_only_layers") {
                None | Some(Value::Null) => Vec::new(),
                Some(value) => serde_json::from_value(value.clone()).map_err(|_| {
                    let allowed = "allowed: a list of layers";
                    Error::invalid(format!("mlp_only_layers is {value}; {allowed}"))
                })?,
            };
            let is_dense =
                |layer: &usize| only.contains(layer) || !(layer + 1).is_multiple_of(step);
            ("moe_intermediate_size", (0..layers).filter(is_dense).collect())
        }
        _ => ("intermediate_size", Vec::new()),
    };
    let [chosen, width] = [number(config, "num_experts_per_tok")?, number(config, width)?];
    Ok(ExpertsConfig {
        dense_layers,
        norm_topk_prob: family == Family::Mixtral || flag(config, "norm_topk_prob"),
        router_aux_loss_coef: balance_factor(config),
        ..ExpertsConfig::new(experts, chosen, width)
    })
}

fn of_deepseek(family: Family, config: &Map<String, Value>) -> Result<Option<ExpertsConfig>> {
    let layers = number(config, "num_hidden_layers")?;
    let dense = number(config, "first_k_dense_replace")?;
    if dense >= layers || config.get("n_routed_experts").is_some_and(Value::is_null) {
        return Ok(None);
    }
    let is_v3 = family == Family::DeepseekV3;
    let [scores, methods]: [&[&str]; 2] = match is_v3 {
        true => [&["sigmoid"], &["noaux_tc"]],
        false => [&["softmax"], &["greedy", "group_limited_greedy"]],
    };
    let values = |names: &[&str]| names.iter().map(|name| json!(name)).collect::<Vec<_>>();
    check(config, "scoring_func", &values(scores))?;
    check(config, "topk_method", &values(methods))?;
    if !is_v3 {
        check(config, "norm_topk_prob", &[json!(false)])?;
    }
    let is_greedy = !is_v3 && config.get("topk_method").is_none_or(|method| *method == "greedy");
    let groups = match [optional(config, "n_group")?, optional(config, "topk_group")?] {
        [Some(n_group), Some(topk_group)] if n_group > 1 && !is_greedy => {
            Some(ExpertGroups { n_group, topk_group, by_two_best: is_v3 })
        }
        _ => None,
    };
    let [experts, chosen, width] =
        ["n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"]
            .map(|key| number(config, key));
    let factor = config.get("routed_scaling_factor").and_then(Value::as_f64);
    Ok(Some(ExpertsConfig {
        n_shared_experts: optional(config, "n_shared_experts")?.unwrap_or(0),
        dense_layers: (0..dense).collect(),
        scores: if is_v3 { RouterScores::Sigmoid } else { RouterScores::Softmax },
        norm_topk_prob: is_v3 && config.get("norm_topk_prob").is_none_or(|value| *value != false),
        routed_scaling_factor: factor.unwrap_or(if is_v3 { 2.5 } else { 1.0 }),
        groups,
        router_aux_loss_coef: balance_factor(config),
        ..ExpertsConfig::new(experts?, chosen?, width?)
    }))
}

/// The factor of the load-balancing loss.
fn balance_factor(config: &Map<String, Value>) -> f64 {
    config.get("router_aux_loss_coef").and_then(Value::as_f64).unwrap_or(0.0)
}

/// Adds the keys of `family` for what `model` has of experts and latent attention.
pub(super) fn write(family: Family, config: &mut Map<String, Value>, model: &ModelConfig) {
    if let Some(latent) = &model.latent {
        if let Value::Object(keys) = json!(latent) {
            config.extend(keys);
        }
        default(config, "q_lora_rank", Value::Null);
        config.insert("qk_head_dim".to_owned(), json!(latent.qk_head_dim()));
        config.insert("rope_interleave".to_owned(), json!(true));
    }
    let is_deepseek = matches!(family, Family::DeepseekV2 | Family::DeepseekV3);
    let Some(experts) = &model.experts else {
        if is_deepseek {
            config.insert("first_k_dense_replace".to_owned(), json!(model.num_hidden_layers));
        }
        return;
    };
    let count = match family {
        Family::Mixtral => "num_local_experts",
        Family::DeepseekV2 | Family::DeepseekV3 => "n_routed_experts",
        _ => "num_experts",
    };
    let mut keys = json!({
        count: experts.num_experts,
        "num_experts_per_tok": experts.num_experts_per_tok,
        "norm_topk_prob": experts.norm_topk_prob,
        "router_aux_loss_coef": experts.router_aux_loss_coef,
    });
    let more = match family {
        Family::Qwen3Moe => json!({
            "moe_intermediate_size": experts.moe_intermediate_size,
            "mlp_only_layers": experts.dense_layers,
            "decoder_sparse_step": 1,
        }),
        Family::DeepseekV2 | Family::DeepseekV3 => {
            let groups = experts.groups;
            let method = match (family, groups) {
                (Family::DeepseekV3, _) => "noaux_tc",
                (_, Some(_)) => "group_limited_greedy",
                (_, None) => "greedy",
            };
            json!({
                "moe_intermediate_size": experts.moe_intermediate_size,
                // Their class builds shared experts of no width for 0.
                "n_shared_experts": (experts.n_shared_experts > 0).then_some(experts.n_shared_experts),
                "first_k_dense_replace": experts.dense_layers.len(),
                "routed_scaling_factor": experts.routed_scaling_factor,
                "n_group": groups.map_or(1, |groups| groups.n_group),
                "topk_group": groups.map_or(1, |groups| groups.topk_group),
                "topk_method": method,
                "scoring_func": experts.scores,
            })
        }
        _ => json!({}),
    };
    for part in [&mut keys, &mut { more }] {
        if let Value::Object(keys) = part.take() {
            config.extend(keys);
        }
    }
}

/// A whole number that must be there.
fn number(config: &Map<String, Value>, key: &str) -> Result<usize> {
    optional(config, key)?.ok_or_else(|| Error::invalid(format!("{key} is missing")))
}

/// A whole number; `None` if it is absent or null.
fn optional(config: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::invalid(format!("{key} is {value}; allowed: a whole number"))),
        },
    }
}
