//! Describes a checkpoint or an image tokenizer without loading its weights.

use std::path::Path;

use calumma::checkpoint::meta::Release;
use calumma::checkpoint::torch_file::{TensorInfo, TorchFile};
use calumma::checkpoint::{Manifest, VQ_PREFIX, chat_template, config_from_json, text_tokenizer};
use calumma::model::ModelConfig;
use calumma::tokenize::{TextTokenizer, Vocabulary};
use calumma::{Error, Result};
use serde_json::{Value, json};
use vq_tokenizer::VqConfig;
use vq_tokenizer::preprocess::PreprocessorConfig;

use super::summary::Summary;
use super::tensors::{self, Tensor};
use crate::cli::session::{Session, name};

/// Describes the checkpoint or image tokenizer in `dir`.
///
/// # Errors
/// If a file is damaged or differs from the manifest.
pub fn show(dir: &Path, session: &Session) -> Result<()> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let json: Value = serde_json::from_str(&text).map_err(Error::in_file(&path))?;
    let manifest = verify(dir)?;
    if json.get("num_embeddings").is_some() {
        return image_tokenizer(dir, &json, &manifest, session);
    }
    let config = config_from_json(&json).map_err(Error::in_file(&path))?;
    let vocabulary = text_tokenizer(dir, &json)?.vocabulary()?;
    language_model(dir, &config, vocabulary, &manifest, session)
}

/// Checks the files against the manifest; the result as text.
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
    let config: VqConfig = serde_json::from_value(json.clone()).map_err(Error::in_file(&path))?;
    config.validate()?;
    let tensors = tensors::read_model(dir)?;
    session.line(format_args!("{}: image tokenizer", dir.display()))?;
    let (side, codes) = (config.resolution, config.num_embeddings);
    let grid = side / config.downsampling();
    let rule = dir.join("preprocessor_config.json");
    let any_aspect = rule.exists() && PreprocessorConfig::load(&rule)?.rule.has_sizes();
    let shape = if any_aspect { ", or about as many of any aspect" } else { "" };
    session.line(format_args!(
        "  images   {side}x{side} pixels as {grid}x{grid} codes of {codes}{shape}"
    ))?;
    tensors::show_parameters(&tensors, session)?;
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
    vocabulary: Vocabulary,
    manifest: &str,
    session: &Session,
) -> Result<()> {
    let (mut vq_tensors, lm_tensors): (Vec<_>, Vec<_>) =
        tensors::read_model(dir)?.into_iter().partition(|t| t.name.starts_with(VQ_PREFIX));
    let own = dir.join("vq_tokenizer");
    let layout = match (own.is_dir(), vq_tensors.is_empty()) {
        (true, _) => "calumma: the image tokenizer in a folder of its own",
        (false, false) => "Hugging Face: the image tokenizer among the tensors",
        (false, true) => "Hugging Face, without an image tokenizer",
    };
    if own.is_dir() {
        vq_tensors = tensors::read_model(&own)?;
    }
    let resumable = dir.join("trainer").is_dir();
    let summary = Summary {
        kind: "checkpoint",
        layout,
        config,
        vocabulary,
        chat_template: chat_template(dir)?.map(|template| template.place().to_owned()),
        lm_tensors,
        vq_tensors,
        files: manifest,
        more: resumable.then_some("training   can be resumed; export makes a release of it"),
    };
    summary.show(dir, resumable, session)
}

/// Describes the original release in `dir`.
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
    let lm_tensors = of_parts.filter(|(name, _)| *name != "rope.freqs").map(tensor).collect();
    let vq_tensors = match release.vqgan() {
        Some(ckpt) => {
            let file = TorchFile::open(&ckpt)?;
            let ours = file.tensors().iter().filter(|(name, _)| !name.contains("loss."));
            ours.map(tensor).collect()
        }
        None => Vec::new(),
    };
    let text = TextTokenizer::load(&release.tokenizer.join("text_tokenizer.json"))?;
    let parts = release.parts.len();
    let summary = Summary {
        kind: "release",
        layout: "the original release's; `calumma import` makes a checkpoint of it",
        config: &release.config,
        vocabulary: text.vocabulary()?,
        chat_template: None,
        lm_tensors,
        vq_tensors,
        files: &format!("{parts} of weights, no manifest"),
        more: None,
    };
    summary.show(dir, false, session)
}
