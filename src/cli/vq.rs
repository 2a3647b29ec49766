//! `calumma vq`: image tokenizers.

use std::path::PathBuf;

use calumma::Result;
use calumma::train::{ImageTask, VqRecipe, read_recipe};
use clap::{Args, Subcommand};

use super::session::Session;
use super::sizes;
use super::train::train_task;

/// What to do with image tokenizers.
#[derive(Subcommand)]
pub enum VqVerb {
    /// Train an image tokenizer by a recipe; a stopped run goes on where it was
    Train(TrainArgs),
}

/// A recipe and changes to it.
#[derive(Args)]
pub struct TrainArgs {
    /// A TOML recipe with the sections run, model, data, batch
    recipe: PathBuf,
    /// Change a value of the recipe, such as optimizer.lr=3e-4
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Does `verb`.
///
/// # Errors
/// Those of recipe, checkpoint, pictures and device.
pub fn run(verb: VqVerb, session: &Session) -> Result<()> {
    match verb {
        VqVerb::Train(args) => train(&args, session),
    }
}

fn train(args: &TrainArgs, session: &Session) -> Result<()> {
    let mut recipe: VqRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let device = session.device_in_f32("training")?;
    let mut task = ImageTask::new(recipe.clone(), &device)?;
    let parameters = sizes::parameters(task.model()).values().sum::<usize>();
    session.note(format_args!("{} parameters", sizes::count(parameters as f64)));
    train_task(&mut task, &recipe.run, &recipe.schedule, recipe.optimizer.lr, session)
}
