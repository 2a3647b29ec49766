//! From sources to batches: draw, lay out by a template, turn into ids, pack.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vq_tokenizer::Codes;

use super::config::CurriculumConfig;
use super::objective::NextTokenBatch;
use crate::data::mixture::{Cursor, Mixture};
use crate::data::pack::{PackReport, PackedBatch, Packer, PackerState};
use crate::data::{self, DataConfig, DocumentSource, Encoding, RenderOptions, Renderer};
use crate::error::{Error, Result};
use crate::tokenize::{CodedSegment, Processor, TokenClass};

/// An endless stream of packed batches that can be taken up where it stood.
#[derive(Debug)]
pub struct DocumentStream {
    processor: Arc<Processor>,
    sources: Vec<DocumentSource>,
    /// Names of all origins of documents, and the index of each source's first.
    labels: Vec<String>,
    first_labels: Vec<u32>,
    mixture: Mixture,
    packer: Packer,
    stages: Stages,
    batches: u64,
    skipped: u64,
    packed: Vec<SourceReport>,
}

/// Where a [`DocumentStream`] stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamState {
    cursor: Cursor,
    packer: PackerState,
    /// Batches given, skipped ones included.
    #[serde(default)]
    batches: u64,
    /// Batches left out after a rewind.
    #[serde(default)]
    skipped: u64,
    #[serde(default)]
    packed: Vec<SourceReport>,
}

/// What was packed of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub source: String,
    /// Documents.
    pub documents: u64,
    /// Tokens that are no image codes.
    pub text_tokens: u64,
    /// Image codes.
    pub image_tokens: u64,
}

/// Which stage of the curriculum a batch belongs to.
#[derive(Clone, Debug)]
pub struct Stages {
    /// First batch of every stage but the first.
    starts: Vec<u64>,
}

impl Stages {
    /// For a run of `steps` optimizer steps of `accumulate` batches.
    pub fn new(config: &CurriculumConfig, steps: usize, accumulate: usize) -> Self {
        let batch = |share: &f64| (share * steps as f64).ceil() as u64 * accumulate as u64;
        Self { starts: config.starts.iter().map(batch).collect() }
    }

    /// The stage of a batch, both from 0.
    pub fn of(&self, batch: u64) -> usize {
        self.starts.iter().filter(|start| batch >= **start).count()
    }
}

impl DocumentStream {
    /// A stream of batches as `packer` makes them from the sources of `configs`, drawn by `seed`.
    ///
    /// # Errors
    /// Those of the data.
    pub fn new(
        configs: &[DataConfig],
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
        })
    }

    /// The next batch.
    ///
    /// # Errors
    /// When a sample does not fit its template, or documents do not fit a row.
    pub fn next_batch(&mut self) -> Result<NextTokenBatch> {
        let stage = self.stages.of(self.batches - self.skipped);
        let (sources, mixture, processor) = (&self.sources, &mut self.mixture, &self.processor);
        let firsts = &self.first_labels;
        let batch = self.packer.batch(|| {
            let mut draw = mixture.draw(stage);
            let source = &sources[draw.source];
            let mut document =
                source.document(draw.index, draw.template, &mut draw.rng, processor)?;
            document.source += firsts[draw.source];
            Ok(Some(document))
        })?;
        self.batches += 1;
        let batch = with_modalities(batch.expect("a mixture never ends"), processor);
        self.count(&batch);
        Ok(batch)
    }

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

    /// Leaves out the next `batches`; they do not count as steps of the curriculum.
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

    /// Names of the origins of documents, by the numbers that batches hold.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The processor that makes the ids.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// Where the stream stands.
    pub fn state(&self) -> StreamState {
        StreamState {
            cursor: self.mixture.cursor().clone(),
            packer: self.packer.state(),
            batches: self.batches,
            skipped: self.skipped,
            packed: self.packed.clone(),
        }
    }

    /// Goes on from `state`.
    ///
    /// # Errors
    /// When the data or the batch shape have changed since.
    pub fn restore(&mut self, state: &StreamState) -> Result<()> {
        self.mixture.restore(&state.cursor)?;
        self.packer.restore(&state.packer)?;
        (self.batches, self.skipped) = (state.batches, state.skipped);
        if state.packed.len() == self.packed.len() {
            self.packed.clone_from(&state.packed);
        }
        Ok(())
    }

    /// What was packed so far.
    pub fn report(&self) -> &PackReport {
        self.packer.report()
    }
}

