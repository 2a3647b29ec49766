//! The rows of a cache, and the ids that each one is fed at every step.

use super::guidance::{Branch, Guidance};
use super::language_model::LanguageModel;
use super::modality::{ModalityRules, ModalityState};
use super::row::Row;
use crate::error::{Error, Result};

/// The rows that step together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All rows that have not ended.
    All,
    /// Rows outside images, or with only end-image to come.
    Text,
    /// Rows inside images.
    Image,
}

impl Phase {
    pub(super) fn contains(self, state: ModalityState) -> bool {
        let in_image = matches!(state, ModalityState::Image { remaining, .. } if remaining > 0);
        match self {
            Self::All => state != ModalityState::Done,
            Self::Text => state != ModalityState::Done && !in_image,
            Self::Image => in_image,
        }
    }
}

/// One row of the cache: a branch of a [`Row`].
struct Lane {
    row: usize,
    /// The branch's ids in place of the row's first `joins` ids.
    head: Vec<u32>,
    /// Where the branch joins the row: from here on both have the same ids.
    joins: usize,
    /// How many of the row's ids are in the cache; `None` before the first step.
    fed: Option<usize>,
}

impl Lane {
    /// The ids that are not in the cache yet.
    fn pending(&self, row: &Row) -> Vec<u32> {
        match self.fed {
            Some(fed) => row.ids[fed..].to_vec(),
            None => [&self.head, &row.ids[self.joins..]].concat(),
        }
    }
}

/// A cache and its lanes; the lanes of a row are adjacent, in the order of the branches.
pub(super) struct Lanes<C> {
    cache: C,
    lanes: Vec<Lane>,
    phase: Phase,
    guidance: Guidance,
    /// Columns of the cache in use.
    filled: usize,
    capacity: usize,
}

impl<C> Lanes<C> {
    /// An empty cache for the branches of all rows that can ever be in `phase`, with a column for
    /// every id that they can still get.
    pub(super) fn open<M: LanguageModel<Cache = C>>(
        model: &M,
        rows: &[Row],
        phase: Phase,
        guidance: Guidance,
        rules: &ModalityRules,
    ) -> Self {
        let mut lanes = Vec::new();
        let (mut longest, mut steps) = (0, 0);
        for (index, row) in rows.iter().enumerate() {
            let joining = match phase {
                Phase::Image => phase.contains(row.state),
                Phase::All | Phase::Text => row.state != ModalityState::Done,
            };
            if !joining {
                continue;
            }
            for branch in guidance.branches() {
                let joins = if *branch == Branch::Full { 0 } else { row.block_start };
                let head = branch.head(&row.ids, joins, rules);
                longest = longest.max(head.len() + row.ids.len() - joins);
                lanes.push(Lane { row: index, head, joins, fed: None });
            }
            steps = steps.max(match row.state {
                ModalityState::Image { remaining, .. } if phase == Phase::Image => remaining,
                _ => row.limit - row.ids.len(),
            });
        }
        let capacity = longest + steps;
        let cache = model.new_cache(lanes.len(), capacity);
        Self { cache, lanes, phase, guidance, filled: 0, capacity }
    }

    /// Feeds the ids that the rows of the phase got since the last step; returns the index of each
    /// such row and the logits of its branches.
    pub(super) fn step<M: LanguageModel<Cache = C>>(
        &mut self,
        model: &M,
        rows: &[Row],
        rules: &ModalityRules,
    ) -> Result<Vec<(usize, Vec<Vec<f32>>)>> {
        let mut pending = self.pending(rows);
        if self.filled + longest(&pending) > self.capacity {
            // Rows that returned from images at different times have used up the columns.
            *self = Self::open(model, rows, self.phase, self.guidance, rules);
            pending = self.pending(rows);
        }
        self.filled += longest(&pending);
        let logits = model.next_logits(&pending, &mut self.cache)?;
        if logits.len() != pending.len() {
            return Err(Error::invalid(format!(
                "the model returned logits for {} rows; {} were asked for",
                logits.len(),
                pending.len()
            )));
        }
        let mut stepped: Vec<(usize, Vec<Vec<f32>>)> = Vec::new();
        for ((lane, new), logits) in self.lanes.iter_mut().zip(pending).zip(logits) {
            if new.is_empty() {
                continue;
            }
            lane.fed = Some(rows[lane.row].ids.len());
            match stepped.last_mut() {
                Some((row, branches)) if *row == lane.row => branches.push(logits),
                _ => stepped.push((lane.row, vec![logits])),
            }
        }
        Ok(stepped)
    }

    fn pending(&self, rows: &[Row]) -> Vec<Vec<u32>> {
        let pending = |lane: &Lane| {
            let row = &rows[lane.row];
            if self.phase.contains(row.state) { lane.pending(row) } else { Vec::new() }
        };
        self.lanes.iter().map(pending).collect()
    }
}

fn longest(rows: &[Vec<u32>]) -> usize {
    rows.iter().map(Vec::len).max().unwrap_or(0)
}
