//! `calumma tokenize`: shards do not depend on who makes them, and models train on them.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::data::shards::{Shard, TokenShards};

use super::training::{LM, VQ};
use super::{calumma_in, text, tiny};

const RECIPE: &str = r#"
[run]
name = "NAME"
samples_per_shard = 7
renderings = 2
[tokenizer]
checkpoint = "TOKENIZER"
[[data]]
path = "scenes:train?count=20&size=32"
name = "drawings"
prompt_dropout = 0.5
templates = ["{caption}<image>", "<image><sep>{caption}"]
[[data]]
path = "scenes:train?count=9&size=32&seed=4"
templates = ["{captions}<image>"]
"#;

fn recipe(dir: &Path, name: &str) -> String {
    let file = format!("{name}.toml");
    let text = RECIPE.replace("NAME", name).replace("TOKENIZER", tiny());
    std::fs::write(dir.join(&file), text).unwrap();
    file
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let shards = entries.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    shards
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn the_shards_do_not_depend_on_the_number_of_processes() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| calumma_in(dir.path(), &[&["tokenize"], args, &["--json"]].concat());
    let alone = recipe(dir.path(), "alone");
    let report = &run(&[&alone]).json()[0];
    assert_eq!(
        (&report["shards"], &report["made"], &report["kept"]),
        (&5.into(), &5.into(), &0.into())
    );
    assert_eq!(report["documents"], 58);

    let together = recipe(dir.path(), "together");
    for share in ["2/3", "0/3", "1/3"] {
        run(&[&together, "--shard", share]).json();
    }
    let (alone_dir, together_dir) =
        (dir.path().join("runs/alone"), dir.path().join("runs/together"));
    let whole = files(&alone_dir);
    assert_eq!(whole.len(), 5);
    assert!(whole == files(&together_dir), "the shards differ");

    // Missing and damaged shards are made again, intact ones are kept.
    let names: Vec<&String> = whole.keys().collect();
    std::fs::remove_file(together_dir.join(names[0])).unwrap();
    let mut damaged = whole[names[1]].clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(together_dir.join(names[1]), damaged).unwrap();
    let report = &run(&[&together]).json()[0];
    assert_eq!((&report["made"], &report["kept"]), (&2.into(), &3.into()));
    assert!(whole == files(&together_dir));

    // Every sample is present in the requested number of renderings, under its source.
    let shard = Shard::open(&alone_dir.join(names[0])).unwrap();
    let shards = TokenShards::open(text(&alone_dir), shard.tokenizer(), &alone_dir, true).unwrap();
    assert_eq!(shards.len(), 58);
    assert_eq!(shards.sources(), ["drawings", "scenes:train?count=9&size=32&seed=4"]);

    std::fs::write(together_dir.join("999-00000-of-00001.safetensors"), &whole[names[0]]).unwrap();
    run(&[&together]).fails(3, &["999-00000", "not one of this recipe's shards"]);
    assert_eq!(run(&[&together, "--shard", "3/3"]).code, 2);
}

#[test]
fn training_accepts_only_shards_of_its_own_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let name = recipe(dir.path(), "tokens");
    calumma_in(dir.path(), &["tokenize", &name, "--json"]).json();
    let lm = LM
        .replace("runs/vq/latest", tiny())
        .replace("text = \"runs/bpe/tokenizer.json\"\n", "")
        .replace("path = \"scenes:train?count=16&size=32\"", "path = \"runs/tokens\"")
        .replace("templates = [\"{caption}<image>\"]", "");
    std::fs::write(dir.path().join("lm.toml"), &lm).unwrap();
    let dry = &calumma_in(dir.path(), &["train", "lm.toml", "--dry-run", "--json"]).json()[0];
    let sources = dry["packed"]["sources"].as_array().unwrap();
    assert_eq!(sources[0]["source"], "drawings");
    assert!(sources[0]["image_tokens"].as_u64().unwrap() > 0, "{dry}");
    assert!(dry["seconds_per_step"].as_f64().unwrap() > 0.0);
    let trained = &calumma_in(dir.path(), &["train", "lm.toml", "--json"]).json()[0];
    assert_eq!(trained["steps"], 2);
    for file in ["report.html", "environment.json", "metrics.jsonl"] {
        assert!(dir.path().join("runs/lm").join(file).is_file(), "{file}");
    }

    std::fs::write(
        dir.path().join("templates.toml"),
        lm.replace("[batch]", "templates = [\"{a}\"]\n[batch]"),
    )
    .unwrap();
    calumma_in(dir.path(), &["train", "templates.toml"]).fails(3, &["templates were applied"]);

    // An image tokenizer with other weights is a different tokenizer.
    std::fs::write(dir.path().join("vq.toml"), VQ).unwrap();
    calumma_in(dir.path(), &["vq", "train", "vq.toml", "--json"]).json();
    let other = format!("tokenizer.checkpoint={:?}", "runs/vq/latest");
    let text_of = format!("tokenizer.text={:?}", format!("{}/tokenizer.json", tiny()));
    calumma_in(
        dir.path(),
        &["train", "lm.toml", "--set", &other, "--set", &text_of, "--set", "run.name=other"],
    )
    .fails(3, &["runs/tokens/000-00000", "was made with the tokenizer"]);
}
