//! `calumma tokenize`: token shards from data sets.

use std::path::PathBuf;

use calumma::data::Encoding;
use calumma::data::shards::{ShardJob, ShardReport, TokensRecipe};
use calumma::lock::DirectoryLock;
use calumma::recipe::read_recipe;
use calumma::{Error, Result};
use clap::Args;
use serde_json::json;

use super::session::{Session, name};
use super::sizes;

/// Arguments of `tokenize`.
#[derive(Args)]
pub struct TokenizeArgs {
    /// TOML recipe with the sections run, tokenizer and data
    recipe: PathBuf,
    /// Override a recipe value, such as run.renderings=4; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Make only part I of N, counted from 0, so that N processes can share the work
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = share)]
    shard: (usize, usize),
}

/// Parses `I/N` with I below N.
fn share(text: &str) -> std::result::Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers
        .filter(|(i, n)| i < n)
        .ok_or_else(|| "expected I/N with I from 0 to N - 1, such as 0/4".to_owned())
}

/// Makes the missing shards of a part.
///
/// # Errors
/// Those of recipe, tokenizers, data and files.
pub fn run(args: &TokenizeArgs, session: &Session) -> Result<()> {
    let mut recipe: TokensRecipe = read_recipe(&args.recipe, &args.set)?;
    if let Some(seed) = session.seed() {
        recipe.run.seed = seed;
    }
    let dir = recipe.run.path();
    let _lock = session.hold(DirectoryLock::part(&dir, args.shard)?);
    let device = session.device_in_f32("the image tokenizer")?;
    let (processor, vq, digest) = recipe.tokenizer.open(&device)?;
    let cache_dir = dir.join("codes");
    let job = ShardJob {
        data: &recipe.data,
        dir: &dir,
        samples_per_shard: recipe.run.samples_per_shard,
        renderings: recipe.run.renderings,
        seed: recipe.run.seed,
        encoding: Encoding {
            vq: vq.as_ref(),
            digest: &digest,
            cache_dir: &cache_dir,
            quiet: session.quiet(),
        },
        processor: &processor,
    };
    let report = job.run(args.shard, |shards| session.progress(shards, "tokens"))?;
    let ShardReport { shards, made, kept, left, documents, tokens, bad, .. } = report;
    session.line(format_args!(
        "{}: {made} of {shards} shards made, {kept} kept, {left} left to others",
        dir.display()
    ))?;
    session.line(format_args!(
        "  {} documents, {} tokens, {bad} bad samples left out",
        sizes::count(documents as f64),
        sizes::count(tokens as f64)
    ))?;
    session.left_out(&report.left_out)?;
    let mut object = serde_json::to_value(report)
        .map_err(Error::because("the report cannot be written as JSON"))?;
    object["path"] = json!(name(&dir));
    session.object(&object)
}
