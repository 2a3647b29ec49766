//! A checkpoint or an image tokenizer, without loading its weights.

use std::path::Path;

use calumma::checkpoint::{Manifest, config_from_json};
use calumma::model::ModelConfig;
use calumma::tokenize::TextTokenizer;
use calumma::{Error, Result};
use serde_json::{Value, json};
use vq_tokenizer::VqConfig;

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
    session.line(format_args!(
        "  pictures   {side}x{side} pixels as {grid}x{grid} codes of {codes}"
    ))?;
    parameters(&tensors, session)?;
    session.line(format_args!("  files      {manifest}"))?;
    session.object(&json!({
        "kind": "image tokenizer",
        "path": name(dir),
        "config": config,
        "grid": [grid, grid],
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
    let tensors = tensors::read_model(dir)?;
    let vq_dir = dir.join("vq_tokenizer");
    let has_vq = vq_dir.is_dir();
    let vq_tensors = if has_vq { tensors::read_model(&vq_dir)? } else { Vec::new() };
    let vocabulary = TextTokenizer::load(&dir.join("tokenizer.json"))?.vocabulary()?;
    let (sees, draws) = (
        has_vq || any(&tensors, "model.vqmodel."),
        any(&vq_tensors, "decoder.") || any(&tensors, "model.vqmodel.decoder."),
    );
    let modalities = match (sees, draws) {
        (true, true) => "text and pictures, in and out",
        (true, false) => {
            "text in and out, pictures in; `import --vqgan` adds the decoder that draws"
        }
        (false, _) => "text only: there is no image tokenizer",
    };
    let values: usize = tensors.iter().chain(&vq_tensors).map(Tensor::len).sum();
    let weights_bytes = FLOAT * values;
    let cache_bytes = 2
        * FLOAT
        * config.num_hidden_layers
        * config.num_key_value_heads
        * config.head_dim()
        * config.max_position_embeddings;
    session.line(format_args!("{}: checkpoint", dir.display()))?;
    session.line(format_args!("  modalities {modalities}"))?;
    session.line(sizes_in_words(config))?;
    let (ids, codes) = (vocabulary.len(), vocabulary.num_codes());
    session.line(format_args!("  vocabulary {ids} ids, {codes} of them picture codes"))?;
    parameters(&tensors, session)?;
    if has_vq {
        session.line("  and of the image tokenizer")?;
        parameters(&vq_tensors, session)?;
    }
    for (precision, part) in [("f32", 1.0), ("bf16", 0.5)] {
        let weights = sizes::bytes(weights_bytes as f64 * part);
        let cache = sizes::bytes(cache_bytes as f64 * part);
        session.line(format_args!(
            "  memory     {weights} of weights in {precision}, {cache} for a full context"
        ))?;
    }
    session.line(format_args!("  files      {manifest}"))?;
    if dir.join("trainer").is_dir() {
        session.line("  training   can be resumed; export makes a release of it")?;
    }
    session.object(&json!({
        "kind": "checkpoint",
        "path": name(dir),
        "config": config,
        "modalities": if sees { vec!["text", "image"] } else { vec!["text"] },
        "draws": draws,
        "vocabulary": ids,
        "codes": codes,
        "parameters": tensors::parts(&tensors),
        "vq_parameters": tensors::parts(&vq_tensors),
        "dtype": tensors::dtypes(&tensors),
        "weights_bytes": weights_bytes,
        "cache_bytes": cache_bytes,
        "files": manifest,
        "resumable": dir.join("trainer").is_dir(),
    }))
}

fn any(tensors: &[Tensor], prefix: &str) -> bool {
    tensors.iter().any(|tensor| tensor.name.starts_with(prefix))
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
