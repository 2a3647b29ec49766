//! Stages of training, each with its own mixture of sources.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Starts of the stages; a source's `weight` may list one weight for each. Chameleon halves the
/// weights of its first stage for the last fifth of training and adds better data (paper section
/// 2.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurriculumConfig {
    /// Start of each stage but the first, as a share of the run's steps: ascending, between 0 and 1.
    pub starts: Vec<f64>,
}

impl CurriculumConfig {
    /// The number of stages, at least 1.
    pub fn num_stages(&self) -> usize {
        self.starts.len() + 1
    }

    /// Checks the starts.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they are not ascending or not between 0 and 1.
    pub fn validate(&self) -> Result<()> {
        let inside = self.starts.iter().all(|start| *start > 0.0 && *start < 1.0);
        if !inside || self.starts.windows(2).any(|pair| pair[0] >= pair[1]) {
            let starts = &self.starts;
            return Err(Error::invalid(format!(
                "curriculum.starts is {starts:?}; allowed: rising shares between 0 and 1"
            )));
        }
        Ok(())
    }
}

/// The stage of each batch.
#[derive(Clone, Debug)]
pub struct Stages {
    /// First batch of every stage but the first.
    starts: Vec<u64>,
}

impl Stages {
    /// The stages of a run of `steps` optimizer steps with `accumulate` batches each.
    pub fn new(config: &CurriculumConfig, steps: usize, accumulate: usize) -> Self {
        let batch = |share: &f64| (share * steps as f64).ceil() as u64 * accumulate as u64;
        Self { starts: config.starts.iter().map(batch).collect() }
    }

    /// The stage of `batch`, both from 0.
    pub fn of(&self, batch: u64) -> usize {
        self.starts.iter().filter(|start| batch >= **start).count()
    }
}
