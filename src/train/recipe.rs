//! Recipe files: one TOML file says everything about a run.
//!
//! Precedence: defaults, then the file, then `--set section.key=value`. An unknown key is an error that
//! names the nearest known one.

use std::path::Path;

use super::config::Recipe;
use crate::error::{Error, Result};

/// Reads a recipe and applies `overrides` of the form `section.key=value` to it.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::File`] when it is no TOML, has an unknown key
/// or a value out of range; [`Error::Invalid`] for a malformed override.
pub fn read_recipe<R: Recipe>(path: &Path, overrides: &[String]) -> Result<R> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut table: toml::Table = toml::from_str(&text)
        .map_err(|e| Error::file(path, e.to_string().trim_end().to_owned()))?;
    for override_ in overrides {
        apply(&mut table, override_)?;
    }
    let in_file = |e: Error| Error::file(path, e.to_string());
    expand_preset(&mut table, R::PRESETS).map_err(in_file)?;
    let recipe: R = table
        .try_into()
        .map_err(|e: toml::de::Error| Error::file(path, explain(e.to_string().trim_end())))?;
    recipe.validate().map_err(|e| Error::file(path, e.to_string()))?;
    Ok(recipe)
}

/// Puts the keys that `model.preset` stands for beside the section's own, which count first.
fn expand_preset(table: &mut toml::Table, presets: &[(&str, &str)]) -> Result<()> {
    let Some(model) = table.get_mut("model").and_then(toml::Value::as_table_mut) else {
        return Ok(());
    };
    let Some(name) = model.remove("preset") else { return Ok(()) };
    let known = presets.iter().find(|(known, _)| name.as_str() == Some(known));
    let Some((_, keys)) = known else {
        let names: Vec<&str> = presets.iter().map(|(name, _)| *name).collect();
        let allowed = if names.is_empty() { "none here".to_owned() } else { names.join(", ") };
        return Err(Error::invalid(format!("model.preset is {name}; allowed: {allowed}")));
    };
    let keys: toml::Table = toml::from_str(keys).expect("presets are valid TOML");
    for (key, value) in keys {
        model.entry(key).or_insert(value);
    }
    Ok(())
}

/// Sets `a.b.c=value`; a value that is no TOML is taken as a string.
fn apply(table: &mut toml::Table, override_: &str) -> Result<()> {
    let malformed = || Error::invalid(format!("--set {override_}: expected section.key=value"));
    let (key, value) = override_.split_once('=').ok_or_else(malformed)?;
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty()).ok_or_else(malformed)?;
    let mut table = table;
    for section in path {
        let entry = table
            .entry(section.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry.as_table_mut().ok_or_else(malformed)?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// Adds the nearest known key to serde's message about an unknown one.
pub fn explain(message: &str) -> String {
    let Some((_, rest)) = message.split_once("unknown field `") else { return message.to_owned() };
    let mut names = rest.split('`').step_by(2);
    let unknown = names.next().unwrap_or_default();
    let nearest = rest.split('`').skip(2).step_by(2).max_by(|a, b| {
        strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
    });
    match nearest {
        Some(nearest) => {
            format!("unknown key `{unknown}`; the nearest known key is `{nearest}` ({message})")
        }
        None => message.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;
    use crate::train::OptimizerConfig;

    #[test]
    fn an_override_replaces_a_nested_key() {
        let mut table: toml::Table = toml::from_str("[optimizer]\nlr = 1.0\n").unwrap();
        apply(&mut table, "optimizer.lr=3e-4").unwrap();
        apply(&mut table, "run.name=quick").unwrap();
        assert_eq!(table["optimizer"]["lr"].as_float(), Some(3e-4));
        assert_eq!(table["run"]["name"].as_str(), Some("quick"));
        assert!(apply(&mut table, "no value").is_err());
    }

    #[test]
    fn a_preset_fills_in_what_the_section_leaves_out() {
        use crate::train::{LanguageRecipe, Recipe};
        for (name, _) in LanguageRecipe::PRESETS {
            let text = format!("[model]\npreset = {name:?}\nnum_hidden_layers = 3\n");
            let mut table: toml::Table = toml::from_str(&text).unwrap();
            expand_preset(&mut table, LanguageRecipe::PRESETS).unwrap();
            let sizes: crate::train::ModelSizes = table["model"].clone().try_into().unwrap();
            assert_eq!(sizes.num_hidden_layers, 3);
            sizes.config(99).validate().unwrap();
        }
        let mut table: toml::Table = toml::from_str("[model]\npreset = \"huge\"").unwrap();
        let error = expand_preset(&mut table, LanguageRecipe::PRESETS).unwrap_err().to_string();
        assert!(error.contains("\"huge\"; allowed: demo, small"), "{error}");
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let message = toml::from_str::<OptimizerConfig>("learning_rat = 1\nlr=1").unwrap_err();
        assert!(explain(&message.to_string()).contains("unknown key `learning_rat`"));
        let message = toml::from_str::<OptimizerConfig>("weight_deca = 1").unwrap_err();
        assert!(explain(&message.to_string()).contains("nearest known key is `weight_decay`"));
    }
}
