//! `calumma train`: a language model by a recipe; also the part that all training verbs share.

use std::path::PathBuf;

use calumma::report::{Metrics, Reporter};
use calumma::train::{
    self, LanguageRecipe, LanguageTask, RunConfig, RunSummary, ScheduleConfig, Task, read_recipe,
};
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use super::session::{Session, name};
use super::sizes::{self, TrainingCost};
use super::stop;

/// A recipe and changes to it.
#[derive(Args)]
pub struct TrainArgs {
    /// A TOML recipe with the sections run, model, tokenizer, data, batch
    recipe: PathBuf,
    /// Change a value of the recipe, such as optimizer.lr=3e-4
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the resolved recipe, sizes, cost and the first batch, and train nothing
    #[arg(long)]
    dry_run: bool,
}

/// Trains, or says what would be trained.
///
/// # Errors
/// Those of recipe, data, device and training.
pub fn run(args: &TrainArgs, session: &Session) -> Result<()> {
    let mut recipe: LanguageRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let device = session.device_in_f32("training")?;
    if args.dry_run {
        return dry_run(recipe, &device, session);
    }
    let mut task = LanguageTask::new(recipe.clone(), &device, session.quiet())?;
    let parameters = sizes::parameters(task.model()).values().sum::<usize>();
    session.note(format_args!("{} parameters", sizes::count(parameters as f64)));
    train_task(&mut task, &recipe.run, &recipe.schedule, recipe.optimizer.lr, session)
}

/// Runs `task` with a progress bar and signal handlers, and prints how it went.
///
/// # Errors
/// Those of the run.
pub fn train_task<T: Task>(
    task: &mut T,
    run: &RunConfig,
    schedule: &ScheduleConfig,
    peak_lr: f64,
    session: &Session,
) -> Result<()> {
    let stop = stop::on_signal()?;
    let reporter = match session.quiet() {
        true => Reporter::silent(),
        false => Reporter::bar(run.steps as u64, T::UNIT),
    };
    let summary = train::run(task, run, schedule, peak_lr, reporter, &stop)?;
    tell(&summary, run, session)
}

fn tell(summary: &RunSummary, run: &RunConfig, session: &Session) -> Result<()> {
    let RunSummary { checkpoint, resumed_at, evaluation } = summary;
    if *resumed_at > 0 {
        session.note(format_args!("resumed at step {resumed_at}"));
    }
    session.line(format_args!("{}: {} steps", checkpoint.display(), run.steps))?;
    for (name, value) in evaluation {
        session.line(format_args!("  {name} {value:.4}"))?;
    }
    session.object(&json!({
        "checkpoint": name(checkpoint),
        "steps": run.steps,
        "resumed_at": resumed_at,
        "evaluation": object(evaluation),
    }))
}

fn object(metrics: &Metrics) -> Map<String, Value> {
    metrics.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

fn dry_run(recipe: LanguageRecipe, device: &burn::tensor::Device, session: &Session) -> Result<()> {
    let text = toml::to_string_pretty(&recipe).map_err(|e| Error::Invalid(e.to_string()))?;
    session.line(text.trim_end())?;
    let mut task = LanguageTask::new(recipe.clone(), device, session.quiet())?;
    let parts = sizes::parameters(task.model());
    let cost = TrainingCost::of(&recipe, task.config(), &parts);
    session.line("\nparameters")?;
    for (part, number) in &parts {
        session.line(format_args!("  {part:<14} {number:>12}"))?;
    }
    session.line(format_args!("  {:<14} {:>12}", "total", cost.parameters))?;
    let TrainingCost { tokens, flops, memory_bytes, .. } = cost;
    session.line(format_args!("memory: about {}", sizes::bytes(memory_bytes)))?;
    session
        .line(format_args!("tokens: {} at most (padding counts)", sizes::count(tokens as f64)))?;
    session.line(format_args!("FLOPs: {flops:.2e}"))?;
    let documents = task.preview()?;
    session.line(format_args!("\nfirst batch: {} documents", documents.len()))?;
    for document in &documents {
        session.line(format_args!("  {}", document.replace('\n', "\\n")))?;
    }
    session.object(&json!({
        "recipe": recipe,
        "parameters": parts,
        "total_parameters": cost.parameters,
        "memory_bytes": memory_bytes,
        "tokens": tokens,
        "flops": flops,
        "first_batch": documents,
    }))
}
