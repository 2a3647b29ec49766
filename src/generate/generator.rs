//! What can be asked of a model: one continuation with events, or batches of answers and images.

use vq_tokenizer::Codes;

use super::LanguageModel;
use super::config::{GenerationConfig, GenerationMode};
use super::modality::ModalityRules;
use super::rows::{Row, Rows};
use crate::error::{Error, Result};
use crate::tokenize::{ImageBlocks, Vocabulary};

/// What happened to a row, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A text id was drawn.
    Text(u32),
    /// An image was begun.
    ImageStart,
    /// An image id was drawn.
    ImageProgress {
        /// Codes that the image has by now.
        done: usize,
        /// Codes that it will have.
        total: usize,
    },
    /// An image was completed.
    Image(Codes),
    /// The row ended.
    End(EndReason),
}

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// This stop id was drawn; it is the row's last id.
    Stop(u32),
    /// The request's `max_new_tokens` were drawn.
    MaxNewTokens,
    /// The model's context is full.
    Context,
    /// The one image of [`GenerationMode::ImageOnly`] is complete.
    ImageComplete,
}

/// A prompt and the seed of its random stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Ids from begin-of-text on; may end inside an image block.
    pub prompt: Vec<u32>,
    /// Seed of all draws for this request.
    pub seed: u64,
}

/// What was added to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// All new ids, the stop id included.
    pub ids: Vec<u32>,
    /// The images completed, in order.
    pub images: Vec<Codes>,
    /// Why it ended.
    pub end: EndReason,
}

/// Draws continuations of prompts from a model.
#[derive(Debug)]
pub struct Generator<'a, M> {
    pub(super) model: &'a M,
    pub(super) vocabulary: &'a Vocabulary,
    blocks: ImageBlocks,
}

impl<'a, M: LanguageModel> Generator<'a, M> {
    /// A generator for images in the form `blocks`; Chameleon's is given by their rows and columns of
    /// codes alone.
    ///
    /// # Errors
    /// When the model has fewer logits than the vocabulary has ids, or the grid has no codes.
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

    /// Continues one prompt; `on_event` hears of every step at once, and its error ends the work.
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

    /// Continues every request in one batch; `on_event` receives the request's index with each
    /// event. Memory grows with the number of requests, so the caller chooses it.
    ///
    /// # Errors
    /// When `config` is out of range or a prompt is malformed or too long (before any
    /// computation), when the model fails or returns logits that are no numbers, or with the
    /// error of `on_event`.
    pub fn run(
        &self,
        requests: &[Request],
        config: &GenerationConfig,
        on_event: &mut dyn FnMut(usize, Event) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        config.validate()?;
        let rules = ModalityRules::new(self.vocabulary, self.blocks.clone(), config)?;
        let context = self.model.context();
        let rows = requests
            .iter()
            .map(|request| Row::new(request, &rules, config.max_new_tokens, context))
            .collect::<Result<Vec<_>>>()?;
        Rows { generator: self, rules, config, rows, on_event }.run()
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
