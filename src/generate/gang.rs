//! A request in progress: its ids, its state and its lanes.

use std::sync::Arc;

use vq_tokenizer::Codes;

use super::blocks::{self, BlockPool, Key};
use super::guidance::{Branch, Guidance, GuidanceSchedule};
use super::lane::Lane;
use super::last_rows::LastPass;
use super::lookup::PromptLookup;
use super::modality::{GenerationMode, ModalityRules, ModalityState};
use super::request::{EndReason, Event, Generated, Request, RequestId};
use crate::error::{Error, Result};
use crate::tokenize::Vocabulary;

/// A request in progress. Its lanes are admitted, stepped and freed together.
#[derive(Debug)]
pub(super) struct Gang {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) rules: Arc<ModalityRules>,
    /// The prompt and everything added to it.
    pub(super) ids: Vec<u32>,
    pub(super) state: ModalityState,
    /// Guesses of the ids that follow.
    pub(super) drafts: Vec<u32>,
    /// Guesses text.
    pub(super) lookup: PromptLookup,
    /// What the last pass gave.
    pub(super) last: Option<LastPass>,
    /// The branch of the request itself first, then those of guidance.
    pub(super) lanes: Vec<Lane>,
    pub(super) end: Option<EndReason>,
    /// What happened since the events were last taken.
    pub(super) events: Vec<Event>,
    /// The guidance of the current image, or else of the next one.
    guidance: GuidanceSchedule,
    /// The position of the last begin-image id.
    block_start: usize,
    /// Maximum number of ids in the row that the context allows.
    context: usize,
    /// Maximum number of ids.
    limit: usize,
    images: Vec<Codes>,
    prompt_len: usize,
    /// Blocks that are promised and not taken.
    promised: usize,
}

impl Gang {
    /// The request before its first pass; `context` is the maximum number of ids in a lane.
    ///
    /// # Errors
    /// If the prompt or what is known of the image is malformed; [`Error::PromptTooLong`] if it leaves too
    /// little of `context`.
    pub(super) fn new(
        id: RequestId,
        request: Request,
        rules: Arc<ModalityRules>,
        context: usize,
    ) -> Result<Self> {
        let ids = request.prompt.clone();
        let state = rules.state_after(&ids)?;
        let len = ids.len();
        let image_only = rules.mode() == GenerationMode::ImageOnly;
        let block_start = ids.iter().rposition(|&id| Some(id) == rules.begin_image()).unwrap_or(0);
        let open = !matches!(state, ModalityState::Text | ModalityState::Done);
        let before_image = if open { &ids[..block_start] } else { &ids[..] };
        // A longer prompt than the row's needs more of the context in its branch.
        let is_guided = request.config.guidance().branches().len() > 1;
        let longer = match rules.mode() {
            // An image that the prompt has begun is completed, whatever the mode.
            GenerationMode::TextOnly if !open => 0,
            _ if !is_guided => 0,
            _ => request.negative.len().saturating_sub(before_image.len()),
        };
        // A requested image is completed regardless of max_new_tokens.
        let needed = match state {
            ModalityState::Text if !image_only => 1,
            _ => rules.least_to_complete(state),
        };
        if len + longer + needed > context {
            return Err(Error::PromptTooLong { prompt: len + longer, needed, context });
        }
        let context = context - longer;
        check_kept(&request.kept, &rules, state)?;
        let is_sized = !rules.blocks().are_sized() || matches!(state, ModalityState::Image { .. });
        let budget = match (image_only, is_sized) {
            (true, true) => needed,
            (true, false) => context,
            _ => request.config.max_new_tokens.unwrap_or(context).max(needed),
        };
        let limit = len.saturating_add(budget).min(context);
        let mut gang = Self {
            id,
            guidance: request.config.guidance().after(before_image, &rules),
            lanes: vec![Lane::new(Branch::Full, &ids, 0, &rules, &[])],
            block_start,
            context,
            limit,
            prompt_len: len,
            ids,
            state,
            drafts: Vec::new(),
            lookup: PromptLookup::default(),
            last: None,
            end: None,
            events: Vec::new(),
            images: Vec::new(),
            promised: 0,
            request,
            rules,
        };
        if open && !matches!(state, ModalityState::Image { remaining: 0, .. }) {
            gang.events.push(Event::ImageStart);
        }
        Ok(gang)
    }

