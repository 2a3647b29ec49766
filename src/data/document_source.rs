//! Sources of documents in any order: samples rendered by templates, or token shards.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::config::{DocumentContent, DocumentData, SourceConfig, TemplateConfig, TooLong};
use super::counted::{Counted, DEFAULT_TOLERANCE};
use super::dataset::Dataset;
use super::encoded::{EncodedSample, EncodedSource, Encoding};
use super::left_out::{LeftOut, refuse_too_many};
use super::mixture::Source;
use super::pack::Document;
use super::renderer::Renderer;
use super::shards::{TokenShards, tokenizer_digest};
use crate::error::{Error, Result};
use crate::report::Reporter;
use crate::tokenize::Processor;

/// Samples that are looked at for prompts that end within an id.
const LOOKED_AT: usize = 100;

/// An open source of documents.
#[derive(Debug)]
pub struct DocumentSource {
    config: DocumentData,
    content: Content,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there are as many as sources of a recipe")]
enum Content {
    Samples(Samples),
    Shards(TokenShards),
}

/// Encoded samples that every template can render.
#[derive(Debug)]
struct Samples {
    renderer: Renderer,
    samples: Vec<EncodedSample>,
    left_out: LeftOut,
}

impl DocumentSource {
    /// Opens the source that `config` describes; the images of samples are encoded.
    ///
    /// # Errors
    /// Those of the data; if shards were made by other tokenizers than those of `encoding` and
    /// `processor`, or more samples than `max_bad` cannot be read or rendered.
    pub fn open(
        config: &DocumentData,
        encoding: Encoding<'_>,
        processor: &Processor,
    ) -> Result<Self> {
        let content = match &config.content {
            DocumentContent::Samples(source, template) => {
                Content::Samples(Samples::open(source, template, encoding, processor)?)
            }
            DocumentContent::Shards { path, .. } => {
                let tokenizer = tokenizer_digest(processor, encoding.digest)?;
                let cache_dir = encoding.cache_dir.join("shards");
                Content::Shards(TokenShards::open(path, &tokenizer, &cache_dir, encoding.quiet)?)
            }
        };
        Ok(Self { config: config.clone(), content })
    }

    /// The number of samples or, in shards, of documents.
    pub fn len(&self) -> usize {
        match &self.content {
            Content::Samples(samples) => samples.samples.len(),
            Content::Shards(shards) => shards.len().min(self.config.limit().unwrap_or(usize::MAX)),
        }
    }

    /// The samples that cannot be read or rendered, and what belongs to no sample.
    pub fn left_out(&self) -> LeftOut {
        let source = self.config.label().to_owned();
        match &self.content {
            Content::Samples(samples) => LeftOut { source, ..samples.left_out.clone() },
            Content::Shards(_) => LeftOut::new(&source, self.len()),
        }
    }

