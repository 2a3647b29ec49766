//! Importing the original release's layout, tensor by tensor.

use std::path::Path;

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::json;
use tensor_files::{StoredDtype, StoredTensor};
use vq_tokenizer::VqTokenizer;

use super::layout::pairs;
use super::release::Release;
use super::vqgan;
use crate::checkpoint::directory::write_directory;
use crate::checkpoint::hugging_face::image_tokenizer;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::names::{IMAGE_FORMAT, PROCESSOR, SIZED, VQ_DIR};
use crate::checkpoint::parts::Parts;
use crate::checkpoint::torch_file::TorchFile;
use crate::checkpoint::weight_files::{SHARD_SIZE, write_weights};
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::generate::Preset;
use crate::model::ModelConfig;
use crate::tokenize::{Processor, TextTokenizer};

/// Rows and columns of codes of an image in a release without an image tokenizer.
const RELEASED_GRID: (usize, usize) = (32, 32);

/// Writes the original release in `source` to the checkpoint `dest`.
///
/// Weights keep their number format; one tensor is in memory at a time.
///
/// # Errors
/// Those of the files, with the tensor at fault; [`Error::Exists`]. Nothing is left behind then.
pub fn import(source: &Path, dest: &Path, preset: Preset, device: &Device) -> Result<()> {
    let release = Release::open(source)?;
    let Release { config, parts, .. } = &release;
    let text = TextTokenizer::load(&release.tokenizer.join("text_tokenizer.json"))?;
    let ckpt = release.vqgan();
    let vq = ckpt.map(|ckpt| vqgan::open(&ckpt, None, device)).transpose()?;
    let processor = Processor::new(text, vq.as_ref().map_or(RELEASED_GRID, |vq| vq.grid()))?;
    let generation = preset.to_json();
    write_directory(dest, |dir| {
        let dtype = match dtype_of(&parts[0])? {
            Dtype::BF16 => StoredDtype::Bf16,
            Dtype::F16 => StoredDtype::F16,
            _ => StoredDtype::F32,
        };
        let files = Parts {
            config,
            weights: None,
            dtype,
            processor: &processor,
            vq: vq.as_ref(),
            generation: &generation,
        };
        files.write(dir)?;
        if preset.sizes_images() {
            write_json(&dir.join(PROCESSOR), &json!({ IMAGE_FORMAT: SIZED }))?;
        }
        write_joined(parts, config, dir)
    })
}

/// The number format of the weights, taken from the output layer.
fn dtype_of(part: &TorchFile) -> Result<Dtype> {
    const NAME: &str = "output.weight";
    let info = part.tensors().get(NAME);
    Ok(info.ok_or_else(|| Error::invalid(format!("the release lacks the tensor {NAME}")))?.dtype)
}

/// Adds the original release's image tokenizer `ckpt` to the checkpoint in `dir`.
///
/// The checkpoint keeps its preprocessing; an image tokenizer without a decoder is replaced.
///
/// # Errors
/// Those of the files; [`Error::Exists`] if `dir` has an image tokenizer with a decoder;
/// [`Error::File`] if its vocabulary has another number of codes.
pub fn add_vqgan(dir: &Path, ckpt: &Path, device: &Device) -> Result<()> {
    let text = TextTokenizer::load(&dir.join("tokenizer.json"))?;
    let present = image_tokenizer(dir, device)?;
    let has_decoder = present.as_ref().is_some_and(VqTokenizer::has_decoder);
    let preprocessor = present.map(|vq| vq.preprocessor().clone());
    let vq = vqgan::open(ckpt, preprocessor, device)?;
    let (codes, names) = (vq.config().num_embeddings, text.vocabulary()?.num_codes());
    if codes != names {
        let message = format!("has {codes} codes; tokenizer.json of the checkpoint names {names}");
        return Err(Error::file(ckpt, message));
    }
    let (folder, aside) = (dir.join(VQ_DIR), dir.join("vq_tokenizer.old"));
    if folder.is_dir() && !has_decoder {
        std::fs::rename(&folder, &aside).map_err(Error::io(&folder))?;
    }
    let written = write_directory(&folder, |dir| Ok(vq.save(dir)?));
    if aside.is_dir() {
        match &written {
            Ok(()) => std::fs::remove_dir_all(&aside).map_err(Error::io(&aside))?,
            Err(_) => std::fs::rename(&aside, &folder).map_err(Error::io(&folder))?,
        }
    }
    written?;
    match Manifest::read(dir)? {
        Some(_) => Manifest::of(dir)?.write(dir),
        None => Ok(()),
    }
}

