//! The training stream of documents: draw, render, tokenize, pack.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::DocumentData;
use super::curriculum::Stages;
use super::document_source::DocumentSource;
use super::encoded::Encoding;
use super::left_out::{BadSample, LeftOut};
use super::mixture::{Cursor, Mixture};
use super::pack::{Document, NextTokenBatch, PackReport, Packer, PackerState};
use crate::error::Result;
use crate::tokenize::Processor;

/// An endless stream of packed batches that can be resumed.
#[derive(Debug)]
pub struct DocumentStream {
    processor: Arc<Processor>,
    sources: Vec<DocumentSource>,
    /// Names of all origins of documents, and the index of the first one of each source.
    labels: Vec<String>,
    first_labels: Vec<u32>,
    mixture: Mixture,
    packer: Packer,
    stages: Stages,
    batches: u64,
    skipped: u64,
    packed: Vec<SourceReport>,
    bad: BadDraws,
}

/// Draws that gave no document: by the number of the source's first label, index and reason.
type BadDraws = BTreeMap<u32, BTreeMap<usize, String>>;

/// Position of a [`DocumentStream`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamState {
    cursor: Cursor,
    packer: PackerState,
    /// Batches returned or skipped.
    #[serde(default)]
    batches: u64,
    /// Batches skipped after a rewind.
    #[serde(default)]
    skipped: u64,
    #[serde(default)]
    packed: Vec<SourceReport>,
    /// Bad samples that were only found when they were drawn.
    #[serde(default, skip_serializing_if = "BadDraws::is_empty")]
    bad: BadDraws,
}

/// Counts of what was packed from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The source's name.
    pub source: String,
    /// Number of documents.
    pub documents: u64,
    /// Tokens other than image codes.
    pub text_tokens: u64,
    /// Image codes.
    pub image_tokens: u64,
}

impl DocumentStream {
    /// A stream of batches of the documents in `configs`, drawn by `seed` and packed by `packer`.
    ///
    /// # Errors
    /// Those of the data.
    pub fn new(
        configs: &[DocumentData],
        encoding: Encoding<'_>,
        seed: u64,
        processor: Arc<Processor>,
        packer: Packer,
        stages: Stages,
    ) -> Result<Self> {
        let open = |config| DocumentSource::open(config, encoding, &processor);
        let sources = configs.iter().map(open).collect::<Result<Vec<_>>>()?;
        let (mut labels, mut first_labels) = (Vec::new(), Vec::new());
        for source in &sources {
            first_labels.push(labels.len() as u32);
            labels.extend(source.labels());
        }
        let mixture =
            Mixture::new(seed, sources.iter().map(DocumentSource::for_mixture).collect())?;
        let named = |label: &String| SourceReport { source: label.clone(), ..Default::default() };
        let packed = labels.iter().map(named).collect();
        Ok(Self {
            processor,
            sources,
            labels,
            first_labels,
            mixture,
            packer,
            stages,
            batches: 0,
            skipped: 0,
            packed,
            bad: BadDraws::new(),
        })
    }

    /// What was left out of each source when it was opened.
    pub fn opened(&self) -> Vec<LeftOut> {
        self.sources.iter().map(DocumentSource::left_out).collect()
    }

    /// The next batch. Where a draw gives no document, it is counted as bad and the next one is taken.
    ///
    /// # Errors
    /// If too many draws give no document, or too many documents in a row do not fit a row.
    pub fn next_batch(&mut self) -> Result<NextTokenBatch> {
        let stage = self.stages.of(self.batches - self.skipped);
        let (sources, processor) = (&self.sources, &self.processor);
        let (mixture, bad, firsts) = (&mut self.mixture, &mut self.bad, &self.first_labels);
        let seq_len = self.packer.seq_len();
        let batch = self.packer.batch(|| {
            loop {
                let mut draw = mixture.draw(stage);
                let (source, first) = (&sources[draw.source], firsts[draw.source]);
                let drawn = (draw.index, draw.template, seq_len);
                match source.fitted(drawn, &mut draw.rng, processor) {
                    Ok(document) => {
                        let source = first + document.source;
                        return Ok(Some(Document { source, ..document }));
                    }
                    Err(error) => {
                        let bad = bad.entry(first).or_default();
                        bad.insert(draw.index, error.to_string());
                        source.refuse_too_many(bad.values().map(String::as_str))?;
                    }
                }
            }
        })?;
        self.batches += 1;
        let batch = NextTokenBatch::new(batch.expect("a mixture never ends"), processor);
        self.count(&batch);
        Ok(batch)
    }

    /// Adds a batch to the counts by source.
    fn count(&mut self, batch: &NextTokenBatch) {
        let packed = &batch.packed;
        for token in (0..packed.ids.len()).filter(|&token| packed.document_ids[token] != 0) {
            let report = &mut self.packed[packed.sources[token] as usize];
            report.documents += u64::from(packed.positions[token] == 0);
            match batch.is_image[token] {
                true => report.image_tokens += 1,
                false => report.text_tokens += 1,
            }
        }
    }

    /// Skips the next `batches`; they do not advance the curriculum.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    pub fn skip(&mut self, batches: u64) -> Result<()> {
        for _ in 0..batches {
            self.next_batch()?;
            self.skipped += 1;
        }
        Ok(())
    }

    /// Names of the documents' origins; the source numbers of batches are indices into it.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The processor that encodes the documents.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The current position.
    pub fn state(&self) -> StreamState {
        StreamState {
            cursor: self.mixture.cursor().clone(),
            packer: self.packer.state(),
            batches: self.batches,
            skipped: self.skipped,
            packed: self.packed.clone(),
            bad: self.bad.clone(),
        }
    }

    /// Continues from `state`.
    ///
    /// # Errors
    /// If the data or the batch shape have changed since.
    pub fn restore(&mut self, state: &StreamState) -> Result<()> {
        self.mixture.restore(&state.cursor)?;
        self.packer.restore(&state.packer)?;
        (self.batches, self.skipped) = (state.batches, state.skipped);
        self.bad.clone_from(&state.bad);
        if state.packed.len() == self.packed.len() {
            self.packed.clone_from(&state.packed);
        }
        Ok(())
    }

    /// Counts of what was packed so far.
    pub fn report(&self) -> &PackReport {
        self.packer.report()
    }
}

impl StreamState {
    /// Counts of what was packed so far, in total and by source.
    pub fn packed(&self) -> (&PackReport, &[SourceReport]) {
        (&self.packer.report, &self.packed)
    }

    /// What was left out of each origin of documents since the sources were opened: bad draws, and
    /// documents that do not fit a row.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let number = |(number, packed): (usize, &SourceReport)| {
            let mut left_out = LeftOut::new(&packed.source, 0);
            if let Some(documents) = self.packer.report.left_out.get(number) {
                left_out.add(documents.clone());
            }
            for (&index, reason) in self.bad.get(&(number as u32)).into_iter().flatten() {
                left_out.add_bad(BadSample { index, reason: reason.clone() });
            }
            left_out
        };
        self.packed.iter().enumerate().map(number).collect()
    }
}
