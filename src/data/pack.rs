//! Packs documents into rows of equal length; neither images nor documents are ever cut.
//!
//! A row holds the oldest document that waits and, among the next ones, the subset that fills it
//! best. The documents that wait are few (about a quarter of a batch) and part of the packer's
//! [state](PackerState), so that a resumed run packs exactly as an uninterrupted one.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::tokenize::TokenSequence;
use crate::{Error, Result};

/// Among how many of the oldest documents a row chooses.
const WINDOW: usize = 128;

/// Documents in a row that may be refused for their length before the run is stopped.
const MAX_REFUSED_IN_A_ROW: usize = 1000;

/// What is packed: token ids, and where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The ids and their targets.
    pub tokens: TokenSequence,
    /// A number for the source, for losses by source.
    pub source: u32,
}

impl From<TokenSequence> for Document {
    fn from(tokens: TokenSequence) -> Self {
        Self { tokens, source: 0 }
    }
}

/// Rows of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[rows, seq_len]` row-major; padding holds the pad id.
    pub ids: Vec<u32>,
    /// Which document of its row a token belongs to, from 1; 0 is padding. `[rows, seq_len]`
    pub document_ids: Vec<u32>,
    /// Position of the token in its document, from 0; 0 for padding. `[rows, seq_len]`
    pub positions: Vec<u32>,
    /// Whether the loss counts this token as a target (of the token before it). Never for the
    /// first token of a document, nor for padding. `[rows, seq_len]`
    pub loss_mask: Vec<bool>,
    /// The number of each token's source; 0 for padding. `[rows, seq_len]`
    pub sources: Vec<u32>,
    /// Number of rows.
    pub rows: usize,
    /// Tokens in a row.
    pub seq_len: usize,
}

impl PackedBatch {
    fn padding(rows: usize, seq_len: usize, pad: u32) -> Self {
        let len = rows * seq_len;
        Self {
            ids: vec![pad; len],
            document_ids: vec![0; len],
            positions: vec![0; len],
            loss_mask: vec![false; len],
            sources: vec![0; len],
            rows,
            seq_len,
        }
    }

    /// Writes a document at `start`, all in one row.
    fn place(&mut self, start: usize, number: u32, Document { tokens, source }: &Document) {
        let len = tokens.ids.len();
        self.ids[start..start + len].copy_from_slice(&tokens.ids);
        self.document_ids[start..start + len].fill(number);
        self.sources[start..start + len].fill(*source);
        self.loss_mask[start + 1..start + len].copy_from_slice(&tokens.loss_mask[1..]);
        for (position, slot) in (0..).zip(&mut self.positions[start..start + len]) {
            *slot = position;
        }
    }

    /// Tokens that are no padding.
    pub fn num_tokens(&self) -> usize {
        self.document_ids.iter().filter(|&&document| document != 0).count()
    }

    /// The share of padding, from 0 to 1.
    pub fn padding_share(&self) -> f64 {
        1.0 - self.num_tokens() as f64 / self.ids.len() as f64
    }
}

/// What a packer has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReport {
    /// Documents placed.
    pub documents: u64,
    /// Tokens placed.
    pub tokens: u64,
    /// Padding placed.
    pub padding: u64,
    /// Documents dropped because they are longer than a row.
    pub too_long: u64,
    /// Documents dropped because fewer than two tokens leave nothing to predict.
    pub too_short: u64,
    /// The longest document met, in tokens.
    pub longest: usize,
}

impl PackReport {
    /// The share of padding, from 0 to 1.
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
    /// What was done so far.
    pub report: PackReport,
    waiting: Vec<SavedDocument>,
}

/// A document that waits; its mask as lengths of runs, the first of which is `false`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedDocument {
    ids: Vec<u32>,
    mask_runs: Vec<usize>,
    #[serde(default)]
    source: u32,
}

/// Packs documents into batches.
#[derive(Clone, Debug)]
pub struct Packer {
    rows: usize,
    seq_len: usize,
    pad: u32,
    /// Documents that wait, the oldest first.
    waiting: VecDeque<Document>,
    num_waiting_tokens: usize,
    refused_in_a_row: usize,
    report: PackReport,
}

impl Packer {
    /// A packer for batches of `rows` by `seq_len` tokens, filled up with the id `pad`.
    ///
    /// # Errors
    /// When `rows` is 0 or `seq_len` is below 2.
    pub fn new(rows: usize, seq_len: usize, pad: u32) -> Result<Self> {
        if rows == 0 || seq_len < 2 {
            return Err(Error::invalid(format!(
                "cannot pack batches of {rows} rows by {seq_len} tokens; allowed are 1 row and 2 \
                 tokens or more"
            )));
        }
        Ok(Self {
            rows,
            seq_len,
            pad,
            waiting: VecDeque::new(),
            num_waiting_tokens: 0,
            refused_in_a_row: 0,
            report: PackReport::default(),
        })
    }

    /// The next batch; takes documents from `next` as needed. When `next` has no more, the rest
    /// is packed, and `None` follows.
    ///
    /// # Errors
    /// Those of `next`; a mask that does not fit its ids; or when only documents longer than a
    /// row keep coming.
    pub fn batch(
        &mut self,
        mut next: impl FnMut() -> Result<Option<Document>>,
    ) -> Result<Option<PackedBatch>> {
        // so much more than a batch that its last row still has a choice
        let wanted = self.rows * self.seq_len + (self.rows / 4).max(4) * self.seq_len;
        while self.num_waiting_tokens < wanted {
            match next()? {
                Some(document) => self.push(document)?,
                None => break,
            }
        }
        Ok((!self.waiting.is_empty()).then(|| self.pack()))
    }

    /// What was done so far.
    pub fn report(&self) -> &PackReport {
        &self.report
    }

