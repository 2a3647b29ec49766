//! Moving averages of a module's weights, which are evaluated and released in their place.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::TensorData;
use tensor_files::{NamedTensors, StoredDtype, WeightFiles};

use super::config::AverageConfig;
use crate::error::{Error, Result};

/// Averages of all weights of a module.
#[derive(Debug)]
pub(super) struct Average {
    decay: f64,
    tensors: NamedTensors,
}

impl Average {
    /// Averages that begin at the weights of `module`; none where the recipe asks for none.
    pub(super) fn new<M: Module>(config: &AverageConfig, module: &M) -> Option<Self> {
        let decay = config.decay;
        (decay > 0.0).then(|| Self { decay, tensors: tensor_files::collect(module) })
    }

    /// Takes in the weights of `module`.
    pub(super) fn update<M: Module>(&mut self, module: &M) {
        tensor_files::average(&mut self.tensors, module, self.decay);
    }

    /// `module` with the averages as its weights.
    pub(super) fn load<M: Module>(&self, module: M) -> Result<M> {
        Ok(tensor_files::load(module, self.tensors.clone(), Path::new("averages"))?)
    }

    /// The averages by name.
    pub(super) fn tensors(&self) -> &NamedTensors {
        &self.tensors
    }

    /// Takes rows of the matrix `name` from `values`, which holds the whole matrix with rows of `width`:
    /// they were replaced and are no longer what their averages are of.
    pub(super) fn replace_rows(
        &mut self,
        name: &str,
        rows: &[usize],
        values: &[f32],
        width: usize,
    ) {
        let Some(old) = self.tensors.get_mut(name).filter(|_| !rows.is_empty()) else { return };
        let mut all: Vec<f32> = old.iter::<f32>().collect();
        for row in rows {
            let row = row * width..(row + 1) * width;
            all[row.clone()].copy_from_slice(&values[row]);
        }
        *old = TensorData::new(all, old.shape().to_vec());
    }

    /// Writes the weights of `module` as they are, beside the averages that are the checkpoint's.
    pub(super) fn save_raw<M: Module>(trainer: &Path, module: &M) -> Result<()> {
        let path = raw_path(trainer);
        let bytes = tensor_files::to_bytes(&tensor_files::collect(module), StoredDtype::F32, None)?;
        std::fs::write(&path, bytes).map_err(Error::io(&path))
    }

    /// Goes on from the averages in the file `released`.
    pub(super) fn restore(&mut self, released: &Path) -> Result<()> {
        self.tensors = tensor_files::read(released)?;
        Ok(())
    }

    /// `module` with the weights that training goes on with: the raw ones, or those of `released`
    /// in a checkpoint that holds no averages.
    pub(super) fn load_raw<M: Module>(module: M, trainer: &Path, released: &Path) -> Result<M> {
        let raw = Some(raw_path(trainer)).filter(|path| path.exists());
        let path = raw.as_deref().unwrap_or(released);
        Ok(tensor_files::load(module, WeightFiles::open(path)?, path)?)
    }
}

fn raw_path(trainer: &Path) -> PathBuf {
    trainer.join("weights.safetensors")
}
