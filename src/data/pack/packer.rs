//! The packer.

use std::collections::VecDeque;

use super::batch::{Document, PackedBatch};
use super::state::{PackReport, PackerState};
use super::subset::fullest;
use crate::error::{Error, Result};

/// Number of waiting documents, oldest first, that a row is chosen from.
const WINDOW: usize = 128;

/// Documents in succession that may be too long or too short before the run is stopped.
const MAX_REFUSED_IN_A_ROW: usize = 1000;

/// Packs documents into batches.
#[derive(Clone, Debug)]
pub struct Packer {
    rows: usize,
    seq_len: usize,
    pad: u32,
    /// Waiting documents, oldest first.
    waiting: VecDeque<Document>,
    num_waiting_tokens: usize,
    refused_in_a_row: usize,
    report: PackReport,
}

impl Packer {
    /// A packer for batches of `rows` by `seq_len` tokens, padded with the id `pad`.
    ///
    /// # Errors
    /// If `rows` is 0 or `seq_len` is below 2.
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

    /// The next batch; takes documents from `next` as needed. After the last document, the waiting
    /// ones are packed; then `None` is returned.
    ///
    /// # Errors
    /// Those of `next`; if a mask does not fit its ids, or too many documents in a row do not fit.
    pub fn batch(
        &mut self,
        mut next: impl FnMut() -> Result<Option<Document>>,
    ) -> Result<Option<PackedBatch>> {
        // more than a batch, so that even its last row has documents to choose from
        let wanted = self.rows * self.seq_len + (self.rows / 4).max(4) * self.seq_len;
        while self.num_waiting_tokens < wanted {
            match next()? {
                Some(document) => self.push(document)?,
                None => break,
            }
        }
        Ok((!self.waiting.is_empty()).then(|| self.pack()))
    }

    /// Tokens in a row.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Counts so far.
    pub fn report(&self) -> &PackReport {
        &self.report
    }

    /// The state from which [`restore`](Self::restore) continues exactly.
    pub fn state(&self) -> PackerState {
        PackerState::new(&self.report, &self.waiting)
    }

    /// Continues from `state`.
    ///
    /// # Errors
    /// If a document in it does not fit this packer's rows, or is damaged.
    pub fn restore(&mut self, state: &PackerState) -> Result<()> {
        let mut fresh = Self::new(self.rows, self.seq_len, self.pad)?;
        let documents = state.documents();
        let saved = documents.len();
        for document in documents {
            fresh.push(document)?;
        }
        if fresh.waiting.len() != saved {
            return Err(Error::invalid(format!(
                "the saved packer holds documents of up to {} tokens; rows have {} now",
                fresh.report.longest, self.seq_len
            )));
        }
        fresh.report = state.report.clone();
        *self = fresh;
        Ok(())
    }

    /// Adds a document to those that wait, or counts it as refused.
    fn push(&mut self, document: Document) -> Result<()> {
        let len = document.tokens.ids.len();
        if document.tokens.loss_mask.len() != len {
            let masked = document.tokens.loss_mask.len();
            let message = format!("a document of {len} tokens has a loss mask of {masked}");
            return Err(Error::invalid(message));
        }
        if !self.report.fits(&document, self.seq_len) {
            return self.refuse(&document);
        }
        self.refused_in_a_row = 0;
        self.num_waiting_tokens += len;
        self.waiting.push_back(document);
        Ok(())
    }

    /// An error after too many documents in a row that do not fit, the last of which is `document`.
    fn refuse(&mut self, Document { tokens, place, cut_from, .. }: &Document) -> Result<()> {
        self.refused_in_a_row += 1;
        if self.refused_in_a_row < MAX_REFUSED_IN_A_ROW {
            return Ok(());
        }
        let (len, seq_len) = (cut_from.unwrap_or(tokens.ids.len()), self.seq_len);
        let place = if place.is_empty() { String::new() } else { format!(": {place}") };
        Err(Error::invalid(format!(
            "{MAX_REFUSED_IN_A_ROW} documents in a row do not fit a row of {seq_len} tokens (the \
             last has {len}{place}); raise batch.seq_len"
        )))
    }

    /// A batch of the waiting documents.
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

    /// Takes the documents of one row, in order of arrival.
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
