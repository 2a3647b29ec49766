//! Arguments of the measures of `calumma eval`.

use std::path::PathBuf;

use calumma::eval::task::Answering;
use clap::{Args, ValueEnum};

use crate::cli::open::AdapterArgs;
use crate::cli::sampling::{Answers, Drawing, SamplingArgs};

/// Arguments of every measure.
#[derive(Args)]
pub struct EvalArgs {
    /// Checkpoint directory
    pub(super) checkpoint: PathBuf,
    /// Data set, such as val.parquet or scenes:val?count=500
    pub(super) dataset: String,
    /// Directory for results.json, samples.jsonl and sheet.png
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
    /// Use only the first N items [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(super) limit: Option<usize>,
    /// Items per batch
    #[arg(long, value_name = "N", default_value = "32", value_parser = at_least_one)]
    pub(super) batch: usize,
}

/// Arguments of `eval vqa`.
#[derive(Args)]
pub struct VqaArgs {
    #[command(flatten)]
    pub(super) common: EvalArgs,
    /// Data set for few-shot examples, choices and the most frequent answers, which are the baseline
    /// [default for the baseline: the evaluated data set]
    #[arg(long, value_name = "DATASET")]
    pub(super) train: Option<String>,
    /// Show K examples from --train before each question
    #[arg(long, value_name = "K", default_value_t = 0, requires = "train")]
    pub(super) shots: usize,
    /// How to get an answer
    #[arg(long, value_enum, default_value_t = AnswerArg::Generate)]
    pub(super) answer: AnswerArg,
    /// Choice for --answer choose or choose-by-length; repeat for more [default: all answers in --train]
    #[arg(long, value_name = "TEXT")]
    pub(super) choice: Vec<String>,
    /// Prompt template, such as "<image>{question}<sep>" [default: the checkpoint's]
    #[arg(long, value_name = "FORM")]
    pub(super) prompt: Option<String>,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs<Answers>,
}

/// How the model answers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AnswerArg {
    /// Generate text
    Generate,
    /// Take the most likely choice
    Choose,
    /// Take the choice most likely per byte, for choices of different lengths
    ChooseByLength,
}

impl From<AnswerArg> for Answering {
    fn from(answer: AnswerArg) -> Self {
        match answer {
            AnswerArg::Generate => Self::Generate,
            AnswerArg::Choose => Self::Choose,
            AnswerArg::ChooseByLength => Self::ChooseByLength,
        }
    }
}

/// Arguments of `eval captioning`.
#[derive(Args)]
pub struct CaptioningArgs {
    #[command(flatten)]
    pub(super) common: EvalArgs,
    /// Also use the official programs in this folder: any of meteor-1.5.jar, spice-1.0.jar and, as
    /// tokenizer, stanford-corenlp-3.4.1.jar
    #[arg(long, value_name = "DIR")]
    pub(super) official: Option<PathBuf>,
    /// Data set for few-shot examples
    #[arg(long, value_name = "DATASET")]
    pub(super) train: Option<String>,
    /// Show K examples from --train before each image
    #[arg(long, value_name = "K", default_value_t = 0, requires = "train")]
    pub(super) shots: usize,
    /// Prompt template, such as "<image>Describe it.<sep>" [default: the checkpoint's]
    #[arg(long, value_name = "FORM")]
    pub(super) prompt: Option<String>,
    /// How to get a caption or name
    #[arg(long, value_enum, default_value_t = AnswerArg::Generate)]
    pub(super) answer: AnswerArg,
    /// Choice for --answer choose or choose-by-length; repeat for more [default: all names in the data
    /// set]
    #[arg(long, value_name = "TEXT")]
    pub(super) choice: Vec<String>,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs<Answers>,
}

/// Arguments of `eval reconstruction` and `vq eval`.
#[derive(Args)]
pub struct ReconstructionArgs {
    #[command(flatten)]
    pub(super) common: EvalArgs,
    #[command(flatten)]
    pub(super) inception: InceptionArg,
}

/// The Inception weights that FID needs.
#[derive(Args)]
pub struct InceptionArg {
    /// Also compute FID with these Inception weights: pt_inception-2015-12-05-6726825d.pth of pytorch-fid
    #[arg(long, value_name = "FILE")]
    pub(super) inception: Option<PathBuf>,
}

/// Arguments of `eval text-to-image`.
#[derive(Args)]
pub struct TextToImageArgs {
    #[command(flatten)]
    pub(super) common: EvalArgs,
    /// Text to draw for each sample of a data set other than scenes, such as "{name}, {style} emoji"
    #[arg(long, value_name = "FORM")]
    pub(super) prompt: Option<String>,
    #[command(flatten)]
    pub(super) inception: InceptionArg,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs<Drawing>,
}

/// Arguments of `eval geneval`.
#[derive(Args)]
pub struct GenevalArgs {
    #[command(flatten)]
    pub(super) common: EvalArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs<Drawing>,
}

/// Arguments of `eval loss`.
#[derive(Args)]
pub struct LossArgs {
    #[command(flatten)]
    pub(super) common: EvalArgs,
    /// Template that turns a sample into a document, such as "<image>{name}"; not for a recipe
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) template: Vec<String>,
    /// Make one document per entry of this list-valued column
    #[arg(long, value_name = "COLUMN")]
    pub(super) explode: Option<String>,
    #[command(flatten)]
    pub(super) adapters: AdapterArgs,
}

/// A `value_parser` for counts.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}
