//! What a request's last pass gave it: logits, or ids drawn from them.

use std::ops::Range;

use super::distribution::Logits;
use super::draw::Drawn;
use super::guidance::Guidance;

/// What a pass gave, for all spans or all requests.
pub(super) enum Given {
    /// `[spans][wanted][columns]`.
    Logits(Vec<Vec<Vec<f32>>>),
    /// `[requests]`, ids with their places.
    Drawn(Vec<Vec<(usize, Drawn)>>),
}

/// A request draws from them, and guesses the ids that follow.
#[derive(Debug)]
pub(super) enum LastPass {
    Logits(LastRows),
    /// Ids with their places in the request, in rising order; places whose ids are known may be missing.
    Drawn(Vec<(usize, Drawn)>),
}

/// The logits of a request's last pass.
#[derive(Debug)]
pub(super) struct LastRows {
    /// The place of the id that the first row is for.
    pub(super) from: usize,
    /// The first column's id.
    pub(super) first: u32,
    /// `[lanes][rows][columns]`.
    pub(super) logits: Vec<Vec<Vec<f32>>>,
}

impl LastPass {
    /// What was drawn for place `at`, where ids were drawn and that place was among them.
    pub(super) fn drawn(&self, at: usize) -> Option<Drawn> {
        let Self::Drawn(ids) = self else { return None };
        ids.iter().find(|(place, _)| *place == at).map(|(_, drawn)| *drawn)
    }
}

impl LastRows {
    /// The logits for place `at` of the request, mixed by `guidance`; those of the last row if `at` lies behind
    /// it.
    pub(super) fn mixed<'a>(&'a self, guidance: Guidance, at: usize) -> Logits {
        let row =
            |lane: &'a Vec<Vec<f32>>| -> &'a [f32] { &lane[(at - self.from).min(lane.len() - 1)] };
        let (full, others) = self.logits.split_first().expect("there is always a full lane");
        let mut values = row(full).to_vec();
        if guidance != Guidance::Off {
            let others: Vec<&[f32]> = others.iter().map(row).collect();
            guidance.mix(&mut values, &others);
        }
        Logits::new(self.first, values)
    }

    /// Whether they are of `lanes` lanes and have these columns.
    pub(super) fn cover(&self, columns: Range<usize>, lanes: usize) -> bool {
        let width = self.logits[0].first().map_or(0, Vec::len);
        let first = self.first as usize;
        self.logits.len() == lanes && first <= columns.start && columns.end <= first + width
    }
}