    /// The state from which [`restore`](Self::restore) goes on exactly.
    pub fn state(&self) -> PackerState {
        let waiting = self.waiting.iter().map(|Document { tokens, source }| SavedDocument {
            ids: tokens.ids.clone(),
            mask_runs: runs(&tokens.loss_mask),
            source: *source,
        });
        PackerState { report: self.report.clone(), waiting: waiting.collect() }
    }

    /// Goes on from `state`.
    ///
    /// # Errors
    /// When a document in it does not fit this packer's rows, or is damaged.
    pub fn restore(&mut self, state: &PackerState) -> Result<()> {
        let mut fresh = Self::new(self.rows, self.seq_len, self.pad)?;
        for saved in &state.waiting {
            let loss_mask = unrolled(&saved.mask_runs, saved.ids.len());
            let tokens = TokenSequence { ids: saved.ids.clone(), loss_mask };
            fresh.push(Document { tokens, source: saved.source })?;
        }
        if fresh.waiting.len() != state.waiting.len() {
            return Err(Error::invalid(format!(
                "the saved packer holds documents of up to {} tokens; rows have {} now",
                fresh.report.longest, self.seq_len
            )));
        }
        fresh.report = state.report.clone();
        *self = fresh;
        Ok(())
    }

    fn push(&mut self, document: Document) -> Result<()> {
        let len = document.tokens.ids.len();
        if document.tokens.loss_mask.len() != len {
            let masked = document.tokens.loss_mask.len();
            let message = format!("a document of {len} tokens has a loss mask of {masked}");
            return Err(Error::invalid(message));
        }
        self.report.longest = self.report.longest.max(len);
        if len < 2 || len > self.seq_len {
            return self.refuse(len);
        }
        self.refused_in_a_row = 0;
        self.num_waiting_tokens += len;
        self.waiting.push_back(document);
        Ok(())
    }

    fn refuse(&mut self, len: usize) -> Result<()> {
        match len < 2 {
            true => self.report.too_short += 1,
            false => self.report.too_long += 1,
        }
        self.refused_in_a_row += 1;
        if self.refused_in_a_row < MAX_REFUSED_IN_A_ROW {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{MAX_REFUSED_IN_A_ROW} documents in a row do not fit a row of {} tokens (the last \
             has {len}); raise batch.seq_len",
            self.seq_len
        )))
    }

    fn pack(&mut self) -> PackedBatch {
        let mut batch = PackedBatch::padding(self.rows, self.seq_len, self.pad);
        let before = self.report.tokens;
        for row in 0..self.rows {
            let (start, mut used, mut number) = (row * self.seq_len, 0, 0);
            for document in self.take_row() {
                number += 1;
                batch.place(start + used, number, &document);
                used += document.tokens.len();
            }
            self.report.documents += u64::from(number);
            self.report.tokens += used as u64;
        }
        self.report.padding += batch.ids.len() as u64 - (self.report.tokens - before);
        batch
    }

    /// Takes the documents of one row, in the order in which they came.
    fn take_row(&mut self) -> Vec<Document> {
        let window = self.waiting.len().min(WINDOW);
        let lens: Vec<usize> = self.waiting.iter().take(window).map(|d| d.tokens.len()).collect();
        let chosen = fullest(&lens, self.seq_len);
        let mut row = Vec::with_capacity(chosen.len());
        let mut left = Vec::with_capacity(window - chosen.len());
        for (index, document) in self.waiting.drain(..window).enumerate() {
            match chosen.binary_search(&index) {
                Ok(_) => row.push(document),
                Err(_) => left.push(document),
            }
        }
        for document in left.into_iter().rev() {
            self.waiting.push_front(document);
        }
        self.num_waiting_tokens -= row.iter().map(|document| document.tokens.len()).sum::<usize>();
        row
    }
}

/// Indices, ascending, of the first length and of those others that together come closest to
/// `room`: subset sum, with earlier documents preferred. Every length is from 1 to `room`.
fn fullest(lens: &[usize], room: usize) -> Vec<usize> {
    let Some((&first, others)) = lens.split_first() else { return Vec::new() };
    let room = room - first;
    // added[sum]: the document that first made this sum reachable; its rest is made of earlier ones
    let mut added: Vec<Option<usize>> = vec![None; room + 1];
    for (index, &len) in others.iter().enumerate() {
        if added[room].is_some() {
            break;
        }
        for sum in (len..=room).rev() {
            let reachable = sum == len || added[sum - len].is_some();
            if added[sum].is_none() && reachable {
                added[sum] = Some(index + 1);
            }
        }
    }
    let mut sum = (0..=room).rev().find(|&sum| added[sum].is_some()).unwrap_or(0);
    let mut chosen = Vec::new();
    while let Some(index) = added[sum] {
        chosen.push(index);
        sum -= lens[index];
    }
    chosen.push(0);
    chosen.reverse();
    chosen
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

/// The mask with these runs; cut where they pass `len`, so that a damaged file cannot ask for
/// unbounded memory (the lengths then disagree, which is an error).
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
    fn rows_are_filled_as_well_as_any_subset_could() {
        assert_eq!(fullest(&[5, 6, 4, 3], 12), [0, 2, 3]);
        assert_eq!(fullest(&[5, 5, 5], 10), [0, 1], "earlier documents first");
        assert_eq!(fullest(&[10, 1], 10), [0]);
        assert!(fullest(&[], 10).is_empty());
    }

    #[test]
    fn runs_and_masks_are_inverse() {
        for mask in [vec![], vec![true], vec![false, false, true, true, false]] {
            assert_eq!(unrolled(&runs(&mask), mask.len()), mask);
        }
        assert_eq!(unrolled(&[0, usize::MAX], 3).len(), 4);
    }
}
