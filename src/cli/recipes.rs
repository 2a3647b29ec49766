//! What a recipe is for, before it is read in full.

/// Whether `recipe` trains a language model: its batches are sequences. Sizes and tokenizers may follow from `run.init`.
pub fn trains_language_model(recipe: &toml::Table) -> bool {
    let batch = recipe.get("batch").and_then(toml::Value::as_table);
    batch.is_some_and(|batch| batch.contains_key("sequences"))
}
