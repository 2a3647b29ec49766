//! A model in Emu3's published layout: drawing, reading and export.

use std::fs;
use std::path::{Path, PathBuf};

use calumma::checkpoint::{config_from_json, weight_files};
use image::GenericImageView;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tensor_files::{StoredDtype, StoredTensor, TensorInfo, WeightFiles, write_file};

use super::{calumma_in, image, text};
use crate::common::cpu;

pub const CODES: usize = 64;
/// Characters of text, of which a blank is written as the last.
const CHARACTERS: usize = 94;
const SPECIAL: [&str; 9] = [
    "<|extra_203|>",
    "<|endoftext|>",
    "<image>",
    "<|image start|>",
    "<|image end|>",
    "<|image token|>",
    "<|extra_200|>",
    "<|extra_201|>",
    "<|extra_204|>",
];

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A byte-level tokenizer of printable characters alone, with the special tokens and codes of Emu3's.
pub fn tokenizer() -> Value {
    let characters = ('!'..='~').chain(['\u{120}']).zip(0_usize..);
    let names: Map<String, Value> =
        characters.map(|(character, id)| (character.to_string(), json!(id))).collect();
    let codes = (0..CODES).map(|code| format!("<|visual token {code:06}|>"));
    let added = SPECIAL.map(str::to_owned).into_iter().chain(codes).zip(names.len()..);
    let added = added.map(|(name, id)| {
        json!({ "id": id, "content": name, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true });
    json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": names, "merges": [] },
    })
}

/// Writes a directory `emu3` as downloaded: random weights beside the image tokenizer of the fixtures, whose images have
/// 8x8 to 16x16 pixels, and 12x12 where nothing else is asked for.
fn downloaded() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("emu3");
    fs::create_dir(&dir).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures/emu3");
    let mut config = read(&fixture.join("config.json"));
    let vocab = CHARACTERS + 1 + SPECIAL.len() + CODES;
    config["text_config"]["vocab_size"] = json!(vocab);
    config["text_config"]["max_position_embeddings"] = json!(512);
    let model = config_from_json(&config).unwrap().init(&cpu()).unwrap();
    let published = WeightFiles::open(&fixture.join("model.safetensors")).unwrap();
    let own = dir.join("own.safetensors");
    tensor_files::write(&own, &tensor_files::on_device(&model), StoredDtype::F32).unwrap();
    let own = WeightFiles::open(&own).unwrap();
    let mut infos: Vec<TensorInfo> = published.infos();
    infos.retain(|(name, ..)| name.starts_with("vqmodel."));
    infos.extend(
        own.infos()
            .into_iter()
            .map(|(name, dtype, shape)| (format!("text_model.{name}"), dtype, shape)),
    );
    let stored = |name: &str| -> calumma::Result<Vec<u8>> {
        let StoredTensor { bytes, .. } = match name.strip_prefix("text_model.") {
            Some(name) => own.stored(name)?,
            None => published.stored(name)?,
        };
        Ok(bytes)
    };
    write_file(&dir.join("model.safetensors"), &infos, stored).unwrap();
    fs::remove_file(dir.join("own.safetensors")).unwrap();
    let tokenizer = tokenizer();
    let names = tokenizer["model"]["vocab"].as_object().unwrap().clone();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    let added = added.iter().map(|token| (token["content"].as_str().unwrap(), &token["id"]));
    let added = added.map(|(name, id)| (name.to_owned(), id.clone()));
    config["vocabulary_map"] = Value::Object(names.into_iter().chain(added).collect());
    for (name, content) in [
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        (
            "tokenizer_config.json",
            json!({ "bos_token": SPECIAL[0], "eos_token": SPECIAL[8], "pad_token": SPECIAL[1],
                "boi_token": SPECIAL[3], "eoi_token": SPECIAL[4], "image_token": SPECIAL[2] }),
        ),
        (
            "preprocessor_config.json",
            json!({ "image_processor_type": "Emu3ImageProcessor", "do_pad": true, "resample": 3,
                "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
                "rescale_factor": 0.00392156862745098, "spatial_factor": 2, "min_pixels": 64,
                "max_pixels": 256, "crop_size": 12 }),
        ),
    ] {
        fs::write(dir.join(name), content.to_string()).unwrap();
    }
    (scratch, dir)
}

fn draw(dir: &Path, model: &str, more: &[&str]) -> PathBuf {
    let out = format!("drawn-{}", [&[model], more].concat().join("").replace([':', ' ', '/'], ""));
    let args = ["draw", model, "a cat", "--out", &out, "--seed", "3", "--json"];
    let drawn = calumma_in(dir, &[&args, more].concat()).json();
    dir.join(drawn[0]["path"].as_str().unwrap())
}

