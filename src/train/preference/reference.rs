//! The reference model's log-probabilities of both answers of each pair.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Tensor;
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
    /// A model on the autodiff device, without gradients.
    Model(Box<CausalLm>),
    /// Sums over the tokens of each document, for the pairs of training and of validation.
    Kept([Vec<Vec<f64>>; 2]),
}

/// What is kept on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// What the numbers depend on.
    key: String,
    training: Vec<Vec<f64>>,
    validation: Vec<Vec<f64>>,
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
    ) -> Result<[Vec<Vec<f64>>; 2]> {
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
        // Training takes the kernels of the autodiff device, evaluation those outside of it.
        let models = [model.clone(), model.valid()];
        let mut models = models.iter();
        let [training, validation] = sets.map(|pairs| {
            let model = models.next().expect("one for each set");
            let mut sums = Vec::with_capacity(pairs.len());
            for batch in pairs.chunks(BATCH) {
                let documents: Vec<_> = batch.iter().flat_map(|pair| &pair.documents).collect();
                let stats = scoring.pack(&documents, seq_len).scores(model, false).stats;
                let mut each = stats.iter().map(|stats| sum(stats));
                let of = |item: &Comparison| each.by_ref().take(item.documents.len()).collect();
                sums.extend(batch.iter().map(of).collect::<Vec<Vec<f64>>>());
                sweep(model);
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

/// Lets autodiff forget passes that nothing goes back through, which it does in a backward pass only.
fn sweep(model: &CausalLm) {
    let device = model.device();
    if device.is_autodiff() {
        let one = Tensor::<1>::ones([1], &device).require_grad();
        drop(one.sum().backward());
    }
}

/// The sum of log-probabilities.
pub(super) fn sum(stats: &[TokenStats]) -> f64 {
    stats.iter().map(|stats| f64::from(stats.log_prob)).sum()
}