    /// The number of blocks that the request can ever need at once.
    pub(super) fn needed_blocks(&self) -> usize {
        let images = !matches!(self.state, ModalityState::Text)
            || (self.rules.mode() != GenerationMode::TextOnly && self.request.constraint.is_none());
        let branches = match self.rules.mode() {
            _ if !images => &[Branch::Full],
            GenerationMode::ImageOnly => self.guidance.branches(),
            // The images of this row count as those of a prompt for later ones.
            _ => self.request.config.guidance().branches(),
        };
        let negative = self.request.negative.len();
        let before =
            if self.state == ModalityState::Text { self.ids.len() } else { self.block_start };
        let of_branch = |branch: &Branch| match branch {
            Branch::Nothing if !self.rules.blocks().are_sized() => {
                let (height, width) = self.rules.blocks().grid();
                blocks::blocks_for(height * width + 1 + negative.max(1))
            }
            // The branch has the negative prompt in place of what is before the image.
            Branch::Nothing => blocks::blocks_for(self.limit + negative.saturating_sub(before)),
            _ => blocks::blocks_for(self.limit),
        };
        branches.iter().map(of_branch).sum()
    }

    /// Notes that `blocks` are promised to the request.
    pub(super) fn promise(&mut self, blocks: usize) {
        self.promised += blocks;
    }

    /// Makes the first lane share the beginnings of prompts under `root`.
    pub(super) fn share_under(&mut self, root: &Key) {
        let Self { lanes, ids, prompt_len, .. } = self;
        lanes[0].set_keys(root, &ids[..*prompt_len]);
    }

    /// Takes over blocks of other prompts with the same beginning; returns the number of tokens.
    pub(super) fn share(&mut self, pool: &mut BlockPool) -> usize {
        let shared = self.lanes[0].share(pool);
        self.promised -= shared;
        shared * super::language_model::BLOCK
    }

    /// Takes promised blocks until `tokens` fit in lane `lane`.
    pub(super) fn grow(&mut self, lane: usize, tokens: usize, pool: &mut BlockPool) {
        self.promised -= self.lanes[lane].grow(tokens, pool);
    }

    /// Opens and closes the lanes of guidance as the state asks for; returns blocks that hold nothing of use any
    /// more.
    pub(super) fn fit_lanes(&mut self, pool: &mut BlockPool) -> Vec<u32> {
        let guided = match self.state {
            ModalityState::Image { remaining, grid } if remaining > 0 => {
                let total = grid.0 * grid.1;
                let done = total - self.rules.blocks().codes_left(remaining, grid);
                self.guidance.needed(total).contains(&done)
            }
            _ => false,
        };
        let mut stale = Vec::new();
        if guided && self.lanes.len() == 1 {
            let Self { guidance, lanes, ids, block_start, rules, request, .. } = self;
            let others = guidance.branches().iter().skip(1);
            lanes.extend(
                others
                    .map(|branch| Lane::new(*branch, ids, *block_start, rules, &request.negative)),
            );
        } else if !guided {
            for mut lane in self.lanes.drain(1..) {
                let (blocks, unused) = lane.close(pool);
                assert!(pool.promise(blocks), "blocks that were left can be promised");
                self.promised += blocks;
                stale.extend(unused);
            }
        }
        stale
    }

    /// Ends the request and leaves all that it has of the cache; returns blocks that hold nothing of use any more.
    pub(super) fn close(&mut self, pool: &mut BlockPool) -> Vec<u32> {
        pool.release_promise(std::mem::take(&mut self.promised));
        self.lanes.iter_mut().flat_map(|lane| lane.close(pool).1).collect()
    }

