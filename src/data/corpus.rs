//! The recipe of `calumma bpe train`, and the text that it trains on.

use std::path::PathBuf;

use super::config::TextData;
use super::dataset::Dataset;
use super::dialect::add_messages;
use super::form::Form;
use super::left_out::LeftOut;
use super::render::RenderOptions;
use crate::error::{Error, Result};
use crate::recipe::{Recipe, runs_directory, validate_name};
use crate::tokenize::{BpeConfig, Template};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

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

/// The text that a text tokenizer is trained on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corpus {
    /// The texts of all samples.
    pub texts: Vec<String>,
    /// What each source lacks.
    pub left_out: Vec<LeftOut>,
}

/// The texts of at most `count` samples per source by every template, without images and separators.
///
/// # Errors
/// Those of data sets and templates; if more samples of a source than its `max_bad` cannot be read or
/// rendered; if there is no text.
pub fn corpus(sources: &[TextData], count: usize, seed: u64) -> Result<Corpus> {
    let mut corpus = Corpus::default();
    for data in sources {
        let forms = data.templates.iter().map(|template| text_form(template.parts().0));
        let forms = forms.collect::<Result<Vec<Form>>>();
        let forms = forms.map_err(Error::because(&data.source.path))?;
        let dataset = data.source.open()?;
        let len = data.source.len_of(&dataset).min(count);
        let dataset = dataset.of_first(len);
        for index in 0..len {
            match texts_of(data, &forms, &dataset, (index, seed)) {
                Ok(texts) => corpus.texts.extend(texts),
                Err(error) => dataset.record(index, error.to_string()),
            }
        }
        dataset.check()?;
        corpus.left_out.push(dataset.left_out(len));
    }
    if corpus.texts.is_empty() {
        let reasons = corpus.left_out.iter().flat_map(|left_out| &left_out.bad_samples);
        let reasons: String = reasons.map(|bad| format!("\n  {}", bad.reason)).collect();
        return Err(Error::invalid(format!("the sources hold no text{reasons}")));
    }
    Ok(corpus)
}

/// The form of an entry of `templates`; without a checkpoint, the chat template is the layout of `{messages}`.
fn text_form(source: &str) -> Result<Form> {
    match Form::parse(source)? {
        Form::Chat => Template::parse("{messages}").map(Form::Written),
        form => Ok(form),
    }
}

/// The texts of sample `index` by all `forms`.
///
/// # Errors
/// Why the sample is bad, with its place.
fn texts_of(
    data: &TextData,
    forms: &[Form],
    dataset: &dyn Dataset,
    (index, seed): (usize, u64),
) -> Result<Vec<String>> {
    let mut fields = dataset.fields(index)?;
    fields.extend(data.fields.clone());
    let at = |error: Error| Error::because(dataset.place(index))(error);
    if forms.iter().any(Form::writes_messages) {
        add_messages(&mut fields, true).map_err(Error::invalid).map_err(at)?;
    }
    let options = RenderOptions { max_turns: Some(data.max_turns), ..Default::default() };
    let templates = forms.iter().filter_map(|form| form.template(&fields).transpose());
    let templates = templates.collect::<Result<Vec<&Template>>>().map_err(at)?;
    for template in &templates {
        // Images are not needed here, so there may be any number of them.
        template.check(&fields, usize::MAX, &options).map_err(at)?;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    let mut texts = Vec::new();
    for template in templates {
        texts.extend(template.texts(&fields, &options, &mut rng).map_err(at)?);
    }
    Ok(texts)
}