impl StreamState {
    /// What was packed so far, in all and by source.
    pub fn packed(&self) -> (&PackReport, &[SourceReport]) {
        (&self.packer.report, &self.packed)
    }
}

fn with_modalities(packed: PackedBatch, processor: &Processor) -> NextTokenBatch {
    let vocabulary = processor.vocabulary();
    let is_image = packed.ids.iter().map(|&id| vocabulary.class(id) == TokenClass::Image).collect();
    NextTokenBatch { packed, is_image }
}

/// The first `count` samples of each source as batches, always the same: for held-out losses. The number
/// of a document's source is that of its configuration.
///
/// # Errors
/// Those of data sets, templates and `new_packer`.
pub fn validation_batches(
    configs: &[DataConfig],
    encoding: Encoding<'_>,
    count: usize,
    processor: &Processor,
    new_packer: impl Fn() -> Result<Packer>,
) -> Result<Validation> {
    let (mut batches, mut left_out) = (Vec::new(), LeftOut::default());
    for (number, config) in configs.iter().enumerate() {
        let config = DataConfig { limit: Some(count), prompt_dropout: 0.0, ..config.clone() };
        let source = DocumentSource::open(&config, encoding, processor)?;
        let mut packer = new_packer()?;
        let mut index = 0;
        let mut next = || {
            let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
            if index == source.len() {
                return Ok(None);
            }
            let template = index % source.num_templates();
            let mut document = source.document(index, template, &mut rng, processor)?;
            document.source = number as u32;
            index += 1;
            Ok(Some(document))
        };
        while let Some(packed) = packer.batch(&mut next)? {
            batches.push(with_modalities(packed, processor));
        }
        let PackReport { too_long, too_short, .. } = packer.report();
        left_out.too_long += too_long;
        left_out.too_short += too_short;
        left_out.unreadable += source.left_out() as u64;
    }
    Ok(Validation { batches, left_out })
}

/// Held-out documents in rows.
#[derive(Clone, Debug)]
pub struct Validation {
    /// The rows, batch by batch.
    pub batches: Vec<NextTokenBatch>,
    /// What is in none.
    pub left_out: LeftOut,
}

/// Samples and documents that cannot be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Documents longer than a row.
    pub too_long: u64,
    /// Documents of fewer than two tokens.
    pub too_short: u64,
    /// Samples that cannot be read or lack a field that the template names.
    pub unreadable: u64,
}

/// The text of `count` documents per source at most, without images and separators: what a text
/// tokenizer is trained on.
///
/// # Errors
/// Those of data sets and templates.
pub fn corpus(configs: &[DataConfig], count: usize, seed: u64) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for config in configs {
        let renderer = Renderer::new(config)?;
        let dataset =
            data::open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())?;
        let len = dataset.len().min(config.limit.unwrap_or(usize::MAX)).min(count);
        let mut bad = 0;
        for index in 0..len {
            let mut fields = match dataset.fields(index) {
                Ok(fields) => fields,
                Err(_) if ((bad + 1) as f64) <= config.max_bad * len as f64 => {
                    bad += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            fields.extend(config.fields.clone());
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            for template in renderer.templates() {
                let blank = Codes { ids: vec![], height: 0, width: 0 };
                let images = vec![blank; template.num_images()];
                let options =
                    RenderOptions { max_turns: Some(config.max_turns), ..Default::default() };
                let rendered = template.render(&fields, &images, &options, &mut rng)?;
                texts.extend(rendered.segments.into_iter().filter_map(|segment| match segment {
                    CodedSegment::Text(text) => Some(text),
                    _ => None,
                }));
            }
        }
    }
    if texts.is_empty() {
        return Err(Error::invalid("the sources hold no text".to_owned()));
    }
    Ok(texts)
}
