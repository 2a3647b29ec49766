//! Reading and writing the files of a checkpoint.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use vq_tokenizer::weights::{self, NamedTensors, StoredDtype};
use vq_tokenizer::{VqConfig, VqTokenizer};

use super::Manifest;
use crate::error::{Error, Result};
use crate::generate::{GenerationConfig, PromptForms};
use crate::model::{CausalLm, ModelConfig};
use crate::tokenize::{Processor, TextTokenizer};

/// Tensors of a Hugging Face file that belong to the image tokenizer.
const VQ_PREFIX: &str = "model.vqmodel.";
/// The folder of the image tokenizer.
const VQ_DIR: &str = "vq_tokenizer";

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Sizes of the transformer.
    pub config: ModelConfig,
    /// The transformer, outside autodiff.
    pub model: CausalLm,
    /// Text and ids.
    pub processor: Processor,
    /// Pictures and codes; `None` where the directory holds no image tokenizer of its own.
    pub vq: Option<VqTokenizer>,
    /// How to sample unless told otherwise.
    pub generation: GenerationConfig,
    /// How the model wants to be asked.
    pub prompts: PromptForms,
    /// A short digest of all files; `None` without a manifest.
    pub digest: Option<String>,
}

/// What a checkpoint is written from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Sizes of the transformer.
    pub config: &'a ModelConfig,
    /// Its weights.
    pub weights: NamedTensors,
    /// The number format on disk.
    pub dtype: StoredDtype,
    /// Text and ids.
    pub processor: &'a Processor,
    /// Pictures and codes.
    pub vq: Option<&'a VqTokenizer>,
    /// The content of `generation_config.json`.
    pub generation: &'a Map<String, Value>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` with its weights on `device`.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for a truncated or malformed one, for tensors
    /// that are missing, unexpected or of another shape, and for parts that do not fit together.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::file(dir, "no checkpoint: the directory does not exist"));
        }
        let manifest = Manifest::read(dir)?;
        if let Some(manifest) = &manifest {
            manifest.check_sizes(dir)?;
        }
        let config_path = dir.join("config.json");
        let json = read_json(&config_path)?;
        let config =
            config_from_json(&json).map_err(|e| Error::file(&config_path, e.to_string()))?;
        let text = TextTokenizer::load(&dir.join("tokenizer.json"))?;
        let vq_dir = dir.join(VQ_DIR);
        let vq = vq_dir.is_dir().then(|| VqTokenizer::load(&vq_dir, device)).transpose()?;
        let processor = Processor::new(text, grid(&json, vq.as_ref()))?;
        check_parts(dir, &config, &processor, vq.as_ref())?;
        let generation_path = dir.join("generation_config.json");
        let (generation, prompts) = if generation_path.exists() {
            let text =
                std::fs::read_to_string(&generation_path).map_err(Error::io(&generation_path))?;
            let in_file = |e: Error| Error::file(&generation_path, e.to_string());
            let generation = GenerationConfig::from_json(&text).map_err(in_file)?;
            (generation, PromptForms::from_json(&text).map_err(in_file)?)
        } else {
            (GenerationConfig::default(), PromptForms::default())
        };
        let model = Self::load_weights(dir, config.init(device)?)?;
        let digest = manifest.map(|manifest| manifest.digest());
        Ok(Self { config, model, processor, vq, generation, prompts, digest })
    }

    /// `model` with the transformer weights of the checkpoint in `dir`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load_weights(dir: &Path, model: CausalLm) -> Result<CausalLm> {
        let (path, tensors) = read_tensors(dir)?;
        Ok(weights::load(model, tensors, &path, |name| !name.starts_with(VQ_PREFIX))?)
    }
}

/// The tensors of `model.safetensors`, or of the shards that its index lists.
fn read_tensors(dir: &Path) -> Result<(std::path::PathBuf, NamedTensors)> {
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        let tensors = weights::read(&single)?;
        return Ok((single, tensors));
    }
    let json = read_json(&index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::file(&index, "weight_map is missing or no object"))?;
    let mut files: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    files.sort_unstable();
    files.dedup();
    let mut tensors = NamedTensors::new();
    for file in files {
        tensors.extend(weights::read(&dir.join(file))?);
    }
    Ok((index, tensors))
}

/// Rows and columns of codes in a picture.
fn grid(json: &Value, vq: Option<&VqTokenizer>) -> (usize, usize) {
    let of = |config: &VqConfig| config.resolution / config.downsampling();
    let nested = json.get("vq_config").cloned().unwrap_or_else(|| json!({}));
    let side = match vq {
        Some(vq) => of(vq.config()),
        None => serde_json::from_value::<VqConfig>(nested).as_ref().map_or(32, of),
    };
    (side, side)
}

