//! The rotary settings of a `config.json`; unsupported ones that change the angles are refused by
//! name.
//!
//! Newer files of Hugging Face have them in `rope_parameters`, older ones in `rope_scaling` (with `type` for
//! `rope_type`) and a flat `rope_theta`.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Objects with rotary settings; as in the reference, the last one takes precedence.
const OBJECTS: [&str; 2] = ["rope_parameters", "rope_scaling"];

/// The share of each head that is rotated; also found outside the objects.
const PARTIAL: &str = "partial_rotary_factor";

/// Checks the rotary settings of `config` and moves a base frequency in an object to `rope_theta`.
///
/// # Errors
/// [`Error::Invalid`] that names the setting, if it changes the angles in a way that is not supported.
pub(super) fn flatten(config: &mut Map<String, Value>) -> Result<()> {
    if let Some(value) = config.get(PARTIAL) {
        check(PARTIAL, PARTIAL, value)?;
    }
    for object in OBJECTS {
        let settings = match config.get(object) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(settings)) => settings.clone(),
            Some(value) => {
                let message = format!("{object} is {value}; allowed: null or an object");
                return Err(Error::invalid(message));
            }
        };
        for (key, value) in settings {
            if key == "rope_theta" {
                config.insert(key, value);
            } else {
                check(&key, &format!("{object}.{key}"), &value)?;
            }
        }
    }
    Ok(())
}

/// Checks the setting `key`, which errors call `name`.
fn check(key: &str, name: &str, value: &Value) -> Result<()> {
    let (allows, supported) = match key {
        "rope_type" | "type" => (*value == "default", "only \"default\" is supported"),
        "factor" | PARTIAL => (value.as_f64() == Some(1.0), "only 1 is supported"),
        _ => (false, "no such rotary setting is supported"),
    };
    if allows || value.is_null() {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}; {supported}")))
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
                json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4 }),
                "rope_parameters.",
            ),
            (
                "rope_parameters",
                json!({ "rope_type": "yarn" }),
                "rope_parameters.rope_type is \"yarn\"",
            ),
            ("rope_parameters", json!({ "rope_type": 3 }), "rope_parameters.rope_type is 3"),
            (
                "rope_parameters",
                json!({ "full_attention": { "rope_type": "default" } }),
                "rope_parameters.full_attention",
            ),
            ("rope_scaling", json!({ "type": "dynamic" }), "rope_scaling.type is \"dynamic\""),
            (
                "rope_scaling",
                json!({ "rope_type": "llama3" }),
                "rope_scaling.rope_type is \"llama3\"",
            ),
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
