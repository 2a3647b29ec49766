//! What a run keeps of how the checkpoint that it begins with generates.

use std::path::Path;

use calumma::recipe::read_recipe;
use calumma::train::LanguageRecipe;
use serde_json::{Map, Value, json};

use crate::common::{fixture, tiny_checkpoint};

/// `[generation]` of a recipe that begins with `init`, with `more` of it.
fn kept(dir: &Path, init: &Path, more: &str) -> Map<String, Value> {
    let recipe = format!(
        "[run]\nname = \"r\"\nsteps = 1\ninit = {init:?}\n[batch]\nsequences = 1\nseq_len = 8\n[[data]]\n\
         path = \"scenes:train?count=1\"\ntemplates = [\"{{caption}}\"]\n{more}"
    );
    let path = dir.join("recipe.toml");
    std::fs::write(&path, recipe).unwrap();
    read_recipe::<LanguageRecipe>(&path, &[]).unwrap().generation
}

fn settings(dir: &Path) -> Map<String, Value> {
    let json = std::fs::read(dir.join("generation_config.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn all_settings_are_kept_but_those_of_a_recipe_that_has_some() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (init, other) = (dir.join("init"), dir.join("other"));
    tiny_checkpoint(&init);
    tiny_checkpoint(&other);
    let mut want = settings(&init);
    // Both ends of its answers are what every model with a separator has.
    assert!(want.remove("eos_token_id").is_some());
    assert_eq!(want["guidance_scale"], json!(2.0));
    assert_eq!(kept(dir, &init, ""), want);
    let same = format!("[tokenizer]\ncheckpoint = {:?}\n", dir.join("./other/../init"));
    assert_eq!(kept(dir, &init, &same), want);
    let own = json!({ "temperature": 0.5 });
    assert_eq!(json!(kept(dir, &init, "[generation]\ntemperature = 0.5\n")), own);
    // Ids and prompts of another tokenizer mean something else.
    let others = format!("[tokenizer]\ncheckpoint = {other:?}\n");
    assert_eq!(kept(dir, &init, &others), Map::new());
}

#[test]
fn published_models_keep_how_their_class_decodes() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let init = dir.join("lm");
    std::fs::create_dir(&init).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("architectures/llama-gqa").join(name), init.join(name)).unwrap();
    }
    let file = json!({ "eos_token_id": [2, 5], "top_k": 20, "pad_token_id": null });
    std::fs::write(init.join("generation_config.json"), file.to_string()).unwrap();
    let found = kept(dir, &init, "");
    assert_eq!((&found["eos_token_id"], &found["top_k"]), (&json!([2, 5]), &json!(20)));
    assert_eq!((&found["do_sample"], found.get("modality")), (&json!(false), None));
    // An answer ends where it did, whatever else is said.
    let found = kept(dir, &init, "[generation]\ntemperature = 0.5\n");
    assert_eq!(json!(found), json!({ "eos_token_id": [2, 5], "temperature": 0.5 }));
    let found = kept(dir, &init, "[generation]\neos_token_id = [7]\n");
    assert_eq!(json!(found), json!({ "eos_token_id": [7] }));
}
