//! A packer's report, and its state in a checkpoint.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::batch::Document;
use crate::data::left_out::LeftOut;
use crate::tokenize::TokenSequence;

/// Counts of what a packer has placed and dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReport {
    /// Documents placed.
    pub documents: u64,
    /// Tokens placed.
    pub tokens: u64,
    /// Padding placed.
    pub padding: u64,
    /// Documents dropped because they are longer than a row, or hold nothing to learn within one.
    pub too_long: u64,
    /// Documents dropped because they have fewer than two tokens, so nothing to predict.
    pub too_short: u64,
    /// Length of the longest document so far, in tokens.
    pub longest: usize,
    /// By number of the source: documents, and those that are too long or too short, without the
    /// source's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

impl PackReport {
    /// Counts a document; whether it fits a row of `seq_len` tokens.
    pub(super) fn fits(&mut self, document: &Document, seq_len: usize) -> bool {
        let (len, source) = (document.tokens.ids.len(), document.source as usize);
        self.longest = self.longest.max(len);
        if self.left_out.len() <= source {
            self.left_out.resize(source + 1, LeftOut::default());
        }
        let left_out = &mut self.left_out[source];
        let mut fits = left_out.fits(&document.place, len, seq_len);
        if let Some(whole) = document.cut_from.filter(|_| fits) {
            fits = left_out.cut(&document.place, whole, document.is_learnt());
        }
        match len < 2 {
            _ if fits => {}
            true => self.too_short += 1,
            false => self.too_long += 1,
        }
        fits
    }

    /// The share of padding, 0 to 1.
    pub fn padding_share(&self) -> f64 {
        match self.tokens + self.padding {
            0 => 0.0,
            all => self.padding as f64 / all as f64,
        }
    }
}

/// A packer's state in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackerState {
    /// Counts so far.
    pub report: PackReport,
    waiting: Vec<SavedDocument>,
}

impl PackerState {
    /// The state of a packer with these `waiting` documents.
    pub(super) fn new(report: &PackReport, waiting: &VecDeque<Document>) -> Self {
        let saved = |Document { tokens, source, .. }: &Document| SavedDocument {
            ids: tokens.ids.clone(),
            mask_runs: runs(&tokens.loss_mask),
            source: *source,
        };
        Self { report: report.clone(), waiting: waiting.iter().map(saved).collect() }
    }

    /// The waiting documents, oldest first; a damaged one has fewer or more mask entries than ids.
    pub(super) fn documents(&self) -> impl ExactSizeIterator<Item = Document> {
        self.waiting.iter().map(|saved| {
            let loss_mask = unrolled(&saved.mask_runs, saved.ids.len());
            let tokens = TokenSequence { ids: saved.ids.clone(), loss_mask };
            Document { tokens, source: saved.source, ..Document::default() }
        })
    }
}

/// A waiting document; its mask as lengths of runs, the first of which is `false`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedDocument {
    ids: Vec<u32>,
    mask_runs: Vec<usize>,
    #[serde(default)]
    source: u32,
}

/// Lengths of the runs of `mask`; the first run is of `false` and may be empty.
fn runs(mask: &[bool]) -> Vec<usize> {
    let mut runs = vec![0];
    let mut value = false;
    for &flag in mask {
        if flag != value {
            runs.push(0);
            value = flag;
        }
        if let Some(run) = runs.last_mut() {
            *run += 1;
        }
    }
    runs
}

/// The mask with these runs, cut just beyond `len`: a damaged file cannot ask for unbounded memory,
/// and the lengths then disagree, which is an error.
fn unrolled(runs: &[usize], len: usize) -> Vec<bool> {
    let mut mask = Vec::with_capacity(len);
    for (n, &run) in runs.iter().enumerate() {
        mask.extend(std::iter::repeat_n(n % 2 == 1, run.min(len + 1 - mask.len().min(len + 1))));
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_masks_are_inverse() {
        for mask in [vec![], vec![true], vec![false, false, true, true, false]] {
            assert_eq!(unrolled(&runs(&mask), mask.len()), mask);
        }
        assert_eq!(unrolled(&[0, usize::MAX], 3).len(), 4);
    }
}
