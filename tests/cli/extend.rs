//! Extending a text model by ids of images: what is written, what stays, and that everything works on it.

mod training;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor, TensorData};
use calumma::checkpoint::{Checkpoint, weight_files};
use calumma::model::{ModelInput, mask};
use calumma::pipeline::{Pipeline, Question};
use calumma::tokenize::TokenClass;
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor_files::{StoredTensor, WeightFiles};

use super::{Outcome, calumma_in, image, text};
use crate::common::{cpu, fixture};

const TABLES: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/demo")
}

/// A directory with the text model `lm`, a copy of the fixture `name`.
fn downloaded(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (fixture("architectures").join(name), dir.path().join("lm"));
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.contains("expected") && !name.contains(".v4.") {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
    dir
}

/// `calumma extend FROM checkpoints/demo TO`.
fn extend(dir: &Path, from: &str, to: &str, more: &[&str]) -> Outcome {
    let demo = demo();
    calumma_in(dir, &[&["--json", "extend", from, text(&demo), to], more].concat())
}

fn json_file(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The rows of `tensor` in `range`.
fn rows(tensor: &StoredTensor, range: std::ops::Range<usize>) -> &[u8] {
    let row = tensor.bytes.len() / tensor.shape[0];
    &tensor.bytes[range.start * row..range.end * row]
}

/// Asserts that `new` has the tensors of `old` byte for byte, but for further rows.
fn keeps_tensors(old: &WeightFiles, new: &WeightFiles, old_rows: usize, new_rows: usize) {
    let mut tables = 0;
    for (name, dtype, shape) in old.infos() {
        let (before, after) = (old.stored(&name).unwrap(), new.stored(&name).unwrap());
        assert_eq!(dtype, after.dtype, "{name}");
        if TABLES.contains(&name.as_str()) {
            assert_eq!(after.shape, [new_rows, shape[1]], "{name}");
            assert_eq!(before.bytes, rows(&after, 0..old_rows), "{name}");
            tables += 1;
        } else {
            assert_eq!(before, after, "{name}");
        }
    }
    assert_eq!((old.infos().len(), tables > 0), (new.infos().len(), true));
}

/// The bits of the logits of the ids below `columns`.
fn logits(dir: &Path, columns: usize) -> Vec<u32> {
    let device = cpu();
    let model = Checkpoint::open(dir, &device).unwrap().model;
    let tensor =
        |values: Vec<i32>| Tensor::<2, Int>::from_data(TensorData::new(values, [1, 40]), &device);
    let logits = model.forward(ModelInput {
        ids: tensor((0..40).map(|at| (at * 37 + 5) % 295).collect()),
        positions: tensor((0..40).collect()),
        mask: mask::causal(40, &device),
    });
    let logits = logits.narrow(2, 0, columns).into_data();
    logits.iter::<f32>().map(f32::to_bits).collect()
}

#[test]
fn an_extended_model_keeps_its_tensors_and_the_bits_of_its_logits() {
    for name in ["llama-gqa", "qwen3-tied"] {
        let dir = downloaded(name);
        let (old, new) = (dir.path().join("lm"), dir.path().join("new"));
        let said = extend(dir.path(), "lm", "new", &[]).json().remove(0);
        // 300 old rows, the placeholder, and 1024 codes that end at a multiple of 64.
        assert_eq!((&said["old_rows"], &said["rows"]), (&json!(300), &json!(1344)), "{name}");
        assert_eq!(said["codes"], json!([320, 1343]));
        assert_eq!(said["holes"].as_array().unwrap().len(), 19);
        let marker = |role: &str| said["markers"][role].clone();
        let vision = json!({ "id": 298, "name": "<|vision_start|>", "reused": true });
        assert_eq!(marker("boi_token"), vision);
        assert_eq!(marker("eoi_token")["id"], 299);
        assert_eq!(
            marker("image_token"),
            json!({ "id": 300, "name": "<|image|>", "reused": false })
        );

        let [before, after] = [&old, &new].map(|dir| weight_files(dir).unwrap().1);
        keeps_tensors(&before, &after, 300, 1344);
        assert!(logits(&old, 300) == logits(&new, 300), "{name}");
        // New rows are the mean of the old ones, in each matrix.
        for table in TABLES.into_iter().filter(|table| after.contains(table)) {
            let table = after.stored(table).unwrap();
            let values = table.to_data(burn::tensor::FloatDType::F32).unwrap();
            let values: Vec<f32> = values.iter().collect();
            let width = table.shape[1];
            for at in 0..width {
                let column: Vec<f64> =
                    values.iter().skip(at).step_by(width).map(|v| f64::from(*v)).collect();
                let mean = column[..300].iter().sum::<f64>() / 300.0;
                assert!(column[300..].iter().all(|value| (value - mean).abs() < 1e-6), "{name}");
            }
        }

        let checkpoint = Checkpoint::open(&new, &cpu()).unwrap();
        let vocabulary = checkpoint.processor.vocabulary();
        let special = vocabulary.special();
        assert_eq!((vocabulary.len(), vocabulary.num_codes()), (1344, 1024));
        assert_eq!((special.begin_image, special.end_image), (Some(298), Some(299)));
        assert_eq!(vocabulary.image_ids(), (320..1344).collect::<Vec<u32>>());
        assert!((301..320).all(|id| vocabulary.class(id) == TokenClass::Special));
        // What a user writes stays text.
        let written = "<|visual token 000001|> <|vision_start|>";
        let ids = checkpoint.processor.text().encode_plain(written).unwrap();
        assert!(ids.iter().all(|id| vocabulary.class(*id) == TokenClass::Text), "{ids:?}");
        assert_eq!(checkpoint.processor.text().decode(&ids).unwrap(), written);
        let pipeline = Pipeline::new(checkpoint, &cpu()).unwrap();
        let question = Question { text: written.to_owned(), ..Question::default() };
        let prompt = pipeline.chat(None).prompt(&question).unwrap();
        let of_images = [TokenClass::Image, TokenClass::BeginImage, TokenClass::EndImage];
        let class = |id: &u32| pipeline.processor().vocabulary().class(*id);
        assert!(
            prompt.len() > ids.len() && !prompt.iter().any(|id| of_images.contains(&class(id)))
        );
    }
}

#[test]
fn shards_number_formats_projections_and_seeds_are_kept() {
    let dir = downloaded("llama-gqa");
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    let digest = |dest: &str| fs::read(dir.path().join(dest).join("manifest.json")).unwrap();
    let sharded = run(&["export", "lm", "cut", "--dtype", "bf16", "--max-shard-size", "9KB"]);
    assert_eq!(sharded.code, 0, "{}", sharded.stderr);
    assert!(dir.path().join("cut/model.safetensors.index.json").is_file());
    for (dest, more) in [
        ("mean", vec![]),
        ("one", vec!["--init", "projected", "--seed", "1"]),
        ("again", vec!["--init", "projected", "--seed", "1"]),
        ("two", vec!["--init", "projected", "--seed", "2"]),
    ] {
        extend(dir.path(), "cut", dest, &more).json();
        let [old, new] = ["cut", dest].map(|name| weight_files(&dir.path().join(name)).unwrap().1);
        keeps_tensors(&old, &new, 300, 1344);
        // Codes of a projection differ, holes are at the mean.
        for table in TABLES {
            let table = new.stored(table).unwrap();
            assert_eq!(rows(&table, 300..301), rows(&table, 310..311));
            let differ = rows(&table, 320..321) != rows(&table, 321..322);
            assert_eq!(differ, dest != "mean", "{dest}");
        }
        let config = json_file(dir.path().join(dest).join("config.json"));
        assert_eq!((&config["dtype"], &config["vocab_size"]), (&json!("bfloat16"), &json!(1344)));
    }
    assert_eq!(digest("one"), digest("again"));
    assert_ne!(digest("one"), digest("two"));
}

#[test]
fn an_extended_model_generates_draws_captions_and_is_exported() {
    let dir = downloaded("llama-gqa");
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    extend(dir.path(), "lm", "new", &[]).json();
    let drawn = run(&["draw", "new", "a red circle", "--out", "."]);
    assert_eq!(drawn.code, 0, "{}", drawn.stderr);
    let picture = image(dir.path(), "a.png");
    let captioned = run(&["--json", "caption", "new", text(&picture), "--max-tokens", "4"]);
    assert_eq!(captioned.json().len(), 1);
    let generate = |checkpoint: &str| {
        let args = ["--json", "generate", checkpoint, "--prompt", "A picture", "--max-tokens", "6"];
        run(&args).json()[0]["segments"].clone()
    };
    let said = generate("new");
    for layout in ["calumma", "hf"] {
        let exported = run(&["export", "new", layout, "--layout", layout]);
        assert_eq!(exported.code, 0, "{}", exported.stderr);
        assert_eq!(generate(layout), said);
        let files = weight_files(&dir.path().join(layout)).unwrap().1;
        keeps_tensors(&weight_files(&dir.path().join("new")).unwrap().1, &files, 1344, 1344);
        let config = json_file(dir.path().join(layout).join("config.json"));
        assert_eq!(config, json_file(dir.path().join("new/config.json")));
    }
}

#[test]
fn what_cannot_be_extended_is_refused_and_leaves_nothing() {
    let dir = downloaded("llama-gqa");
    extend(dir.path(), "lm", "new", &[]).json();
    let demo = demo();
    extend(dir.path(), text(&demo), "x", &[])
        .fails(3, &["checkpoints/demo", "has codes of images already"]);
    extend(dir.path(), "new", "x", &[]).fails(3, &["new", "has codes of images already"]);
    extend(dir.path(), "lm", "new", &[]).fails(3, &["new", "exists"]);
    extend(dir.path(), "none", "x", &[]).fails(3, &["none"]);
    let told = ["boi_token is \"a\", which is text", "allowed: a new name"];
    extend(dir.path(), "lm", "x", &["--begin-image", "a"]).fails(3, &told);
    let bare = calumma_in(dir.path(), &["extend", "lm", "lm", "x"]);
    bare.fails(3, &["lm", "the checkpoint has no image tokenizer"]);
    // 66 ids of an image in a context of 65.
    let (path, mut short) =
        (dir.path().join("lm/config.json"), json_file(dir.path().join("lm/config.json")));
    let whole = fs::read(&path).unwrap();
    short["max_position_embeddings"] = json!(65);
    fs::write(&path, short.to_string()).unwrap();
    let told = ["checkpoints/demo", "an image takes 66 ids; the model's context has 65"];
    extend(dir.path(), "lm", "x", &[]).fails(3, &told);
    fs::write(&path, whole).unwrap();
    // A codebook of other size than its configuration says.
    let vq = dir.path().join("vq");
    fs::create_dir(&vq).unwrap();
    for entry in fs::read_dir(demo.join("vq_tokenizer")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, vq.join(path.file_name().unwrap())).unwrap();
    }
    let mut other = json_file(vq.join("config.json"));
    other["num_embeddings"] = json!(1000);
    fs::write(vq.join("config.json"), other.to_string()).unwrap();
    let refused = calumma_in(dir.path(), &["extend", "lm", "vq", "x"]);
    refused.fails(3, &["vq", "[1024, 16]", "config.json says 1000 codes"]);
    // An export says how a text model samples; the extended one draws.
    assert_eq!(calumma_in(dir.path(), &["export", "lm", "copy"]).code, 0);
    extend(dir.path(), "copy", "drawing", &[]).json();
    let settings = json_file(dir.path().join("drawing/generation_config.json"));
    assert_eq!(settings["modality"], "auto");
    // A tokenizer with more names than rows: they get rows.
    let path = dir.path().join("lm/tokenizer.json");
    let mut tokenizer = json_file(path.clone());
    let mut token = tokenizer["added_tokens"][0].clone();
    (token["id"], token["content"]) = (json!(300), json!("<|image_pad|>"));
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    fs::write(&path, tokenizer.to_string()).unwrap();
    let said = extend(dir.path(), "lm", "more", &[]).json().remove(0);
    let placeholder = json!({ "id": 300, "name": "<|image_pad|>", "reused": true });
    assert_eq!((&said["old_rows"], &said["markers"]["image_token"]), (&json!(300), &placeholder));
    assert_eq!(calumma_in(dir.path(), &["inspect", "more"]).code, 0);
    let left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "x" || name == "x.tmp"), "{left:?}");
}

#[test]
fn other_names_of_markers_are_new_tokens() {
    let dir = downloaded("qwen3-tied");
    let names = ["--begin-image", "<boi>", "--end-image", "<eoi>", "--image-token", "<pix>"];
    let said = extend(dir.path(), "lm", "new", &names).json().remove(0);
    let ids =
        ["boi_token", "eoi_token", "image_token"].map(|role| said["markers"][role]["id"].clone());
    assert_eq!(ids, [300, 301, 302].map(|id| json!(id)));
    let settings = json_file(dir.path().join("new/tokenizer_config.json"));
    assert_eq!(
        (&settings["boi_token"], &settings["eos_token"]),
        (&json!("<boi>"), &json!("<|im_end|>"))
    );
    let checkpoint = Checkpoint::open(&dir.path().join("new"), &cpu()).unwrap();
    let special = *checkpoint.processor.vocabulary().special();
    assert_eq!((special.begin_image, special.image_placeholder), (Some(300), Some(302)));
    assert!(checkpoint.processor.chat_template().is_some());
}
