//! `adapter_config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::adapter::{AdapterConfig, AdapterPlan, Names, Patterns};

/// File in an adapter's directory.
pub(super) const FILE: &str = "adapter_config.json";

/// Keys that change nothing that an adapter computes.
const IGNORED: [&str; 14] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ephemeral_gpu_offload",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Initialisations that change the base, so that its own weights do not fit the adapter.
const CHANGING_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "lora_ga", "kasa"];

/// The content of `adapter_config.json`.
#[derive(Clone, Debug)]
pub struct StoredConfig {
    /// The settings.
    pub config: AdapterConfig,
    /// The base, as the adapter's author called it.
    pub base: Option<String>,
}

/// Values whose order counts, which a map of JSON values would lose.
#[derive(Default, Deserialize)]
struct InOrder {
    rank_pattern: Option<Patterns<usize>>,
    alpha_pattern: Option<Patterns<f64>>,
}

/// Whether `dir` is an adapter's directory.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(FILE).is_file()
}

/// Reads the configuration of the adapter in `dir`.
///
/// # Errors
/// Those of the file; [`Error::File`] with the key for a setting that changes what an adapter computes and is not
/// built.
pub fn read(dir: &Path) -> Result<StoredConfig> {
    let path = dir.join(FILE);
    if !is_adapter(dir) {
        return Err(Error::file(dir, "is no adapter: it has no adapter_config.json"));
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    parse(&text).map_err(Error::in_file(&path))
}

fn parse(text: &str) -> Result<StoredConfig> {
    let malformed = |error| Error::because("not an adapter's configuration")(error);
    let mut keys: Map<String, Value> = serde_json::from_str(text).map_err(malformed)?;
    let in_order: InOrder = serde_json::from_str(text).map_err(malformed)?;
    let base = keys.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
    let kind = keys.get("peft_type").cloned().unwrap_or(Value::Null);
    if kind != json!("LORA") {
        return Err(Error::invalid(format!("peft_type is {kind}; allowed: \"LORA\"")));
    }
    refuse_base_changes(&mut keys)?;
    for (key, allowed) in [("bias", "none"), ("bias", "lora_only")] {
        if keys.get(key) == Some(&json!(allowed)) {
            keys.remove(key);
        }
    }
    keys.retain(|key, value| !IGNORED.contains(&key.as_str()) && is_set(value));
    for key in ["rank_pattern", "alpha_pattern"] {
        keys.remove(key);
    }
    let is_known = |key: &str| AdapterConfig::KEYS.contains(&key);
    if let Some((key, value)) = keys.iter().find(|(key, _)| !is_known(key)) {
        return Err(Error::invalid(format!(
            "{key} is {value}; this setting changes what the adapter computes and is not supported: merge the \
             adapter with PEFT (merge_and_unload) and open the result"
        )));
    }
    let mut config: AdapterConfig = serde_json::from_value(Value::Object(keys))
        .map_err(Error::because("not an adapter's configuration"))?;
    config.rank_pattern = in_order.rank_pattern.unwrap_or_default();
    config.alpha_pattern = in_order.alpha_pattern.unwrap_or_default();
    Ok(StoredConfig { config, base })
}

/// Whether a value says anything: PEFT writes every key.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Refuses initialisations that change the base; takes out those that only choose the first factors.
fn refuse_base_changes(keys: &mut Map<String, Value>) -> Result<()> {
    const KEY: &str = "init_lora_weights";
    let Some(Value::String(name)) = keys.get(KEY) else {
        keys.remove(KEY);
        return Ok(());
    };
    if CHANGING_THE_BASE.iter().any(|kind| name.starts_with(kind)) {
        return Err(Error::invalid(format!(
            "{KEY} is {name:?}, which changes the base's weights; convert the adapter with PEFT (save_pretrained \
             with path_initial_model_for_weight_conversion)"
        )));
    }
    keys.remove(KEY);
    Ok(())
}

/// The content of `adapter_config.json` for an adapter with `config` and `plan` of the model called `base`.
pub(super) fn to_json(config: &AdapterConfig, plan: &AdapterPlan, base: &str) -> Value {
    let targets = match &config.target_modules {
        Names::One(all) if all.eq_ignore_ascii_case("all-linear") => json!(ends(plan)),
        given => json!(given),
    };
    json!({
        "alpha_pattern": patterns(&config.alpha_pattern, number),
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "exclude_modules": config.exclude_modules,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": config.layers_pattern,
        "layers_to_transform": config.layers_to_transform,
        "lora_alpha": number(config.lora_alpha),
        "lora_bias": false,
        "lora_dropout": config.lora_dropout,
        "modules_to_save": config.modules_to_save,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": patterns(&config.rank_pattern, |rank| json!(rank)),
        "revision": null,
        "target_modules": targets,
        "task_type": if config.has_score() { "SEQ_CLS" } else { "CAUSAL_LM" },
        "trainable_token_indices": config.trainable_token_indices,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    })
}

/// A number as PEFT writes it: whole ones without a point.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

fn patterns<T: Copy>(patterns: &Patterns<T>, value: impl Fn(T) -> Value) -> Value {
    patterns.0.iter().map(|(key, of)| (key.clone(), value(*of))).collect::<Map<_, _>>().into()
}

/// The last parts of the names of modules with factors, in alphabetical order.
fn ends(plan: &AdapterPlan) -> Vec<&str> {
    let end = |name: &'_ String| -> usize { name.rfind('.').map_or(0, |at| at + 1) };
    let mut ends: Vec<&str> = plan.factors.keys().map(|name| &name[end(name)..]).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn what_changes_the_arithmetic_and_is_not_built_is_refused_by_name() {
        let with = |key: &str, value: Value| {
            let mut keys = json!({ "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"] });
            keys[key] = value;
            parse(&keys.to_string())
        };
        for (key, value) in [
            ("lora_bias", json!(true)),
            ("bias", json!("all")),
            ("layer_replication", json!([[0, 2]])),
            ("target_parameters", json!(["mlp.experts"])),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({ "nblocks": 2 })),
            ("alora_invocation_tokens", json!([1, 2])),
            ("arrow_config", json!({ "top_k": 2 })),
            ("ensure_weight_tying", json!(true)),
            ("loftq_config", json!({ "loftq_bits": 4 })),
            ("something_new", json!(3)),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("corda")),
            ("peft_type", json!("IA3")),
            ("r", json!("four")),
        ] {
            let message = with(key, value.clone()).unwrap_err().to_string();
            let names = message.contains(key) || key == "r" && message.contains("four");
            assert!(names, "{key}: {message}");
        }
        for (key, value) in [
            ("init_lora_weights", json!("gaussian")),
            ("init_lora_weights", json!(false)),
            ("bias", json!("lora_only")),
            ("something_new", Value::Null),
            ("loftq_config", json!({})),
            ("megatron_core", json!("megatron.core")),
            ("use_bdlora", json!(false)),
        ] {
            with(key, value.clone()).unwrap_or_else(|error| panic!("{key} {value}: {error}"));
        }
        assert!(parse("[1]").is_err() && parse("{").is_err() && parse("{}").is_err());
    }

    #[test]
    fn written_configurations_read_back() {
        let text = r#"{"r": 4, "lora_alpha": 2.5, "use_rslora": true, "target_modules": ".*[qk]_proj",
            "rank_pattern": {"q_proj": 2, "k_proj": 6}, "modules_to_save": ["norm"],
            "trainable_token_indices": {"lm_head": [3, 1]}, "layers_to_transform": [1]}"#;
        let config: AdapterConfig = serde_json::from_str(text).unwrap();
        let plan = config.plan(&ModelConfig::default()).unwrap();
        let read = parse(&to_json(&config, &plan, "base").to_string()).unwrap();
        assert_eq!(read.base.as_deref(), Some("base"));
        // serde_json's maps are sorted, and so are the patterns then.
        let sorted = |config: &AdapterConfig| {
            let mut config = config.clone();
            config.rank_pattern.0.sort();
            config
        };
        assert_eq!(sorted(&read.config), sorted(&config));
        let all = AdapterConfig::default();
        let json = to_json(&all, &all.plan(&ModelConfig::default()).unwrap(), "base");
        let names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
        assert_eq!((&json["target_modules"], &json["lora_alpha"]), (&json!(names), &json!(8)));
    }
}
