//! A checkpoint or an image tokenizer, without loading its weights.

use std::path::Path;

use calumma::checkpoint::meta::Release;
use calumma::checkpoint::torch_file::{TensorInfo, TorchFile};
use calumma::checkpoint::{Manifest, VQ_PREFIX, config_from_json};
use calumma::model::ModelConfig;
use calumma::tokenize::{TextTokenizer, Vocabulary};
use calumma::{Error, Result};
use serde_json::{Value, json};
use vq_tokenizer::VqConfig;
use vq_tokenizer::preprocess::{PreprocessorConfig, Rule};

use super::tensors::{self, Tensor};
use crate::cli::session::{Session, name};
use crate::cli::sizes;

/// Bytes of an f32, the format that weights have in memory.
const FLOAT: usize = 4;

/// Prints what the directory holds.
///
/// # Errors
/// When a file is damaged or differs from the manifest.
pub fn show(dir: &Path, session: &Session) -> Result<()> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))?;
    let manifest = verify(dir)?;
    if json.get("num_embeddings").is_some() {
        return image_tokenizer(dir, &json, &manifest, session);
    }
    let config = config_from_json(&json).map_err(|e| Error::file(&path, e.to_string()))?;
    language_model(dir, &config, &manifest, session)
}

/// What the manifest says of the files.
fn verify(dir: &Path) -> Result<String> {
    match Manifest::read(dir)? {
        Some(manifest) => {
            Manifest::verify(dir)?;
            let number = manifest.files.len();
            Ok(format!("{number} files as its manifest says, digest {}", manifest.digest()))
        }
        None => Ok("no manifest".to_owned()),
    }
}

fn image_tokenizer(dir: &Path, json: &Value, manifest: &str, session: &Session) -> Result<()> {
    let path = dir.join("config.json");
    let config: VqConfig =
        serde_json::from_value(json.clone()).map_err(|e| Error::file(&path, e.to_string()))?;
    config.validate()?;
    let tensors = tensors::read_model(dir)?;
    session.line(format_args!("{}: image tokenizer", dir.display()))?;
    let (side, codes) = (config.resolution, config.num_embeddings);
    let grid = side / config.downsampling();
    let rule = dir.join("preprocessor_config.json");
    let any_aspect = rule.exists() && PreprocessorConfig::load(&rule)?.rule == Rule::Flexible;
    let shape = if any_aspect { ", or about as many of any aspect" } else { "" };
    session.line(format_args!(
        "  images   {side}x{side} pixels as {grid}x{grid} codes of {codes}{shape}"
    ))?;
    parameters(&tensors, session)?;
    session.line(format_args!("  files      {manifest}"))?;
    session.object(&json!({
        "kind": "image tokenizer",
        "path": name(dir),
        "config": config,
        "grid": [grid, grid],
        "any_aspect": any_aspect,
        "parameters": tensors::parts(&tensors),
        "dtype": tensors::dtypes(&tensors),
        "files": manifest,
    }))
}

fn language_model(
    dir: &Path,
    config: &ModelConfig,
    manifest: &str,
    session: &Session,
) -> Result<()> {
    let (mut of_vq, of_model): (Vec<_>, Vec<_>) =
        tensors::read_model(dir)?.into_iter().partition(|t| t.name.starts_with(VQ_PREFIX));
    let own = dir.join("vq_tokenizer");
    let layout = match (own.is_dir(), of_vq.is_empty()) {
        (true, _) => "calumma: the image tokenizer in a folder of its own",
        (false, false) => "Hugging Face: the image tokenizer among the tensors",
        (false, true) => "Hugging Face, without an image tokenizer",
    };
    if own.is_dir() {
        of_vq = tensors::read_model(&own)?;
    }
    let resumable = dir.join("trainer").is_dir();
    let contents = Contents {
        kind: "checkpoint",
        layout,
        config,
        vocabulary: TextTokenizer::load(&dir.join("tokenizer.json"))?.vocabulary()?,
        of_model,
        of_vq,
        files: manifest,
        more: resumable.then_some("training   can be resumed; export makes a release of it"),
    };
    contents.show(dir, resumable, session)
}

/// Prints what the original release in `dir` holds.
///
/// # Errors
/// Those of its files.
pub fn show_release(dir: &Path, session: &Session) -> Result<()> {
    let release = Release::open(dir)?;
    let tensor = |(name, info): (&String, &TensorInfo)| Tensor {
        name: name.clone(),
        dtype: format!("{:?}", info.dtype),
        shape: info.shape.clone(),
    };
    let of_parts = release.parts.iter().flat_map(|part| part.tensors());
    let of_model = of_parts.filter(|(name, _)| *name != "rope.freqs").map(tensor).collect();
    let of_vq = match release.vqgan() {
        Some(ckpt) => {
            let file = TorchFile::open(&ckpt)?;
            let ours = file.tensors().iter().filter(|(name, _)| !name.contains("loss."));
            ours.map(tensor).collect()
        }
        None => Vec::new(),
    };
    let text = TextTokenizer::load(&release.tokenizer.join("text_tokenizer.json"))?;
    let parts = release.parts.len();
    let contents = Contents {
        kind: "release",
        layout: "the original release's; `calumma import` makes a checkpoint of it",
        config: &release.config,
        vocabulary: text.vocabulary()?,
        of_model,
        of_vq,
        files: &format!("{parts} of weights, no manifest"),
        more: None,
    };
    contents.show(dir, false, session)
}

