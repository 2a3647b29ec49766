//! The files of an original release.

use std::path::{Path, PathBuf};

use super::params;
use crate::checkpoint::directory::require_directory;
use crate::checkpoint::torch_file::TorchFile;
use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// An opened original release.
#[derive(Debug)]
pub struct Release {
    /// Configuration of the transformer.
    pub config: ModelConfig,
    /// The weights: a file for each part that the model was trained in.
    pub parts: Vec<TorchFile>,
    /// The directory of `text_tokenizer.json` and, if present, `vqgan.ckpt`.
    pub tokenizer: PathBuf,
}

impl Release {
    /// Opens the release in `dir`: the directory with `models` and `tokenizer`, or a model's.
    ///
    /// # Errors
    /// If there is none, or several; those of the files; if `consolidate_params.json` states another
    /// number of parts.
    pub fn open(dir: &Path) -> Result<Self> {
        require_directory(dir)?;
        let model = model_dir(dir)?;
        let near = [Some(model.as_path()), model.parent(), model.parent().and_then(Path::parent)];
        let tokenizer = near.into_iter().flatten().map(|dir| dir.join("tokenizer"));
        let tokenizer = tokenizer.chain([model.clone()]);
        let tokenizer = tokenizer.into_iter().find(|dir| dir.join("text_tokenizer.json").is_file());
        let tokenizer = tokenizer.ok_or_else(|| {
            Error::file(&model, "there is no tokenizer/text_tokenizer.json here or above")
        })?;
        let (config, parts) = (params::read(&model)?, parts(&model)?);
        if parts.len() != config.model_parallel_size {
            let (found, stated) = (parts.len(), config.model_parallel_size);
            let message = format!("{found} consolidated files; model_parallel_size is {stated}");
            return Err(Error::file(&model, message));
        }
        Ok(Self { config, parts, tokenizer })
    }

    /// The image tokenizer's file, if present.
    pub fn vqgan(&self) -> Option<PathBuf> {
        Some(self.tokenizer.join("vqgan.ckpt")).filter(|path| path.is_file())
    }
}

/// The directory of the one model of the release in `dir`.
fn model_dir(dir: &Path) -> Result<PathBuf> {
    let is_model = |dir: &Path| dir.join("params.json").is_file();
    if is_model(dir) {
        return Ok(dir.to_owned());
    }
    let entries = std::fs::read_dir(dir.join("models")).map_err(|_| not_a_release(dir))?;
    let models = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut models: Vec<PathBuf> = models.filter(|dir| is_model(dir)).collect();
    models.sort();
    match models.len() {
        0 => Err(not_a_release(dir)),
        1 => Ok(models.remove(0)),
        _ => {
            let names: Vec<_> = models.iter().map(|dir| dir.display().to_string()).collect();
            let message = format!("holds several models; name one: {}", names.join(", "));
            Err(Error::file(dir, message))
        }
    }
}

/// The files of the parts in the directory `model`, in order.
fn parts(model: &Path) -> Result<Vec<TorchFile>> {
    let single = model.join("consolidated.pth");
    if single.is_file() {
        return Ok(vec![TorchFile::open(&single)?]);
    }
    let part = |index: usize| model.join(format!("consolidated.{index:02}.pth"));
    let paths = (0..).map(part).take_while(|path| path.is_file());
    let parts = paths.map(|path| TorchFile::open(&path)).collect::<Result<Vec<_>>>()?;
    match parts.is_empty() {
        true => {
            Err(Error::file(model, "there is neither consolidated.pth nor consolidated.00.pth"))
        }
        false => Ok(parts),
    }
}

fn not_a_release(dir: &Path) -> Error {
    Error::file(dir, "no original release: expected models/NAME/params.json or params.json")
}
