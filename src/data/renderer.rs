//! Renders samples as token ids, with the templates of their source.

use std::collections::BTreeSet;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::config::TemplateConfig;
use super::dataset::Fields;
use super::mixture::weighted;
use super::render::RenderOptions;
use crate::error::Result;
use crate::tokenize::{CodedSegment, EncodeOptions, Processor, Template, TokenSequence};

/// The parsed templates of a source and their options.
#[derive(Clone, Debug)]
pub(super) struct Renderer {
    config: TemplateConfig,
    templates: Vec<Template>,
}

impl Renderer {
    /// Parses the templates of `config`.
    ///
    /// # Errors
    /// If a template is malformed.
    pub(super) fn new(config: &TemplateConfig) -> Result<Self> {
        let templates = config.templates.iter().map(|template| Template::parse(template.parts().0));
        Ok(Self { templates: templates.collect::<Result<_>>()?, config: config.clone() })
    }

    /// The number of templates.
    pub(super) fn num_templates(&self) -> usize {
        self.templates.len()
    }

    /// The columns that the templates look up.
    pub(super) fn columns(&self) -> BTreeSet<String> {
        self.templates.iter().flat_map(Template::fields).collect()
    }

    /// The weight of each template.
    pub(super) fn weights(&self) -> Vec<f64> {
        self.config.templates.iter().map(|template| template.parts().1).collect()
    }

    /// The index of a template, drawn by weight.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        weighted(self.config.templates.iter().map(|template| template.parts().1), rng)
    }

    /// Adds the fields of the recipe to those of a sample.
    pub(super) fn complete(&self, fields: &mut Fields) {
        fields.extend(self.config.fields.clone());
    }

    /// The ids of a sample by the template of index `template`. `rng` makes the random choices of
    /// the template and of prompt dropout.
    ///
    /// # Errors
    /// Only if [`check`](Self::check) fails.
    pub(super) fn document(
        &self,
        (fields, images): (&Fields, &[Codes]),
        template: usize,
        rng: &mut ChaCha8Rng,
        processor: &Processor,
    ) -> Result<TokenSequence> {
        let template = &self.templates[template];
        let rendered = template.render(fields, images, &self.options(), rng)?;
        let dropped = template.is_text_first() && rng.random::<f64>() < self.config.prompt_dropout;
        match rendered.without_prompt().filter(|_| dropped) {
            Some(bare) => bare.tokens(processor),
            None => rendered.tokens(processor),
        }
    }

    /// Checks that every template can render the sample whatever is drawn, and that its images have ids.
    ///
    /// # Errors
    /// The first reason why not.
    pub(super) fn check(
        &self,
        (fields, images): (&Fields, &[Codes]),
        processor: &Processor,
    ) -> Result<()> {
        let used =
            |template: &Template| template.most_images(fields, images.len(), &self.options());
        let used = self.templates.iter().map(used).collect::<Result<Vec<usize>>>()?;
        let used = used.into_iter().max().unwrap_or(0);
        images.iter().take(used).try_for_each(|codes| {
            let image = CodedSegment::Image(codes.clone());
            processor.encode_with(&[image], EncodeOptions::default()).map(drop)
        })
    }

    fn options(&self) -> RenderOptions {
        RenderOptions { loss: self.config.loss, max_turns: Some(self.config.max_turns) }
    }
}
