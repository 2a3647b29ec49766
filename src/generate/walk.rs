//! Drawing with guesses ahead, exactly (arXiv 2002.09928: fixed-point iteration of a sampler).
//!
//! The id at a position is a function of the ids before it: of the logits there, the settings and the noise of
//! the position. So guesses of the next ids can be run in one pass and kept while each is what that
//! function gives; the first one that differs is itself right, because everything before it was. Whatever
//! is guessed, the result is that of one id per pass; good guesses only save passes.

use super::distribution::{Distribution, Logits};
use super::gang::Gang;
use super::last_rows::LastPass;
use super::modality::ModalityState;
use super::request::{EndReason, Event};
use super::stats::EngineStats;
use super::window::{DraftKind, WindowPolicy};
use crate::error::Result;
use crate::tokenize::Vocabulary;

/// What a walk has done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    kind: DraftKind,
    guessed: usize,
    kept: usize,
    drawn: usize,
    /// Whether ids may have been kept that were no guesses: known beforehand, or text under a constraint.
    any_known: bool,
}

impl Walked {
    /// Counts the walk; those that follow a prompt have nothing guessed.
    pub(super) fn record(self, prompt: bool, policy: &mut WindowPolicy, stats: &mut EngineStats) {
        let (passes, ids) = match self.kind {
            DraftKind::Image => (&mut stats.image_passes, &mut stats.image_ids),
            DraftKind::Text => (&mut stats.text_passes, &mut stats.text_ids),
        };
        *ids += self.drawn;
        if !prompt {
            *passes += 1;
            if !self.any_known {
                policy.record_walk(self.kind, self.guessed, self.kept);
            }
        }
    }
}

/// Takes the next ids from what the `last` pass gave after the last id and the drafts, as far as the drafts were right,
/// and frees the cache of what was not.
///
/// # Errors
/// If logits are not finite or leave no id, or with the error of the constraint.
pub(super) fn walk(gang: &mut Gang, last: LastPass, vocabulary: &Vocabulary) -> Result<Walked> {
    let kind = match gang.state {
        ModalityState::Image { .. } => DraftKind::Image,
        _ => DraftKind::Text,
    };
    let drafts = std::mem::take(&mut gang.drafts);
    let before = gang.ids.len();
    let constrained = kind == DraftKind::Text && gang.request.constraint.is_some();
    let (mut kept, mut any_known) = (0, constrained);
    while gang.end.is_none() {
        let id = match gang.known(gang.state) {
            Some(id) => {
                any_known = true;
                id
            }
            None => match next(gang, &last, drafts.get(kept).copied())? {
                Some(id) => id,
                None => break,
            },
        };
        gang.push(id, vocabulary)?;
        if drafts.get(kept) != Some(&id) {
            break;
        }
        kept += 1;
    }
    for lane in &mut gang.lanes {
        lane.keep(lane.len() + kept);
    }
    let drawn = gang.ids.len() - before;
    gang.last = Some(last);
    if kind == DraftKind::Text && !constrained {
        gang.lookup.record(drafts.len(), kept);
    }
    Ok(Walked { kind, guessed: drafts.len(), kept, drawn, any_known })
}

/// The next id, guessed as `guess`; `None` if a constraint is fulfilled and ends the request.
fn next(gang: &mut Gang, last: &LastPass, guess: Option<u32>) -> Result<Option<u32>> {
    let at = gang.ids.len();
    match last {
        LastPass::Logits(rows) => draw(gang, rows.mixed(gang.guidance_in(gang.state), at), guess),
        LastPass::Drawn(_) => {
            let drawn = last.drawn(at).expect("an id is drawn for every place that is not known");
            Ok(Some(drawn?))
        }
    }
}