    /// How many ids of each lane are not in the cache yet, drafts left out.
    pub(super) fn behind(&self) -> impl Iterator<Item = usize> + '_ {
        self.lanes.iter().map(|lane| lane.total(self.ids.len()) - lane.len())
    }

    /// How many more ids the request may have.
    pub(super) fn available(&self) -> usize {
        self.limit - self.ids.len()
    }

    /// The place of the next id among the new ones, which is that of its noise.
    pub(super) fn position(&self) -> usize {
        self.ids.len() - self.prompt_len
    }

    /// The guidance of the id that follows in `state`.
    pub(super) fn guidance_in(&self, state: ModalityState) -> Guidance {
        match state {
            ModalityState::Image { remaining, grid } if remaining > 0 => {
                let total = grid.0 * grid.1;
                self.guidance.at(total - self.rules.blocks().codes_left(remaining, grid), total)
            }
            _ => Guidance::Off,
        }
    }

    /// Whether the lanes that are open are those that the id after `state` needs, or more.
    pub(super) fn has_lanes_for(&self, state: ModalityState) -> bool {
        self.lanes.len() > 1 || self.guidance_in(state) == Guidance::Off
    }

    /// The id that follows whatever the model says, if the rules or the request name it, in `state` with
    /// `images` complete.
    pub(super) fn known(&self, state: ModalityState) -> Option<u32> {
        if let Some(id) = self.rules.forced(state) {
            return Some(id);
        }
        match state {
            ModalityState::Image { remaining, grid } if self.images.is_empty() => {
                let done = grid.0 * grid.1 - self.rules.blocks().codes_left(remaining, grid);
                self.request.kept.get(done).copied().flatten()
            }
            _ => None,
        }
    }

    /// Adds the ids that need no model, and ends the request if nothing more fits.
    ///
    /// # Errors
    /// Those of the request's constraint.
    pub(super) fn settle(&mut self, vocabulary: &Vocabulary) -> Result<()> {
        while self.end.is_none() {
            match self.known(self.state) {
                Some(id) => self.push(id, vocabulary)?,
                None => break,
            }
        }
        if self.end.is_none() && self.state == ModalityState::Text && self.available() == 0 {
            let full = self.ids.len() == self.context;
            self.end(if full { EndReason::Context } else { EndReason::MaxNewTokens });
        }
        Ok(())
    }

    /// Adds `id` and notes what it completes.
    ///
    /// # Errors
    /// Those of the request's constraint.
    pub(super) fn push(&mut self, id: u32, vocabulary: &Vocabulary) -> Result<()> {
        let before = self.state;
        self.ids.push(id);
        self.state = self.rules.advance(before, id);
        match before {
            ModalityState::Text | ModalityState::LastImage if self.rules.is_stop(id) => {
                self.end(EndReason::Stop(id));
            }
            ModalityState::Text if self.state != ModalityState::Text => {
                self.block_start = self.ids.len() - 1;
                let row = &self.ids[..self.block_start];
                self.guidance = self.request.config.guidance().after(row, &self.rules);
                self.events.push(Event::ImageStart);
            }
            ModalityState::Text => return self.push_text(id),
            ModalityState::Image { remaining, grid } if remaining > 0 => {
                if let Some(code) = vocabulary.image_code(id) {
                    let (total, width) = (grid.0 * grid.1, grid.1);
                    let done = total - self.rules.blocks().codes_left(remaining - 1, grid);
                    self.events.push(Event::ImageProgress { code, done, total, width });
                }
                if remaining == 1 {
                    self.complete_image(grid, vocabulary);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push_text(&mut self, id: u32) -> Result<()> {
        self.events.push(Event::Text(id));
        if let Some(constraint) = &mut self.request.constraint {
            constraint.accept(id)?;
        }
        if let Some(number) = self.request.stop.as_mut().and_then(|stop| stop.push(id)) {
            self.end(EndReason::StopString(number));
        }
        Ok(())
    }

    fn complete_image(&mut self, (height, width): (usize, usize), vocabulary: &Vocabulary) {
        let code = |&id: &u32| vocabulary.image_code(id);
        // Ids of sizes and line ends stand for no code.
        let ids = self.ids[self.block_start + 1..].iter().filter_map(code).collect();
        let codes = Codes { ids, height, width };
        self.images.push(codes.clone());
        self.events.push(Event::Image(codes));
        if let Some(stop) = &mut self.request.stop {
            stop.flush();
        }
        if self.state == ModalityState::Done {
            self.end(EndReason::ImageComplete);
        }
    }

    /// Ends the request.
    pub(super) fn end(&mut self, reason: EndReason) {
        self.state = ModalityState::Done;
        self.end = Some(reason);
        self.events.push(Event::End(reason));
    }

    /// The continuation of the prompt.
    pub(super) fn finish(self) -> Generated {
        let end = self.end.unwrap_or(EndReason::Cancelled);
        Generated { ids: self.ids[self.prompt_len..].to_vec(), images: self.images, end }
    }
}

fn check_kept(kept: &[Option<u32>], rules: &ModalityRules, state: ModalityState) -> Result<()> {
    if kept.is_empty() {
        return Ok(());
    }
    let (rows, columns) = match state {
        ModalityState::Image { grid, .. } => grid,
        _ if !rules.blocks().are_sized() => rules.blocks().grid(),
        _ => {
            return Err(Error::invalid(
                "codes are kept in an image whose size is not known; the prompt must open the image \
                 block and name both sides",
            ));
        }
    };
    if kept.len() != rows * columns {
        let given = kept.len();
        return Err(Error::invalid(format!(
            "{given} codes are given or left open; the image has {rows} x {columns}"
        )));
    }
    match kept.iter().flatten().find(|&&id| !rules.is_image(id)) {
        Some(id) => Err(Error::invalid(format!("the kept id {id} is no image id"))),
        None => Ok(()),
    }
}