#[test]
fn images_of_the_size_that_is_asked_for_are_drawn_away_from_a_negative_prompt() {
    let (scratch, _) = downloaded();
    let pixels = |more: &[&str]| image::open(draw(scratch.path(), "emu3", more)).unwrap();
    assert_eq!(pixels(&[]).dimensions(), (12, 12));
    let wide = pixels(&["--aspect", "2:1"]);
    assert_eq!(wide.dimensions(), (16, 8));
    // Without guidance nothing depends on the negative prompt; with it the release's is in the place of none.
    let plain = |negative| pixels(&["--guidance-scale", "1", "--negative-prompt", negative]);
    assert_eq!(plain(""), plain("blurry"));
    let guided = |negative| pixels(&["--guidance-scale", "20", "--negative-prompt", negative]);
    assert_ne!(guided(""), guided("blurry"));
    let refused =
        calumma_in(scratch.path(), &["draw", "emu3", "a cat", "--aspect", "4000:1", "--out", "o"]);
    assert!(refused.stderr.contains("aspect 4000:1"), "{}", refused.stderr);
}

#[test]
fn an_image_is_read() {
    let (scratch, _) = downloaded();
    let image = image(scratch.path(), "p.png");
    let args = ["ask", "emu3", text(&image), "what is it?", "--choices", "cat,dog", "--json"];
    assert_eq!(calumma_in(scratch.path(), &args).json().len(), 1);
    let args = ["caption", "emu3", text(&image), "--max-tokens", "4", "--json"];
    assert_eq!(calumma_in(scratch.path(), &args).json().len(), 1);
}

#[test]
fn exports_of_both_layouts_draw_the_same_and_the_published_one_has_every_byte() {
    let (scratch, dir) = downloaded();
    let drawn = fs::read(draw(scratch.path(), "emu3", &["--no-metadata"])).unwrap();
    for (args, name) in [
        (&["export", "emu3", "own"][..], "own"),
        (&["export", "emu3", "hf", "--layout", "hf"], "hf"),
    ] {
        calumma_in(scratch.path(), &[args, &["--json"]].concat()).json();
        assert_eq!(fs::read(draw(scratch.path(), name, &["--no-metadata"])).unwrap(), drawn);
    }
    let open = |dir: &Path| WeightFiles::open(&dir.join("model.safetensors")).unwrap();
    let (ours, theirs) = (open(&scratch.path().join("hf")), open(&dir));
    assert_eq!(ours.infos(), theirs.infos());
    for (name, ..) in theirs.infos() {
        assert_eq!(ours.stored(&name).unwrap(), theirs.stored(&name).unwrap(), "{name}");
    }
    assert_eq!(read(&scratch.path().join("hf/config.json")), read(&dir.join("config.json")));
    let own = weight_files(&scratch.path().join("own")).unwrap().1;
    assert!(own.contains("model.norm.weight") && own.contains("lm_head.weight"));
}

#[test]
fn a_directory_as_downloaded_is_trained_and_its_checkpoints_draw_and_read() {
    let (scratch, _) = downloaded();
    let run = |args: &[&str]| {
        let outcome = calumma_in(scratch.path(), args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
        outcome
    };
    let recipe = r#"
[run]
name = "tuned"
init = "emu3"
steps = 2
checkpoint_every = 1
eval_samples = 1
shown = 1
[[data]]
path = "scenes:train?count=4&size=32&objects=1-1"
loss = "images-and-answers"
templates = ["{caption}<image>", "<image><answer>{caption}"]
[[validation]]
path = "scenes:val?count=1&size=32&objects=1-1"
templates = ["{caption}<image>"]
[schedule]
warmup = 1
[batch]
sequences = 2
seq_len = 256
"#;
    fs::write(scratch.path().join("tuned.toml"), recipe).unwrap();
    run(&["train", "tuned.toml"]);
    let latest = scratch.path().join("runs/tuned/latest");
    let config = read(&latest.join("config.json"));
    assert_eq!(config["model_type"], "llama");
    let roles = read(&latest.join("tokenizer_config.json"));
    assert_eq!(
        (&roles["boi_token"], &roles["bos_token"]),
        (&json!(SPECIAL[3]), &json!(SPECIAL[0]))
    );
    // A run goes on, and another begins with what it made.
    run(&["train", "tuned.toml", "--set", "run.steps=3"]);
    run(&[
        "train",
        "tuned.toml",
        "--set",
        "run.init=\"runs/tuned/latest\"",
        "--set",
        "run.name=\"more\"",
    ]);
    let drawn =
        image::open(draw(scratch.path(), "runs/more/latest", &["--aspect", "2:1"])).unwrap();
    assert_eq!(drawn.dimensions(), (16, 8));
    let image = image(scratch.path(), "p.png");
    run(&["caption", "runs/more/latest", text(&image), "--max-tokens", "4"]);
    run(&["export", "runs/more/latest", "own"]);
    let drawn = |model: &str| fs::read(draw(scratch.path(), model, &["--no-metadata"])).unwrap();
    assert_eq!(drawn("own"), drawn("runs/more/latest"));
}
