//! The decoding loop, the same for one request, a batch of them, and with guidance.
//!
//! Each request is a [`Row`] with its own [`ModalityState`] and random stream, so the other rows
//! of a batch never change what it draws. Without guidance all rows step together. With guidance,
//! text and image blocks alternate: rows that began an image wait until all others began one or
//! ended, then their blocks are drawn together, every branch of every row in one batch.
//!
//! The cost of guidance: an image block has its own cache, prefilled with the whole row, because a
//! row and its branches must share a batch to share one pass over the weights. The text cache is
//! kept meanwhile and takes in the finished block in one call. So an image costs two passes over
//! its row in addition to the steps for its codes, which dominate.

use vq_tokenizer::Codes;

use super::config::GenerationConfig;
use super::guidance::Guidance;
use super::lanes::{Lanes, Phase};
use super::language_model::LanguageModel;
use super::modality::{ModalityRules, ModalityState};
use super::request::{EndReason, Event, Generated};
use super::row::Row;
use super::sampling;
use crate::error::Result;
use crate::tokenize::Vocabulary;

/// The rows of one call of [`Generator::run`](super::Generator::run).
pub(super) struct Rows<'a, M> {
    pub(super) model: &'a M,
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) config: &'a GenerationConfig,
    pub(super) rules: ModalityRules,
    pub(super) rows: Vec<Row>,
    pub(super) on_event: &'a mut dyn FnMut(usize, Event) -> Result<()>,
}

impl<M: LanguageModel> Rows<'_, M> {
    /// Continues every row to its end.
    pub(super) fn run(mut self) -> Result<Vec<Generated>> {
        for index in 0..self.rows.len() {
            if !matches!(self.rows[index].state, ModalityState::Text | ModalityState::Done) {
                (self.on_event)(index, Event::ImageStart)?;
            }
        }
        let guidance = self.config.guidance();
        let mut text_lanes = None;
        while self.rows.iter().any(|row| row.state != ModalityState::Done) {
            if guidance == Guidance::Off {
                self.decode(Phase::All, guidance, &mut text_lanes)?;
            } else {
                self.decode(Phase::Text, Guidance::Off, &mut text_lanes)?;
                self.decode(Phase::Image, guidance, &mut None)?;
            }
        }
        Ok(self.rows.into_iter().map(Row::finish).collect())
    }

    /// Steps the rows of `phase` until none is left in it; opens `lanes` if need be.
    fn decode(
        &mut self,
        phase: Phase,
        guidance: Guidance,
        lanes: &mut Option<Lanes<M::Cache>>,
    ) -> Result<()> {
        let model = self.model;
        loop {
            for index in 0..self.rows.len() {
                if phase.contains(self.rows[index].state) {
                    self.settle(index)?;
                }
            }
            if !self.rows.iter().any(|row| phase.contains(row.state)) {
                return Ok(());
            }
            let open = || Lanes::open(model, &self.rows, phase, guidance, &self.rules);
            let lanes = lanes.get_or_insert_with(open);
            for (index, mut branches) in lanes.step(model, &self.rows, &self.rules)? {
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
        if row.state == ModalityState::Text && row.available() == 0 {
            let full = row.ids.len() == self.model.context();
            self.end(index, if full { EndReason::Context } else { EndReason::MaxNewTokens })?;
        }
        Ok(())
    }

    /// Draws the row's next id from its logits.
    fn draw(&mut self, index: usize, logits: &mut [f32]) -> Result<()> {
        let row = &mut self.rows[index];
        let (state, available) = (row.state, row.available());
        let sampling = match state {
            ModalityState::Text | ModalityState::Done => &self.config.text,
            _ => &self.config.image,
        };
        sampling::allow_only(logits, |id| self.rules.allows(state, id, available));
        let id = sampling::choose(logits, &row.ids, sampling, &mut row.rng)?;
        self.push(index, id)
    }

    /// Adds `id` to the row and reports what it completes.
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
                if self.vocabulary.image_code(id).is_some() {
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
        let code = |&id: &u32| self.vocabulary.image_code(id);
        // Ids of sizes and line ends stand for no code.
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
