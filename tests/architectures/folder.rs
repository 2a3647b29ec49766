//! A folder of the fixtures: a checkpoint as on the Hub and the values expected of it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde_json::{Map, Value, json};

use crate::values::Values;

const CONFIG: &str = "config.json";
/// The same configuration under the keys of transformers 4.
const OLDER_CONFIG: &str = "config.v4.json";
const EXPECTED: &str = "expected.safetensors";
const EXPECTED_TEXT: &str = "tokenizer_expected.json";
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The form of a checkpoint's settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As transformers 5 writes them.
    Newer,
    /// As transformers 4 wrote them, with the chat template in the tokenizer's settings.
    Older,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Self::Newer => "5.x",
            Self::Older => "4.x",
        }
    }
}

/// A folder with a checkpoint and expected values.
pub struct Folder {
    pub name: String,
    /// Texts and a conversation with their ids, if the folder has a tokenizer.
    pub text: Option<Value>,
    dir: PathBuf,
    values: Values,
    read: RefCell<BTreeSet<String>>,
}

impl Folder {
    /// The folder `dir`; `None` if it lacks a checkpoint or expected values.
    pub fn read(dir: &Path) -> Option<Self> {
        let needed = [CONFIG, EXPECTED, "model.safetensors"];
        needed.iter().all(|name| dir.join(name).is_file()).then(|| Self {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            text: dir.join(EXPECTED_TEXT).is_file().then(|| read_json(&dir.join(EXPECTED_TEXT))),
            dir: dir.to_owned(),
            values: Values::open(&dir.join(EXPECTED)),
            read: RefCell::default(),
        })
    }

    pub fn forms(&self) -> Vec<Form> {
        let has_older = self.dir.join(OLDER_CONFIG).is_file();
        [Form::Newer, Form::Older].into_iter().take(1 + usize::from(has_older)).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.values.has(name)
    }

    /// The names of the expected tensors that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let names = self.values.names().into_iter();
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    pub fn floats(&self, name: &str) -> TensorData {
        self.note(name);
        self.values.floats(name)
    }

    pub fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        self.note(name);
        self.values.ids(name)
    }

    /// The rows that pass through the model.
    pub fn rows(&self) -> Vec<Vec<u32>> {
        let text = "input_ids";
        self.ids(if self.has(text) { text } else { "image_text.inline_input_ids" })
    }

    pub fn integers(&self, name: &str) -> Vec<Vec<i64>> {
        self.note(name);
        self.values.rows(name)
    }

    fn note(&self, name: &str) {
        self.read.borrow_mut().insert(name.to_owned());
    }

    /// The expected tensors that no case has read.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.values.names().into_iter().filter(|name| !read.contains(name)).collect()
    }

    /// Copies the checkpoint in `form` into the directory `to`.
    pub fn copy(&self, form: Form, to: &Path) {
        for entry in std::fs::read_dir(&self.dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_file() && ![EXPECTED, EXPECTED_TEXT, OLDER_CONFIG].contains(&name) {
                std::fs::write(to.join(name), std::fs::read(&path).unwrap()).unwrap();
            }
        }
        if form == Form::Older {
            std::fs::write(to.join(CONFIG), std::fs::read(self.dir.join(OLDER_CONFIG)).unwrap())
                .unwrap();
            move_template(to);
        }
        if !to.join(TOKENIZER).exists() {
            let config = read_json(&to.join(CONFIG));
            match config["vocabulary_map"].as_object() {
                Some(names) => write_named_tokenizer(to, names),
                None => write_tokenizer(to, config["vocab_size"].as_u64().unwrap()),
            }
        }
    }
}

/// Moves the chat template in `dir`, if it has a file of its own, to the tokenizer's settings.
fn move_template(dir: &Path) {
    let (template, settings) = (dir.join(TEMPLATE), dir.join(TOKENIZER_CONFIG));
    let Ok(source) = std::fs::read_to_string(&template) else { return };
    let mut json = read_json(&settings);
    if json.get("chat_template").is_none() {
        json["chat_template"] = source.into();
    }
    write_json(&settings, &json);
    std::fs::remove_file(&template).unwrap();
}

/// Writes a tokenizer of at most `vocab` ids into `dir`, whose model has none: printable ASCII characters, and the two
/// special tokens that a causal language model's tokenizer has at least.
fn write_tokenizer(dir: &Path, vocab: u64) {
    let (pad, eos) = ("<|endoftext|>", "<|im_end|>");
    let characters = ('!'..='~').take(vocab as usize - 2).zip(0_usize..);
    let names: Map<String, Value> =
        characters.map(|(character, id)| (character.to_string(), json!(id))).collect();
    let added = [pad, eos].into_iter().zip(names.len() as u64..).map(special).collect();
    write_parts(dir, &names, added);
    write_json(&dir.join(TOKENIZER_CONFIG), &json!({ "eos_token": eos, "pad_token": pad }));
}

/// Writes a tokenizer of the ids `names` into `dir`, of which those in angle brackets are special, with the roles of
/// Emu3's releases that no name of another tells.
fn write_named_tokenizer(dir: &Path, names: &Map<String, Value>) {
    let special_names = names.iter().filter(|(name, _)| name.len() > 2 && name.starts_with('<'));
    let added = special_names.map(|(name, id)| special((name.as_str(), id.as_u64().unwrap())));
    write_parts(dir, names, added.collect());
    let roles = json!({ "bos_token": "<|extra_203|>", "eos_token": "<|extra_204|>",
        "pad_token": "<|endoftext|>" });
    write_json(&dir.join(TOKENIZER_CONFIG), &roles);
}

/// An entry of a special token.
fn special((name, id): (&str, u64)) -> Value {
    json!({ "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true })
}

/// Writes a byte-level tokenizer of the text `names` and the `added` tokens into `dir`.
fn write_parts(dir: &Path, names: &Map<String, Value>, added: Vec<Value>) {
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": { "type": "BPE", "vocab": names, "merges": [] },
    });
    write_json(&dir.join(TOKENIZER), &tokenizer);
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn write_json(path: &Path, json: &Value) {
    std::fs::write(path, json.to_string()).unwrap();
}
