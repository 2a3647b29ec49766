//! Prints a recipe with all defaults filled in.

use std::path::Path;

use calumma::data::BpeRecipe;
use calumma::data::shards::TokensRecipe;
use calumma::eval::task::EvalRecipe;
use calumma::recipe::{Recipe, read_recipe};
use calumma::train::{LanguageRecipe, VqRecipe};
use calumma::{Error, Result};
use serde_json::json;

use crate::cli::recipes::trains_language_model;
use crate::cli::session::{Session, name};

/// Prints the resolved recipe.
///
/// # Errors
/// Those of the recipe.
pub fn show(path: &Path, session: &Session) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e: toml::de::Error| Error::File {
        path: path.to_owned(),
        message: e.to_string().trim_end().to_owned(),
        source: Some(Box::new(e)),
    })?;
    if table.contains_key("task") {
        resolved::<EvalRecipe>(path, "measures", "eval run", session)
    } else if table.contains_key("bpe") {
        resolved::<BpeRecipe>(path, "text tokenizer", "bpe train", session)
    } else if trains_language_model(&table) {
        resolved::<LanguageRecipe>(path, "language model", "train", session)
    } else if table.contains_key("tokenizer") {
        resolved::<TokensRecipe>(path, "token shards", "tokenize", session)
    } else {
        resolved::<VqRecipe>(path, "image tokenizer", "vq train", session)
    }
}

fn resolved<R: Recipe>(path: &Path, what: &str, verb: &str, session: &Session) -> Result<()> {
    let recipe: R = read_recipe(path, &[])?;
    let text = toml::to_string_pretty(&recipe).map_err(Error::in_file(path))?;
    session.line(format_args!("# recipe for `calumma {verb}`: {what}"))?;
    session.line(text.trim_end())?;
    session.object(&json!({ "kind": "recipe", "path": name(path), "verb": verb, "recipe": recipe }))
}
