//! From the original release's layout to a checkpoint of ours, tensor by tensor.

use std::path::Path;

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::json;
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::weights::{StoredDtype, StoredTensor};

use super::layout::pairs;
use super::release::Release;
use super::vqgan;
use crate::checkpoint::open::{IMAGE_FORMAT, PROCESSOR, SIZED};
use crate::checkpoint::torch_file::TorchFile;
use crate::checkpoint::weight_files::write_weights;
use crate::checkpoint::{Manifest, Parts, SHARD_SIZE, VQ_DIR, write_directory};
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::generate::Preset;
use crate::model::ModelConfig;
use crate::tokenize::{Processor, TextTokenizer};

/// Codes along each side of an image, where no image tokenizer says it.
const RELEASED_GRID: (usize, usize) = (32, 32);

/// Makes the checkpoint `dest` of the original release's files in `source`: its weights in the format
/// they have there, one tensor in memory at a time.
///
/// # Errors
/// Those of the files, with the tensor at fault; when `dest` exists. Nothing is left behind then.
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

fn dtype_of(part: &TorchFile) -> Result<Dtype> {
    const NAME: &str = "output.weight";
    let info = part.tensors().get(NAME);
    Ok(info.ok_or_else(|| Error::invalid(format!("the release lacks the tensor {NAME}")))?.dtype)
}

/// Adds the image tokenizer of the original release in `ckpt` to the checkpoint in `dir`, whose own
/// way of preparing images stays; one without decoder is replaced.
///
/// # Errors
/// Those of the files; when `dir` has a whole image tokenizer already, or its vocabulary names another
/// number of codes.
pub fn add_vqgan(dir: &Path, ckpt: &Path, device: &Device) -> Result<()> {
    let text = TextTokenizer::load(&dir.join("tokenizer.json"))?;
    let present = crate::checkpoint::image_tokenizer(dir, device)?;
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

fn write_joined(parts: &[TorchFile], config: &ModelConfig, dir: &Path) -> Result<()> {
    let pairs = pairs(config);
    let mut infos = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        let (dtype, shape) = part_info(&parts[0], &pair.meta, config)?;
        let shape = pair.join.whole_shape(&shape, parts.len()).ok_or_else(|| {
            Error::invalid(format!("tensor {}: shape {shape:?} is none of this kind", pair.meta))
        })?;
        infos.push((pair.hf.clone(), dtype, shape));
    }
    write_weights(dir, &infos, SHARD_SIZE, |name| {
        let pair = pairs.iter().find(|pair| pair.hf == name).expect("every info has its pair");
        let read = |part: &TorchFile| part_of(part, &pair.meta, config);
        let of_parts = parts.iter().map(read).collect::<Result<Vec<_>>>();
        let joined = of_parts.and_then(|of_parts| pair.join.join(&of_parts));
        let named = |e: Error| vq_tokenizer::Error::invalid(format!("tensor {}: {e}", pair.meta));
        joined.map(|tensor| tensor.bytes).map_err(named)
    })
}

/// The in-memory form of the release joins some matrices: where the rows of `name` lie in which, for
/// a part of a model of the sizes `config`.
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

fn part_info(part: &TorchFile, name: &str, config: &ModelConfig) -> Result<(Dtype, Vec<usize>)> {
    if let Some(info) = part.tensors().get(name) {
        return Ok((info.dtype, info.shape.clone()));
    }
    let joined = fused(name, config)
        .and_then(|(joined, rows)| Some((part.tensors().get(&joined)?, rows)))
        .ok_or_else(|| Error::invalid(format!("the release lacks the tensor {name}")))?;
    let (info, rows) = joined;
    match info.shape[..] {
        [all, columns] if rows.end <= all => Ok((info.dtype, vec![rows.len(), columns])),
        _ => Err(Error::invalid(format!("tensor {name}: {:?} holds no {rows:?}", info.shape))),
    }
}

fn part_of(part: &TorchFile, name: &str, config: &ModelConfig) -> Result<StoredTensor> {
    let (dtype, shape) = part_info(part, name, config)?;
    let bytes = match part.tensors().contains_key(name) {
        true => part.read(name)?,
        false => {
            let (joined, rows) = fused(name, config).expect("its shape was found in there");
            let row = shape[1] * dtype.bitsize() / 8;
            part.read(&joined)?[rows.start * row..rows.end * row].to_vec()
        }
    };
    Ok(StoredTensor { dtype, shape, bytes })
}
