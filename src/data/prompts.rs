//! Prompts that a model is to answer, with the columns of their rows.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::config::{SourceConfig, TemplateConfig};
use super::dataset::Fields;
use super::encoded::{EncodedSource, Encoding};
use super::left_out::LeftOut;
use super::renderer::Renderer;
use crate::error::{Error, Result};
use crate::tokenize::{EncodeOptions, Processor};

/// A prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its ids, with begin-of-text.
    pub ids: Vec<u32>,
    /// All columns of its row, those of the recipe included.
    pub fields: Fields,
    /// Where the row lies.
    pub place: String,
}

/// All prompts of a source.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// The prompts that can be rendered.
    pub prompts: Vec<Prompt>,
    /// What is left out.
    pub left_out: LeftOut,
}

impl Prompts {
    /// Reads the rows of `source`, whose templates write the prompt only; images are encoded. A row's template is
    /// drawn once, by `seed` and the row's number. With `open_image` a prompt ends with begin-image.
    ///
    /// # Errors
    /// Those of the data; if more rows than `max_bad` cannot be read or rendered.
    pub fn open(
        source: &SourceConfig,
        template: &TemplateConfig,
        encoding: Encoding<'_>,
        processor: &Processor,
        (seed, open_image): (u64, bool),
    ) -> Result<Self> {
        if template.uses_chat_template() {
            let message = "the template chat_template writes answers too; allowed: templates of the prompt alone";
            return Err(Error::invalid(format!("data {}: {message}", source.path)));
        }
        let renderer = Renderer::new(template, processor).map_err(Error::because(&source.path))?;
        let EncodedSource { samples, dataset, len } = EncodedSource::open(source, None, encoding)?;
        let options = EncodeOptions { open_image, ..EncodeOptions::default() };
        let mut prompts = Vec::with_capacity(samples.len());
        for mut sample in samples {
            renderer.complete(&mut sample.fields);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(sample.index as u64);
            let template = renderer.draw(&mut rng);
            let row = (&sample.fields, sample.images.as_slice());
            let ids = renderer
                .segments(row, template, &mut rng, processor)
                .and_then(|segments| processor.encode_with(&segments, options));
            match ids {
                Ok(ids) => prompts.push(Prompt { ids, fields: sample.fields, place: sample.place }),
                Err(error) => dataset.record(sample.index, format!("{}: {error}", sample.place)),
            }
        }
        dataset.check()?;
        Ok(Self { prompts, left_out: dataset.left_out(len) })
    }
}
