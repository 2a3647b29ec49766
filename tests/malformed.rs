//! Changed files of real checkpoints: read or refused, never a panic. `fuzz/` does the same for hours.

use std::path::Path;

use calumma::checkpoint::{Checkpoint, config_from_json};
use calumma::generate::GenerationConfig;
use calumma::tokenize::TextTokenizer;
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::Dtype;
use serde_json::{Value, json};
use tensor_files::{Error, WeightFiles};
use vq_tokenizer::VqConfig;
use vq_tokenizer::preprocess::PreprocessorConfig;

use crate::common::{cpu, fixture};

const HF: &str = "models/prenorm-gqa";

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(HF).join(name)).unwrap()).unwrap()
}

/// A value of a wrong type or size.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!("text"),
            json!(-1),
            json!(0),
            json!(1),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1_u64 << 32),
            json!(1e308),
            json!(0.1),
            json!([1, 2, 3]),
            json!({ "shortest_edge": -3, "height": 7 }),
            json!({ "type": "yarn", "factor": 2.0 }),
        ]),
        (0..300_u64).prop_map(|number| json!(number)),
        "\\PC{0,8}".prop_map(|text| json!(text)),
    ]
}

/// A node of a value: the number of its parent among all containers, and the entry in it.
type Change = (Index, Index, Option<Value>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (any::<Index>(), any::<Index>(), prop::option::weighted(0.8, odd_value()));
    prop::collection::vec(change, 1..4)
}

/// Replaces an entry of a container of `value`, or removes it.
fn change(value: &mut Value, (container, entry, replacement): Change) {
    fn containers(value: &Value) -> usize {
        match value {
            Value::Object(members) => 1 + members.values().map(containers).sum::<usize>(),
            Value::Array(items) => 1 + items.iter().map(containers).sum::<usize>(),
            _ => 0,
        }
    }
    fn nth(value: &mut Value, mut at: usize) -> Option<&mut Value> {
        if at == 0 {
            return matches!(value, Value::Object(_) | Value::Array(_)).then_some(value);
        }
        at -= 1;
        let inner: Vec<&mut Value> = match value {
            Value::Object(members) => members.values_mut().collect(),
            Value::Array(items) => items.iter_mut().collect(),
            _ => return None,
        };
        for value in inner {
            let count = containers(value);
            if at < count {
                return nth(value, at);
            }
            at -= count;
        }
        None
    }
    let at = container.index(containers(value).max(1));
    match nth(value, at) {
        Some(Value::Object(members)) if !members.is_empty() => {
            let key = members.keys().nth(entry.index(members.len())).cloned().unwrap();
            match replacement {
                Some(value) => _ = members.insert(key, value),
                None => _ = members.remove(&key),
            }
        }
        Some(Value::Array(items)) if !items.is_empty() => {
            let at = entry.index(items.len());
            match replacement {
                Some(value) => items[at] = value,
                None => _ = items.remove(at),
            }
        }
        _ => {}
    }
}

