//! The recipe of `calumma bpe train`, and the text that it trains on.

use std::path::PathBuf;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vq_tokenizer::Codes;

use super::config::TextData;
use super::dataset::{Dataset, Fields};
use super::render::RenderOptions;
use crate::error::{Error, Result};
use crate::recipe::{Recipe, runs_directory, validate_name};
use crate::tokenize::{BpeConfig, CodedSegment, Template};

/// A recipe for `calumma bpe train`: a text tokenizer with reserved tokens for images.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpeRecipe {
    /// Destination of the result: `directory/name/tokenizer.json`.
    pub run: BpeRunConfig,
    /// The vocabulary.
    pub bpe: BpeConfig,
    /// Documents whose text is read, without images and separators.
    pub data: Vec<TextData>,
}

/// Destination of a text tokenizer, and the amount of text to train on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpeRunConfig {
    /// Name of the run's directory.
    pub name: String,
    /// Parent directory.
    #[serde(default = "runs_directory")]
    pub directory: PathBuf,
    /// Seed of the choice among list values.
    #[serde(default)]
    pub seed: u64,
    /// Maximum number of samples read from each source.
    #[serde(default = "default_documents")]
    pub documents: usize,
}

fn default_documents() -> usize {
    20_000
}

impl Recipe for BpeRecipe {
    fn validate(&self) -> Result<()> {
        validate_name(&self.run.name)?;
        TextData::validate_all(&self.data)
    }
}

/// The texts of at most `count` samples per source by every template, without images and separators.
///
/// # Errors
/// Those of data sets and templates; if there is no text.
pub fn corpus(sources: &[TextData], count: usize, seed: u64) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for data in sources {
        let templates = data.templates.iter().map(|template| Template::parse(template.parts().0));
        let templates: Vec<Template> = templates.collect::<Result<_>>()?;
        let dataset = data.source.open()?;
        let len = data.source.len_of(&dataset).min(count);
        let mut bad = 0;
        for index in 0..len {
            let mut fields = match dataset.fields(index) {
                Ok(fields) => fields,
                Err(_) if ((bad + 1) as f64) <= data.source.max_bad * len as f64 => {
                    bad += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            fields.extend(data.fields.clone());
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            for template in &templates {
                texts.extend(texts_of(template, &fields, data.max_turns, &mut rng)?);
            }
        }
    }
    if texts.is_empty() {
        return Err(Error::invalid("the sources hold no text"));
    }
    Ok(texts)
}

/// The texts of a sample by `template`.
fn texts_of(
    template: &Template,
    fields: &Fields,
    max_turns: usize,
    rng: &mut ChaCha8Rng,
) -> Result<impl Iterator<Item = String>> {
    let blank = Codes { ids: vec![], height: 0, width: 0 };
    let images = vec![blank; template.num_images()];
    let options = RenderOptions { max_turns: Some(max_turns), ..Default::default() };
    let rendered = template.render(fields, &images, &options, rng)?;
    Ok(rendered.segments.into_iter().filter_map(|segment| match segment {
        CodedSegment::Text(text) => Some(text),
        _ => None,
    }))
}
