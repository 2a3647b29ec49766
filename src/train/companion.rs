//! A network that is trained beside the one that is kept, with an optimizer of its own.

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use tensor_files::{StoredDtype, WeightFiles};

use super::{Optimizer, OptimizerConfig};
use crate::error::{Error, Result};

/// Such a network; its files in a checkpoint's `trainer` folder begin with its name.
pub(super) struct Companion<M> {
    name: &'static str,
    /// Absent only while an update replaces it.
    module: Option<M>,
    optimizer: Optimizer,
}

impl<M: Module> Companion<M> {
    pub(super) fn new(name: &'static str, module: M, config: OptimizerConfig) -> Self {
        Self { name, module: Some(module), optimizer: Optimizer::new(config) }
    }

    pub(super) fn module(&self) -> &M {
        self.module.as_ref().expect("the module is absent only inside `step`")
    }

    /// One update.
    ///
    /// # Errors
    /// The gradients' norm when it is not finite.
    pub(super) fn step(
        &mut self,
        gradients: GradientsParams,
        lr: f64,
    ) -> std::result::Result<f64, f64> {
        let module = self.module.take().expect("the module is put back below");
        let (module, norm) = match self.optimizer.step(module, gradients, lr) {
            Ok((module, norm)) => (module, Ok(norm)),
            Err((module, norm)) => (module, Err(norm)),
        };
        self.module = Some(module);
        norm
    }

    pub(super) fn save(&self, trainer: &Path) -> Result<()> {
        let path = trainer.join(format!("{}.safetensors", self.name));
        let tensors = tensor_files::collect(self.module());
        let bytes = tensor_files::to_bytes(&tensors, StoredDtype::F32, None)?;
        std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        self.optimizer.save(&self.optimizer_path(trainer))
    }

    pub(super) fn restore(
        &mut self,
        trainer: &Path,
        config: OptimizerConfig,
        device: &Device,
    ) -> Result<()> {
        let path = trainer.join(format!("{}.safetensors", self.name));
        let module = self.module.take().expect("the module is put back at once");
        self.module = Some(tensor_files::load(module, WeightFiles::open(&path)?, &path)?);
        self.optimizer = Optimizer::load(config, &self.optimizer_path(trainer), device)?;
        Ok(())
    }

    fn optimizer_path(&self, trainer: &Path) -> std::path::PathBuf {
        trainer.join(format!("{}-optimizer.safetensors", self.name))
    }
}