fn check_parts(
    dir: &Path,
    config: &ModelConfig,
    processor: &Processor,
    vq: Option<&VqTokenizer>,
) -> Result<()> {
    let names = processor.vocabulary().len();
    if names > config.vocab_size {
        let message =
            format!("tokenizer.json has {names} ids, config.json vocab_size {}", config.vocab_size);
        return Err(Error::file(dir, message));
    }
    let tokens = processor.vocabulary().num_codes();
    match vq.map(|vq| vq.config().num_embeddings) {
        Some(codes) if codes != tokens => {
            let message = format!(
                "tokenizer.json names {tokens} picture codes, the image tokenizer has {codes}"
            );
            Err(Error::file(dir, message))
        }
        _ => Ok(()),
    }
}

impl Parts<'_> {
    /// Writes every file but the manifest into the existing directory `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let write_json = |name: &str, value: &Value| {
            let path = dir.join(name);
            let text = serde_json::to_string_pretty(value).expect("JSON values are valid JSON");
            std::fs::write(&path, text + "\n").map_err(Error::io(&path))
        };
        write_json(
            "config.json",
            &config_to_json(self.config, self.processor, self.vq, self.dtype),
        )?;
        let special = self.processor.vocabulary().special();
        let mut generation = self.generation.clone();
        for (key, id) in [("bos_token_id", special.bos), ("pad_token_id", special.pad)] {
            generation.entry(key).or_insert(json!(id));
        }
        generation.entry("eos_token_id").or_insert(json!([special.eos, special.sep]));
        write_json("generation_config.json", &Value::Object(generation))?;
        write_json("tokenizer_config.json", &tokenizer_config())?;
        self.processor.text().save(&dir.join("tokenizer.json"))?;
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let bytes = weights::to_bytes(&self.weights, self.dtype, Some(metadata))?;
        let path = dir.join("model.safetensors");
        std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        if let Some(vq) = self.vq {
            let vq_dir = dir.join(VQ_DIR);
            std::fs::create_dir_all(&vq_dir).map_err(Error::io(&vq_dir))?;
            // 8 significant bits move many codes; the 11 of half precision move few.
            vq.save_as(
                &vq_dir,
                match self.dtype {
                    StoredDtype::F16 => StoredDtype::F16,
                    StoredDtype::F32 | StoredDtype::Bf16 => StoredDtype::F32,
                },
            )?;
            let name = "preprocessor_config.json";
            let (from, to) = (vq_dir.join(name), dir.join(name));
            std::fs::copy(&from, &to).map_err(Error::io(&from))?;
        }
        Ok(())
    }
}

fn tokenizer_config() -> Value {
    use crate::tokenize::{BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, SEP_TOKEN, UNK_TOKEN};
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "pad_token": PAD_TOKEN,
        "unk_token": UNK_TOKEN,
        "sep_token": SEP_TOKEN,
        "padding_side": "left",
        "clean_up_tokenization_spaces": false,
    })
}

/// The sizes in a `config.json` of any version: the rotary base flat or in `rope_parameters`.
///
/// # Errors
/// [`Error::Invalid`] for a wrong type, a value out of range, or a feature that is not there.
pub fn config_from_json(json: &Value) -> Result<ModelConfig> {
    let mut json = json.clone();
    let object = json.as_object_mut().ok_or_else(|| Error::Invalid("no JSON object".to_owned()))?;
    if let Some(theta) = object.get("rope_parameters").and_then(|p| p.get("rope_theta")) {
        let theta = theta.clone();
        object.insert("rope_theta".to_owned(), theta);
    }
    let only = [
        ("model_type", json!("chameleon")),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
    ];
    for (key, allowed) in only {
        if let Some(value) = object.get(key).filter(|value| **value != allowed) {
            return Err(Error::Invalid(format!("{key} is {value}; only {allowed} is known")));
        }
    }
    let config: ModelConfig =
        serde_json::from_value(json).map_err(|e| Error::Invalid(e.to_string()))?;
    config.validate()?;
    Ok(config)
}

/// A `config.json` with the keys that Hugging Face's Chameleon reads.
pub fn config_to_json(
    config: &ModelConfig,
    processor: &Processor,
    vq: Option<&VqTokenizer>,
    dtype: StoredDtype,
) -> Value {
    let mut json = json!(config);
    let vocabulary = processor.vocabulary();
    let special = vocabulary.special();
    let names: Map<String, Value> = vocabulary
        .names()
        .iter()
        .zip(0_u32..)
        .map(|(name, id)| (name.clone(), json!(id)))
        .collect();
    let dtype = match dtype {
        StoredDtype::F32 => "float32",
        StoredDtype::Bf16 => "bfloat16",
        StoredDtype::F16 => "float16",
    };
    let more = json!({
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "model_parallel_size": 1,
        "rope_parameters": { "rope_theta": config.rope_theta, "rope_type": "default" },
        "dtype": dtype,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
        "image_token_id": special.image_placeholder,
        "vocabulary_map": names,
        "vq_config": vq.map(|vq| json!(vq.config())),
    });
    if let (Some(object), Value::Object(more)) = (json.as_object_mut(), more) {
        object.extend(more);
    }
    json
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))
}