/// What is told of a language model in any layout.
struct Contents<'a> {
    kind: &'a str,
    layout: &'a str,
    config: &'a ModelConfig,
    vocabulary: Vocabulary,
    of_model: Vec<Tensor>,
    of_vq: Vec<Tensor>,
    files: &'a str,
    /// A last line.
    more: Option<&'a str>,
}

impl Contents<'_> {
    fn show(&self, dir: &Path, resumable: bool, session: &Session) -> Result<()> {
        let (config, of_model, of_vq) = (self.config, &self.of_model, &self.of_vq);
        let sees = !of_vq.is_empty();
        let draws = of_vq.iter().any(|tensor| tensor.name.contains("decoder."));
        let modalities = match (sees, draws) {
            (true, true) => "text and images, in and out",
            (true, false) => {
                "text in and out, images in; `import --vqgan` adds the decoder that draws"
            }
            (false, _) => "text only: there is no image tokenizer",
        };
        session.line(format_args!("{}: {}", dir.display(), self.kind))?;
        session.line(format_args!("  layout     {}", self.layout))?;
        session.line(format_args!("  modalities {modalities}"))?;
        session.line(sizes_in_words(config))?;
        let (ids, codes) = (self.vocabulary.len(), self.vocabulary.num_codes());
        session.line(format_args!("  vocabulary {ids} ids, {codes} of them image codes"))?;
        parameters(of_model, session)?;
        if sees {
            session.line("  and of the image tokenizer")?;
            parameters(of_vq, session)?;
        }
        let number = |tensors: &[Tensor]| tensors.iter().map(Tensor::len).sum::<usize>();
        let cached = 2
            * config.num_hidden_layers
            * config.num_key_value_heads
            * config.head_dim()
            * config.max_position_embeddings;
        // The image tokenizer is f32 whatever the rest is.
        let memory =
            |value: usize| (value * number(of_model) + FLOAT * number(of_vq), value * cached);
        for (precision, value) in [("f32", FLOAT), ("bf16", FLOAT / 2)] {
            let (weights, cache) = memory(value);
            let (weights, cache) = (sizes::bytes(weights as f64), sizes::bytes(cache as f64));
            session.line(format_args!(
                "  memory     {weights} of weights in {precision}, {cache} for a full context"
            ))?;
        }
        session.line(format_args!("  files      {}", self.files))?;
        if let Some(more) = self.more {
            session.line(format_args!("  {more}"))?;
        }
        let (weights_bytes, cache_bytes) = memory(FLOAT);
        session.object(&json!({
            "kind": self.kind,
            "path": name(dir),
            "layout": self.layout,
            "config": config,
            "modalities": if sees { vec!["text", "image"] } else { vec!["text"] },
            "draws": draws,
            "vocabulary": ids,
            "codes": codes,
            "parameters": tensors::parts(of_model),
            "vq_parameters": tensors::parts(of_vq),
            "dtype": tensors::dtypes(of_model),
            "vq_dtype": tensors::dtypes(of_vq),
            "weights_bytes": weights_bytes,
            "weights_bytes_bf16": memory(FLOAT / 2).0,
            "cache_bytes": cache_bytes,
            "files": self.files,
            "resumable": resumable,
        }))
    }
}

fn sizes_in_words(config: &ModelConfig) -> String {
    let heads = match config.num_attention_heads == config.num_key_value_heads {
        true => format!("{} heads", config.num_attention_heads),
        false => format!(
            "{} heads over {} keys and values",
            config.num_attention_heads, config.num_key_value_heads
        ),
    };
    format!(
        "  sizes      {} layers of {} channels, {heads}, feed-forward {}, context {}",
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.max_position_embeddings
    )
}

fn parameters(tensors: &[Tensor], session: &Session) -> Result<()> {
    let total: usize = tensors.iter().map(Tensor::len).sum();
    let (amount, dtypes) = (sizes::count(total as f64), tensors::dtypes(tensors));
    session.line(format_args!("  parameters {total} ({amount}), stored as {dtypes}"))?;
    for (part, number) in tensors::parts(tensors) {
        session.line(format_args!("    {part:<15} {number:>12}"))?;
    }
    Ok(())
}