    /// The error if the documents in `bad`, found when they were drawn, are more than may be bad.
    ///
    /// # Errors
    /// [`Error::Invalid`] then.
    pub(super) fn refuse_too_many<'a>(
        &self,
        bad: impl ExactSizeIterator<Item = &'a str>,
    ) -> Result<()> {
        let tolerance = match &self.config.content {
            DocumentContent::Samples(source, _) => source.max_bad,
            DocumentContent::Shards { .. } => DEFAULT_TOLERANCE,
        };
        // One good document must be left, or drawing would never end.
        let allowed = (tolerance * self.len() as f64).min(self.len() as f64 - 1.0);
        let source = (self.config.label(), self.len());
        refuse_too_many(source, (bad.len(), bad), (allowed, tolerance))
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The source's entry in a mixture.
    pub fn for_mixture(&self) -> Source {
        Source {
            name: self.config.label().to_owned(),
            len: self.len(),
            weights: self.config.weight.stages().to_vec(),
            templates: match &self.content {
                Content::Samples(samples) => samples.renderer.weights(),
                Content::Shards(_) => vec![1.0],
            },
        }
    }

    /// The number of templates to choose from; 1 for shards.
    pub fn num_templates(&self) -> usize {
        match &self.content {
            Content::Samples(samples) => samples.renderer.num_templates(),
            Content::Shards(_) => 1,
        }
    }

    /// Names of its documents' origins in reports; [`Document::source`] is an index into this list.
    pub fn labels(&self) -> Vec<String> {
        match &self.content {
            Content::Shards(shards) if self.config.name.is_none() => shards.sources().to_vec(),
            _ => vec![self.config.label().to_owned()],
        }
    }

    /// As [`document`](Self::document), cut to `seq_len` ids if the source's documents may be cut.
    ///
    /// # Errors
    /// As [`document`](Self::document).
    pub(super) fn fitted(
        &self,
        (index, template, seq_len): (usize, usize, usize),
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<Document> {
        let document = self.document(index, template, rng, processor)?;
        Ok(match self.config.too_long {
            TooLong::Drop => document,
            TooLong::Truncate => document.cut(seq_len, processor),
        })
    }

    /// The document of sample `index` by the template of index `template`.
    ///
    /// # Errors
    /// If a shard is damaged; for samples, none is expected once they were checked.
    pub fn document(
        &self,
        index: usize,
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<Document> {
        match &self.content {
            Content::Samples(Samples { renderer, samples, .. }) => {
                let EncodedSample { fields, images, place, .. } = &samples[index];
                let tokens = renderer.document((fields, images), template, rng, processor);
                let tokens = tokens.map_err(Error::because(place))?;
                Ok(Document { tokens, place: place.clone(), ..Document::default() })
            }
            Content::Shards(shards) => {
                let (tokens, source) = shards.get(index)?;
                let source = if self.config.name.is_none() { source as u32 } else { 0 };
                let place = format!("{}: document {index}", self.config.path());
                Ok(Document { tokens, source, place, cut_from: None })
            }
        }
    }
}

impl Samples {
    fn open(
        source: &SourceConfig,
        template: &TemplateConfig,
        encoding: Encoding<'_>,
        processor: &Processor,
    ) -> Result<Self> {
        let renderer = Renderer::new(template, processor).map_err(Error::because(&source.path))?;
        let EncodedSource { mut samples, dataset, len } =
            EncodedSource::open(source, Some(&renderer.columns()), encoding)?;
        for sample in &mut samples {
            renderer.complete(&mut sample.fields);
        }
        let check = |EncodedSample { fields, images, .. }: &EncodedSample| {
            renderer.check((fields, images), processor).err()
        };
        let problems: Vec<Option<Error>> = samples.par_iter().map(check).collect();
        for (sample, problem) in samples.iter().zip(&problems) {
            if let Some(problem) = problem {
                let problem = in_full(sample, &dataset, &renderer, processor)
                    .unwrap_or_else(|| problem.to_string());
                dataset.record(sample.index, format!("{}: {problem}", sample.place));
            }
        }
        dataset.check()?;
        let mut problems = problems.into_iter();
        samples.retain(|_| problems.next().flatten().is_none());
        let left_out = dataset.left_out(len);
        if samples.is_empty() {
            let first: Vec<&str> =
                left_out.bad_samples.iter().map(|bad| bad.reason.as_str()).collect();
            let first = first.join("\n  ");
            let message = format!("all {len} samples are bad; the first:\n  {first}");
            return Err(Error::invalid(format!("data {}: {message}", source.path)));
        }
        let found = Self { renderer, samples, left_out };
        if !encoding.quiet && found.cuts_within_an_id(processor) {
            Reporter::bar(0, "").note(&format!(
                "data {}: the ids of some prompts go on into the answer, as after a blank at the end of a \
                 prompt; such an answer begins with the id that holds both",
                source.path
            ));
        }
        Ok(found)
    }

    /// Whether the answer of one of the first documents begins with an id that holds part of the prompt.
    fn cuts_within_an_id(&self, processor: &Processor) -> bool {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        self.samples.iter().take(LOOKED_AT).any(|sample| {
            let sample = (&sample.fields, sample.images.as_slice());
            self.renderer.cuts_within_an_id(sample, &mut rng, processor).unwrap_or(false)
        })
    }
}

/// Why a sample cannot be rendered, by all of its columns, so that the message can list them.
fn in_full(
    sample: &EncodedSample,
    dataset: &Counted,
    renderer: &Renderer,
    processor: &Processor,
) -> Option<String> {
    let mut fields = dataset.fields(sample.index).ok()?;
    renderer.complete(&mut fields);
    let problem = renderer.check((&fields, &sample.images), processor).err()?;
    Some(problem.to_string())
}
