//! `calumma warm-up`: compiles kernels ahead of their first use.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use calumma::device::{DeviceError, KernelStore, kernels_on_disk};
use calumma::pipeline::Pipeline;
use calumma::recipe::read_recipe;
use calumma::report::Reporter;
use calumma::train::{ImageTask, LanguageRecipe, Task, VqRecipe};
use calumma::{Error, Result};
use clap::Args;
use image::{Rgb, RgbImage};
use serde_json::json;

use super::open::{self, AdapterArgs};
use super::recipes::trains_language_model;
use super::session::{Session, name};
use super::tasks::{LmTask, OnTask, on_task};

/// What happens to a checkpoint: it is opened, captions and draws.
const OF_CHECKPOINT: usize = 3;
/// What happens to a recipe: its data is opened, steps are trained, and the model is evaluated.
const OF_RECIPE: usize = 3;
/// Steps that are trained of each phase: the second differs from the first where the optimizer has a state.
const STEPS: usize = 2;
/// Tokens of a caption: the first comes from the prompt's pass, the others from passes of one token.
const TOKENS: usize = 4;

/// Arguments of `warm-up`.
#[derive(Args)]
pub struct WarmUpArgs {
    /// Checkpoint directories, to be captioned and drawn with; recipes (.toml) of `train` or `vq train`, to be
    /// trained by
    #[arg(required = true, value_name = "CHECKPOINT|RECIPE")]
    paths: Vec<PathBuf>,
    /// Override a value of the recipes, such as optimizer.lr=3e-4; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Does what compiles the kernels, and discards what comes out of it.
///
/// # Errors
/// Those of checkpoints, recipes and their data, and of the device; if its kernels cannot be kept.
pub fn run(args: &WarmUpArgs, session: &Session) -> Result<()> {
    let device = session.device()?;
    let spec = session.device_spec();
    let nothing = match spec.kernels() {
        KernelStore::Disk { .. } => None,
        KernelStore::Nothing => {
            Some("nothing to compile: its operations were compiled with the program")
        }
        KernelStore::Memory => Some("nothing to keep: every process compiles its kernels anew"),
        KernelStore::Unusable { dir, reason } => {
            return Err(DeviceError::KernelsNotKept { dir, reason }.into());
        }
    };
    if let Some(reason) = nothing {
        session.line(format_args!("{spec}: {reason}"))?;
        return session.object(&json!({ "device": spec.to_string(), "kernels": 0, "new": 0 }));
    }
    let (start, before) = (Instant::now(), kernels_on_disk());
    let stages = |path: &PathBuf| if path.is_dir() { OF_CHECKPOINT } else { OF_RECIPE };
    let mut progress = Progress::new(session, args.paths.iter().map(stages).sum());
    for path in &args.paths {
        match path.is_dir() {
            true => checkpoint(path, session, &mut progress)?,
            false => recipe(path, &args.set, &device, session, &mut progress)?,
        }
    }
    progress.reporter.finish();
    let (kernels, seconds) = (kernels_on_disk(), start.elapsed().as_secs_f64());
    let new = kernels.saturating_sub(before);
    session.line(format_args!(
        "{spec}: {kernels} kernels on disk, {new} of them new, {seconds:.1} s"
    ))?;
    let paths: Vec<_> = args.paths.iter().map(|path| name(path)).collect();
    session.object(&json!({
        "device": spec.to_string(), "paths": paths, "kernels": kernels, "new": new, "seconds": seconds,
    }))
}

/// Stages that are done, and the number of kernels after them.
struct Progress {
    reporter: Reporter,
    done: usize,
    kernels: u64,
}

impl Progress {
    fn new(session: &Session, stages: usize) -> Self {
        let reporter = session.progress(stages, "kernels");
        Self { reporter, done: 0, kernels: kernels_on_disk() }
    }

    /// Does `work`, and notes what it was with the number of kernels that it added.
    fn stage<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = work()?;
        let kernels = kernels_on_disk();
        let new = kernels.saturating_sub(self.kernels);
        self.done += 1;
        self.reporter.step(self.done, new as usize);
        self.reporter.note(&format!("{what}; kernels compiled: {new}"));
        self.kernels = kernels;
        Ok(result)
    }
}

/// Captions an image and draws one, with the checkpoint's settings.
fn checkpoint(dir: &Path, session: &Session, progress: &mut Progress) -> Result<()> {
    let pipeline: Pipeline =
        progress.stage("opened", || open::pipeline(dir, &AdapterArgs::default(), session))?;
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, 128]));
    let mut config = pipeline.generation().clone().for_answers();
    config.max_new_tokens = Some(TOKENS);
    progress.stage("captioned", || match pipeline.vq() {
        Ok(_) => pipeline.caption_batch(&[image], &config).map(drop),
        Err(_) => Ok(()),
    })?;
    progress.stage("drawn", || match pipeline.drawing_vq() {
        Ok(_) => pipeline.draw("a red circle").map(drop),
        Err(_) => Ok(()),
    })
}

/// Trains by the recipe at `path` and evaluates.
fn recipe(
    path: &Path,
    set: &[String],
    device: &Device,
    session: &Session,
    progress: &mut Progress,
) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let table: toml::Table = toml::from_str(&text).map_err(Error::in_file(path))?;
    match (trains_language_model(&table), table.contains_key("model")) {
        (true, _) => {
            let recipe: LanguageRecipe = read_recipe(path, set)?;
            let count = recipe.run.steps;
            on_task(&recipe, device, session, Steps { progress, count })
        }
        (false, true) => {
            let recipe: VqRecipe = read_recipe(path, set)?;
            let precision = session.precision();
            steps(progress, recipe.run.steps, || ImageTask::new(recipe, device, precision))
        }
        _ => Err(Error::file(path, "is no recipe of `calumma train` or `calumma vq train`")),
    }
}

/// The first steps of a task.
struct Steps<'a> {
    progress: &'a mut Progress,
    count: usize,
}

impl OnTask for Steps<'_> {
    fn run<T: LmTask>(self, open: impl FnOnce() -> Result<T>) -> Result<()> {
        steps(self.progress, self.count, open)
    }
}

/// The first steps of every phase of a training of `count` steps, and an evaluation.
fn steps<T: Task>(
    progress: &mut Progress,
    count: usize,
    open: impl FnOnce() -> Result<T>,
) -> Result<()> {
    let mut task = progress.stage("opened", open)?;
    let is_new = |step: &usize| *step == 0 || task.phase(*step) != task.phase(step - 1);
    let first: Vec<usize> = (0..count).filter(is_new).collect();
    progress.stage("trained a few steps", || {
        for step in first.into_iter().flat_map(|step| step..step + STEPS) {
            task.step(step, 0.0)?;
        }
        Ok(())
    })?;
    progress.stage("evaluated", || task.evaluate())?;
    Ok(())
}
