//! Sources of documents in any order: samples rendered by templates, or token shards.

use rand_chacha::ChaCha8Rng;

use super::config::{DocumentContent, DocumentData, SourceConfig, TemplateConfig};
use super::encoded::{EncodedSample, EncodedSource, Encoding};
use super::mixture::Source;
use super::pack::Document;
use super::renderer::Renderer;
use super::shards::{TokenShards, tokenizer_digest};
use crate::error::{Error, Result};
use crate::tokenize::Processor;

/// An open source of documents.
#[derive(Debug)]
pub struct DocumentSource {
    config: DocumentData,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Samples(Samples),
    Shards(TokenShards),
}

/// Encoded samples that every template can render.
#[derive(Debug)]
struct Samples {
    renderer: Renderer,
    samples: Vec<EncodedSample>,
    left_out: usize,
}

impl DocumentSource {
    /// Opens the source that `config` describes; the images of samples are encoded.
    ///
    /// # Errors
    /// Those of the data; if shards were made by other tokenizers than those of `encoding` and
    /// `processor`, or more samples than `max_bad` lack a field that a template names.
    pub fn open(
        config: &DocumentData,
        encoding: Encoding<'_>,
        processor: &Processor,
    ) -> Result<Self> {
        let content = match &config.content {
            DocumentContent::Samples(source, template) => {
                Content::Samples(Samples::open(source, template, encoding)?)
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

    /// Number of samples that cannot be read or lack a field that a template names.
    pub fn left_out(&self) -> usize {
        match &self.content {
            Content::Samples(samples) => samples.left_out,
            Content::Shards(_) => 0,
        }
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

    /// The document of sample `index` by the template of index `template`.
    ///
    /// # Errors
    /// If a sample does not fit its template, or a shard is damaged.
    pub fn document(
        &self,
        index: usize,
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<Document> {
        match &self.content {
            Content::Samples(Samples { renderer, samples, .. }) => {
                let EncodedSample { fields, images } = &samples[index];
                Ok(renderer.document((fields, images), template, rng, processor)?.into())
            }
            Content::Shards(shards) => {
                let (tokens, source) = shards.get(index)?;
                let source = if self.config.name.is_none() { source as u32 } else { 0 };
                Ok(Document { tokens, source })
            }
        }
    }
}

impl Samples {
    fn open(
        source: &SourceConfig,
        template: &TemplateConfig,
        encoding: Encoding<'_>,
    ) -> Result<Self> {
        let renderer = Renderer::new(template)?;
        let EncodedSource { mut samples, left_out } =
            EncodedSource::open(source, &renderer.columns(), encoding)?;
        for sample in &mut samples {
            renderer.complete(&mut sample.fields);
        }
        // A sample without a field that a template names cannot become a document.
        let all = samples.len();
        samples.retain(|sample| renderer.fits(sample));
        if (samples.len() as f64) < all as f64 * (1.0 - source.max_bad) {
            let bad = all - samples.len();
            let message = format!("{bad} of {all} samples lack a field that a template names");
            return Err(Error::invalid(format!("data {}: {message}", source.path)));
        }
        let left_out = left_out + all - samples.len();
        Ok(Self { renderer, samples, left_out })
    }
}
