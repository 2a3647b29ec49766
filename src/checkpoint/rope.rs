//! The rotary settings of a `config.json`; unsupported ones that change the angles are refused by
//! name.
//!
//! Newer files of Hugging Face have them in `rope_parameters`, older ones in `rope_scaling` (with `type` for
//! `rope_type`) and a flat `rope_theta`.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::RopeScaling;

/// Objects with rotary settings; as in the reference, the last one takes precedence.
const OBJECTS: [&str; 2] = ["rope_parameters", "rope_scaling"];

/// The share of each head that is rotated; also found outside the objects.
const PARTIAL: &str = "partial_rotary_factor";

/// Kinds that are supported.
const KINDS: &str = "\"default\", \"linear\", \"llama3\" and \"yarn\" are supported";

/// Checks the rotary settings of `config` and moves them to `rope_theta` and `rope_scaling`.
///
/// # Errors
/// [`Error::Invalid`] that names the setting, if it changes the angles in a way that is not supported.
pub(super) fn flatten(config: &mut Map<String, Value>) -> Result<()> {
    if let Some(value) = config.get(PARTIAL) {
        check_partial(PARTIAL, value)?;
    }
    let mut found = json!(RopeScaling::Default);
    for object in OBJECTS {
        let settings = match config.get(object) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(settings)) => settings.clone(),
            Some(value) => {
                let message = format!("{object} is {value}; allowed: null or an object");
                return Err(Error::invalid(message));
            }
        };
        if let Some(theta) = settings.get("rope_theta") {
            config.insert("rope_theta".to_owned(), theta.clone());
        }
        let context = config.get("max_position_embeddings").and_then(Value::as_f64);
        if let Some(scaling) = scaling(object, settings, context)? {
            found = scaling;
        }
    }
    config.insert("rope_scaling".to_owned(), found);
    Ok(())
}

/// The settings in the object called `object` as [`RopeScaling`] has them; `None` if they change nothing.
fn scaling(
    object: &str,
    mut settings: Map<String, Value>,
    context: Option<f64>,
) -> Result<Option<Value>> {
    settings.retain(|_, value| !value.is_null());
    settings.remove("rope_theta");
    if let Some(value) = settings.remove(PARTIAL) {
        check_partial(&format!("{object}.{PARTIAL}"), &value)?;
    }
    let names = ["rope_type", "type"];
    let named = names.iter().find(|name| settings.contains_key(**name)).copied();
    let kind = named.map_or(json!("default"), |name| settings[name].clone());
    names.iter().for_each(|name| _ = settings.remove(*name));
    let name = named.unwrap_or("rope_type");
    match kind.as_str() {
        Some("default") => {
            if settings.get("factor").and_then(Value::as_f64) == Some(1.0) {
                settings.remove("factor");
            }
            return match settings.iter().next() {
                None => Ok(None),
                Some((key, value)) => Err(Error::invalid(format!(
                    "{object}.{key} is {value}; no such rotary setting is supported with the type \"default\""
                ))),
            };
        }
        Some("yarn") if !settings.contains_key("factor") => {
            let original = settings.get("original_max_position_embeddings").and_then(Value::as_f64);
            if let (Some(context), Some(original)) = (context, original) {
                settings.insert("factor".to_owned(), json!(context / original));
            }
        }
        Some("linear" | "llama3" | "yarn") => {}
        _ => return Err(Error::invalid(format!("{object}.{name} is {kind}; {KINDS}"))),
    }
    if kind == "yarn"
        && let Some(context) = context
    {
        settings.entry("original_max_position_embeddings").or_insert(json!(context as usize));
    }
    settings.insert("rope_type".to_owned(), kind);
    let scaling = Value::Object(settings);
    // A key that is missing or unknown is named.
    serde_json::from_value::<RopeScaling>(scaling.clone())
        .map_err(|error| Error::invalid(format!("{object}: {error}")))?;
    Ok(Some(scaling))
}

/// Checks a share of each head, which errors call `name`.
fn check_partial(name: &str, value: &Value) -> Result<()> {
    match value.is_null() || value.as_f64() == Some(1.0) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{name} is {value}; only 1 is supported"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::super::config::config_from_json;
    use super::*;
    use crate::model::ModelConfig;

    /// The configuration with `key` set to `value`.
    fn read(key: &str, value: Value) -> Result<ModelConfig> {
        let mut json = json!(ModelConfig::default());
        json[key] = value;
        config_from_json(&json)
    }

    #[test]
    fn settings_that_change_the_angles_are_refused_by_name() {
        for (key, value, named) in [
            (
                "rope_parameters",
                json!({ "rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4 }),
                "rope_parameters.rope_type is \"longrope\"",
            ),
            (
                "rope_parameters",
                json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0 }),
                "rope_parameters: missing field `high_freq_factor`",
            ),
            (
                "rope_parameters",
                json!({ "rope_type": "linear", "factor": 2.0, "beta_fast": 3.0 }),
                "rope_parameters: unknown field `beta_fast`",
            ),
            (
                "rope_scaling",
                json!({ "rope_type": "linear", "factor": 0.0 }),
                "factor of the rotary embedding is 0",
            ),
            ("rope_parameters", json!({ "rope_type": 3 }), "rope_parameters.rope_type is 3"),
            (
                "rope_parameters",
                json!({ "full_attention": { "rope_type": "default" } }),
                "rope_parameters.full_attention",
            ),
            ("rope_scaling", json!({ "type": "dynamic" }), "rope_scaling.type is \"dynamic\""),
            ("rope_scaling", json!({ "rope_type": "llama3" }), "rope_scaling: missing field"),
            ("rope_scaling", json!({ "factor": 2.0 }), "rope_scaling.factor is 2.0"),
            (
                "rope_scaling",
                json!({ "type": "default", "mrope_section": [16, 24, 24] }),
                "rope_scaling.mrope_section",
            ),
            ("rope_scaling", json!("linear"), "rope_scaling is \"linear\""),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor is 0.5"),
        ] {
            let message = read(key, value.clone()).unwrap_err().to_string();
            assert!(message.contains(named), "{key} = {value}: {message}");
        }
    }

    #[test]
    fn settings_that_change_nothing_are_read() {
        for (key, value) in [
            ("rope_scaling", Value::Null),
            ("rope_parameters", Value::Null),
            ("rope_scaling", json!({})),
            ("rope_scaling", json!({ "type": "default", "factor": 1.0 })),
            ("rope_scaling", json!({ "rope_type": "default", "low_freq_factor": null })),
            ("rope_parameters", json!({ "rope_type": "default", "partial_rotary_factor": 1 })),
            ("partial_rotary_factor", json!(1.0)),
        ] {
            let config = read(key, value.clone());
            assert_eq!(config.unwrap(), ModelConfig::default(), "{key} = {value}");
        }
    }

    #[test]
    fn the_base_frequency_is_read_from_every_place() {
        let read = |json| config_from_json(&json).unwrap().rope_theta;
        assert_eq!(read(json!({})), 10_000.0);
        assert_eq!(read(json!({ "rope_theta": 5e5 })), 5e5);
        let nested = json!({ "rope_type": "default", "rope_theta": 1e6 });
        assert_eq!(read(json!({ "rope_theta": 5e5, "rope_parameters": nested.clone() })), 1e6);
        assert_eq!(read(json!({ "rope_scaling": nested })), 1e6);
    }
}
