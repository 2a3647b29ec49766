//! What a pass of the model runs: which ids of which lanes, and which logits are wanted.

use std::collections::HashSet;
use std::ops::Range;

use rayon::prelude::*;

use super::blocks::{BlockPool, Key};
use super::gang::Gang;
use super::language_model::BLOCK;
use super::modality::ModalityState;
use super::walk;
use super::window::{DraftKind, WindowPolicy};

/// Ids that a lane of a drawing request can be behind without counting as a prompt: an image's last code,
/// end-image and whatever begins the next one.
const CAUGHT_UP: usize = 8;

/// The ids that one lane is fed.
#[derive(Debug)]
pub(super) struct Feed {
    /// The request's place among the running ones.
    pub(super) gang: usize,
    pub(super) lane: usize,
    /// Tokens in the cache.
    pub(super) start: usize,
    /// The new ids, drafts included.
    pub(super) ids: Vec<u32>,
    /// How many of `ids` are drafts.
    pub(super) drafts: usize,
    /// How many rows of logits are wanted; 0 if the request does not draw in this pass.
    pub(super) wanted: usize,
    pub(super) columns: Range<usize>,
    /// Whether this is the request's prompt or part of it.
    pub(super) prompt: bool,
}

/// What bounds a pass, and where it counts what it finds.
pub(super) struct Limits<'a> {
    /// Rows per pass.
    pub(super) rows: usize,
    /// The number of ids.
    pub(super) vocabulary: usize,
    /// Counts tokens that need not be computed.
    pub(super) prefix_hits: &'a mut usize,
}

/// One pass of the model.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// By request, then by lane.
    pub(super) feeds: Vec<Feed>,
    /// Blocks that hold nothing of use any more.
    pub(super) stale: Vec<u32>,
    /// Keys of blocks that the pass computes.
    computed: HashSet<Key>,
}

impl Pass {
    /// Plans a pass: every request that draws gets its rows; guesses and then prompts, the oldest first, share
    /// what is left. At least one prompt moves on.
    pub(super) fn plan(
        gangs: &mut [Gang],
        pool: &mut BlockPool,
        policy: &WindowPolicy,
        limits: Limits<'_>,
    ) -> Self {
        let mut pass = Self::default();
        for gang in gangs.iter_mut() {
            pass.stale.extend(gang.fit_lanes(pool));
        }
        let draws: Vec<bool> = gangs.iter().map(is_caught_up).collect();
        let rows_of = |(gang, _): (&Gang, &bool)| gang.behind().sum::<usize>();
        let pending: usize =
            gangs.iter().zip(&draws).filter(|(_, draws)| **draws).map(rows_of).sum();
        let mut left = limits.rows.saturating_sub(pending);
        // A chunk of a prompt goes before guesses.
        let chunk = if draws.contains(&false) { BLOCK } else { 0 };
        let windows = windows(gangs, &draws, policy, left.saturating_sub(chunk));
        gangs
            .par_iter_mut()
            .zip(&windows)
            .filter(|(_, window)| **window > 0)
            .for_each(|(gang, window)| gang.drafts = walk::drafts(gang, *window));
        for (at, gang) in gangs.iter_mut().enumerate().filter(|(at, _)| draws[*at]) {
            left = left.saturating_sub(gang.drafts.len() * gang.lanes.len());
            pass.feed_all(at, gang, pool, limits.vocabulary, false);
        }
        if draws.contains(&false) {
            left = left.max(BLOCK);
        }
        for (at, gang) in gangs.iter_mut().enumerate().filter(|(at, _)| !draws[*at]) {
            *limits.prefix_hits += gang.share(pool);
            let next = gang.lanes[0].next_key();
            if left == 0 || next.is_some_and(|key| pass.computed.contains(key)) {
                continue;
            }
            let fed = pass.feed_prompt(at, gang, pool, limits.vocabulary, left);
            left = left.saturating_sub(fed);
        }
        pass.stale.extend(pool.take_evicted());
        pass.feeds.sort_by_key(|feed| (feed.gang, feed.lane));
        pass
    }

