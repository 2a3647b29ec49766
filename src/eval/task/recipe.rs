//! Recipes of many tasks for one checkpoint.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::TaskConfig;
use crate::checkpoint::adapter::WeightedAdapter;
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// A recipe of `calumma eval run`: many tasks for one checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalRecipe {
    /// The checkpoint, and where its results go.
    pub run: EvalRunConfig,
    /// The tasks, in order.
    pub task: Vec<TaskConfig>,
}

/// The section `run` of an [`EvalRecipe`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalRunConfig {
    /// Name of the directory of results.
    pub name: String,
    /// Parent of the directory of results.
    #[serde(default = "results")]
    pub directory: PathBuf,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Adapters to be merged into it, each as `DIR` or `DIR=WEIGHT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<WeightedAdapter>,
}

fn results() -> PathBuf {
    PathBuf::from("results")
}

impl EvalRunConfig {
    /// The directory of the results.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

impl Recipe for EvalRecipe {
    fn validate(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for task in &self.task {
            task.validate()?;
            let name = task.common().name.as_deref().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(Error::invalid(format!(
                    "task.name is {name:?}; every task needs a name of letters, digits, -, _ and . (not first)"
                )));
            }
            if !names.insert(name) {
                return Err(Error::invalid(format!("task.name {name:?} is given twice")));
            }
        }
        match self.task.is_empty() {
            true => Err(Error::invalid("the recipe has no [[task]]")),
            false => Ok(()),
        }
    }
}

impl EvalRecipe {
    /// The directory of a task's results.
    pub fn out(&self, task: &TaskConfig) -> PathBuf {
        self.run.path().join(task.label())
    }
}
