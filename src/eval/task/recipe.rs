//! Many measures of one checkpoint.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::TaskConfig;
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// A recipe of many measures for one checkpoint: `calumma eval run`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalRecipe {
    /// Where the results go.
    pub run: EvalRunConfig,
    /// What is measured, in order.
    pub task: Vec<TaskConfig>,
}

/// Where results go, and of what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalRunConfig {
    /// Name of the folder.
    pub name: String,
    /// Where results lie.
    #[serde(default = "results")]
    pub directory: PathBuf,
    /// The checkpoint.
    pub checkpoint: PathBuf,
}

fn results() -> PathBuf {
    PathBuf::from("results")
}

impl EvalRunConfig {
    /// The folder of the results.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

impl Recipe for EvalRecipe {
    fn validate(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for task in &self.task {
            task.validate()?;
            let name = task.name.as_deref().unwrap_or_default();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                return Err(Error::invalid(format!(
                    "task.name is {name:?}; every task needs one of letters, digits, - _ and . (not first)"
                )));
            }
            if !names.insert(name) {
                return Err(Error::invalid(format!("task.name {name:?} is given twice")));
            }
        }
        match self.task.is_empty() {
            true => Err(Error::invalid("the recipe has no [[task]]".to_owned())),
            false => Ok(()),
        }
    }
}

impl EvalRecipe {
    /// The folder of a task's results.
    pub fn out(&self, task: &TaskConfig) -> PathBuf {
        self.run.path().join(task.label())
    }
}