/// Draws the next id, as [`next`].
fn draw(gang: &mut Gang, logits: Logits, guess: Option<u32>) -> Result<Option<u32>> {
    let state = gang.state;
    let told = gang.request.logprobs.filter(|_| state == ModalityState::Text);
    let own = told.map(|most| (logits.clone(), most));
    let Some(logits) = allowed(gang, logits)? else { return Ok(None) };
    let id = choose(gang, &logits, state, gang.ids.len(), guess)?;
    if let Some((own, most)) = own.filter(|_| gang.rules.is_text(id) && !gang.rules.is_stop(id)) {
        gang.events.push(Event::Logprobs(own.logprobs(id, most)));
    }
    Ok(Some(id))
}

/// `logits` with the ids that may follow; `None` if a constraint is fulfilled and ends the request.
fn allowed(gang: &mut Gang, mut logits: Logits) -> Result<Option<Logits>> {
    let (state, available) = (gang.state, gang.available());
    if let (ModalityState::Text, Some(constraint)) = (state, &mut gang.request.constraint) {
        let (allowed, may_end) = (constraint.allowed()?, constraint.may_end());
        let fits = |id: u32| allowed.get(id as usize).copied().unwrap_or(false);
        let rules = &gang.rules;
        logits.allow_only(|id| {
            rules.allows(state, id, available) && if rules.is_stop(id) { may_end } else { fits(id) }
        });
        if may_end && !allowed.contains(&true) {
            gang.end(EndReason::Constraint);
            return Ok(None);
        }
    } else {
        logits.allow_only(|id| gang.rules.allows(state, id, available));
    }
    Ok(Some(logits))
}

/// Chooses the id at place `at` of the request among those that are left; `guess` if it is near enough.
fn choose(
    gang: &Gang,
    logits: &Logits,
    state: ModalityState,
    at: usize,
    guess: Option<u32>,
) -> Result<u32> {
    let config = &gang.request.config;
    let is_text = state == ModalityState::Text;
    let sampling = if is_text { &config.text } else { &config.image };
    let position = gang.position() + at - gang.ids.len();
    let distribution = Distribution::new(logits, &gang.ids, sampling)?;
    Ok(match guess {
        Some(guess) if !is_text && config.guess_slack > 0.0 => {
            distribution.draw_near(guess, config.guess_slack, config.seed, position)
        }
        _ => distribution.draw(config.seed, position),
    })
}

/// Guesses of the next ids, at most `window` of them.
pub(super) fn drafts(gang: &mut Gang, window: usize) -> Vec<u32> {
    match gang.state {
        // The row of the last code is of no use: end-image follows, or nothing.
        ModalityState::Image { remaining, .. } if remaining > 0 => {
            guessed_image(gang, window.min(remaining - 1))
        }
        ModalityState::Text => {
            let window = window.min(gang.available().saturating_sub(1));
            let mut drafts = match &mut gang.request.constraint {
                Some(constraint) => constraint.forced(),
                None => gang.lookup.drafts(&gang.ids, |id| gang.rules.is_text(id)),
            };
            drafts.truncate(window);
            drafts
        }
        _ => Vec::new(),
    }
}

/// Guesses ids of an image: what is known, else what the last pass gives for the place, or for the place after
/// its last row with the noise of this one.
fn guessed_image(gang: &Gang, window: usize) -> Vec<u32> {
    let mut state = gang.state;
    let mut drafts = Vec::with_capacity(window);
    let columns = gang.rules.image_columns();
    let Some(last) = &gang.last else {
        return drafts;
    };
    let given = |state, at| match last {
        LastPass::Logits(rows) if rows.cover(columns.clone(), gang.lanes.len()) => {
            let mut logits = rows.mixed(gang.guidance_in(state), at);
            logits.allow_only(|id| gang.rules.allows(state, id, usize::MAX));
            choose(gang, &logits, state, at, None).ok()
        }
        LastPass::Logits(_) => None,
        LastPass::Drawn(_) => last.drawn(at)?.ok().filter(|&id| gang.rules.is_image(id)),
    };
    while drafts.len() < window {
        let at = gang.ids.len() + drafts.len();
        let Some(id) = gang.known(state).or_else(|| given(state, at)) else { break };
        state = gang.rules.advance(state, id);
        if !gang.has_lanes_for(state) {
            break;
        }
        drafts.push(id);
    }
    drafts
}
