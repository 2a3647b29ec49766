//! The compared answers of a run, and their order.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use vq_tokenizer::VqTokenizer;

use super::comparisons::{self, Comparison, Fit};
use super::config::ImageLogProbs;
use super::scoring::Scoring;
use super::state::PreferenceState;
use crate::data::shards::tokenizer_digest;
use crate::data::{DocumentData, Encoding, LeftOut};
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::report::Omission;
use crate::tokenize::Processor;
use crate::train::config::LanguageRecipe;
use crate::train::order::drawn;
use crate::train::preview::bracketed;
use crate::train::released::Released;
use crate::train::trained::TRAINER_DIR;

/// File in the [trainer directory](TRAINER_DIR).
const STATE: &str = "state.json";

/// Tokenizers and compared answers.
pub(super) struct Data {
    pub(super) processor: Arc<Processor>,
    vq: Option<VqTokenizer>,
    pub(super) scoring: Scoring,
    pub(super) training: Vec<Comparison>,
    pub(super) validation: Vec<Comparison>,
    opened: Vec<LeftOut>,
    seed: u64,
    sequences: usize,
    accumulate: usize,
}

impl Data {
    /// The comparisons of `recipe`, of documents of at most `longest` tokens, and the state before the first step;
    /// `paired` says what rows are.
    ///
    /// # Errors
    /// Those of the files that the recipe names.
    pub(super) fn open(
        recipe: &LanguageRecipe,
        device: &Device,
        (paired, longest): (bool, usize),
        quiet: bool,
    ) -> Result<(Self, PreferenceState)> {
        let (processor, vq, digest) = recipe.tokenizer.open(device)?;
        let processor = Arc::new(processor);
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let of_images = match recipe.reward_model {
            // Nothing is scored token by token.
            Some(_) => ImageLogProbs::Full,
            None => recipe.reference.image_log_probs,
        };
        let scoring = Scoring::new(processor.vocabulary(), of_images)?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: vq.as_ref(), digest: &digest, cache_dir: &cache_dir, quiet };
        let open = |configs: &[DocumentData], limit| {
            let fit = Fit { scoring: &scoring, seq_len: longest, limit, paired };
            comparisons::open(configs, encoding, &processor, fit)
        };
        let (training, mut opened) = open(&recipe.data, None)?;
        let (validation, of_validation) = open(&recipe.validation, Some(recipe.run.eval_samples))?;
        opened.extend(of_validation.into_iter().map(|left_out| LeftOut {
            source: format!("validation {}", left_out.source),
            ..left_out
        }));
        let pairs = comparisons::digest(&training);
        let state = PreferenceState { tokenizer, pairs, ..PreferenceState::default() };
        let (sequences, accumulate) = (recipe.batch.sequences, recipe.batch.accumulate);
        let seed = recipe.run.seed;
        let data = Self {
            processor,
            vq,
            scoring,
            training,
            validation,
            opened,
            seed,
            sequences,
            accumulate,
        };
        Ok((data, state))
    }

    /// The comparisons of a step.
    pub(super) fn in_step(&self) -> usize {
        self.sequences * self.accumulate
    }

    /// The comparisons of micro-batch `part` of the next step, by their numbers.
    pub(super) fn next(&self, state: &PreferenceState, part: usize) -> Vec<usize> {
        self.drawn(state.drawn + (part * self.sequences) as u64, self.sequences)
    }

    /// The numbers of `count` comparisons from draw `from` on.
    pub(super) fn drawn(&self, from: u64, count: usize) -> Vec<usize> {
        drawn(self.training.len(), self.seed, from, count)
    }

    /// The documents of the next micro-batch with what is learnt in brackets, a chosen and a rejected one for each
    /// pair.
    ///
    /// # Errors
    /// If an image in them is damaged.
    pub(super) fn preview(&self, state: &PreferenceState) -> Result<Vec<String>> {
        let next = self.next(state, 0);
        let documents = next.iter().flat_map(|index| &self.training[*index].documents);
        documents.map(|document| bracketed(document, &self.processor)).collect()
    }

    /// What was left out.
    pub(super) fn left_out(&self) -> Vec<Omission> {
        self.opened.iter().flat_map(LeftOut::omissions).collect()
    }

    /// What a checkpoint holds besides weights.
    pub(super) fn released<'a>(&'a self, recipe: &'a LanguageRecipe) -> Released<'a> {
        Released { recipe, processor: &self.processor, vq: self.vq.as_ref() }
    }
}

impl PreferenceState {
    /// Writes it into the checkpoint `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(TRAINER_DIR).join(STATE), self)
    }

    /// The state in the checkpoint `dir`, if it fits this one, which a run begins with.
    ///
    /// # Errors
    /// Those of the file; [`Error::File`] for other tokenizers or pairs.
    pub(super) fn restored(&self, dir: &Path) -> Result<Self> {
        let state: Self = read_json(&dir.join(TRAINER_DIR).join(STATE))?;
        for (what, then, now) in [
            ("another tokenizer", &state.tokenizer, &self.tokenizer),
            ("other pairs", &state.pairs, &self.pairs),
        ] {
            if then != now {
                let message =
                    format!("was trained with {what}; name them again, or choose another run.name");
                return Err(Error::file(dir, message));
            }
        }
        Ok(state)
    }
}
