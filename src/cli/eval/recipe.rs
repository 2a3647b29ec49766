//! `calumma eval run`: all evaluations of a recipe, and one table of their scores.

use std::path::{Path, PathBuf};

use calumma::eval::task::{EvalRecipe, TaskConfig};
use calumma::files::write_atomic;
use calumma::lock::DirectoryLock;
use calumma::recipe::read_recipe;
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use super::measures::{self, Opened};
use super::output;
use crate::cli::open;
use crate::cli::session::{Session, name};

/// Arguments of `eval run`.
#[derive(Args)]
pub struct RunArgs {
    /// TOML recipe with a section [run] and a [[task]] for each evaluation
    recipe: PathBuf,
    /// Override a recipe value, such as run.checkpoint="runs/own-lm/best"; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Run only the task of this name; repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// Runs every task, and writes its results below the run's directory and a table of all scores next to
/// them. Tasks that already have results of the same model, data and settings are skipped; the table
/// holds every task that has results of this model.
///
/// # Errors
/// Those of recipe, checkpoint, data sets and device.
pub fn run(args: &RunArgs, session: &Session) -> Result<()> {
    let recipe: EvalRecipe = read_recipe(&args.recipe, &args.set)?;
    check_names(&args.only, &recipe)?;
    let _lock = session.hold(DirectoryLock::alone(&recipe.run.path())?);
    let checkpoint = &recipe.run.checkpoint;
    let pipeline = open::pipeline(checkpoint, &recipe.run.adapters.clone().into(), session)?;
    let opened = Opened { checkpoint, pipeline: &pipeline };
    let wanted = |task: &TaskConfig| {
        args.only.is_empty() || args.only.iter().any(|name| name == task.label())
    };
    // Report a mistake in the last task before running the first.
    for task in recipe.task.iter().filter(|task| wanted(task)) {
        let in_task = |e: Error| Error::because(format!("task {}", task.label()))(e);
        task.check().map_err(in_task)?;
        task.generation(pipeline.generation(), session.seed()).map_err(in_task)?;
    }
    let path = recipe.run.path().join("scores.md");
    let (mut table, mut objects) = (HEAD.to_owned(), Vec::new());
    for task in &recipe.task {
        let out = recipe.out(task);
        let generation = task.generation(pipeline.generation(), session.seed())?;
        let evaluation = measures::evaluation(task, opened, generation.clone(), &out, session);
        // Missing data has no identity, so old results on it are not reused.
        let identity = evaluation.digest().ok().map(|digest| json!(digest));
        let known = read(&out).filter(|old| Some(&old["config"]["identity"]) == identity.as_ref());
        let heading = format!("\n{}", task.label());
        let results = match known {
            Some(results) => {
                if wanted(task) {
                    session.line(format_args!("{heading}: measured before"))?;
                }
                Some(results)
            }
            None if wanted(task) => {
                let _lock = session.hold(DirectoryLock::alone(&out)?);
                let measured = measures::measure(task, opened, generation, &out, session)?;
                session.line(heading)?;
                output::write(measured, checkpoint, &out, session)?;
                read(&out)
            }
            None => None,
        };
        let Some(results) = results else { continue };
        table += &rows(task.label(), &results);
        write_atomic(&path, table.as_bytes())?;
        objects.extend(wanted(task).then_some(results));
    }
    session.note(format_args!("table of scores written to {}", path.display()));
    session.object(&json!({ "table": name(&path), "tasks": objects }))
}

/// Fails if `only` names a task that the recipe lacks.
fn check_names(only: &[String], recipe: &EvalRecipe) -> Result<()> {
    let names: Vec<&str> = recipe.task.iter().map(|task| task.label()).collect();
    match only.iter().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "--only {name}: the recipe's tasks are {}",
            names.join(", ")
        ))),
    }
}

const HEAD: &str = "| task | score | value | 95 % interval | N |\n|---|---|---|---|---|\n";

/// The results in `out`; `None` if missing or unreadable.
fn read(out: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(out.join("results.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The table rows of a task's scores.
fn rows(task: &str, results: &Value) -> String {
    let Some(scores) = results["scores"].as_object() else { return String::new() };
    let row = |(name, score): (&String, &Value)| {
        let number = |value: &Value| value.as_f64().map_or("-".to_owned(), |v| format!("{v:.4}"));
        let interval = match score["interval"].as_array().map(Vec::as_slice) {
            Some([low, high]) => format!("{} to {}", number(low), number(high)),
            _ => String::new(),
        };
        format!("| {task} | {name} | {} | {interval} | {} |\n", number(&score["value"]), score["n"])
    };
    scores.iter().map(row).collect()
}
