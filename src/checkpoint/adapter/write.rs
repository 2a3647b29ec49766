//! Writing an adapter's directory.

use std::path::Path;

use tensor_files::{DeviceTensors, StoredDtype};

use super::config;
use super::names::tensors;
use super::open::WEIGHTS;
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::model::ModelConfig;
use crate::model::adapter::{AdapterConfig, AdapterPlan};

/// The parts of an adapter to write.
#[derive(Debug)]
pub struct AdapterParts<'a> {
    /// The settings.
    pub config: &'a AdapterConfig,
    /// What it adds to the model.
    pub plan: &'a AdapterPlan,
    /// The sizes of the model.
    pub model: &'a ModelConfig,
    /// The path of the model, as the adapter names it.
    pub base: &'a str,
    /// The tensors by the names of our parameters; others than the adapter's are left out.
    pub tensors: DeviceTensors,
}

impl AdapterParts<'_> {
    /// Writes `adapter_config.json`, `adapter_model.safetensors` in f32 and a model card into the existing directory
    /// `dir`.
    ///
    /// # Errors
    /// Those of the file system; [`Error::Invalid`] if a tensor is missing.
    pub fn write(mut self, dir: &Path) -> Result<()> {
        write_json(&dir.join(config::FILE), &config::to_json(self.config, self.plan, self.base))?;
        let mut stored = DeviceTensors::new();
        for (ours, tensor) in tensors(self.plan, self.model) {
            let values = self.tensors.remove(&ours);
            let values = values.ok_or_else(|| Error::invalid(format!("there is no {ours}")))?;
            stored.insert(tensor.stored, values);
        }
        tensor_files::write(&dir.join(WEIGHTS), &stored, StoredDtype::F32)?;
        let path = dir.join("README.md");
        std::fs::write(&path, self.card()).map_err(Error::io(&path))
    }

    /// The model card.
    fn card(&self) -> String {
        let (base, count) = (self.base, self.plan.num_parameters());
        format!(
            "---\nbase_model: {base}\nlibrary_name: peft\ntags:\n- lora\n- chameleon\n---\n\n\
             An adapter for `{base}` with {count} trained values, in PEFT's layout.\n\n\
             ```sh\ncalumma caption {base} image.png --adapter DIR\n\
             calumma export {base} merged --merge DIR\n```\n"
        )
    }
}
