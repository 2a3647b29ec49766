//! Continuations of prompts: one with events, or batches of answers and images.

use vq_tokenizer::Codes;

use super::config::GenerationConfig;
use super::language_model::LanguageModel;
use super::modality::GenerationMode;
use super::request::{Event, Generated, Request};
use super::window::Window;
use super::{Engine, EngineConfig};
use crate::error::Result;
use crate::tokenize::{ImageBlocks, Vocabulary};

/// Continues prompts by a model.
#[derive(Debug)]
pub struct Generator<'a, M> {
    model: &'a M,
    vocabulary: &'a Vocabulary,
    blocks: ImageBlocks,
    config: EngineConfig,
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
        let config = EngineConfig { whole_cache: false, ..EngineConfig::default() };
        Self { model, vocabulary, blocks: blocks.into(), config }.checked()
    }

    /// The same with as many ids guessed ahead as `window` says.
    #[must_use]
    pub fn with_window(mut self, window: Window) -> Self {
        self.config.window = window;
        self
    }

    /// The same with an engine within `config`.
    ///
    /// # Errors
    /// If a limit is out of range.
    pub fn with_engine(self, config: EngineConfig) -> Result<Self> {
        Self { config, ..self }.checked()
    }

    fn checked(self) -> Result<Self> {
        self.engine()?;
        Ok(self)
    }

    fn engine(&self) -> Result<Engine<'a, M>> {
        Engine::new(self.model, self.vocabulary, self.blocks.clone(), self.config.clone())
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
        let request = Request::new(prompt.to_vec(), config.clone());
        let mut generated = self.run(vec![request], &mut |_, event| on_event(event))?;
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
        self.run(seeded(prompts, &config), &mut |_, _| Ok(()))
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
        let generated = self.run(seeded(prompts, &config), &mut |_, _| Ok(()))?;
        Ok(generated.into_iter().flat_map(|row| row.images).collect())
    }

    /// Continues all requests; `on_event` receives the request's index with each event, and its error ends
    /// generation.
    ///
    /// # Errors
    /// Before any computation: if the settings of a request are out of range or its prompt is malformed;
    /// [`Error::PromptTooLong`](crate::Error::PromptTooLong) if one does not fit the context. Then: if the model fails or returns
    /// logits that are not finite, or with the error of `on_event`.
    pub fn run(
        &self,
        requests: Vec<Request>,
        on_event: &mut dyn FnMut(usize, Event) -> Result<()>,
    ) -> Result<Vec<Generated>> {
        let mut engine = self.engine()?;
        let admit = |request| engine.admit(request);
        let ids = requests.into_iter().map(admit).collect::<Result<Vec<_>>>()?;
        while !engine.is_idle() {
            for (id, event) in engine.step()? {
                match event {
                    // Its result is the error.
                    Event::Failed => drop(engine.take(id).transpose()?),
                    event => on_event(id.index(), event)?,
                }
            }
        }
        ids.into_iter().map(|id| engine.take(id).expect("every request has ended")).collect()
    }
}

/// Requests for `prompts` with the seeds `config.seed`, `config.seed + 1`, ...
fn seeded(prompts: &[Vec<u32>], config: &GenerationConfig) -> Vec<Request> {
    let request = |(index, prompt): (u64, &Vec<u32>)| {
        let seed = config.seed.wrapping_add(index);
        Request::new(prompt.clone(), GenerationConfig { seed, ..config.clone() })
    };
    (0..).zip(prompts).map(request).collect()
}
