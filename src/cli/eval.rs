//! `calumma eval`: scores of a checkpoint on a data set, written to a directory; and what to know of
//! scores: whether two differ, and whether their data were trained on.

mod compare;
mod contamination;
mod fid;
mod measures;
mod recipe;

use std::path::{Path, PathBuf};

use calumma::Result;
use calumma::eval::task::Answering;
use calumma::eval::{Environment, Report, Responses};
use calumma::report::Reporter;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::sampling::SamplingArgs;
use super::session::Session;

/// What to measure.
#[derive(Subcommand)]
pub enum EvalVerb {
    /// Mean loss per token by modality, on documents
    Loss(LossArgs),
    /// Answers to questions about images, exact match by question type
    Vqa(VqaArgs),
    /// Captions: names, or scenes' captions
    Captioning(CaptioningArgs),
    /// Images drawn from captions of scenes, read back by the detector; or from a data set's texts
    TextToImage(TextToImageArgs),
    /// Images for GenEval's own scorer, in the folder that it reads
    Geneval(GenerationArgs),
    /// What the image tokenizer loses: PSNR, SSIM, use of the codebook
    Reconstruction(ReconstructionArgs),
    /// The Fréchet inception distance of two sets of images
    Fid(fid::FidArgs),
    /// Every measure of a recipe, and one table of all scores
    Run(recipe::RunArgs),
    /// Two evaluations of the same items: differences with intervals and p-values
    Compare(compare::CompareArgs),
    /// Evaluation items that lie in training data: equal and near images, equal texts, n-grams
    Contamination(contamination::ContaminationArgs),
}

/// What every measure takes.
#[derive(Args)]
pub struct EvalArgs {
    /// The checkpoint's directory
    checkpoint: PathBuf,
    /// A data set, such as val.parquet or scenes:val?count=500
    dataset: String,
    /// Where results.json, samples.jsonl and sheet.png go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The first N items only
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Items computed at once
    #[arg(long, value_name = "N", default_value = "32", value_parser = at_least_one)]
    batch: usize,
}

