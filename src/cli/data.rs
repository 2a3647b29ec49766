//! `calumma data`: the procedural data set, and what a data set holds.

use std::path::PathBuf;

use calumma::data::scenes::{Scenes, ScenesConfig, Split, write_image_folder};
use calumma::data::{self, Counted, DEFAULT_TOLERANCE, Dataset, Inspection, inspect};
use calumma::report::Reporter;
use calumma::{Error, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use rayon::prelude::*;
use serde_json::json;

use super::session::{Session, name};

/// What to do with data sets.
#[derive(Subcommand)]
pub enum DataVerb {
    /// Write scenes with captions, questions and ground truth as an image folder
    Scenes(ScenesArgs),
    /// Say what a data set holds, as a reader sees it
    Inspect(InspectArgs),
    /// Read every sample, and say which are bad and why
    Validate(ValidateArgs),
}

/// Which scenes, and where to.
#[derive(Args)]
pub struct ScenesArgs {
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many scenes
    #[arg(long, value_name = "N")]
    count: usize,
    /// Which part: held-out shows shape and colour pairs that train and val never show
    #[arg(
        long,
        default_value = "train",
        value_parser = PossibleValuesParser::new(Split::ALL.map(Split::name))
    )]
    split: String,
    /// Edge of the images in pixels, 32 to 1024
    #[arg(long, value_name = "PIXELS", default_value_t = 64)]
    size: u32,
    /// Objects in a scene: a number or a range within 1-4
    #[arg(long, value_name = "RANGE", default_value = "1-4")]
    objects: String,
}

/// Which data set, and how much of it.
#[derive(Args)]
pub struct InspectArgs {
    /// *.tar, *.parquet, *.jsonl, a directory with metadata.jsonl, scenes:SPLIT?count=N, or a benchmark
    /// such as vqav2:questions=Q.json&annotations=A.json&images=DIR
    dataset: String,
    /// Look at this many samples at most, spread evenly
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// Which data set, and how many of its samples may be bad.
#[derive(Args)]
pub struct ValidateArgs {
    /// A data set, as for `data inspect`
    dataset: String,
    /// Share of the samples that may be bad, 0 to 1; with more the exit code is 3
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_TOLERANCE)]
    max_bad: f64,
}

/// Does `verb`.
///
/// # Errors
/// Those of arguments and files.
pub fn run(verb: DataVerb, session: &Session) -> Result<()> {
    match verb {
        DataVerb::Scenes(args) => make_scenes(&args, session),
        DataVerb::Validate(args) => validate(&args, session),
        DataVerb::Inspect(args) => {
            let found = inspect(data::open(&args.dataset)?.as_ref(), args.limit);
            session.object(&found)?;
            if session.json() { Ok(()) } else { show(&found, session) }
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

/// Samples read before the bar moves.
const AT_ONCE: usize = 256;

fn validate(args: &ValidateArgs, session: &Session) -> Result<()> {
    let dataset = Counted::new(data::open(&args.dataset)?, args.max_bad)?;
    let mut reporter = match session.quiet() {
        true => Reporter::silent(),
        false => Reporter::bar(dataset.len() as u64, "samples"),
    };
    for start in (0..dataset.len()).step_by(AT_ONCE) {
        let end = (start + AT_ONCE).min(dataset.len());
        (start..end).into_par_iter().for_each(|index| drop(dataset.get(index)));
        reporter.step(end, end - start);
    }
    reporter.finish();
    let bad = dataset.bad();
    for sample in &bad {
        session.line(format_args!("{}: {}", sample.index, sample.reason))?;
    }
    let (samples, name) = (dataset.len(), dataset.name());
    session.line(format_args!("{name}: {samples} samples, {} bad", bad.len()))?;
    session.object(&json!({ "path": name, "samples": samples, "bad": bad }))?;
    let share = bad.len() as f64 / samples.max(1) as f64;
    match share > args.max_bad {
        true => Err(Error::invalid(format!(
            "{name}: {} of {samples} samples are bad, more than the allowed {} %",
            bad.len(),
            100.0 * args.max_bad
        ))),
        false => Ok(()),
    }
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
    Ok(())
}
