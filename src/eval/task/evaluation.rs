//! A task on an open checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::config::TaskConfig;
use crate::data::{Aliased, Dataset};
use crate::error::Result;
use crate::eval::Report;
use crate::generate::GenerationConfig;
use crate::pipeline::Pipeline;

/// A task and everything it is measured with.
pub struct Evaluation<'a> {
    /// The task.
    pub task: &'a TaskConfig,
    /// The checkpoint's directory.
    pub checkpoint: &'a Path,
    /// The checkpoint, opened.
    pub pipeline: &'a Pipeline,
    /// Generation settings.
    pub generation: GenerationConfig,
    /// Directory for responses that a stopped evaluation continues from, and for image codes.
    pub out: PathBuf,
    /// Whether to show no progress while data sets are encoded.
    pub quiet: bool,
}

impl Evaluation<'_> {
    /// The number of items that will be measured; `None` if it is not known in advance.
    ///
    /// # Errors
    /// Those of the data set.
    pub fn items(&self) -> Result<Option<usize>> {
        match self.task {
            TaskConfig::Loss(_) => Ok(None),
            _ => self.task.items().map(Some),
        }
    }

    /// Runs the task; `progress` is called with the number of items done since the last call.
    ///
    /// # Errors
    /// Those of data and model.
    pub fn run(&self, progress: &mut dyn FnMut(usize)) -> Result<Report> {
        self.task.validate()?;
        // Before the data are read: a change in the meantime must not pass for measured.
        let digest = self.digest()?;
        let (mut report, generates) = match self.task {
            TaskConfig::Vqa(task) => (self.vqa(task, progress)?, true),
            TaskConfig::Captioning(task) => (self.captioning(task, progress)?, true),
            TaskConfig::TextToImage(task) => (self.text_to_image(task, progress)?, true),
            TaskConfig::Geneval(task) => (self.geneval(task, progress)?, true),
            TaskConfig::Reconstruction(task) => (self.reconstruction(task, progress)?, false),
            TaskConfig::Loss(task) => (self.loss(task, progress)?, false),
        };
        if generates {
            report.config.insert("generation".to_owned(), json!(self.generation));
        }
        report.config.insert("task".to_owned(), json!(self.task));
        report.config.insert("identity".to_owned(), json!(digest));
        Ok(report)
    }

    /// The generation settings for the items from index `first` on, so that an item's seed does not depend on
    /// the batch size.
    pub(super) fn generation_from(&self, first: usize) -> GenerationConfig {
        let seed = self.generation.seed.wrapping_add(first as u64);
        GenerationConfig { seed, ..self.generation.clone() }
    }
}

/// `dataset` with `columns` under the names that the measure expects.
pub(super) fn renamed(
    dataset: Box<dyn Dataset>,
    columns: &BTreeMap<String, String>,
) -> Box<dyn Dataset> {
    match columns.is_empty() {
        true => dataset,
        false => Box::new(Aliased::new(dataset, columns.clone())),
    }
}