/// Joins the parts of every tensor and writes them into `dir`.
fn write_joined(parts: &[TorchFile], config: &ModelConfig, dir: &Path) -> Result<()> {
    let pairs = pairs(config);
    let mut infos = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        let (dtype, shape) = part_info(&parts[0], &pair.meta, config)?;
        let shape = pair.join.whole_shape(&shape, parts.len()).ok_or_else(|| {
            Error::invalid(format!("tensor {}: parts of shape {shape:?} do not join", pair.meta))
        })?;
        infos.push((pair.hf.clone(), dtype, shape));
    }
    write_weights(dir, &infos, SHARD_SIZE, |name| {
        let pair = pairs.iter().find(|pair| pair.hf == name).expect("every info has its pair");
        let read = |part: &TorchFile| part_of(part, &pair.meta, config);
        let of_parts = parts.iter().map(read).collect::<Result<Vec<_>>>();
        let joined = of_parts.and_then(|of_parts| pair.join.join(&of_parts));
        let joined = joined.map_err(Error::because(format_args!("tensor {}", pair.meta)))?;
        Ok(joined.bytes)
    })
}

/// The fused matrix that may hold the tensor `name` in a part, and the rows of `name` in it.
///
/// Some releases store queries, keys and values as one matrix, likewise both inputs of the feed-forward.
fn fused(name: &str, config: &ModelConfig) -> Option<(String, std::ops::Range<usize>)> {
    let parts = config.model_parallel_size;
    let head_dim = config.head_dim();
    let query = config.num_attention_heads * head_dim / parts;
    let key = config.num_key_value_heads * head_dim / parts;
    let width = config.intermediate_size / parts;
    let (rest, rows, fused) = if let Some(rest) = name.strip_suffix("wq.weight") {
        (rest, 0..query, "wqkv.weight")
    } else if let Some(rest) = name.strip_suffix("wk.weight") {
        (rest, query..query + key, "wqkv.weight")
    } else if let Some(rest) = name.strip_suffix("wv.weight") {
        (rest, query + key..query + 2 * key, "wqkv.weight")
    } else if let Some(rest) = name.strip_suffix("w1.weight") {
        (rest, 0..width, "w13.weight")
    } else {
        (name.strip_suffix("w3.weight")?, width..2 * width, "w13.weight")
    };
    Some((format!("{rest}{fused}"), rows))
}

/// Number format and shape of the tensor `name` in `part`, on its own or within a fused matrix.
fn part_info(part: &TorchFile, name: &str, config: &ModelConfig) -> Result<(Dtype, Vec<usize>)> {
    if let Some(info) = part.tensors().get(name) {
        return Ok((info.dtype, info.shape.clone()));
    }
    let (info, rows) = fused(name, config)
        .and_then(|(matrix, rows)| Some((part.tensors().get(&matrix)?, rows)))
        .ok_or_else(|| Error::invalid(format!("the release lacks the tensor {name}")))?;
    match info.shape[..] {
        [all, columns] if rows.end <= all => Ok((info.dtype, vec![rows.len(), columns])),
        _ => Err(Error::invalid(format!(
            "tensor {name}: a matrix {:?} has no rows {rows:?}",
            info.shape
        ))),
    }
}

/// The tensor `name` of `part`, on its own or out of a fused matrix.
fn part_of(part: &TorchFile, name: &str, config: &ModelConfig) -> Result<StoredTensor> {
    let (dtype, shape) = part_info(part, name, config)?;
    let bytes = match part.tensors().contains_key(name) {
        true => part.read(name)?,
        false => {
            let (matrix, rows) = fused(name, config).expect("`part_info` found it there");
            let row = shape[1] * dtype.bitsize() / 8;
            part.read(&matrix)?[rows.start * row..rows.end * row].to_vec()
        }
    };
    Ok(StoredTensor { dtype, shape, bytes })
}
