//! The measures of `calumma eval`, from their arguments to their reports.

use std::collections::BTreeMap;
use std::path::Path;

use calumma::checkpoint::Manifest;
use calumma::data::Loss;
use calumma::eval::task::{
    self, Asking, CaptioningTask, Common, Evaluation, GenevalTask, LossTask, ReconstructionTask,
    TaskConfig, TextToImageTask, VqaTask,
};
use calumma::generate::GenerationConfig;
use calumma::lock::DirectoryLock;
use calumma::pipeline::Pipeline;
use calumma::recipe::read_recipe;
use calumma::train::LanguageRecipe;
use calumma::{Error, Result};
use serde_json::Map;

use super::args::{
    CaptioningArgs, EvalArgs, GenevalArgs, LossArgs, ReconstructionArgs, TextToImageArgs, VqaArgs,
};
use super::output::Measured;
use super::progress::Bar;
use crate::cli::open;
use crate::cli::sampling::{Kind, SamplingArgs};
use crate::cli::session::Session;

/// The configuration that all tasks share.
fn common(args: &EvalArgs) -> Common {
    Common { limit: args.limit, batch: args.batch, ..Common::new(args.dataset.as_str()) }
}

/// Opens the checkpoint and runs `task`.
fn measured<K: Kind>(
    task: &TaskConfig,
    common: &EvalArgs,
    sampling: &SamplingArgs<K>,
    session: &Session,
) -> Result<Measured> {
    task.validate()?;
    let lock = hold_out(&common.out, session)?;
    let pipeline = sampling.open(&common.checkpoint, session)?;
    let generation = sampling.config(&pipeline, session);
    let checkpoint = &common.checkpoint;
    let opened = Opened { checkpoint, pipeline: &pipeline };
    let measured = measure(task, opened, generation, &common.out, session)?;
    Ok(Measured { lock: Some(lock), ..measured })
}

/// Creates and locks the output directory, so that an unusable one fails before the work.
fn hold_out(out: &Path, session: &Session) -> Result<DirectoryLock> {
    DirectoryLock::alone(out).map(|lock| session.hold(lock))
}

/// An open checkpoint and its directory.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    /// The directory.
    pub checkpoint: &'a Path,
    /// The pipeline opened from it.
    pub pipeline: &'a Pipeline,
}

/// Runs `task`; finished responses are saved in `out`, from where an interrupted run resumes.
///
/// # Errors
/// Those of data and model.
pub fn measure(
    task: &TaskConfig,
    opened: Opened<'_>,
    generation: GenerationConfig,
    out: &Path,
    session: &Session,
) -> Result<Measured> {
    let seed = generation.seed;
    let pipeline = opened.pipeline;
    let evaluation = evaluation(task, opened, generation, out, session);
    let mut bar = Bar::new(evaluation.items()?, session);
    let report = evaluation.run(&mut |done| bar.add(done))?;
    Ok(Measured { report, seed, digest: pipeline.digest().map(str::to_owned), lock: None })
}

/// An evaluation ready to run.
pub fn evaluation<'a>(
    task: &'a TaskConfig,
    Opened { checkpoint, pipeline }: Opened<'a>,
    generation: GenerationConfig,
    out: &Path,
    session: &Session,
) -> Evaluation<'a> {
    let (out, quiet) = (out.to_owned(), session.quiet());
    Evaluation { task, checkpoint, pipeline, generation, out, quiet }
}

/// `eval vqa`: answers to questions about images.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn vqa(args: &VqaArgs, session: &Session) -> Result<Measured> {
    let asking = Asking {
        train: args.train.clone(),
        shots: args.shots,
        answer: args.answer.into(),
        choices: args.choice.clone(),
        prompt: args.prompt.clone(),
        ..Asking::default()
    };
    let task = VqaTask { common: common(&args.common), asking, generation: Map::new() };
    let task = TaskConfig::Vqa(task);
    measured(&task, &args.common, &args.sampling, session)
}

