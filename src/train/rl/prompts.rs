//! The prompts of all sources.

use crate::data::{DocumentContent, DocumentData, Encoding, LeftOut, Prompt, Prompts, Weight};
use crate::error::{Error, Result};
use crate::tokenize::Processor;

/// The prompts of a recipe's sources.
#[derive(Clone, Debug, Default)]
pub(super) struct PromptSet {
    /// All of them, source by source.
    pub(super) prompts: Vec<Prompt>,
    /// For each the number of its source.
    pub(super) sources: Vec<usize>,
    /// The names of the sources.
    pub(super) labels: Vec<String>,
    /// What is left out of each.
    pub(super) left_out: Vec<LeftOut>,
}

/// How prompts are read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) encoding: Encoding<'a>,
    pub(super) processor: &'a Processor,
    /// Draws templates.
    pub(super) seed: u64,
    /// Whether an image is begun behind each prompt.
    pub(super) open_image: bool,
    /// The most ids of a prompt.
    pub(super) longest: usize,
    /// The number of prompts of each source, of a validation set.
    pub(super) held_out: Option<usize>,
}

impl PromptSet {
    /// The prompts of the sources in `configs`.
    ///
    /// # Errors
    /// Those of the data; [`Error::Invalid`] if a source holds no samples, or none of its prompts is short enough.
    pub(super) fn open(configs: &[DocumentData], reading: Reading<'_>) -> Result<Self> {
        let mut all = Self::default();
        for config in configs {
            let config = match reading.held_out {
                Some(count) => config.clone().held_out(count),
                None => config.clone(),
            };
            let label = config.label();
            let error = |message: String| Err(Error::invalid(format!("data {label}: {message}")));
            let DocumentContent::Samples(source, template) = &config.content else {
                return error("token shards hold no prompts; name the rows themselves".to_owned());
            };
            if config.weight != Weight::default() {
                return error("weight is not read; every prompt is taken once an epoch".to_owned());
            }
            let Reading { encoding, processor, seed, open_image, longest, .. } = reading;
            let opened = Prompts::open(source, template, encoding, processor, (seed, open_image))?;
            let Prompts { prompts, mut left_out } = opened;
            let (number, before) = (all.labels.len(), all.prompts.len());
            let read = prompts.len();
            // A prompt may be begin-of-text alone, but LeftOut takes one id for no document.
            let mut fits =
                |prompt: &Prompt| left_out.fits(&prompt.place, prompt.ids.len().max(2), longest);
            all.prompts.extend(prompts.into_iter().filter(|prompt| fits(prompt)));
            if all.prompts.len() == before {
                return error(format!(
                    "none of {read} prompts has at most {longest} tokens, which batch.seq_len leaves beside an \
                     answer"
                ));
            }
            all.sources.resize(all.prompts.len(), number);
            all.labels.push(label.to_owned());
            all.left_out.push(LeftOut { source: label.to_owned(), ..left_out });
        }
        Ok(all)
    }
}
