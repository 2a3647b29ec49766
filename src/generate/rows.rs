//! The decoding loop, the same for one request, a batch of them, and with guidance.
//!
//! Each request is a row of ids with a [`ModalityState`] and a random stream of its own, so the
//! other rows of a batch never change what it draws. Without guidance all rows step together.
//! With it, text steps and image blocks alternate: rows that began an image wait until all
//! others did too or ended, then their blocks are drawn together, every branch of every row in
//! one batch.
//!
//! The cost of guidance: an image block has a cache of its own, prefilled with the whole row,
//! because a row and its branches must share a batch to share one pass over the weights. The text
//! cache is kept meanwhile and takes in the finished block with one call. So an image costs two
//! passes over its row beside the steps for its codes, which dominate.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::LanguageModel;
use super::config::{GenerationConfig, GenerationMode};
use super::decoder::{Decoder, Phase};
use super::generator::{EndReason, Event, Generated, Generator, Request};
use super::guidance::Guidance;
use super::modality::{ModalityRules, ModalityState};
use super::sampling;
use crate::error::{Error, Result};

/// A request on its way.
pub(super) struct Row {
    /// The prompt and what was added.
    pub(super) ids: Vec<u32>,
    /// The place of the last begin-image id.
    pub(super) block_start: usize,
    pub(super) state: ModalityState,
    /// The most ids that this row may have.
    pub(super) limit: usize,
    prompt_len: usize,
    rng: ChaCha8Rng,
    images: Vec<Codes>,
    end: EndReason,
}

impl Row {
    pub(super) fn new(
        request: &Request,
        rules: &ModalityRules,
        max_new_tokens: Option<usize>,
        context: usize,
    ) -> Result<Self> {
        let ids = request.prompt.clone();
        let state = rules.state_after(&ids)?;
        let len = ids.len();
        let image_only = rules.mode() == GenerationMode::ImageOnly;
        // An image that was asked for is completed whatever max_new_tokens says.
        let needed = match state {
            ModalityState::Text if !image_only => 1,
            _ => rules.least_to_complete(state),
        };
        if len + needed > context {
            return Err(Error::invalid(format!(
                "a prompt of {len} ids with {needed} or more to add does not fit the context of \
                 {context} ids"
            )));
        }
        let any_size = image_only && rules.blocks().are_sized();
        let budget = max_new_tokens.filter(|_| !any_size).unwrap_or(context).max(needed);
        Ok(Self {
            block_start: ids.iter().rposition(|&id| id == rules.begin_image()).unwrap_or(0),
            ids,
            state,
            limit: len.saturating_add(budget).min(context),
            prompt_len: len,
            rng: ChaCha8Rng::seed_from_u64(request.seed),
            images: Vec::new(),
            end: EndReason::Context,
        })
    }

    fn room(&self) -> usize {
        self.limit - self.ids.len()
    }
}

/// One call of [`Generator::run`].
pub(super) struct Rows<'s, 'a, M> {
    pub(super) generator: &'s Generator<'a, M>,
    pub(super) rules: ModalityRules,
    pub(super) config: &'s GenerationConfig,
    pub(super) rows: Vec<Row>,
    pub(super) on_event: &'s mut dyn FnMut(usize, Event) -> Result<()>,
}

impl<M: LanguageModel> Rows<'_, '_, M> {
    pub(super) fn run(mut self) -> Result<Vec<Generated>> {
        for index in 0..self.rows.len() {
            if !matches!(self.rows[index].state, ModalityState::Text | ModalityState::Done) {
                (self.on_event)(index, Event::ImageStart)?;
            }
        }
        let guidance = self.config.guidance();
        let mut kept = None;
        while self.rows.iter().any(|row| row.state != ModalityState::Done) {
            if guidance == Guidance::Off {
                self.decode(Phase::All, guidance, &mut kept)?;
            } else {
                self.decode(Phase::Text, Guidance::Off, &mut kept)?;
                self.decode(Phase::Image, guidance, &mut None)?;
            }
        }
        let finish = |row: Row| Generated {
            ids: row.ids[row.prompt_len..].to_vec(),
            images: row.images,
            end: row.end,
        };
        Ok(self.rows.into_iter().map(finish).collect())
    }