/// `eval captioning`: captions of images.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn captioning(args: &CaptioningArgs, session: &Session) -> Result<Measured> {
    let asking = Asking {
        train: args.train.clone(),
        shots: args.shots,
        answer: args.answer.into(),
        choices: args.choice.clone(),
        prompt: args.prompt.clone(),
        ..Asking::default()
    };
    let task = TaskConfig::Captioning(CaptioningTask {
        common: common(&args.common),
        asking,
        official: args.official.clone(),
        generation: Map::new(),
    });
    measured(&task, &args.common, &args.sampling, session)
}

/// `eval text-to-image`: images drawn from captions.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn text_to_image(args: &TextToImageArgs, session: &Session) -> Result<Measured> {
    let task = TaskConfig::TextToImage(TextToImageTask {
        common: common(&args.common),
        prompt: args.prompt.clone(),
        columns: BTreeMap::new(),
        inception: args.inception.inception.clone(),
        generation: Map::new(),
    });
    measured(&task, &args.common, &args.sampling, session)
}

/// `eval geneval`: images for GenEval's scorer.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn geneval(args: &GenevalArgs, session: &Session) -> Result<Measured> {
    let task = GenevalTask { common: common(&args.common), generation: Map::new() };
    let task = TaskConfig::Geneval(task);
    measured(&task, &args.common, &args.sampling, session)
}

/// `eval reconstruction`: images encoded and decoded by the image tokenizer.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn reconstruction(args: &ReconstructionArgs, session: &Session) -> Result<Measured> {
    let ReconstructionArgs { common: args, inception } = args;
    let task = ReconstructionTask { common: common(args), inception: inception.inception.clone() };
    let config = TaskConfig::Reconstruction(task.clone());
    config.validate()?;
    let lock = Some(hold_out(&args.out, session)?);
    let device = session.device_in_f32("an image tokenizer")?;
    let vq = open::image_tokenizer(&args.checkpoint, &device)?;
    let mut bar = Bar::new(Some(config.items()?), session);
    let report = task::reconstruct(&task, &vq, &mut |done| bar.add(done))?;
    let digest = Manifest::read(&args.checkpoint)?.map(|manifest| manifest.digest());
    Ok(Measured { report, seed: session.seed().unwrap_or(0), digest, lock })
}

/// `eval loss`: the loss on held-out documents; `--batch` counts rows of the model's context.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn loss(args: &LossArgs, session: &Session) -> Result<Measured> {
    let LossArgs { common: args, template, explode, adapters } = args;
    let task = TaskConfig::Loss(LossTask {
        common: common(args),
        templates: template.clone(),
        loss: Loss::default(),
        explode: explode.clone(),
    });
    let recipe = Path::new(&args.dataset);
    let is_recipe = recipe.extension().is_some_and(|extension| extension == "toml");
    if !is_recipe {
        return measured(&task, args, &SamplingArgs::of(adapters.clone()), session);
    }
    let recipe: LanguageRecipe = read_recipe(recipe, &[])?;
    if recipe.validation.is_empty() {
        let path = Path::new(&args.dataset);
        return Err(Error::file(path, "the recipe has no [[validation]] section"));
    }
    if !template.is_empty() || explode.is_some() {
        let message = "--template and --explode apply to data sets only; a recipe sets its own";
        return Err(Error::invalid(message));
    }
    let lock = Some(hold_out(&args.out, session)?);
    let pipeline = open::pipeline(&args.checkpoint, adapters, session)?;
    let generation = pipeline.generation().clone();
    let opened = Opened { checkpoint: &args.checkpoint, pipeline: &pipeline };
    let evaluation = evaluation(&task, opened, generation, &args.out, session);
    let mut bar = Bar::new(None, session);
    let report = evaluation.loss_of(&recipe.validation, &mut |done| bar.add(done))?;
    let digest = pipeline.digest().map(str::to_owned);
    Ok(Measured { report, seed: session.seed().unwrap_or(0), digest, lock })
}
