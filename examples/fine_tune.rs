//! Fine-tunes the shipped model by a recipe and captions a scene without and with what was learnt.
//!
//! ```text
//! cargo run --release --example fine_tune -- [RECIPE [KEY=VALUE...]]
//! ```
//!
//! The default recipe is `recipes/fine-tune/caption-style.toml`.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::path::PathBuf;

use burn::tensor::FloatDType;
use calumma::checkpoint::Checkpoint;
use calumma::checkpoint::adapter::WeightedAdapter;
use calumma::data::Dataset;
use calumma::data::scenes::Scenes;
use calumma::device::{DeviceSpec, Precision};
use calumma::pipeline::Pipeline;
use calumma::recipe::read_recipe;
use calumma::report::Reporter;
use calumma::train::{LanguageRecipe, LanguageTask, StopFlag, run};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let default = "recipes/fine-tune/caption-style.toml".to_owned();
    let path = PathBuf::from(args.next().unwrap_or(default));
    let overrides: Vec<String> = args.collect();
    let recipe: LanguageRecipe = read_recipe(&path, &overrides)?;
    let device = DeviceSpec::best().open()?;

    // The run's directory holds the adapter, the curves and what is needed to go on with it.
    let mut task = LanguageTask::new(recipe.clone(), &device, Precision::F32, false)?;
    let reporter = Reporter::bar(recipe.run.steps as u64, "tokens");
    let summary = run(&mut task, &recipe.plan(), reporter, &StopFlag::default())?;
    println!("the adapter is in {}", summary.checkpoint.display());

    let base = recipe.run.init.unwrap_or_else(|| "checkpoints/demo".into());
    let scene = Scenes::new("scenes:val?count=1&seed=7".parse()?)?.get(0)?;
    let adapter = WeightedAdapter { dir: summary.checkpoint, weight: 1.0 };
    for adapters in [&[][..], &[adapter]] {
        let opened = Checkpoint::open_with(&base, &device, FloatDType::F32, adapters)?;
        println!("{}", Pipeline::new(opened, &device)?.caption(&scene.images[0])?);
    }
    Ok(())
}
