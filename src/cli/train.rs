//! `calumma train`: a language model by a recipe; also the part that all training verbs share.

use std::path::PathBuf;

use std::time::Instant;

use burn::tensor::{DType, Device};
use calumma::device::{Precision, matmul_flops};
use calumma::files::write_atomic;
use calumma::recipe::read_recipe;
use calumma::report::{Metrics, Reporter};
use calumma::train::{self, LanguageRecipe, LanguageTask, Plan, RunConfig, RunSummary, Task};
use calumma::{Error, Result};
use clap::Args;
use serde::Serialize;
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
    let (device, precision) = (session.device()?, session.precision());
    if args.dry_run {
        return dry_run(&recipe, &device, session);
    }
    let mut task = LanguageTask::new(recipe.clone(), &device, precision, session.quiet())?;
    let parameters = sizes::count(task.config().num_parameters() as f64);
    session.note(format_args!("{parameters} parameters, matrix products in {precision}"));
    let plan = Plan { peak_flops: Some(peak_flops(&device, session)), ..recipe.plan() };
    train_task(&mut task, &plan, &recipe, session)
}

/// What the device does at best in the number format of the matrix products.
fn peak_flops(device: &Device, session: &Session) -> f64 {
    let dtype = match session.precision() {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    };
    matmul_flops(device, dtype, session.is_cpu())
}

/// Runs `task`, which `recipe` describes, with a progress bar and signal handlers, and prints how it went.
///
/// # Errors
/// Those of the run.
pub fn train_task<T: Task>(
    task: &mut T,
    plan: &Plan<'_>,
    recipe: &impl Serialize,
    session: &Session,
) -> Result<()> {
    let stop = stop::on_signal()?;
    let run_dir = plan.run.path();
    let recipe = toml::to_string_pretty(recipe).map_err(|e| Error::invalid(e.to_string()))?;
    write_atomic(&run_dir.join("recipe.toml"), recipe.as_bytes())?;
    let environment = serde_json::to_vec_pretty(&session.environment(plan.run.seed))
        .map_err(|e| Error::invalid(e.to_string()))?;
    write_atomic(&run_dir.join("environment.json"), &environment)?;
    let reporter = match session.quiet() {
        true => Reporter::silent(),
        false => Reporter::bar(plan.run.steps as u64, T::UNIT),
    };
    let summary = train::run(task, plan, reporter, &stop)?;
    tell(&summary, plan.run, T::UNIT, session)
}

fn tell(summary: &RunSummary, run: &RunConfig, unit: &str, session: &Session) -> Result<()> {
    let RunSummary { checkpoint, resumed_at, evaluation, rate } = summary;
    if *resumed_at > 0 {
        session.note(format_args!("resumed at step {resumed_at}"));
    }
    session.line(format_args!("{}: {} steps", checkpoint.display(), run.steps))?;
    for (name, value) in evaluation {
        session.line(format_args!("  {name} {value:.4}"))?;
    }
    if let Some((rate, mfu)) = rate {
        let share =
            mfu.map(|mfu| format!(", {:.1} % of this device's matrix products", 100.0 * mfu));
        let share = share.unwrap_or_default();
        session.line(format_args!("  {rate:.0} {unit} per second in the median step{share}"))?;
    }
    session.object(&json!({
        "checkpoint": name(checkpoint),
        "steps": run.steps,
        "resumed_at": resumed_at,
        "evaluation": object(evaluation),
        "unit": unit,
        "units_per_second": rate.map(|(rate, _)| rate),
        "mfu": rate.and_then(|(_, mfu)| mfu),
    }))
}

fn object(metrics: &Metrics) -> Map<String, Value> {
    metrics.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}

/// Steps of a dry run, of which all but the first are timed.
const TRIED: usize = 3;

fn dry_run(recipe: &LanguageRecipe, device: &Device, session: &Session) -> Result<()> {
    let text = toml::to_string_pretty(recipe).map_err(|e| Error::invalid(e.to_string()))?;
    session.line(text.trim_end())?;
    let precision = session.precision();
    let mut task = LanguageTask::new(recipe.clone(), device, precision, session.quiet())?;
    let parts = sizes::parameters(task.model());
    let value_bytes = if precision == Precision::Bf16 { 2.0 } else { 4.0 };
    let cost = TrainingCost::of(recipe, task.config(), parts.values().sum(), value_bytes);
    let memory_bytes = cost.memory_bytes();
    session.line("\nparameters")?;
    for (part, number) in &parts {
        session.line(format_args!("  {part:<14} {number:>12}"))?;
    }
    session.line(format_args!("  {:<14} {:>12}", "total", cost.parameters))?;
    session.line(format_args!("memory on the device: about {}", sizes::bytes(memory_bytes)))?;
    for (what, bytes) in cost.memory.iter().filter(|(_, bytes)| *bytes > 0.0) {
        session.line(format_args!("  {what:<14} {:>12}", sizes::bytes(*bytes)))?;
    }
    let (tokens, flops) = (cost.tokens, cost.flops);
    session
        .line(format_args!("tokens: {} at most (padding counts)", sizes::count(tokens as f64)))?;
    session.line(format_args!("FLOPs: {flops:.2e}"))?;
    let documents = task.preview()?;
    session.line(format_args!("\nfirst batch: {} documents", documents.len()))?;
    for document in &documents {
        session.line(format_args!("  {}", document.replace('\n', "\\n")))?;
    }
    let seconds = seconds_per_step(&mut task)?;
    let whole = seconds * recipe.run.steps as f64;
    let share = flops / whole / peak_flops(device, session);
    session.line(format_args!(
        "\ntime: {seconds:.3} s for each step here, {} in all without evaluations; {:.0} % of this \
         device's matrix products",
        sizes::time(whole),
        100.0 * share
    ))?;
    let (packed, sources) = task.stream().packed();
    session.line(format_args!("packed so far: {:.1} % padding", 100.0 * packed.padding_share()))?;
    for source in sources {
        session.line(format_args!(
            "  {}: {} documents, {} image codes, {} other tokens",
            source.source, source.documents, source.image_tokens, source.text_tokens
        ))?;
    }
    let memory: Map<String, Value> =
        cost.memory.iter().map(|(what, bytes)| ((*what).to_owned(), json!(bytes))).collect();
    session.object(&json!({
        "recipe": recipe,
        "parameters": parts,
        "total_parameters": cost.parameters,
        "memory": memory,
        "memory_bytes": memory_bytes,
        "tokens": tokens,
        "flops": flops,
        "first_batch": documents,
        "packed": { "all": packed, "sources": sources },
        "seconds_per_step": seconds,
        "seconds": whole,
        "mfu": share,
    }))
}

/// How long a step takes here, on a model that is then thrown away.
fn seconds_per_step(task: &mut LanguageTask) -> Result<f64> {
    task.step(0, 0.0)?;
    let begun = Instant::now();
    for step in 1..TRIED {
        task.step(step, 0.0)?;
    }
    Ok(begun.elapsed().as_secs_f64() / (TRIED - 1) as f64)
}
