//! What to measure, as the command line or a recipe says it, and how it is done with an open checkpoint.

mod evaluation;
mod images;
mod recipe;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use evaluation::Evaluation;
pub use images::reconstruct;
pub use recipe::{EvalRecipe, EvalRunConfig};

use super::{Extent, Official, geneval, reconstruction, vqa};
use crate::data::scenes::ScenesConfig;
use crate::data::{self, Aliased, Dataset, Loss};
use crate::error::{Error, Result};
use crate::generate::GenerationConfig;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Answers to questions about images.
    Vqa,
    /// Captions.
    Captioning,
    /// Images of scenes' captions, read back by the detector; of another data set's texts, looked for among
    /// its images.
    TextToImage,
    /// What the image tokenizer loses.
    Reconstruction,
    /// Mean loss per token.
    Loss,
    /// Images for GenEval's own scorer; nothing is scored here.
    Geneval,
}

impl Measure {
    /// The name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vqa => "vqa",
            Self::Captioning => "captioning",
            Self::TextToImage => "text-to-image",
            Self::Reconstruction => "reconstruction",
            Self::Loss => "loss",
            Self::Geneval => "geneval",
        }
    }
}

/// How an answer is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answering {
    /// The model writes it.
    #[default]
    Generate,
    /// The likeliest of some choices.
    Choose,
    /// The likeliest per byte of some choices of different lengths.
    ChooseByLength,
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// What is measured.
    pub measure: Measure,
    /// The data set.
    pub data: String,
    /// What the results are called; the folder's name in a recipe's run.
    pub name: Option<String>,
    /// Columns of `data` and `train` that go by other names, such as `{ question = "sentence" }`.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// The first items only.
    pub limit: Option<usize>,
    /// Items computed at once.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Where majority answers, examples and choices come from; the data set itself for majorities.
    pub train: Option<String>,
    /// Examples before each question or image, the first ones of `train`.
    #[serde(default)]
    pub shots: usize,
    /// Whether answers are written or chosen.
    #[serde(default)]
    pub answer: Answering,
    /// What to choose from; all answers in `train` when empty, for captions all names in `data`.
    #[serde(default)]
    pub choices: Vec<String>,
    /// The prompt's form in place of the checkpoint's, such as `<image>{question} Answer briefly.<sep>`; for
    /// images of a data set's texts what to draw, such as `{name}, {style} emoji`.
    pub prompt: Option<String>,
    /// A folder with the Java programs of METEOR, SPICE or Stanford's tokenizer, for captions.
    pub official: Option<PathBuf>,
    /// The weights of Inception v3 that `pytorch-fid` downloads: adds rFID to a reconstruction and FID to
    /// text-to-image.
    pub inception: Option<PathBuf>,
    /// How a sample becomes a document whose loss is measured.
    #[serde(default)]
    pub templates: Vec<String>,
    /// What of a document counts, as in a training recipe's source.
    #[serde(default)]
    pub loss: Loss,
    /// One document per entry of this list-valued column, for the loss.
    pub explode: Option<String>,
    /// Changes to the checkpoint's `generation_config.json`.
    #[serde(default)]
    pub generation: Map<String, Value>,
}

fn default_batch() -> usize {
    32
}

impl TaskConfig {
    /// A measure of `data` with everything else as usual.
    pub fn new(measure: Measure, data: impl Into<String>) -> Self {
        Self {
            measure,
            data: data.into(),
            name: None,
            columns: BTreeMap::new(),
            limit: None,
            batch: default_batch(),
            train: None,
            shots: 0,
            answer: Answering::Generate,
            choices: Vec::new(),
            prompt: None,
            official: None,
            inception: None,
            templates: Vec::new(),
            loss: Loss::default(),
            explode: None,
            generation: Map::new(),
        }
    }