    /// Feeds as much of a prompt as `room` rows allow; returns how many they were.
    fn feed_prompt(
        &mut self,
        at: usize,
        gang: &mut Gang,
        pool: &mut BlockPool,
        vocabulary: usize,
        room: usize,
    ) -> usize {
        let all: usize = gang.behind().sum();
        if all <= room {
            self.feed_all(at, gang, pool, vocabulary, true);
            return all;
        }
        let mut fed = 0;
        for lane in 0..gang.lanes.len() {
            let start = gang.lanes[lane].len();
            // The last id waits for the pass in which all lanes are complete and the request draws.
            let last = gang.lanes[lane].total(gang.ids.len()) - 1;
            let aligned = (start + room - fed) / BLOCK * BLOCK;
            let end = if last <= start + room - fed { last } else { aligned };
            if end > start {
                self.feed(at, gang, lane, end, pool);
                fed += end - start;
            }
        }
        fed
    }

    /// Feeds all ids and drafts of all lanes, and asks for the logits to draw from.
    fn feed_all(
        &mut self,
        at: usize,
        gang: &mut Gang,
        pool: &mut BlockPool,
        vocabulary: usize,
        prompt: bool,
    ) {
        let columns = match gang.state {
            ModalityState::Image { .. } => gang.rules.image_columns(),
            _ => 0..vocabulary,
        };
        for lane in 0..gang.lanes.len() {
            self.feed(at, gang, lane, gang.lanes[lane].total(gang.ids.len()), pool);
            let drafts = gang.drafts.len();
            let feed = self.feeds.last_mut().expect("it was just added");
            feed.ids.extend_from_slice(&gang.drafts);
            gang.grow(lane, feed.start + feed.ids.len(), pool);
            (feed.drafts, feed.wanted) = (drafts, drafts + 1);
            (feed.columns, feed.prompt) = (columns.clone(), prompt);
        }
    }

    /// Feeds a lane's ids up to place `end`.
    fn feed(&mut self, at: usize, gang: &mut Gang, lane: usize, end: usize, pool: &mut BlockPool) {
        gang.grow(lane, end, pool);
        let of = &gang.lanes[lane];
        self.computed.extend(of.keys_between(of.len(), end));
        self.feeds.push(Feed {
            gang: at,
            lane,
            start: of.len(),
            ids: of.ids(&gang.ids, end),
            drafts: 0,
            wanted: 0,
            columns: 0..0,
            prompt: true,
        });
    }
}

/// Whether the request has drawn already and every lane lacks only ids that it drew last.
fn is_caught_up(gang: &Gang) -> bool {
    gang.position() > 0
        && gang.lanes[0].len() > 0
        && gang.behind().all(|behind| behind <= CAUGHT_UP)
}

/// How many ids each request that draws may guess, so that all guesses take at most `left` rows.
fn windows(gangs: &[Gang], draws: &[bool], policy: &WindowPolicy, left: usize) -> Vec<usize> {
    let drawing = || gangs.iter().zip(draws).filter(|(_, draws)| **draws).map(|(gang, _)| gang);
    let kind_of = |gang: &Gang| match gang.state {
        ModalityState::Image { .. } => DraftKind::Image,
        _ => DraftKind::Text,
    };
    let rows: usize = drawing().map(|gang| gang.behind().sum::<usize>()).sum();
    let is_forced =
        |gang: &Gang| kind_of(gang) == DraftKind::Text && gang.request.constraint.is_some();
    let lanes_of = |kind| -> usize {
        let guessing = drawing().filter(|gang| kind_of(gang) == kind && !is_forced(gang));
        guessing.map(|gang| gang.lanes.len()).sum()
    };
    let of_kind = |kind, left: usize| match lanes_of(kind) {
        0 => (0, left),
        lanes => {
            let window = policy.choose(kind, lanes, rows - lanes.min(rows), left / lanes);
            (window, left - window * lanes)
        }
    };
    let (image, left) = of_kind(DraftKind::Image, left);
    let (text, left) = of_kind(DraftKind::Text, left);
    // What a constraint forces is right for certain.
    let constrained = drawing().filter(|gang| is_forced(gang)).count();
    let forced = if policy.guesses() { left / constrained.max(1) } else { 0 };
    let window = |(gang, draws): (&Gang, &bool)| match (draws, kind_of(gang)) {
        (false, _) => 0,
        (true, DraftKind::Image) => image,
        (true, DraftKind::Text) if is_forced(gang) => forced,
        (true, DraftKind::Text) => text,
    };
    gangs.iter().zip(draws).map(window).collect()
}
