//! `calumma data`: makes, inspects and validates data sets.

use std::path::PathBuf;

use calumma::data::scenes::{Scenes, ScenesConfig, Split, write_image_folder};
use calumma::data::{self, Counted, DEFAULT_TOLERANCE, Dataset, Inspection, LeftOut, inspect};
use calumma::{Error, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use rayon::prelude::*;
use serde_json::json;

use super::pairs::{self, PairsArgs};
use super::session::{Session, name};

/// Subcommands of `calumma data`.
#[derive(Subcommand)]
pub enum DataVerb {
    /// Generate scenes with captions, questions and ground truth as an image folder
    Scenes(ScenesArgs),
    /// Answer prompts several times and write the best and the worst answer by reward as pairs for [preference]
    Pairs(PairsArgs),
    /// Show the columns, image sizes and bad samples of a data set
    Inspect(InspectArgs),
    /// Read every sample and list the bad ones with the reason
    Validate(ValidateArgs),
}

/// Arguments of `data scenes`.
#[derive(Args)]
pub struct ScenesArgs {
    /// Directory to create
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number of scenes
    #[arg(long, value_name = "N")]
    count: usize,
    /// Split; held-out has combinations of shape and colour that train and val lack
    #[arg(
        long,
        default_value = "train",
        value_parser = PossibleValuesParser::new(Split::ALL.map(Split::name))
    )]
    split: String,
    /// Width and height of the images in pixels, 32 to 1024
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    size: u32,
    /// Objects per scene: a number or a range within 1-4
    #[arg(long, value_name = "RANGE", default_value = "1-4")]
    objects: String,
}

/// Arguments of `data inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Data set: *.tar, *.parquet, *.jsonl, a directory of images, scenes:SPLIT?count=N, or a
    /// benchmark such as vqav2:questions=Q.json&annotations=A.json&images=DIR
    dataset: String,
    /// Read at most N samples, evenly spaced
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// Arguments of `data validate`.
#[derive(Args)]
pub struct ValidateArgs {
    /// Data set, as for `data inspect`
    dataset: String,
    /// Tolerated share of bad samples, 0 to 1; the exit code is 3 above it
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_TOLERANCE)]
    max_bad: f64,
}

/// Runs `verb`.
///
/// # Errors
/// Those of arguments and files.
pub fn run(verb: DataVerb, session: &Session) -> Result<()> {
    match verb {
        DataVerb::Scenes(args) => make_scenes(&args, session),
        DataVerb::Pairs(args) => pairs::run(&args, session),
        DataVerb::Validate(args) => validate(&args, session),
        DataVerb::Inspect(args) => {
            let found = inspect(data::open(&args.dataset)?.as_ref(), args.limit);
            session.object(&found)?;
            show(&found, session)
        }
    }
}

fn make_scenes(args: &ScenesArgs, session: &Session) -> Result<()> {
    let seed = session.seed().unwrap_or(ScenesConfig::default().seed);
    let (split, count, size, objects) = (&args.split, args.count, args.size, &args.objects);
    let spec = format!("scenes:{split}?count={count}&seed={seed}&size={size}&objects={objects}");
    let scenes = Scenes::new(spec.parse()?)?;
    if let Some(parent) = args.out.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    write_image_folder(&scenes, &args.out)?;
    session.line(format_args!("{}: {count} scenes of {spec}", args.out.display()))?;
    session.object(&json!({ "path": name(&args.out), "count": count, "spec": spec }))
}

/// Samples per update of the progress bar.
const CHUNK: usize = 256;

fn validate(args: &ValidateArgs, session: &Session) -> Result<()> {
    let dataset = Counted::new(data::open(&args.dataset)?, args.max_bad)?;
    let mut reporter = session.progress(dataset.len(), "samples");
    for start in (0..dataset.len()).step_by(CHUNK) {
        let end = (start + CHUNK).min(dataset.len());
        (start..end).into_par_iter().for_each(|index| drop(dataset.get(index)));
        reporter.step(end, end - start);
    }
    reporter.finish();
    let bad = dataset.bad();
    let unused = dataset.unused();
    for sample in &bad {
        session.line(format_args!("{}: {}", sample.index, sample.reason))?;
    }
    let (samples, name) = (dataset.len(), dataset.name());
    session.line(format_args!("{name}: {samples} samples, {} bad", bad.len()))?;
    session.left_out(&LeftOut::of(&dataset, samples, &[]).omissions())?;
    session.object(&json!({ "path": name, "samples": samples, "bad": bad, "unused": unused }))?;
    dataset.check()
}

fn show(found: &Inspection, session: &Session) -> Result<()> {
    let Inspection { name, samples, inspected, columns, images_per_sample, .. } = found;
    session.line(format_args!("{name}: {samples} samples, {inspected} looked at"))?;
    let (fewest, most) = images_per_sample;
    let each = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
    session.line(format_args!("  images per sample: {each}"))?;
    for size in found.image_sizes.iter().take(5) {
        session.line(format_args!("    {}x{}: {}", size.width, size.height, size.count))?;
    }
    for (name, column) in columns {
        let types: Vec<String> = column.types.iter().map(|(t, n)| format!("{t} {n}")).collect();
        let examples: Vec<String> = column.examples.iter().map(|e| format!("{e:?}")).collect();
        session.line(format_args!("  {name} ({}): {}", types.join(", "), examples.join(", ")))?;
    }
    session.line(format_args!("  bad samples: {}", found.bad.len()))?;
    for bad in found.bad.iter().take(20) {
        session.line(format_args!("    {}: {}", bad.index, bad.reason))?;
    }
    let unused = LeftOut { unused: found.unused.clone(), ..LeftOut::new(name, *samples) };
    session.left_out(&unused.omissions())
}
