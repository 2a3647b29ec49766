//! Rows, their branches and the cache they share: who is fed what at each step.

use super::LanguageModel;
use super::guidance::{Branch, Guidance};
use super::modality::{ModalityRules, ModalityState};
use super::rows::Row;
use crate::error::{Error, Result};

/// Which rows step together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// All that have not ended.
    All,
    /// Those outside images; those that only lack end-image are there already.
    Text,
    /// Those inside images.
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

/// One row of the cache: a branch of a request's row.
struct Lane {
    row: usize,
    /// What the branch has in place of the row's first ids.
    head: Vec<u32>,
    /// From here on the branch is the row.
    joins: usize,
    /// How many of the row's ids the cache has; `None` before the first call.
    fed: Option<usize>,
}

impl Lane {
    fn pending(&self, row: &Row) -> Vec<u32> {
        match self.fed {
            Some(fed) => row.ids[fed..].to_vec(),
            None => [&self.head, &row.ids[self.joins..]].concat(),
        }
    }
}

/// A cache and the lanes in it; the lanes of a row lie side by side, in the order of the branches.
pub(super) struct Decoder<C> {
    cache: C,
    lanes: Vec<Lane>,
    phase: Phase,
    guidance: Guidance,
    filled: usize,
    capacity: usize,
}

impl<C> Decoder<C> {
    /// An empty cache for the branches of all rows that `phase` may ever contain, with a column
    /// for every id that they can still come to.
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

    /// Feeds what the rows of the phase have got since the last call; returns, for each of them,
    /// its index and the logits of its branches.
    pub(super) fn step<M: LanguageModel<Cache = C>>(
        &mut self,
        model: &M,
        rows: &[Row],
        rules: &ModalityRules,
    ) -> Result<Vec<(usize, Vec<Vec<f32>>)>> {
        let mut pending = self.pending(rows);
        if self.filled + longest(&pending) > self.capacity {
            // Rows that came back from images at different times have used up the columns.
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