    /// Checks what needs neither data nor model.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key at fault.
    pub fn validate(&self) -> Result<()> {
        let invalid =
            |message: &str| Err(Error::invalid(format!("task {}: {message}", self.label())));
        if self.batch == 0 || self.limit == Some(0) {
            return invalid("batch and limit must be at least 1");
        }
        self.validate_used().or_else(|message| invalid(&message))?;
        if self.shots > 0 && self.train.is_none() {
            return invalid("shots needs train, where the examples come from");
        }
        if self.shots > 0 && self.train.as_ref() == Some(&self.data) {
            return invalid(
                "shots would show answers of the very data that is measured; train is data",
            );
        }
        if self.choices.iter().any(|choice| choice.trim().is_empty()) {
            return invalid("choices holds an empty one");
        }
        let chooses = self.answer != Answering::Generate;
        if !chooses && !self.choices.is_empty() {
            return invalid("choices needs answer = \"choose\" or \"choose-by-length\"");
        }
        let takes_all = self.measure == Measure::Vqa && self.train.is_none();
        if chooses && self.choices.is_empty() && takes_all {
            return invalid("answer = \"choose\" needs choices, or train to take them from");
        }
        let scenes = self.data.starts_with("scenes:");
        if self.measure == Measure::TextToImage && !scenes && self.prompt.is_none() {
            return invalid(
                "text-to-image of a data set that is not scenes needs prompt, the text to draw, such as \
                 \"{name}\"",
            );
        }
        if self.measure == Measure::Loss && self.templates.is_empty() {
            return invalid("the measure loss needs templates, such as \"<image>{name}\"");
        }
        Ok(())
    }

    /// Refuses what the measure does not read.
    fn validate_used(&self) -> std::result::Result<(), String> {
        use Measure::{Captioning, Geneval, Reconstruction, TextToImage, Vqa};
        let asks = [Vqa, Captioning];
        let draws_data = self.measure == TextToImage && self.prompt.is_some();
        let settings: [(&str, bool, &[Measure]); 10] = [
            ("columns", !self.columns.is_empty() && !draws_data, &asks),
            ("train", self.train.is_some(), &asks),
            ("shots", self.shots > 0, &asks),
            ("answer", self.answer != Answering::Generate, &asks),
            ("prompt", self.prompt.is_some(), &[Vqa, Captioning, TextToImage]),
            ("official", self.official.is_some(), &[Captioning]),
            ("inception", self.inception.is_some(), &[TextToImage, Reconstruction]),
            ("templates", !self.templates.is_empty() || self.explode.is_some(), &[Measure::Loss]),
            ("loss", self.loss != Loss::default(), &[Measure::Loss]),
            ("generation", !self.generation.is_empty(), &[Vqa, Captioning, TextToImage, Geneval]),
        ];
        let unused = settings.iter().find(|(_, given, of)| *given && !of.contains(&self.measure));
        match unused {
            Some((name, _, of)) => {
                let of: Vec<&str> = of.iter().map(|measure| measure.name()).collect();
                Err(format!(
                    "{name} is not for the measure {}; of {}",
                    self.measure.name(),
                    of.join(", ")
                ))
            }
            None => Ok(()),
        }
    }

    /// What the results are called.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.data)
    }

    /// The settings by which `base`'s model answers or draws.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown key or a value out of range.
    pub fn generation(
        &self,
        base: &GenerationConfig,
        seed: Option<u64>,
    ) -> Result<GenerationConfig> {
        let writes = matches!(self.measure, Measure::Vqa | Measure::Captioning);
        let base = if writes { base.clone().for_answers() } else { base.clone() };
        let mut config = base.changed(&self.generation)?;
        config.seed = seed.unwrap_or(config.seed);
        config.validate()?;
        Ok(config)
    }

    /// `dataset` with columns under the names that the measure looks for.
    fn named(&self, dataset: Box<dyn Dataset>) -> Box<dyn Dataset> {
        match self.columns.is_empty() {
            true => dataset,
            false => Box::new(Aliased::new(dataset, self.columns.clone())),
        }
    }

    /// Items that will be measured; for the loss, samples.
    ///
    /// # Errors
    /// Those of the data set.
    pub fn items(&self) -> Result<usize> {
        let extent = self.extent();
        let len = match self.measure {
            Measure::Vqa => vqa::open(&self.data)?.len(),
            Measure::TextToImage if self.prompt.is_none() => {
                self.data.parse::<ScenesConfig>()?.count
            }
            Measure::Captioning | Measure::TextToImage | Measure::Geneval | Measure::Loss => {
                data::open(&self.data)?.len()
            }
            Measure::Reconstruction => reconstruction::open(&self.data)?.len(),
        };
        Ok(match self.measure {
            Measure::Geneval => geneval::IMAGES * extent.of(len),
            _ => extent.of(len),
        })
    }

    /// Checks what can be known before the model is asked anything.
    ///
    /// # Errors
    /// Those of the data set; when the weights of `inception` or the programs of `official` are not there.
    pub fn check(&self) -> Result<()> {
        self.validate()?;
        self.items()?;
        if let Some(path) = &self.inception {
            std::fs::metadata(path).map_err(Error::io(path))?;
        }
        self.official.as_deref().map(Official::find).transpose()?;
        Ok(())
    }

    fn extent(&self) -> Extent {
        Extent { limit: self.limit, batch: self.batch }
    }
}
