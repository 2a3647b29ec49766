//! Opening an adapter for a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, TensorData};
use tensor_files::{Mismatch, ShapeMismatch, TensorSource, WeightFiles};

use super::config;
use super::names::{AdapterTensor, is_of_base, tensors};
use crate::error::{Error, Result};
use crate::model::adapter::{AdapterConfig, AdapterPlan};
use crate::model::{CausalLm, ModelConfig};

/// Weight file in an adapter's directory.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter's directory, opened for a model: a source of tensors under the names of our parameters.
#[derive(Debug)]
pub struct Adapter {
    dir: PathBuf,
    config: AdapterConfig,
    plan: AdapterPlan,
    files: WeightFiles,
    tensors: BTreeMap<String, AdapterTensor>,
}

impl Adapter {
    /// Opens the adapter in `dir` for a model of the sizes `model`.
    ///
    /// # Errors
    /// Those of the files; [`Error::File`] if `dir` holds no adapter, or one with settings that are not built;
    /// with all tensors that are missing, unexpected or of another shape, as those of an adapter for another model.
    pub fn open(dir: &Path, model: &ModelConfig) -> Result<Self> {
        let path = dir.join(WEIGHTS);
        let stored = config::read(dir)?;
        let base = stored.base.unwrap_or_else(|| "another model".to_owned());
        let config_path = dir.join(config::FILE);
        let plan = stored.config.plan(model).map_err(Error::in_file(&config_path))?;
        if !path.is_file() && dir.join("adapter_model.bin").is_file() {
            let message =
                "is in PyTorch's format; save it as safetensors with PEFT (save_pretrained)";
            return Err(Error::file(&dir.join("adapter_model.bin"), message));
        }
        let files = WeightFiles::open(&path)?;
        let tensors = tensors(&plan, model);
        check(&files, &tensors).map_err(|mismatch| {
            let message = format!("does not fit this model; it was made for {base}: {mismatch}");
            Error::file(&path, message)
        })?;
        Ok(Self { dir: dir.to_owned(), config: stored.config, plan, files, tensors })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// What it adds to the model.
    pub fn plan(&self) -> &AdapterPlan {
        &self.plan
    }

    /// The name in PEFT's file of our parameter `name`, such as `model.layers.0.mlp.up_proj.lora.a`; `None` if the
    /// adapter has no such parameter.
    pub fn stored_name(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|tensor| tensor.stored.as_str())
    }

    /// `model`, for which the adapter was opened, with this adapter attached, to be trained further.
    ///
    /// # Errors
    /// Those of the file.
    pub fn attach(&self, model: CausalLm) -> Result<CausalLm> {
        let model = model.with_adapter(&self.plan, &self.config);
        let trains = |name: &str| self.plan.trains(name);
        Ok(tensor_files::load_some(model, self, &self.dir.join(WEIGHTS), trains)?)
    }

    /// The tensor of our parameter `name` in f32; `None` if the adapter has none.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn read(&self, name: &str) -> tensor_files::Result<Option<TensorData>> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let stored = self.files.stored(&tensor.stored)?;
        stored.to_data(FloatDType::F32).map(Some)
    }
}

impl TensorSource for &Adapter {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn tensor(&mut self, name: &str, _: FloatDType) -> tensor_files::Result<Option<TensorData>> {
        self.read(name)
    }
}

/// Compares names and shapes with those that are expected; the error has PEFT's names.
fn check(
    files: &WeightFiles,
    expected: &BTreeMap<String, AdapterTensor>,
) -> std::result::Result<(), Mismatch> {
    let mut mismatch = Mismatch::default();
    let mut unused: BTreeSet<&str> =
        files.tensors().map(|(name, ..)| name).filter(|name| !is_of_base(name)).collect();
    for AdapterTensor { stored, shape } in expected.values() {
        unused.remove(stored.as_str());
        match files.info(stored) {
            Err(_) => mismatch.missing.push(stored.clone()),
            Ok((_, found)) if found != shape => mismatch.mis_shaped.push(ShapeMismatch {
                name: stored.clone(),
                found: found.to_vec(),
                expected: shape.clone(),
            }),
            Ok(_) => {}
        }
    }
    mismatch.unexpected = unused.into_iter().map(str::to_owned).collect();
    if mismatch.is_empty() { Ok(()) } else { Err(mismatch) }
}
