//! `calumma train --dry-run`: the resolved recipe, its sizes and cost, and the first batch.

use std::time::Instant;

use burn::tensor::Device;
use calumma::device::Precision;
use calumma::train::{LanguageRecipe, Task};
use calumma::{Error, Result};
use serde_json::{Map, Value, json};

use super::session::Session;
use super::sizes::{self, Parts};
use super::tasks::{LmTask, OnTask, on_task};
use super::training_cost::TrainingCost;

/// Training steps of a dry run; all but the first are timed.
const STEPS: usize = 3;

/// Prints what `recipe` would train, and how long that would take.
///
/// # Errors
/// Those of recipe, data, device and training.
pub fn dry_run(recipe: &LanguageRecipe, device: &Device, session: &Session) -> Result<()> {
    let mut unwritten = recipe.clone();
    // Nothing is written into the run's directory.
    unwritten.reference.precompute = false;
    on_task(&unwritten, device, session, Describe { recipe, device, session })
}

/// Describes a task.
struct Describe<'a> {
    recipe: &'a LanguageRecipe,
    device: &'a Device,
    session: &'a Session,
}

impl OnTask for Describe<'_> {
    fn run<T: LmTask>(self, open: impl FnOnce() -> Result<T>) -> Result<()> {
        describe(self.recipe, open()?, self.device, self.session)
    }
}

fn describe(
    recipe: &LanguageRecipe,
    mut task: impl LmTask,
    device: &Device,
    session: &Session,
) -> Result<()> {
    let text = toml::to_string_pretty(recipe)
        .map_err(Error::because("the recipe cannot be written as TOML"))?;
    session.line(text.trim_end())?;
    let precision = session.precision();
    let parts = sizes::parameters(task.model());
    let value_bytes = if precision == Precision::Bf16 { 2 } else { 4 };
    let parameters = parts.values().sum();
    let adapted = task.num_adapted();
    let cost = TrainingCost::of(recipe, task.config(), parameters, adapted, value_bytes, device);
    print_cost(&parts, &cost, session)?;
    session.line(format_args!("cache: {}", sizes::cache_in_words(task.config(), value_bytes)))?;
    let documents = task.preview()?;
    session.line(format_args!(
        "\nfirst batch: {} documents; what is learnt is in brackets ⟦…⟧",
        documents.len()
    ))?;
    for document in &documents {
        session.line(format_args!("  {}", document.replace('\n', "\\n")))?;
    }
    let step_seconds = seconds_per_step(&mut task)?;
    let total_seconds = step_seconds * recipe.run.steps as f64;
    let mfu = cost.flops / total_seconds / session.peak_flops(device);
    session.line(format_args!(
        "\ntime: {step_seconds:.3} s for each step here, {} in all without evaluations; {:.0} % of this \
         device's matrix products",
        sizes::time(total_seconds),
        100.0 * mfu
    ))?;
    let packed = task.packed();
    if let Some((packed, sources)) = &packed {
        let share = 100.0 * packed.padding_share();
        session.line(format_args!("packed so far: {share:.1} % padding"))?;
        for source in sources {
            session.line(format_args!(
                "  {}: {} documents, {} image codes, {} other tokens",
                source.source, source.documents, source.image_tokens, source.text_tokens
            ))?;
        }
    }
    let left_out = task.left_out();
    session.left_out(&left_out)?;
    session.object(&json!({
        "recipe": recipe,
        "parameters": parts,
        "total_parameters": cost.parameters,
        "active_parameters": cost.active,
        "trained_parameters": cost.trained,
        "memory": by_content(&cost),
        "memory_bytes": cost.memory_bytes(),
        "tokens": cost.tokens,
        "flops": cost.flops,
        "cache": sizes::cache_as_json(task.config(), value_bytes),
        "first_batch": documents,
        "packed": packed.map(|(all, sources)| json!({ "all": all, "sources": sources })),
        "left_out": left_out,
        "seconds_per_step": step_seconds,
        "seconds": total_seconds,
        "mfu": mfu,
    }))
}

/// The memory as JSON.
fn by_content(cost: &TrainingCost) -> Map<String, Value> {
    cost.memory.iter().map(|(what, bytes)| ((*what).to_owned(), json!(bytes))).collect()
}

/// Prints parameters and memory by part, tokens and FLOPs.
fn print_cost(parts: &Parts, cost: &TrainingCost, session: &Session) -> Result<()> {
    session.line("\nparameters")?;
    for (part, number) in parts {
        session.line(format_args!("  {part:<14} {number:>12}"))?;
    }
    session.line(format_args!("  {:<14} {:>12}", "total", cost.parameters))?;
    if cost.active < cost.parameters {
        session.line(format_args!("  {:<14} {:>12}", "of one token", cost.active))?;
    }
    session.line(format_args!("  {:<14} {:>12}", "trained", cost.trained))?;
    let memory = sizes::bytes(cost.memory_bytes());
    session.line(format_args!("memory on the device: about {memory}"))?;
    for (what, bytes) in cost.memory.iter().filter(|(_, bytes)| *bytes > 0.0) {
        session.line(format_args!("  {what:<14} {:>12}", sizes::bytes(*bytes)))?;
    }
    let tokens = sizes::count(cost.tokens as f64);
    session.line(format_args!("tokens: {tokens} at most (padding counts)"))?;
    session.line(format_args!("FLOPs: {:.2e}", cost.flops))
}

/// The duration of a training step of `task`, whose weights it changes.
fn seconds_per_step(task: &mut impl Task) -> Result<f64> {
    task.step(0, 0.0)?;
    let start = Instant::now();
    for step in 1..STEPS {
        task.step(step, 0.0)?;
    }
    Ok(start.elapsed().as_secs_f64() / (STEPS - 1) as f64)
}
