//! The training run shared by `train` and `vq train`.

use calumma::files::write_atomic;
use calumma::lock::DirectoryLock;
use calumma::report::Metrics;
use calumma::train::{self, Plan, RunConfig, RunSummary, Task};
use calumma::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::session::{Session, name};
use super::stop;

/// Trains `task` with a progress bar and signal handlers, saves `recipe` and the environment with the run,
/// whose directory the caller holds by `lock`, and prints a summary.
///
/// # Errors
/// Those of the run.
pub fn train_task<T: Task>(
    task: &mut T,
    plan: &Plan<'_>,
    recipe: &impl Serialize,
    lock: &DirectoryLock,
    session: &Session,
) -> Result<()> {
    let stop = stop::on_signal()?;
    let run_dir = plan.run.path();
    let recipe = toml::to_string_pretty(recipe)
        .map_err(Error::because("the recipe cannot be written as TOML"))?;
    write_atomic(&run_dir.join("recipe.toml"), recipe.as_bytes())?;
    let environment = serde_json::to_vec_pretty(&session.environment(plan.run.seed))
        .map_err(Error::because("the environment cannot be written as JSON"))?;
    write_atomic(&run_dir.join("environment.json"), &environment)?;
    let reporter = session.progress(plan.run.steps, T::UNIT);
    let summary = train::run_locked(task, plan, reporter, &stop, lock)?;
    print_summary(&summary, plan.run, T::UNIT, session)
}

fn print_summary(
    summary: &RunSummary,
    run: &RunConfig,
    unit: &str,
    session: &Session,
) -> Result<()> {
    let RunSummary { checkpoint, resumed_at, evaluation, rate, left_out } = summary;
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
    session.left_out(left_out)?;
    session.object(&json!({
        "checkpoint": name(checkpoint),
        "steps": run.steps,
        "resumed_at": resumed_at,
        "evaluation": object(evaluation),
        "unit": unit,
        "units_per_second": rate.map(|(rate, _)| rate),
        "mfu": rate.and_then(|(_, mfu)| mfu),
        "left_out": left_out,
    }))
}

fn object(metrics: &Metrics) -> Map<String, Value> {
    metrics.iter().map(|(name, value)| (name.to_string(), json!(value))).collect()
}