/// Arguments of `eval vqa`.
#[derive(Args)]
pub struct VqaArgs {
    #[command(flatten)]
    common: EvalArgs,
    /// Where the most frequent answers are learnt [default: the data set itself]
    #[arg(long, value_name = "DATASET")]
    train: Option<String>,
    /// Show so many examples of --train before each question
    #[arg(long, value_name = "K", default_value_t = 0, requires = "train")]
    shots: usize,
    /// Let the model write the answer, or take the likeliest of some choices
    #[arg(long, value_enum, default_value_t = AnswerArg::Generate)]
    answer: AnswerArg,
    /// A choice for --answer choose or choose-by-length; give several. All answers in --train when absent
    #[arg(long, value_name = "TEXT")]
    choice: Vec<String>,
    /// Ask in this form instead of the checkpoint's, such as "<image>{question}<sep>"
    #[arg(long, value_name = "FORM")]
    prompt: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// How an answer is found.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AnswerArg {
    /// The model writes it.
    Generate,
    /// The likeliest of some choices.
    Choose,
    /// The likeliest per byte, for choices of different lengths.
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
    common: EvalArgs,
    /// A folder with meteor-1.5.jar, spice-1.0.jar or stanford-corenlp-3.4.1.jar, to score with them too
    #[arg(long, value_name = "DIR")]
    official: Option<PathBuf>,
    /// Where examples come from
    #[arg(long, value_name = "DATASET")]
    train: Option<String>,
    /// Show so many examples of --train before each image
    #[arg(long, value_name = "K", default_value_t = 0, requires = "train")]
    shots: usize,
    /// Ask in this form instead of the checkpoint's, such as "<image>Describe it.<sep>"
    #[arg(long, value_name = "FORM")]
    prompt: Option<String>,
    /// Let the model write the name, or take the likeliest of some choices
    #[arg(long, value_enum, default_value_t = AnswerArg::Generate)]
    answer: AnswerArg,
    /// A choice for --answer choose or choose-by-length; give several. All names in the data set when absent
    #[arg(long, value_name = "TEXT")]
    choice: Vec<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Arguments of `eval reconstruction` and `vq eval`.
#[derive(Args)]
pub struct ReconstructionArgs {
    #[command(flatten)]
    common: EvalArgs,
    #[command(flatten)]
    inception: InceptionArg,
}

/// The weights behind FID.
#[derive(Args)]
struct InceptionArg {
    /// Add FID, or rFID, by these weights: pt_inception-2015-12-05-6726825d.pth of pytorch-fid
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,
}

/// Arguments of `eval text-to-image`.
#[derive(Args)]
pub struct TextToImageArgs {
    #[command(flatten)]
    common: EvalArgs,
    /// What to draw of a data set that is not scenes, such as "{name}, {style} emoji"
    #[arg(long, value_name = "FORM")]
    prompt: Option<String>,
    #[command(flatten)]
    inception: InceptionArg,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Arguments of `eval geneval`.
#[derive(Args)]
pub struct GenerationArgs {
    #[command(flatten)]
    common: EvalArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Arguments of `eval loss`.
#[derive(Args)]
pub struct LossArgs {
    #[command(flatten)]
    common: EvalArgs,
    /// How a sample becomes a document, such as "<image>{name}"; not for a recipe
    #[arg(long, value_name = "TEMPLATE")]
    template: Vec<String>,
    /// One document per entry of this list-valued column
    #[arg(long, value_name = "COLUMN")]
    explode: Option<String>,
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Does `verb`.
///
/// # Errors
/// Those of checkpoint, data set, device and output.
pub fn run(verb: EvalVerb, session: &Session) -> Result<()> {
    let (common, report) = match &verb {
        EvalVerb::Loss(args) => (&args.common, measures::loss(args, session)?),
        EvalVerb::Vqa(args) => (&args.common, measures::vqa(args, session)?),
        EvalVerb::Captioning(args) => (&args.common, measures::captioning(args, session)?),
        EvalVerb::TextToImage(args) => (&args.common, measures::text_to_image(args, session)?),
        EvalVerb::Geneval(args) => (&args.common, measures::geneval(args, session)?),
        EvalVerb::Reconstruction(args) => (&args.common, measures::reconstruction(args, session)?),
        EvalVerb::Fid(args) => return fid::run(args, session),
        EvalVerb::Run(args) => return recipe::run(args, session),
        EvalVerb::Compare(args) => return compare::run(args, session),
        EvalVerb::Contamination(args) => return contamination::run(args, session),
    };
    finish(report, common, session)
}

/// Does `vq eval`, which is `eval reconstruction`.
///
/// # Errors
/// As [`run`].
pub fn reconstruction(args: &ReconstructionArgs, session: &Session) -> Result<()> {
    finish(measures::reconstruction(args, session)?, &args.common, session)
}

/// Writes the report, and prints its scores.
fn finish(mut measured: Measured, args: &EvalArgs, session: &Session) -> Result<()> {
    let config = &mut measured.report.config;
    config.insert("limit".to_owned(), json!(args.limit));
    config.insert("batch".to_owned(), json!(args.batch));
    let (report, environment) = write(measured, &args.checkpoint, &args.out, session)?;
    if report.scores.is_empty() {
        session.note("no right answer is known, so nothing was scored");
    }
    session.object(&report.results(&environment))
}

/// Writes a report to `out` and prints its scores.
fn write(
    measured: Measured,
    checkpoint: &Path,
    out: &Path,
    session: &Session,
) -> Result<(Report, Environment)> {
    let Measured { report, seed, digest } = measured;
    let environment = Environment {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("CALUMMA_COMMIT").map(str::to_owned),
        device: session.device_name(),
        dtype: session.precision().to_string(),
        seed,
        checkpoint: checkpoint.display().to_string(),
        digest,
    };
    report.write(out, &environment)?;
    Responses::done(out)?;
    for (name, score) in &report.scores {
        session.line(format_args!("{name:<28} {score}"))?;
    }
    if !report.bad.is_empty() {
        session.note(format_args!("{} samples could not be read", report.bad.len()));
    }
    session.note(format_args!("written to {}", out.display()));
    Ok((report, environment))
}

/// A report and what it was made with.
struct Measured {
    report: Report,
    seed: u64,
    digest: Option<String>,
}

/// A progress bar over items, where their number is known.
struct Bar {
    reporter: Reporter,
    done: usize,
}

impl Bar {
    fn new(len: Option<usize>, session: &Session) -> Self {
        let reporter = match len.filter(|_| !session.quiet()) {
            Some(len) => Reporter::bar(len as u64, "items"),
            None => Reporter::silent(),
        };
        Self { reporter, done: 0 }
    }

    fn add(&mut self, items: usize) {
        self.done += items;
        self.reporter.step(self.done, items);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.reporter.finish();
    }
}
