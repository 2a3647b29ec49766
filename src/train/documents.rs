//! From sources to batches: draw, lay out by a template, turn into ids, pack.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vq_tokenizer::Codes;

use super::objective::NextTokenBatch;
use crate::data::mixture::{Cursor, Mixture, Source};
use crate::data::pack::{PackReport, PackedBatch, Packer, PackerState};
use crate::data::template::{RenderOptions, Template};
use crate::data::{self, DataConfig, EncodedSample, EncodedSource, Encoding};
use crate::error::{Error, Result};
use crate::tokenize::{CodedSegment, Processor, TokenClass, TokenSequence};

/// An endless stream of packed batches that can be taken up where it stood.
pub struct DocumentStream {
    sources: Vec<Prepared>,
    mixture: Mixture,
    packer: Packer,
}

/// Where a [`DocumentStream`] stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamState {
    cursor: Cursor,
    packer: PackerState,
}

/// A source with its samples and templates.
struct Prepared {
    config: DataConfig,
    templates: Vec<Template>,
    samples: Vec<EncodedSample>,
}

impl Prepared {
    fn new(config: &DataConfig, encoding: Encoding<'_>) -> Result<Self> {
        let templates = parse_templates(config)?;
        let columns: BTreeSet<String> = templates.iter().flat_map(Template::fields).collect();
        let mut samples = EncodedSource::open(config, &columns, encoding)?.samples;
        for sample in &mut samples {
            sample.fields.extend(config.fields.clone());
        }
        // A sample without a field that a template names cannot become a document.
        let whole = |sample: &EncodedSample| {
            let mut rng = ChaCha8Rng::seed_from_u64(0);
            let options = RenderOptions { loss: config.loss, max_turns: Some(1) };
            templates
                .iter()
                .all(|t| t.render(&sample.fields, &sample.images, &options, &mut rng).is_ok())
        };
        let all = samples.len();
        samples.retain(whole);
        if (samples.len() as f64) < all as f64 * (1.0 - config.max_bad) {
            let bad = all - samples.len();
            let message = format!("{bad} of {all} samples lack a field that a template names");
            return Err(Error::Invalid(format!("data {}: {message}", config.path)));
        }
        Ok(Self { config: config.clone(), templates, samples })
    }

    /// A document of sample `index` by template `template`.
    fn document(
        &self,
        index: usize,
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<TokenSequence> {
        let (sample, template) = (&self.samples[index], &self.templates[template]);
        let options =
            RenderOptions { loss: self.config.loss, max_turns: Some(self.config.max_turns) };
        let rendered = template.render(&sample.fields, &sample.images, &options, rng)?;
        let dropped = template.is_text_first() && rng.random::<f64>() < self.config.prompt_dropout;
        match rendered.without_prompt().filter(|_| dropped) {
            Some(bare) => bare.tokens(processor),
            None => rendered.tokens(processor),
        }
    }
}

fn parse_templates(config: &DataConfig) -> Result<Vec<Template>> {
    config.templates.iter().map(|template| Template::parse(template.parts().0)).collect()
}

impl DocumentStream {
    pub(super) fn new(
        configs: &[DataConfig],
        encoding: Encoding<'_>,
        seed: u64,
        packer: Packer,
    ) -> Result<Self> {
        let sources =
            configs.iter().map(|c| Prepared::new(c, encoding)).collect::<Result<Vec<_>>>()?;
        let mixture = Mixture::new(
            seed,
            sources
                .iter()
                .map(|source| Source {
                    name: source.config.path.clone(),
                    len: source.samples.len(),
                    weight: source.config.weight,
                    templates: source.config.templates.iter().map(|t| t.parts().1).collect(),
                })
                .collect(),
        )?;
        Ok(Self { sources, mixture, packer })
    }

    /// The next batch.
    ///
    /// # Errors
    /// When a sample does not fit its template, or documents do not fit a row.
    pub fn next_batch(&mut self, processor: &Processor) -> Result<NextTokenBatch> {
        let (sources, mixture) = (&self.sources, &mut self.mixture);
        let batch = self.packer.batch(|| {
            let mut draw = mixture.draw();
            let source = &sources[draw.source];
            source.document(draw.index, draw.template, &mut draw.rng, processor).map(Some)
        })?;
        let packed = batch.expect("a mixture never ends");
        Ok(with_modalities(packed, processor))
    }

    /// Where the stream stands.
    pub fn state(&self) -> StreamState {
        StreamState { cursor: self.mixture.cursor().clone(), packer: self.packer.state() }
    }

    /// Goes on from `state`.
    ///
    /// # Errors
    /// When the data or the batch shape have changed since.
    pub fn restore(&mut self, state: &StreamState) -> Result<()> {
        self.mixture.restore(&state.cursor)?;
        self.packer.restore(&state.packer)
    }

    /// What was packed so far.
    pub fn report(&self) -> &PackReport {
        self.packer.report()
    }
}

fn with_modalities(packed: PackedBatch, processor: &Processor) -> NextTokenBatch {
    let vocabulary = processor.vocabulary();
    let is_image = packed.ids.iter().map(|&id| vocabulary.class(id) == TokenClass::Image).collect();
    NextTokenBatch { packed, is_image }
}

/// The first `count` samples of each source as batches, always the same: for held-out losses.
///
/// # Errors
/// Those of data sets, templates and `new_packer`.
pub fn validation_batches(
    configs: &[DataConfig],
    encoding: Encoding<'_>,
    count: usize,
    processor: &Processor,
    new_packer: impl Fn() -> Result<Packer>,
) -> Result<Vec<NextTokenBatch>> {
    let mut batches = Vec::new();
    for config in configs {
        let source = Prepared::new(
            &DataConfig { limit: Some(count), prompt_dropout: 0.0, ..config.clone() },
            encoding,
        )?;
        let mut packer = new_packer()?;
        let mut index = 0;
        let mut next = || {
            let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
            let document = (index < source.samples.len()).then(|| {
                let template = index % source.templates.len();
                source.document(index, template, &mut rng, processor)
            });
            index += 1;
            document.transpose()
        };
        while let Some(packed) = packer.batch(&mut next)? {
            batches.push(with_modalities(packed, processor));
        }
    }
    Ok(batches)
}

/// The text of `count` documents per source at most, without pictures and separators: what a text
/// tokenizer is trained on.
///
/// # Errors
/// Those of data sets and templates.
pub fn corpus(configs: &[DataConfig], count: usize, seed: u64) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for config in configs {
        let templates = parse_templates(config)?;
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
            for template in &templates {
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
        return Err(Error::Invalid("the sources hold no text".to_owned()));
    }
    Ok(texts)
}
