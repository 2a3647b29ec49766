//! The metric that decides which checkpoint is the best.

use crate::error::{Error, Result};
use crate::report::Metrics;

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Losses and counts of failures.
    Lower,
    /// Accuracies, similarities and shares in use.
    Higher,
}

/// The metric that `run.keep_best` names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BestBy {
    name: String,
    better: Better,
}

impl BestBy {
    /// The metric called `name` among `metrics`, those of the task's evaluations.
    ///
    /// # Errors
    /// [`Error::Invalid`] with their names if `name` is none of them.
    pub(super) fn new(name: &str, metrics: Vec<(String, Better)>) -> Result<Self> {
        match metrics.iter().find(|(known, _)| known == name) {
            Some((name, better)) => Ok(Self { name: name.clone(), better: *better }),
            None => {
                let known: Vec<&str> = metrics.iter().map(|(name, _)| name.as_str()).collect();
                let known = known.join(", ");
                Err(Error::invalid(format!("run.keep_best is {name:?}; allowed: {known}")))
            }
        }
    }

    /// The metric's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The metric's value in `evaluation`; `None` if the validation data have nothing to measure.
    pub(super) fn value(&self, evaluation: &Metrics) -> Option<f32> {
        let value = evaluation.iter().find(|(known, _)| *known == self.name);
        value.map(|(_, value)| *value as f32)
    }

    /// Whether `value` is better than `best`, the best so far; a value that is not finite never is.
    pub(super) fn improves(&self, value: f32, best: Option<f32>) -> bool {
        let improves = |best: f32| match self.better {
            Better::Lower => value < best,
            Better::Higher => value > best,
        };
        value.is_finite() && best.is_none_or(improves)
    }
}
