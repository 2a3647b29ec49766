//! `calumma eval run`: every measure of a recipe, and one table.

use std::path::{Path, PathBuf};

use calumma::eval::task::{EvalRecipe, TaskConfig};
use calumma::files::write_atomic;
use calumma::recipe::read_recipe;
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use super::measures::{self, Opened};
use crate::cli::open;
use crate::cli::session::{Session, name};

/// A recipe and changes to it.
#[derive(Args)]
pub struct RunArgs {
    /// A TOML recipe with the section run and a [[task]] for each measure
    recipe: PathBuf,
    /// Change a value of the recipe, such as run.checkpoint="runs/own-lm/best"
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only the tasks of these names
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// Measures every task, writes its results below the run's folder and a table of all beside them. A task whose
/// results are there, made of the same model, data and settings, is passed over; the table has the tasks
/// whose results are of this model.
///
/// # Errors
/// Those of recipe, checkpoint, data sets and device.
pub fn run(args: &RunArgs, session: &Session) -> Result<()> {
    let recipe: EvalRecipe = read_recipe(&args.recipe, &args.set)?;
    let unknown = |name: &&String| !recipe.task.iter().any(|task| task.label() == name.as_str());
    if let Some(name) = args.only.iter().find(unknown) {
        let names: Vec<&str> = recipe.task.iter().map(|task| task.label()).collect();
        let names = names.join(", ");
        return Err(Error::invalid(format!("--only {name}: the recipe's tasks are {names}")));
    }
    let checkpoint = &recipe.run.checkpoint;
    let pipeline = open::pipeline(checkpoint, session)?;
    let opened = Opened { checkpoint, pipeline: &pipeline };
    let wanted = |task: &TaskConfig| {
        args.only.is_empty() || args.only.iter().any(|name| name == task.label())
    };
    // A mistake in the last task is told before the first is measured.
    for task in recipe.task.iter().filter(|task| wanted(task)) {
        let in_task = |e: Error| Error::invalid(format!("task {}: {e}", task.label()));
        task.check().map_err(in_task)?;
        task.generation(pipeline.generation(), session.seed()).map_err(in_task)?;
    }
    let path = recipe.run.path().join("scores.md");
    let (mut table, mut objects) = (HEAD.to_owned(), Vec::new());
    for task in &recipe.task {
        let out = recipe.out(task);
        let generation = task.generation(pipeline.generation(), session.seed())?;
        let evaluation = measures::evaluation(task, opened, generation.clone(), &out, session);
        // Data that is not at hand has no identity; such a task is not wanted here.
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
                let measured = measures::measure(task, opened, generation, &out, session)?;
                session.line(heading)?;
                super::write(measured, checkpoint, &out, session)?;
                read(&out)
            }
            None => None,
        };
        let Some(results) = results else { continue };
        table += &rows(task.label(), &results);
        write_atomic(&path, table.as_bytes())?;
        objects.extend(wanted(task).then_some(results));
    }
    session.note(format_args!("all scores in {}", path.display()));
    session.object(&json!({ "table": name(&path), "tasks": objects }))
}

const HEAD: &str = "| task | score | value | 95 % interval | N |\n|---|---|---|---|---|\n";

/// The results in `out`, if there are any.
fn read(out: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(out.join("results.json")).ok()?;
    serde_json::from_str(&text).ok()
}

/// The scores of a task as rows of the table.
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
