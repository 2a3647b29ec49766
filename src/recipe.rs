//! Recipes: one TOML file that describes a run in full.
//!
//! Precedence: defaults, then the file, then `--set section.key=value`. An unknown key is an error that
//! names the nearest known one.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A recipe that can check its own values.
pub trait Recipe: DeserializeOwned + Serialize {
    /// The values of `model.preset`, each with the keys of `[model]` that it stands for, as TOML.
    const PRESETS: &'static [(&'static str, &'static str)] = &[];

    /// Former names of sections, each with its present one; both may be written.
    const RENAMED: &'static [(&'static str, &'static str)] = &[];

    /// Adds sections that follow from others, before the values are read.
    ///
    /// # Errors
    /// Those of files that the recipe names.
    fn complete(_table: &mut toml::Table) -> Result<()> {
        Ok(())
    }

    /// Checks ranges that the types do not express.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    fn validate(&self) -> Result<()>;
}

/// Reads the recipe at `path` and applies `overrides` of the form `section.key=value`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is not TOML, has an unknown key or a
/// value out of range; [`Error::Invalid`] for a malformed override.
pub fn read_recipe<R: Recipe>(path: &Path, overrides: &[String]) -> Result<R> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|e| refused(path, str::to_owned, e))?;
    rename(&mut table, R::RENAMED);
    for set in overrides {
        apply(&mut table, &renamed(set, R::RENAMED))?;
    }
    expand_preset(&mut table, R::PRESETS).map_err(Error::in_file(path))?;
    R::complete(&mut table)?;
    let recipe: R = table.try_into().map_err(|e| refused(path, explain, e))?;
    recipe.validate().map_err(Error::in_file(path))?;
    Ok(recipe)
}

/// An error for the recipe at `path` with the text of `source`, reworded by `tell`.
fn refused(path: &Path, tell: fn(&str) -> String, source: toml::de::Error) -> Error {
    let message = tell(source.to_string().trim_end());
    Error::File { path: path.to_owned(), message, source: Some(source.into()) }
}

/// Replaces `model.preset` by the keys that it stands for; keys given in the section win.
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

/// Gives the sections of `table` their present names.
fn rename(table: &mut toml::Table, names: &[(&str, &str)]) {
    for (former, present) in names {
        if let Some(section) = table.remove(*former) {
            table.entry((*present).to_owned()).or_insert(section);
        }
    }
}

/// The override `set` with the present name of its section.
fn renamed(set: &str, names: &[(&str, &str)]) -> String {
    let section = |former: &str| set.strip_prefix(former)?.strip_prefix('.');
    let found = names.iter().find_map(|(former, present)| Some((section(former)?, present)));
    found.map_or_else(|| set.to_owned(), |(rest, present)| format!("{present}.{rest}"))
}

/// Applies `a.b.c=value` to `table`; a value that is not TOML is taken as a string.
fn apply(table: &mut toml::Table, set: &str) -> Result<()> {
    let malformed = || Error::invalid(format!("--set {set}: expected section.key=value"));
    let (key, value) = set.split_once('=').ok_or_else(malformed)?;
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

/// serde's message about an unknown key with the nearest known key added; other messages unchanged.
fn explain(message: &str) -> String {
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

/// The directory of runs unless a recipe's `run.directory` says otherwise.
pub(crate) fn runs_directory() -> PathBuf {
    PathBuf::from("runs")
}

/// Checks `run.name`, which names a directory.
pub(crate) fn validate_name(name: &str) -> Result<()> {
    let is_plain = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.');
    if !is_plain {
        let allowed = "letters, digits, - _ and . (not first)";
        return Err(Error::invalid(format!("run.name is {name:?}; allowed: {allowed}")));
    }
    Ok(())
}

/// Refuses 0 as the value of `key`.
pub(crate) fn at_least_one(key: &str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::invalid(format!("{key} is 0; it must be at least 1")));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tiny {
        model: Model,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Model {
        layers: usize,
        heads: usize,
    }

    impl Recipe for Tiny {
        const RENAMED: &'static [(&'static str, &'static str)] = &[("network", "model")];
        const PRESETS: &'static [(&'static str, &'static str)] =
            &[("demo", "layers = 6\nheads = 4"), ("small", "layers = 8\nheads = 8")];

        fn validate(&self) -> Result<()> {
            at_least_one("model.layers", self.model.layers)
        }
    }

    fn read(text: &str, overrides: &[&str]) -> Result<Model> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|set| (*set).to_owned()).collect();
        read_recipe::<Tiny>(file.path(), &overrides).map(|recipe| recipe.model)
    }

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
    fn former_section_names_mean_the_present_ones_in_files_and_overrides() {
        let sizes = |model: Model| (model.layers, model.heads);
        for section in ["network", "model"] {
            for changed in ["network", "model"] {
                let file = format!("[{section}]\nlayers = 1\nheads = 2");
                let set = format!("{changed}.heads=4");
                assert_eq!(sizes(read(&file, &[&set]).unwrap()), (1, 4), "{section}, {changed}");
            }
        }
        let error = read("[network]\nlayers = 1\nwidth = 2", &[]).unwrap_err().to_string();
        assert!(error.contains("unknown key `width`"), "{error}");
    }

    #[test]
    fn keys_of_the_section_and_overrides_win_over_a_preset() {
        let model = read("[model]\npreset = \"demo\"\nheads = 2", &["model.layers=3"]).unwrap();
        assert_eq!((model.layers, model.heads), (3, 2));
        let error = read("[model]\npreset = \"huge\"", &[]).unwrap_err().to_string();
        assert!(error.contains("\"huge\"; allowed: demo, small"), "{error}");
    }

    #[test]
    fn a_refused_recipe_names_file_and_key_and_keeps_the_cause() {
        for (text, words) in [
            (
                "[model]\nlayrs = 1\nheads = 1",
                "unknown key `layrs`; the nearest known key is `layers`",
            ),
            ("[model]\nlayers = 0\nheads = 1", "model.layers is 0"),
            ("[model", "TOML"),
        ] {
            let error = read(text, &[]).unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(std::error::Error::source(&error).is_some(), "{error:?}");
        }
    }
}
