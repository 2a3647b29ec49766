//! Exporting a checkpoint to the original release's layout, tensor by tensor.

use std::path::Path;

use tensor_files::WeightFiles;
use vq_tokenizer::VqConfig;

use super::layout::pairs;
use super::{params, vqgan};
use crate::checkpoint::config::config_from_json;
use crate::checkpoint::directory::{require_directory, write_directory};
use crate::checkpoint::hugging_face::nested_config;
use crate::checkpoint::names::VQ_DIR;
use crate::checkpoint::tensors::of_image_tokenizer;
use crate::checkpoint::torch_file::{self, TensorInfo};
use crate::checkpoint::weight_files::weight_files;
use crate::error::{Error, Result};
use crate::files::{copy, read_json};
use crate::model::ModelConfig;

/// Writes the checkpoint in `source` to `dest` in the original release's layout, bit for bit.
///
/// # Errors
/// Those of the files; if a tensor cannot be cut into the parts that `config.json` asks for;
/// [`Error::Exists`]. Nothing is left behind then.
pub fn export(source: &Path, dest: &Path) -> Result<()> {
    require_directory(source)?;
    let path = source.join("config.json");
    let config = config_from_json(&read_json(&path)?).map_err(Error::in_file(&path))?;
    if config.tie_word_embeddings {
        return Err(Error::file(&path, "the original layout has no tied embeddings"));
    }
    if config.num_labels > 0 {
        return Err(Error::file(&path, "the original layout has no score head"));
    }
    let (_, files) = weight_files(source)?;
    write_directory(dest, |dir| {
        let model = dir.join("models").join("model");
        let tokenizer = dir.join("tokenizer");
        for folder in [&model, &tokenizer] {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        params::write(&config, &model)?;
        write_parts(&files, &config, &model)?;
        copy(&source.join("tokenizer.json"), &tokenizer.join("text_tokenizer.json"))?;
        write_vqgan(source, &tokenizer)
    })
}

/// Writes a `consolidated` file for each part.
fn write_parts(files: &WeightFiles, config: &ModelConfig, dir: &Path) -> Result<()> {
    let (pairs, parts) = (pairs(config), config.model_parallel_size);
    for index in 0..parts {
        let path = dir.join(match parts {
            1 => "consolidated.pth".to_owned(),
            _ => format!("consolidated.{index:02}.pth"),
        });
        let part = |name: &str| {
            let pair = pairs.iter().find(|pair| pair.meta == name).expect("a name of the table");
            let cut = pair.join.split(&files.stored(&pair.hf)?, parts);
            let mut cut = cut.map_err(Error::because(format_args!("tensor {}", pair.hf)))?;
            Ok::<_, Error>(cut.swap_remove(index))
        };
        let mut infos = Vec::with_capacity(pairs.len());
        for pair in &pairs {
            let (dtype, whole) = files.info(&pair.hf)?;
            let shape = pair.join.part_shape(whole, parts).ok_or_else(|| {
                let name = &pair.hf;
                Error::invalid(format!("tensor {name}: {whole:?} cannot be cut into {parts} parts"))
            })?;
            infos.push((pair.meta.clone(), TensorInfo { dtype, shape }));
        }
        torch_file::write(&path, None, &infos, |name| Ok(part(name)?.bytes))?;
    }
    Ok(())
}

/// Writes `vqgan.ckpt` and `vqgan.yaml` into `to` if the checkpoint in `source` has an image tokenizer.
///
/// One among the language model's tensors has no decoder.
fn write_vqgan(source: &Path, to: &Path) -> Result<()> {
    let own = source.join(VQ_DIR);
    let (config, files) = if own.is_dir() {
        let files = WeightFiles::open(&own.join("model.safetensors"))?;
        (VqConfig::load(&own.join("config.json"))?, files)
    } else {
        let json: serde_json::Value = read_json(&source.join("config.json"))?;
        (nested_config(source, &json)?, of_image_tokenizer(weight_files(source)?.1))
    };
    if files.tensors().next().is_none() {
        return Ok(());
    }
    let info = |(name, dtype, shape): (&str, _, &[usize])| {
        (name.to_owned(), TensorInfo { dtype, shape: shape.to_vec() })
    };
    let infos: Vec<_> = files.tensors().map(info).collect();
    let path = to.join("vqgan.ckpt");
    torch_file::write(&path, Some("state_dict"), &infos, |name| Ok(files.stored(name)?.bytes))?;
    let path = to.join("vqgan.yaml");
    std::fs::write(&path, vqgan::yaml(&config)).map_err(Error::io(&path))
}
