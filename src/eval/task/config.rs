//! The configuration of each kind of task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::data;
use crate::data::Loss;
use crate::data::scenes::ScenesConfig;
use crate::error::{Error, Result};
use crate::eval::{Extent, Official, geneval, reconstruction, vqa};
use crate::generate::GenerationConfig;

/// One task, by what it measures: the value of the key `measure`.
///
/// Recipes and results write every kind as one flat table. A key that the kind does not read is an error
/// unless it has its default value.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskConfig {
    /// `vqa`: answers to questions about images.
    Vqa(VqaTask),
    /// `captioning`: captions and names of images.
    Captioning(CaptioningTask),
    /// `text-to-image`: images generated from captions of scenes, or from the texts of another data set.
    TextToImage(TextToImageTask),
    /// `reconstruction`: the quality of the image tokenizer.
    Reconstruction(ReconstructionTask),
    /// `loss`: mean loss per token.
    Loss(LossTask),
    /// `geneval`: images for GenEval's own scorer; nothing is scored here.
    Geneval(GenevalTask),
}

/// How an answer is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answering {
    /// The model generates it.
    #[default]
    Generate,
    /// The most likely of the given choices.
    Choose,
    /// The choice with the highest log-probability per byte, for choices of different lengths.
    ChooseByLength,
}

/// The keys of every task.
#[derive(Clone, Debug, PartialEq)]
pub struct Common {
    /// The data set.
    pub data: String,
    /// Name of the results; of their directory in a recipe's run.
    pub name: Option<String>,
    /// If given, only the first `limit` items are measured.
    pub limit: Option<usize>,
    /// Batch size.
    pub batch: usize,
}

/// The keys of tasks that ask about images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asking {
    /// Columns of `data` and `train` whose names differ from those expected, such as `{ question =
    /// "sentence" }`.
    pub columns: BTreeMap<String, String>,
    /// The data set of few-shot examples, majority answers and choices.
    pub train: Option<String>,
    /// Few-shot examples before each question or image: the first samples of `train`.
    pub shots: usize,
    /// Whether answers are generated or chosen.
    pub answer: Answering,
    /// The choices; if empty all answers in `train`, for captions all names in `data`.
    pub choices: Vec<String>,
    /// Prompt template in place of the checkpoint's, such as `<image>{question} Answer briefly.<sep>`.
    pub prompt: Option<String>,
}

/// A task `vqa`.
#[derive(Clone, Debug, PartialEq)]
pub struct VqaTask {
    /// The keys of every task.
    pub common: Common,
    /// Prompt, examples and choices; majority answers are learnt from `data` without `train`.
    pub asking: Asking,
    /// Changes to the checkpoint's `generation_config.json`.
    pub generation: Map<String, Value>,
}

/// A task `captioning`.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptioningTask {
    /// The keys of every task.
    pub common: Common,
    /// Prompt, examples and choices.
    pub asking: Asking,
    /// Directory with the Java programs of METEOR, SPICE or Stanford's tokenizer.
    pub official: Option<PathBuf>,
    /// Changes to the checkpoint's `generation_config.json`.
    pub generation: Map<String, Value>,
}

/// A task `text-to-image`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextToImageTask {
    /// The keys of every task.
    pub common: Common,
    /// Template of the prompts, such as `{name}, {style} emoji`; captions of scenes without it.
    pub prompt: Option<String>,
    /// Columns with other names than in `prompt`; only with `prompt`.
    pub columns: BTreeMap<String, String>,
    /// Weights of Inception v3 as `pytorch-fid` downloads them: adds FID.
    pub inception: Option<PathBuf>,
    /// Changes to the checkpoint's `generation_config.json`.
    pub generation: Map<String, Value>,
}

/// A task `reconstruction`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReconstructionTask {
    /// The keys of every task.
    pub common: Common,
    /// Weights of Inception v3 as `pytorch-fid` downloads them: adds rFID.
    pub inception: Option<PathBuf>,
}

/// A task `loss`.
#[derive(Clone, Debug, PartialEq)]
pub struct LossTask {
    /// The keys of every task.
    pub common: Common,
    /// Templates that make a document of a sample.
    pub templates: Vec<String>,
    /// The supervised part of a document, as in a training recipe's source.
    pub loss: Loss,
    /// One document per entry of this list-valued column.
    pub explode: Option<String>,
}

/// A task `geneval`.
#[derive(Clone, Debug, PartialEq)]
pub struct GenevalTask {
    /// The keys of every task.
    pub common: Common,
    /// Changes to the checkpoint's `generation_config.json`.
    pub generation: Map<String, Value>,
}

impl Common {
    /// All of the data set `data`, with the default batch size.
    pub fn new(data: impl Into<String>) -> Self {
        Self { data: data.into(), name: None, limit: None, batch: Extent::default().batch }
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { limit: self.limit, batch: self.batch }
    }

    fn problem(&self) -> Option<&'static str> {
        (self.batch == 0 || self.limit == Some(0)).then_some("batch and limit must be at least 1")
    }
}

impl Asking {
    /// Whether the model chooses among texts instead of generating one.
    pub(super) fn chooses(&self) -> bool {
        self.answer != Answering::Generate
    }

