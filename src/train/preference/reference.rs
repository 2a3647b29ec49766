//! The reference model's log-probabilities of both answers of each pair.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::comparisons::Comparison;
use super::scoring::Scoring;
use crate::error::Result;
use crate::files::{read_json, write_json};
use crate::model::{CausalLm, TokenStats};
use crate::report::Reporter;

/// File in a run's directory.
const FILE: &str = "reference.json";
/// Pairs that are scored at once.
const BATCH: usize = 16;

/// How the reference scores pairs.
pub(super) enum Reference {
    /// The loss needs none.
    None,
    /// A model, outside autodiff.
    Model(Box<CausalLm>),
    /// Sums over the tokens of both answers, for the pairs of training and of validation.
    Kept([Vec<[f64; 2]>; 2]),
}

/// What is kept on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// What the numbers depend on.
    key: String,
    training: Vec<[f64; 2]>,
    validation: Vec<[f64; 2]>,
}

/// Where the numbers of a run are kept, and what they depend on.
pub(super) struct Place<'a> {
    /// The run's directory.
    pub(super) run: &'a Path,
    /// A digest of reference model and data.
    pub(super) key: String,
    /// Whether to hide the progress bar.
    pub(super) quiet: bool,
}

impl Place<'_> {
    fn path(&self) -> PathBuf {
        self.run.join(FILE)
    }

    /// The sums of both sets of pairs by `model`; those of an earlier start of the run are used again.
    ///
    /// # Errors
    /// Those of the file.
    pub(super) fn sums(
        &self,
        model: &CausalLm,
        sets: [&[Comparison]; 2],
        scoring: &Scoring,
        seq_len: usize,
    ) -> Result<[Vec<[f64; 2]>; 2]> {
        let path = self.path();
        if path.is_file() {
            let Stored { key, training, validation } = read_json(&path)?;
            if key == self.key && [training.len(), validation.len()] == sets.map(<[_]>::len) {
                return Ok([training, validation]);
            }
        }
        let len: usize = sets.iter().map(|pairs| pairs.len()).sum();
        let mut reporter =
            if self.quiet { Reporter::silent() } else { Reporter::bar(len as u64, "pairs") };
        let mut done = 0;
        let [training, validation] = sets.map(|pairs| {
            let mut sums = Vec::with_capacity(pairs.len());
            for batch in pairs.chunks(BATCH) {
                let documents: Vec<_> = batch.iter().flat_map(|pair| &pair.documents).collect();
                let stats = scoring.pack(&documents, seq_len).scores(model, false).stats;
                sums.extend(stats.chunks(2).map(|pair| [sum(&pair[0]), sum(&pair[1])]));
                done += batch.len();
                reporter.step(done, batch.len());
            }
            sums
        });
        reporter.finish();
        let stored = Stored { key: self.key.clone(), training, validation };
        write_json(&path, &stored)?;
        Ok([stored.training, stored.validation])
    }
}

/// The sum of log-probabilities.
pub(super) fn sum(stats: &[TokenStats]) -> f64 {
    stats.iter().map(|stats| f64::from(stats.log_prob)).sum()
}
