//! `calumma train`: trains a language model by a recipe.

use std::path::PathBuf;

use calumma::Result;
use calumma::lock::DirectoryLock;
use calumma::model::ModelConfig;
use calumma::recipe::read_recipe;
use calumma::train::{LanguageRecipe, Plan};
use clap::Args;

use super::dry_run::dry_run;
use super::session::Session;
use super::sizes;
use super::tasks::{LmTask, OnTask, on_task};
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
    let device = session.device()?;
    if args.dry_run {
        return dry_run(&recipe, &device, session);
    }
    let lock = session.hold(DirectoryLock::alone(&recipe.run.path())?);
    let plan = Plan { peak_flops: Some(session.peak_flops(&device)), ..recipe.plan() };
    on_task(&recipe, &device, session, Train { plan, recipe: &recipe, lock, session })
}

/// Trains a task to the end of its run.
struct Train<'a> {
    plan: Plan<'a>,
    recipe: &'a LanguageRecipe,
    lock: DirectoryLock,
    session: &'a Session,
}

impl OnTask for Train<'_> {
    fn run<T: LmTask>(self, open: impl FnOnce() -> Result<T>) -> Result<()> {
        let Self { plan, recipe, lock, session } = self;
        let mut task = open()?;
        note(task.config(), task.num_adapted(), session);
        if let Some((count, what)) = task.items() {
            session.note(format_args!("{count} {what}"));
        }
        train_task(&mut task, &plan, recipe, &lock, session)
    }
}

/// Notes the number of parameters, and how many are trained if not all are: `adapted`.
fn note(config: &ModelConfig, adapted: Option<usize>, session: &Session) {
    let parameters = sizes::count(config.num_parameters() as f64);
    let trained = match adapted {
        Some(trained) => format!(", {} trained", sizes::count(trained as f64)),
        None => String::new(),
    };
    let precision = session.precision();
    session.note(format_args!("{parameters} parameters{trained}, matrix products in {precision}"));
}