    /// Steps the rows of `phase` until none is left in it.
    fn decode(
        &mut self,
        phase: Phase,
        guidance: Guidance,
        decoder: &mut Option<Decoder<M::Cache>>,
    ) -> Result<()> {
        let model = self.generator.model;
        loop {
            for index in 0..self.rows.len() {
                if phase.contains(self.rows[index].state) {
                    self.settle(index)?;
                }
            }
            if !self.rows.iter().any(|row| phase.contains(row.state)) {
                return Ok(());
            }
            let open = || Decoder::open(model, &self.rows, phase, guidance, &self.rules);
            let decoder = decoder.get_or_insert_with(open);
            for (index, mut branches) in decoder.step(model, &self.rows, &self.rules)? {
                guidance.mix(&mut branches);
                self.draw(index, &mut branches[0])?;
            }
        }
    }

    /// Adds the ids that need no model, and ends the row if nothing more fits.
    fn settle(&mut self, index: usize) -> Result<()> {
        while let Some(id) = self.rules.forced(self.rows[index].state) {
            self.push(index, id)?;
        }
        let row = &self.rows[index];
        if row.state == ModalityState::Text && row.room() == 0 {
            let full = row.ids.len() == self.generator.model.context();
            self.end(index, if full { EndReason::Context } else { EndReason::MaxNewTokens })?;
        }
        Ok(())
    }

    /// Draws the row's next id from its logits.
    fn draw(&mut self, index: usize, logits: &mut [f32]) -> Result<()> {
        let row = &mut self.rows[index];
        let (state, room) = (row.state, row.room());
        let sampling = match state {
            ModalityState::Text | ModalityState::Done => &self.config.text,
            _ => &self.config.image,
        };
        sampling::allow_only(logits, |id| self.rules.allows(state, id, room));
        let id = sampling::choose(logits, &row.ids, sampling, &mut row.rng)?;
        self.push(index, id)
    }

    /// Adds `id` to the row and tells what that means.
    fn push(&mut self, index: usize, id: u32) -> Result<()> {
        let row = &mut self.rows[index];
        let before = row.state;
        row.ids.push(id);
        row.state = self.rules.advance(before, id);
        match before {
            ModalityState::Text if self.rules.is_stop(id) => self.end(index, EndReason::Stop(id)),
            ModalityState::Text if row.state != ModalityState::Text => {
                row.block_start = row.ids.len() - 1;
                (self.on_event)(index, Event::ImageStart)
            }
            ModalityState::Text => (self.on_event)(index, Event::Text(id)),
            ModalityState::Image { remaining, grid } if remaining > 0 => {
                if self.generator.vocabulary.image_code(id).is_some() {
                    let total = grid.0 * grid.1;
                    let done = total - self.rules.codes_left(remaining - 1, grid);
                    (self.on_event)(index, Event::ImageProgress { done, total })?;
                }
                if remaining == 1 { self.complete_image(index, grid) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn complete_image(&mut self, index: usize, (height, width): (usize, usize)) -> Result<()> {
        let row = &mut self.rows[index];
        let code = |&id: &u32| self.generator.vocabulary.image_code(id);
        // The ids of sizes and ends of rows stand for no code.
        let ids = row.ids[row.block_start + 1..].iter().filter_map(code).collect();
        let codes = Codes { ids, height, width };
        row.images.push(codes.clone());
        let done = row.state == ModalityState::Done;
        (self.on_event)(index, Event::Image(codes))?;
        if done { self.end(index, EndReason::ImageComplete) } else { Ok(()) }
    }

    fn end(&mut self, index: usize, reason: EndReason) -> Result<()> {
        let row = &mut self.rows[index];
        row.state = ModalityState::Done;
        row.end = reason;
        (self.on_event)(index, Event::End(reason))
    }
}
