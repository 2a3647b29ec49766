//! The adapter that a run trains in place of all weights of a model.

use std::collections::BTreeSet;
use std::path::Path;

use tensor_files::DeviceTensors;

use super::config::LanguageRecipe;
use crate::checkpoint::adapter::{Adapter, AdapterParts};
use crate::error::{Error, Result};
use crate::model::adapter::{AdapterConfig, AdapterPlan};
use crate::model::{CausalLm, ModelConfig};

/// An adapter in training; its parameters are those of the model that it is attached to.
pub(super) struct TrainedAdapter {
    config: AdapterConfig,
    plan: AdapterPlan,
    /// The path of the model without it.
    base: String,
}

impl TrainedAdapter {
    /// `model` with the adapter that `recipe` asks for, if any.
    ///
    /// # Errors
    /// Those of the plan, with the section at fault, and of the adapter that the run goes on with.
    pub(super) fn attach(
        recipe: &LanguageRecipe,
        sizes: &ModelConfig,
        model: CausalLm,
    ) -> Result<(CausalLm, Option<Self>)> {
        let base = recipe.run.init.as_deref().unwrap_or(Path::new("")).display().to_string();
        if let Some(dir) = &recipe.run.init_adapter {
            let adapter = Adapter::open(dir, sizes)?;
            if sizes.num_labels > 0 && !adapter.config().has_score() {
                let message = "has no score head to go on with; export it with --merge, and train on the result";
                return Err(Error::file(dir, message));
            }
            let (config, plan) = (adapter.config().clone(), adapter.plan().clone());
            return Ok((adapter.attach(model)?, Some(Self { config, plan, base })));
        }
        let Some(mut config) = recipe.adapter.clone() else { return Ok((model, None)) };
        if sizes.num_labels > 0 {
            config = config.with_score();
        }
        let plan = config.check_targets(sizes).and_then(|()| config.plan(sizes));
        let plan = plan.map_err(Error::because("adapter"))?;
        Ok((model.with_adapter(&plan, &config), Some(Self { config, plan, base })))
    }

    /// The names of the parameters of `model` that it trains.
    pub(super) fn parameters(&self, model: &CausalLm) -> BTreeSet<String> {
        let names = tensor_files::shapes(model).into_keys();
        names.filter(|name| self.plan.trains(name)).collect()
    }

    /// Whether the parameter called `name` is trained.
    pub(super) fn trains(&self, name: &str) -> bool {
        self.plan.trains(name)
    }

    /// The number of trained values.
    pub(super) fn num_parameters(&self) -> usize {
        self.plan.num_parameters()
    }

    /// Writes the adapter, whose values are among `tensors`, into the existing directory `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn write(
        &self,
        dir: &Path,
        model: &ModelConfig,
        tensors: DeviceTensors,
    ) -> Result<()> {
        let Self { config, plan, base } = self;
        AdapterParts { config, plan, model, base, tensors }.write(dir)
    }
}
