//! `calumma eval`: scores of a checkpoint on a data set, written to a directory.

mod measures;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use calumma::Result;
use calumma::eval::{Environment, Extent, Report};
use calumma::generate::GenerationConfig;
use calumma::pipeline::Pipeline;
use calumma::report::Reporter;
use clap::{Args, Subcommand};
use serde_json::json;

use super::session::Session;

/// Ids that an answer or a caption may have where the checkpoint sets no limit.
const LONGEST_ANSWER: usize = 48;

/// What to measure.
#[derive(Subcommand)]
pub enum EvalVerb {
    /// Mean loss per token by modality, on documents
    Loss(LossArgs),
    /// Answers to questions about pictures, exact match by question type
    Vqa(VqaArgs),
    /// Captions: names, or scenes' captions
    Captioning(EvalArgs),
    /// Pictures drawn from captions of scenes, read back by the detector
    TextToImage(DrawArgs),
    /// What the image tokenizer loses: PSNR, SSIM, use of the codebook
    Reconstruction(EvalArgs),
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
}

/// Arguments of `eval text-to-image`.
#[derive(Args)]
pub struct DrawArgs {
    #[command(flatten)]
    common: EvalArgs,
    /// Strength of classifier-free guidance; 1 is off
    #[arg(long, value_name = "S")]
    guidance_scale: Option<f32>,
    /// Temperature of picture codes
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Share of probability that picture codes are drawn from
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Number of codes that picture codes are drawn from
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
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
        EvalVerb::Captioning(args) => (args, measures::captioning(args, session)?),
        EvalVerb::TextToImage(args) => (&args.common, measures::text_to_image(args, session)?),
        EvalVerb::Reconstruction(args) => (args, measures::reconstruction(args, session)?),
    };
    finish(report, common, session)
}

/// Writes the report, and prints its scores.
fn finish(mut measured: Measured, args: &EvalArgs, session: &Session) -> Result<()> {
    let report = &mut measured.report;
    report.config.insert("limit".to_owned(), json!(args.limit));
    report.config.insert("batch".to_owned(), json!(args.batch));
    let environment = Environment {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("CALUMMA_COMMIT").map(str::to_owned),
        device: format!("{:?}", measured.device),
        dtype: session.precision().to_string(),
        seed: measured.seed,
        checkpoint: args.checkpoint.display().to_string(),
        digest: measured.digest,
    };
    report.write(&args.out, &environment)?;
    for (name, score) in &report.scores {
        session.line(format_args!("{name:<28} {score}"))?;
    }
    if !report.bad.is_empty() {
        session.note(format_args!("{} samples could not be read", report.bad.len()));
    }
    session.note(format_args!("written to {}", args.out.display()));
    session.object(&report.results(&environment))
}

/// A report and what it was made with.
struct Measured {
    report: Report,
    device: Device,
    seed: u64,
    digest: Option<String>,
}

/// An open checkpoint.
struct Opened {
    pipeline: Pipeline,
    device: Device,
    config: GenerationConfig,
}

impl Opened {
    fn new(args: &EvalArgs, session: &Session) -> Result<Self> {
        let device = session.device_in_f32("evaluation")?;
        let pipeline = Pipeline::open(&args.checkpoint, &device)?;
        let mut config = pipeline.generation().clone();
        if let Some(seed) = session.seed() {
            config.seed = seed;
        }
        Ok(Self { pipeline, device, config })
    }

    /// Settings for text: the most likely answer, of limited length.
    fn for_answers(&self) -> GenerationConfig {
        let mut config = self.config.clone().for_answers();
        let most = config.max_new_tokens.unwrap_or(LONGEST_ANSWER);
        config.max_new_tokens = Some(most.min(LONGEST_ANSWER));
        config
    }

    fn measured(self, mut report: Report, generation: Option<&GenerationConfig>) -> Measured {
        if let Some(generation) = generation {
            report.config.insert("generation".to_owned(), json!(generation));
        }
        let digest = self.pipeline.digest().map(str::to_owned);
        Measured { report, device: self.device, seed: self.config.seed, digest }
    }
}

/// A progress bar over `len` items.
struct Bar {
    reporter: Reporter,
    done: usize,
}

impl Bar {
    fn new(len: usize, unit: &'static str, session: &Session) -> Self {
        let reporter = match session.quiet() {
            true => Reporter::silent(),
            false => Reporter::bar(len as u64, unit),
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

fn extent(args: &EvalArgs) -> Extent {
    Extent { limit: args.limit, batch: args.batch }
}

/// The image tokenizer of a checkpoint, or the directory itself.
fn tokenizer_dir(checkpoint: &Path) -> PathBuf {
    let nested = checkpoint.join("vq_tokenizer");
    if nested.is_dir() { nested } else { checkpoint.to_owned() }
}
