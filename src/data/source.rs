//! Sources of documents: samples laid out by templates, or token shards.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::mixture::{Source, weighted};
use super::pack::Document;
use super::render::RenderOptions;
use super::shards::{self, TokenShards};
use super::{DataConfig, EncodedSample, EncodedSource, Encoding, Fields};
use crate::error::{Error, Result};
use crate::tokenize::{Processor, Template, TokenSequence};

/// How the samples of a source become documents: its templates, and what may be left out.
#[derive(Clone, Debug)]
pub struct Renderer {
    config: DataConfig,
    templates: Vec<Template>,
}

impl Renderer {
    /// For the source that `config` describes.
    ///
    /// # Errors
    /// When a template's syntax is unknown.
    pub fn new(config: &DataConfig) -> Result<Self> {
        let templates = config.templates.iter().map(|template| Template::parse(template.parts().0));
        Ok(Self { config: config.clone(), templates: templates.collect::<Result<_>>()? })
    }

    /// The templates, in the recipe's order.
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// The columns that the templates look up.
    pub fn columns(&self) -> BTreeSet<String> {
        self.templates.iter().flat_map(Template::fields).collect()
    }

    /// How often each template is drawn.
    pub fn weights(&self) -> Vec<f64> {
        self.config.templates.iter().map(|template| template.parts().1).collect()
    }

    /// The index of a template, drawn by weight.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        weighted(self.config.templates.iter().map(|template| template.parts().1), rng)
    }

    /// A sample as ids, by the template of index `template`. `rng` draws what the template leaves
    /// open, and whether a prompt before a closing image is dropped.
    ///
    /// # Errors
    /// When the sample lacks what the template names.
    pub fn document(
        &self,
        (fields, images): (&Fields, &[Codes]),
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<TokenSequence> {
        let template = &self.templates[template];
        let options =
            RenderOptions { loss: self.config.loss, max_turns: Some(self.config.max_turns) };
        let rendered = template.render(fields, images, &options, rng)?;
        let dropped = template.is_text_first() && rng.random::<f64>() < self.config.prompt_dropout;
        match rendered.without_prompt().filter(|_| dropped) {
            Some(bare) => bare.tokens(processor),
            None => rendered.tokens(processor),
        }
    }

    /// Whether a sample has what every template names.
    fn fits(&self, sample: &EncodedSample) -> bool {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let options = RenderOptions { loss: self.config.loss, max_turns: Some(1) };
        let mut render = |template: &Template| {
            template.render(&sample.fields, &sample.images, &options, &mut rng).is_ok()
        };
        self.templates.iter().all(&mut render)
    }
}

/// A source that documents can be drawn from in any order.
#[derive(Debug)]
pub struct DocumentSource {
    config: DataConfig,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Samples { renderer: Box<Renderer>, samples: Vec<EncodedSample>, left_out: usize },
    Shards(TokenShards),
}

impl DocumentSource {
    /// Opens the source that `config` describes: token shards as they are, other data sets with their
    /// images encoded.
    ///
    /// # Errors
    /// Those of the data; when shards were made by other tokenizers than `encoding` and `processor`
    /// are, or more samples than `max_bad` lack a field that a template names.
    pub fn open(
        config: &DataConfig,
        encoding: Encoding<'_>,
        processor: &Processor,
    ) -> Result<Self> {
        let kind = match shards::is_spec(&config.path) {
            true => {
                let tokenizer = shards::tokenizer_digest(processor, encoding.digest)?;
                let cache_dir = encoding.cache_dir.join("shards");
                let shards =
                    TokenShards::open(&config.path, &tokenizer, &cache_dir, encoding.quiet)?;
                Kind::Shards(shards)
            }
            false => samples(config, encoding)?,
        };
        Ok(Self { config: config.clone(), kind })
    }

    /// The number of samples or, in shards, of documents.
    pub fn len(&self) -> usize {
        match &self.kind {
            Kind::Samples { samples, .. } => samples.len(),
            Kind::Shards(shards) => shards.len().min(self.config.limit.unwrap_or(usize::MAX)),
        }
    }

    /// Samples that cannot be read or lack a field that a template names.
    pub fn left_out(&self) -> usize {
        match &self.kind {
            Kind::Samples { left_out, .. } => *left_out,
            Kind::Shards(_) => 0,
        }
    }

    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a mixture needs to know.
    pub fn for_mixture(&self) -> Source {
        Source {
            name: self.config.label().to_owned(),
            len: self.len(),
            weights: self.config.weight.stages().to_vec(),
            templates: match &self.kind {
                Kind::Samples { renderer, .. } => renderer.weights(),
                Kind::Shards(_) => vec![1.0],
            },
        }
    }

    /// The number of templates to choose from; 1 for shards.
    pub fn num_templates(&self) -> usize {
        match &self.kind {
            Kind::Samples { renderer, .. } => renderer.templates.len(),
            Kind::Shards(_) => 1,
        }
    }

    /// What its documents' origins are called in reports; [`Document::source`] counts in this list.
    pub fn labels(&self) -> Vec<String> {
        match &self.kind {
            Kind::Shards(shards) if self.config.name.is_none() => shards.sources().to_vec(),
            _ => vec![self.config.label().to_owned()],
        }
    }

    /// The document of sample `index` by template `template`.
    ///
    /// # Errors
    /// When a sample does not fit its template, or a shard is damaged.
    pub fn document(
        &self,
        index: usize,
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<Document> {
        match &self.kind {
            Kind::Samples { renderer, samples, .. } => {
                let EncodedSample { fields, images } = &samples[index];
                Ok(renderer.document((fields, images), template, rng, processor)?.into())
            }
            Kind::Shards(shards) => {
                let (tokens, source) = shards.get(index)?;
                let source = if self.config.name.is_none() { source as u32 } else { 0 };
                Ok(Document { tokens, source })
            }
        }
    }
}

fn samples(config: &DataConfig, encoding: Encoding<'_>) -> Result<Kind> {
    let renderer = Renderer::new(config)?;
    let EncodedSource { mut samples, left_out, .. } =
        EncodedSource::open(config, &renderer.columns(), encoding)?;
    for sample in &mut samples {
        sample.fields.extend(config.fields.clone());
    }
    // A sample without a field that a template names cannot become a document.
    let all = samples.len();
    samples.retain(|sample| renderer.fits(sample));
    if (samples.len() as f64) < all as f64 * (1.0 - config.max_bad) {
        let bad = all - samples.len();
        let message = format!("{bad} of {all} samples lack a field that a template names");
        return Err(Error::invalid(format!("data {}: {message}", config.path)));
    }
    let left_out = left_out + all - samples.len();
    Ok(Kind::Samples { renderer: Box::new(renderer), samples, left_out })
}
