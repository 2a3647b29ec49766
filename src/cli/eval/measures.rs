//! Each measure over an open checkpoint.

use std::path::Path;

use calumma::checkpoint::Manifest;
use calumma::eval::task::{self, Evaluation, Measure, TaskConfig};
use calumma::generate::GenerationConfig;
use calumma::pipeline::Pipeline;
use calumma::recipe::read_recipe;
use calumma::train::LanguageRecipe;
use calumma::{Error, Result};

use super::{
    Bar, CaptioningArgs, EvalArgs, GenerationArgs, LossArgs, Measured, ReconstructionArgs,
    TextToImageArgs, VqaArgs,
};
use crate::cli::open;
use crate::cli::sampling::SamplingArgs;
use crate::cli::session::Session;

/// The measure `measure` as the arguments say it.
fn config(measure: Measure, common: &EvalArgs) -> TaskConfig {
    TaskConfig {
        limit: common.limit,
        batch: common.batch,
        ..TaskConfig::new(measure, common.dataset.as_str())
    }
}

/// Opens the checkpoint, and measures.
fn measured(
    task: &TaskConfig,
    common: &EvalArgs,
    sampling: &SamplingArgs,
    session: &Session,
) -> Result<Measured> {
    task.validate()?;
    make_out(&common.out)?;
    let pipeline = open::pipeline(&common.checkpoint, session)?;
    let generation = match task.measure {
        Measure::Vqa | Measure::Captioning => sampling.for_answers(&pipeline, session),
        _ => sampling.over_checkpoint(&pipeline, session),
    };
    let checkpoint = &common.checkpoint;
    let opened = Opened { checkpoint, pipeline: &pipeline };
    measure(task, opened, generation, &common.out, session)
}

/// Makes the folder of the results, before anything is measured.
fn make_out(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(Error::io(out))
}

/// A checkpoint's directory, opened.
#[derive(Clone, Copy)]
pub struct Opened<'a> {
    /// The directory.
    pub checkpoint: &'a Path,
    /// What it holds.
    pub pipeline: &'a Pipeline,
}

/// Measures `task` with `pipeline`; responses are kept in `out` on the way.
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
    Ok(Measured { report, seed, digest: pipeline.digest().map(str::to_owned) })
}

/// A measure that is ready to be done.
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

/// Questions about images.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn vqa(args: &VqaArgs, session: &Session) -> Result<Measured> {
    let task = TaskConfig {
        train: args.train.clone(),
        shots: args.shots,
        answer: args.answer.into(),
        choices: args.choice.clone(),
        prompt: args.prompt.clone(),
        ..config(Measure::Vqa, &args.common)
    };
    measured(&task, &args.common, &args.sampling, session)
}

/// Captions of images.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn captioning(args: &CaptioningArgs, session: &Session) -> Result<Measured> {
    let task = TaskConfig {
        official: args.official.clone(),
        train: args.train.clone(),
        shots: args.shots,
        prompt: args.prompt.clone(),
        answer: args.answer.into(),
        choices: args.choice.clone(),
        ..config(Measure::Captioning, &args.common)
    };
    measured(&task, &args.common, &args.sampling, session)
}

/// Images of captions.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn text_to_image(args: &TextToImageArgs, session: &Session) -> Result<Measured> {
    let task = TaskConfig {
        prompt: args.prompt.clone(),
        inception: args.inception.inception.clone(),
        ..config(Measure::TextToImage, &args.common)
    };
    measured(&task, &args.common, &args.sampling, session)
}

/// Images for another scorer.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn geneval(args: &GenerationArgs, session: &Session) -> Result<Measured> {
    let task = config(Measure::Geneval, &args.common);
    measured(&task, &args.common, &args.sampling, session)
}

/// Images through the image tokenizer and back.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn reconstruction(args: &ReconstructionArgs, session: &Session) -> Result<Measured> {
    let ReconstructionArgs { common, inception } = args;
    let task = TaskConfig {
        inception: inception.inception.clone(),
        ..config(Measure::Reconstruction, common)
    };
    task.validate()?;
    make_out(&common.out)?;
    let device = session.device_in_f32("an image tokenizer")?;
    let vq = open::image_tokenizer(&common.checkpoint, &device)?;
    let mut bar = Bar::new(Some(task.items()?), session);
    let report = task::reconstruct(&task, &vq, &mut |done| bar.add(done))?;
    let digest = Manifest::read(&common.checkpoint)?.map(|manifest| manifest.digest());
    Ok(Measured { report, seed: session.seed().unwrap_or(0), digest })
}

/// The loss on held-out documents; `--batch` counts rows of the model's context.
///
/// # Errors
/// Those of checkpoint, data set and device.
pub fn loss(args: &LossArgs, session: &Session) -> Result<Measured> {
    let common = &args.common;
    let task = TaskConfig {
        templates: args.template.clone(),
        explode: args.explode.clone(),
        ..config(Measure::Loss, common)
    };
    let recipe = Path::new(&common.dataset);
    let is_recipe = recipe.extension().is_some_and(|extension| extension == "toml");
    if !is_recipe {
        return measured(&task, common, &SamplingArgs::default(), session);
    }
    let recipe: LanguageRecipe = read_recipe(recipe, &[])?;
    if recipe.validation.is_empty() {
        let path = Path::new(&common.dataset);
        return Err(Error::file(path, "the recipe has no [[validation]] section"));
    }
    if !task.templates.is_empty() || task.explode.is_some() {
        let message = "--template and --explode are for data sets; a recipe has its own";
        return Err(Error::invalid(message.to_owned()));
    }
    make_out(&common.out)?;
    let pipeline = open::pipeline(&common.checkpoint, session)?;
    let generation = pipeline.generation().clone();
    let opened = Opened { checkpoint: &common.checkpoint, pipeline: &pipeline };
    let evaluation = evaluation(&task, opened, generation, &common.out, session);
    let mut bar = Bar::new(None, session);
    let report = evaluation.loss_of(&recipe.validation, &mut |done| bar.add(done))?;
    let digest = pipeline.digest().map(str::to_owned);
    Ok(Measured { report, seed: session.seed().unwrap_or(0), digest })
}
