//! Continuations of prompts: one with events, or batches of answers and images.

use vq_tokenizer::Codes;

use super::config::GenerationConfig;
use super::language_model::LanguageModel;
use super::modality::{GenerationMode, ModalityRules};
use super::request::{Event, Generated, Request};
use super::row::Row;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::tokenize::{ImageBlocks, Vocabulary};

/// Continues prompts by a model.
#[derive(Debug)]
pub struct Generator<'a, M> {
    model: &'a M,
    vocabulary: &'a Vocabulary,
    blocks: ImageBlocks,
}

impl<'a, M: LanguageModel> Generator<'a, M> {
    /// A generator for image blocks in the layout `blocks`; rows and columns of codes alone mean
    /// Chameleon's layout.
    ///
    /// # Errors
    /// If the model has fewer logits than the vocabulary has ids, or the grid has no codes.
    pub fn new(
        model: &'a M,
        vocabulary: &'a Vocabulary,
        blocks: impl Into<ImageBlocks>,
    ) -> Result<Self> {
        let blocks = blocks.into();
        let grid = blocks.grid();
        let (logits, ids) = (model.vocab_size(), vocabulary.len());
        if logits < ids {
            return Err(Error::invalid(format!(
                "the model has {logits} logits; the vocabulary's {ids} ids need at least as many"
            )));
        }
        if grid.0 * grid.1 == 0 {
            return Err(Error::invalid(format!(
                "an image of {} x {} codes; allowed: at least one code",
                grid.0, grid.1
            )));
        }
        Ok(Self { model, vocabulary, blocks })
    }

    /// Continues one prompt; `on_event` is called after every step, and its error ends generation.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn generate(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        mut on_event: impl FnMut(Event) -> Result<()>,
    ) -> Result<Generated> {
        let request = Request { prompt: prompt.to_vec(), seed: config.seed };
        let mut generated = self.run(&[request], config, &mut |_, event| on_event(event))?;
        Ok(generated.pop().expect("one request gives one result"))
    }

    /// Continues every prompt with text only. Request `i` has the seed `config.seed + i`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn answer_batch(
        &self,
        prompts: &[Vec<u32>],
        config: &GenerationConfig,
    ) -> Result<Vec<Generated>> {
        let config = GenerationConfig { mode: GenerationMode::TextOnly, ..config.clone() };
        self.run(&seeded(prompts, config.seed), &config, &mut |_, _| Ok(()))
    }

    /// Draws one image per prompt. Request `i` has the seed `config.seed + i`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn draw_batch(
        &self,
        prompts: &[Vec<u32>],
        config: &GenerationConfig,
    ) -> Result<Vec<Codes>> {
        let config = GenerationConfig { mode: GenerationMode::ImageOnly, ..config.clone() };
        let generated = self.run(&seeded(prompts, config.seed), &config, &mut |_, _| Ok(()))?;
        Ok(generated.into_iter().flat_map(|row| row.images).collect())
    }

    /// Continues all requests in one batch; `on_event` receives the request's index with each
    /// event. Memory grows with the number of requests, so the caller chooses it.
    ///
    /// # Errors
    /// Before any computation: if `config` is out of range or a prompt is malformed;
    /// [`Error::PromptTooLong`] if one does not fit the context. Then: if the model fails or returns
    /// logits that are not finite, or with the error of `on_event`.
    pub fn run(
        &self,
        requests: &[Request],
        config: &GenerationConfig,
        on_event: &mut dyn FnMut(usize, Event) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        config.validate()?;
        let blocks = self.blocks.clone();
        let rules = ModalityRules::new(self.vocabulary, blocks, config.mode, &config.stop_ids)?;
        let context = self.model.context();
        let rows = requests
            .iter()
            .map(|request| Row::new(request, &rules, config.max_new_tokens, context))
            .collect::<Result<Vec<_>>>()?;
        let Self { model, vocabulary, .. } = *self;
        Rows { model, vocabulary, config, rules, rows, on_event }.run()
    }
}

/// Requests for `prompts` with the seeds `seed`, `seed + 1`, ...
fn seeded(prompts: &[Vec<u32>], seed: u64) -> Vec<Request> {
    let request = |(index, prompt): (u64, &Vec<u32>)| Request {
        prompt: prompt.clone(),
        seed: seed.wrapping_add(index),
    };
    (0..).zip(prompts).map(request).collect()
}