    fn problem(&self, data: &str) -> Option<&'static str> {
        if self.shots > 0 && self.train.is_none() {
            return Some("shots needs train, where the examples come from");
        }
        if self.shots > 0 && self.train.as_deref() == Some(data) {
            return Some("train is data: examples would show answers of the data that is measured");
        }
        if self.choices.iter().any(|choice| choice.trim().is_empty()) {
            return Some("choices holds an empty text");
        }
        (!self.chooses() && !self.choices.is_empty())
            .then_some("choices needs answer = \"choose\" or \"choose-by-length\"")
    }
}

impl TextToImageTask {
    fn problem(&self) -> Option<&'static str> {
        if self.prompt.is_some() {
            return None;
        }
        if !self.columns.is_empty() {
            return Some("columns needs prompt, whose columns it renames");
        }
        (!self.common.data.starts_with("scenes:")).then_some(
            "text-to-image of a data set that is not scenes needs prompt, the text to draw, such as \
             \"{name}\"",
        )
    }
}

impl TaskConfig {
    /// The keys of every task.
    pub fn common(&self) -> &Common {
        match self {
            Self::Vqa(VqaTask { common, .. })
            | Self::Captioning(CaptioningTask { common, .. })
            | Self::TextToImage(TextToImageTask { common, .. })
            | Self::Reconstruction(ReconstructionTask { common, .. })
            | Self::Loss(LossTask { common, .. })
            | Self::Geneval(GenevalTask { common, .. }) => common,
        }
    }

    /// The name of the results, or the data set if they have none.
    pub fn label(&self) -> &str {
        let common = self.common();
        common.name.as_deref().unwrap_or(&common.data)
    }

    /// Checks everything that needs neither data nor model.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key at fault.
    pub fn validate(&self) -> Result<()> {
        let of_kind = || match self {
            Self::Vqa(VqaTask { common, asking, .. }) => {
                asking.problem(&common.data).or_else(|| {
                    let nothing = asking.choices.is_empty() && asking.train.is_none();
                    (asking.chooses() && nothing)
                        .then_some("answer = \"choose\" needs choices, or train to take them from")
                })
            }
            Self::Captioning(task) => task.asking.problem(&task.common.data),
            Self::TextToImage(task) => task.problem(),
            Self::Loss(task) => task
                .templates
                .is_empty()
                .then_some("the measure loss needs templates, such as \"<image>{name}\""),
            Self::Reconstruction(_) | Self::Geneval(_) => None,
        };
        match self.common().problem().or_else(of_kind) {
            Some(message) => Err(Error::invalid(format!("task {}: {message}", self.label()))),
            None => Ok(()),
        }
    }

    /// Checks everything that can be known before the model is run.
    ///
    /// # Errors
    /// Those of the data set; if the weights of `inception` or the programs of `official` are missing.
    pub fn check(&self) -> Result<()> {
        self.validate()?;
        self.items()?;
        if let Some(path) = self.inception() {
            std::fs::metadata(path).map_err(Error::io(path))?;
        }
        if let Self::Captioning(CaptioningTask { official: Some(dir), .. }) = self {
            Official::find(dir)?;
        }
        Ok(())
    }

    fn inception(&self) -> Option<&Path> {
        match self {
            Self::TextToImage(TextToImageTask { inception, .. })
            | Self::Reconstruction(ReconstructionTask { inception, .. }) => inception.as_deref(),
            _ => None,
        }
    }

    /// The generation settings: those of the checkpoint, `base`, with the task's changes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown key or a value out of range.
    pub fn generation(
        &self,
        base: &GenerationConfig,
        seed: Option<u64>,
    ) -> Result<GenerationConfig> {
        let mut config = match self {
            Self::Vqa(VqaTask { generation, .. })
            | Self::Captioning(CaptioningTask { generation, .. }) => {
                base.clone().for_answers().changed(generation)?
            }
            Self::TextToImage(TextToImageTask { generation, .. })
            | Self::Geneval(GenevalTask { generation, .. }) => base.changed(generation)?,
            Self::Reconstruction(_) | Self::Loss(_) => base.clone(),
        };
        config.seed = seed.unwrap_or(config.seed);
        config.validate()?;
        Ok(config)
    }

    /// The number of items measured; for the loss, of samples.
    ///
    /// # Errors
    /// Those of the data set.
    pub fn items(&self) -> Result<usize> {
        let Common { data: spec, .. } = self.common();
        let len = match self {
            Self::Vqa(_) => vqa::open(spec)?.len(),
            Self::TextToImage(task) if task.prompt.is_none() => spec.parse::<ScenesConfig>()?.count,
            Self::Reconstruction(_) => reconstruction::open(spec)?.len(),
            Self::Captioning(_) | Self::TextToImage(_) | Self::Loss(_) | Self::Geneval(_) => {
                data::open(spec)?.len()
            }
        };
        let per_sample = if matches!(self, Self::Geneval(_)) { geneval::IMAGES } else { 1 };
        Ok(per_sample * self.common().extent().of(len))
    }
}