/// A directory with the files of the fixture.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(HF)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn refuses_by_name(dir: &Path) {
    if let Err(error) = Checkpoint::open(dir, &cpu()) {
        let message = error.to_string();
        assert!(message.contains(&dir.display().to_string()), "{message}");
        assert!(!message.contains("untagged"), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_configurations_never_panic(changes in changes()) {
        let mut config = json_of("config.json");
        let mut preprocessor = json_of("preprocessor_config.json");
        let mut generation = json_of("generation_config.json");
        for one in changes {
            change(&mut config, one.clone());
            change(&mut preprocessor, one.clone());
            change(&mut generation, one);
        }
        let _ = config_from_json(&config);
        if let Ok(vq) = serde_json::from_value::<VqConfig>(config["vq_config"].clone()) {
            let _ = vq.validate();
        }
        let _ = GenerationConfig::from_json(&generation.to_string());
        if let Err(error) = serde_json::from_value::<PreprocessorConfig>(preprocessor) {
            prop_assert!(!error.to_string().contains("untagged"), "{error}");
        }
    }

    #[test]
    fn changed_headers_of_weights_never_panic(
        changes in changes(),
        length in prop::option::of(any::<u64>()),
        cut in any::<Index>(),
    ) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors = ["a", "b", "c", "d"].map(|name| (name.to_owned(), Dtype::F16, vec![2, 3]));
        tensor_files::write_file(file.path(), &tensors, |_| Ok::<_, Error>(vec![60; 12])).unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
        changes.into_iter().for_each(|one| change(&mut header, one));
        let header = header.to_string();
        let length = length.unwrap_or(header.len() as u64);
        let mut changed = [&length.to_le_bytes(), header.as_bytes(), &bytes[end..]].concat();
        changed.truncate(cut.index(2 * changed.len()));
        std::fs::write(file.path(), changed).unwrap();
        if let Ok(files) = WeightFiles::open(file.path()) {
            for (name, ..) in files.tensors() {
                let _ = files.stored(name);
            }
            let _ = tensor_files::read(file.path());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_tokenizers_never_panic(changes in changes()) {
        let mut tokenizer = json_of("tokenizer.json");
        changes.into_iter().for_each(|one| change(&mut tokenizer, one));
        if let Ok(tokenizer) = TextTokenizer::from_bytes(tokenizer.to_string().as_bytes()) {
            let _ = tokenizer.vocabulary();
            let _ = tokenizer.encode_plain("what colour is <image> it?");
        }
    }

    #[test]
    fn a_checkpoint_with_a_changed_file_is_opened_or_refused_by_name(
        name in prop::sample::select(vec![
            "preprocessor_config.json",
            "processor_config.json",
            "generation_config.json",
            "tokenizer.json",
        ]),
        changes in changes(),
    ) {
        let dir = copied();
        let mut json = json_of(name);
        changes.into_iter().for_each(|one| change(&mut json, one));
        std::fs::write(dir.path().join(name), json.to_string()).unwrap();
        refuses_by_name(dir.path());
    }
}

#[test]
fn a_vocabulary_at_fault_is_refused_with_the_name_of_its_file() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 3] = [
        ("vocabulary ids taken twice", |json| json["model"]["vocab"]["!"] = json!(207)),
        ("<racm3:break>", |json| rename(json, "<racm3:break>", "<other>")),
        ("</s>", |json| rename(json, "</s>", "<other>")),
    ];
    for (words, apply) in changes {
        let dir = copied();
        let path = dir.path().join("tokenizer.json");
        let mut json = json_of("tokenizer.json");
        apply(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        let message = Checkpoint::open(dir.path(), &cpu()).unwrap_err().to_string();
        let begins = message.starts_with(&path.display().to_string());
        assert!(begins && message.contains(words), "{message}");
    }
}

/// Renames a token wherever `tokenizer` names it.
fn rename(tokenizer: &mut Value, from: &str, to: &str) {
    let text = tokenizer.to_string().replace(&json!(from).to_string(), &json!(to).to_string());
    *tokenizer = serde_json::from_str(&text).unwrap();
}

#[test]
fn every_key_of_a_configuration_with_a_wrong_type_is_named() {
    let config = json_of("config.json");
    let numbers: Vec<_> = config.as_object().unwrap().iter().filter(|(_, v)| v.is_u64()).collect();
    let ours = [
        "hidden_size",
        "intermediate_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
    ];
    assert!(ours.iter().all(|key| numbers.iter().any(|(name, _)| name == key)));
    for key in ours {
        for value in [json!("64"), json!(-1), json!(0), json!(u64::MAX), json!([64])] {
            let mut changed = config.clone();
            changed[key] = value.clone();
            let message = config_from_json(&changed).unwrap_err().to_string();
            assert!(message.contains(key), "{key} {value}: {message}");
        }
    }
}

/// serde says of such a type only that nothing matched, unless it is told what to say.
#[test]
fn no_message_shows_the_inside_of_an_untagged_enum() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs: Vec<_> =
        ["src", "vq_tokenizer/src", "tensor_files/src"].map(|dir| root.join(dir)).into();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().collect();
            for (at, line) in lines.iter().enumerate() {
                if line.contains("serde(untagged") && !line.contains("expecting") {
                    let derives = lines[..at].iter().rev().find(|line| line.contains("derive("));
                    let is_read = derives.is_some_and(|line| line.contains("Deserialize"));
                    assert!(!is_read, "{}: line {}", path.display(), at + 1);
                }
            }
        }
    }
}
