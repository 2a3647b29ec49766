//! `calumma eval run`: every measure of a recipe, and one table.

use std::path::PathBuf;

use calumma::eval::task::EvalRecipe;
use calumma::files::write_whole;
use calumma::train::read_recipe;
use calumma::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use super::measures;
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

/// Measures every task, writes its results below the run's folder and a table of all beside them.
///
/// Results that are there already are made again; responses of a call that was stopped are not.
///
/// # Errors
/// Those of recipe, checkpoint, data sets and device.
pub fn run(args: &RunArgs, session: &Session) -> Result<()> {
    let recipe: EvalRecipe = read_recipe(&args.recipe, &args.set)?;
    let unknown = |name: &&String| !recipe.task.iter().any(|task| task.label() == name.as_str());
    if let Some(name) = args.only.iter().find(unknown) {
        let names: Vec<&str> = recipe.task.iter().map(|task| task.label()).collect();
        let names = names.join(", ");
        return Err(Error::Invalid(format!("--only {name}: the recipe's tasks are {names}")));
    }
    let pipeline = open::pipeline(&recipe.run.checkpoint, session)?;
    let mut table =
        String::from("| task | score | value | 95 % interval | N |\n|---|---|---|---|---|\n");
    let mut objects: Vec<Value> = Vec::new();
    for task in &recipe.task {
        if !args.only.is_empty() && !args.only.iter().any(|name| name == task.label()) {
            continue;
        }
        let out = recipe.out(task);
        let generation = task.generation(pipeline.generation(), session.seed())?;
        let measured = measures::measure(task, &pipeline, generation, &out, session)?;
        session.line(format_args!("\n{}", task.label()))?;
        let (report, environment) = super::write(measured, &recipe.run.checkpoint, &out, session)?;
        for (score, value) in &report.scores {
            let interval = value
                .interval
                .map_or(String::new(), |[low, high]| format!("{low:.4} to {high:.4}"));
            let row = (task.label(), score, value.value, interval, value.n);
            table += &format!("| {} | {} | {:.4} | {} | {} |\n", row.0, row.1, row.2, row.3, row.4);
        }
        let results = serde_json::to_value(report.results(&environment));
        objects.push(results.map_err(|e| Error::Invalid(e.to_string()))?);
    }
    let path = recipe.run.path().join("scores.md");
    write_whole(&path, table.as_bytes())?;
    session.note(format_args!("all scores in {}", path.display()));
    session.object(&json!({ "table": name(&path), "tasks": objects }))
}
