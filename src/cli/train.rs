//! `calumma train`: trains a language model by a recipe.

use std::path::PathBuf;

use calumma::Result;
use calumma::lock::DirectoryLock;
use calumma::model::ModelConfig;
use calumma::recipe::read_recipe;
use calumma::train::preference::PreferenceTask;
use calumma::train::rl::RlTask;
use calumma::train::{LanguageRecipe, LanguageTask, Plan};
use clap::Args;

use super::dry_run::dry_run;
use super::session::Session;
use super::sizes;
use super::training::train_task;

/// Arguments of `train`.
#[derive(Args)]
pub struct TrainArgs {
    /// TOML recipe with the sections run, model, tokenizer, data and batch
    recipe: PathBuf,
    /// Override a recipe value, such as optimizer.lr=3e-4; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the resolved recipe, sizes, cost and first batch without training
    #[arg(long)]
    dry_run: bool,
}

/// Trains, or prints the plan with `--dry-run`.
///
/// # Errors
/// Those of recipe, data, device and training.
pub fn run(args: &TrainArgs, session: &Session) -> Result<()> {
    let mut recipe: LanguageRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let (device, precision) = (session.device()?, session.precision());
    if args.dry_run {
        return dry_run(&recipe, &device, session);
    }
    let lock = session.hold(DirectoryLock::alone(&recipe.run.path())?);
    let plan = Plan { peak_flops: Some(session.peak_flops(&device)), ..recipe.plan() };
    let owned = recipe.clone();
    if recipe.compares_answers() {
        let mut task = PreferenceTask::new(owned, &device, precision, session.quiet())?;
        note(task.config(), task.num_adapted(), session);
        session.note(format_args!("{} rows of compared answers", task.num_pairs()));
        return train_task(&mut task, &plan, &recipe, &lock, session);
    }
    if recipe.rl.is_some() {
        let mut task = RlTask::new(owned, &device, precision, session.quiet())?;
        note(task.config(), task.num_adapted(), session);
        session.note(format_args!("{} prompts", task.num_prompts()));
        return train_task(&mut task, &plan, &recipe, &lock, session);
    }
    let mut task = LanguageTask::new(owned, &device, precision, session.quiet())?;
    note(task.config(), task.num_adapted(), session);
    train_task(&mut task, &plan, &recipe, &lock, session)
}

/// Notes the number of parameters and of those that are `adapted`, if an adapter is trained.
fn note(config: &ModelConfig, adapted: Option<usize>, session: &Session) {
    let parameters = sizes::count(config.num_parameters() as f64);
    let of_adapter = match adapted {
        Some(trained) => format!(", {} of an adapter trained", sizes::count(trained as f64)),
        None => String::new(),
    };
    let precision = session.precision();
    session
        .note(format_args!("{parameters} parameters{of_adapter}, matrix products in {precision}"));
}
