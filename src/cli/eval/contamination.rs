//! `calumma eval contamination`: evaluation items that also occur in training data.

use std::path::PathBuf;

use calumma::Result;
use calumma::eval::contamination::{
    Contamination, ContaminationConfig, Contents, MAX_DISTANCE, Overlap, find,
};
use calumma::eval::{Extent, left_out, reconstruction};
use clap::Args;
use serde_json::json;

use crate::cli::session::Session;

/// Printed examples of each kind.
const PRINTED: usize = 5;
/// Printed characters of a text.
const PRINTED_CHARS: usize = 80;

/// Arguments of `eval contamination`.
#[derive(Args)]
pub struct ContaminationArgs {
    /// Training data: data sets or directories of images
    #[arg(required = true, value_name = "TRAIN")]
    train: Vec<String>,
    /// Evaluation set whose items are searched for in the training data
    #[arg(long, value_name = "EVAL")]
    against: String,
    /// Also write contamination.json, items.jsonl and sheet.png to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Largest distance between the 64-bit hashes of similar images, in bits
    #[arg(
        long,
        value_name = "N",
        default_value_t = ContaminationConfig::default().distance,
        value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_DISTANCE))
    )]
    distance: u32,
    /// Columns whose texts are compared [default: all with strings or lists of strings]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    columns: Option<Vec<String>>,
}

/// Searches for the evaluation items; prints and writes the matches.
///
/// # Errors
/// Those of the data sets and of the output.
pub fn run(args: &ContaminationArgs, session: &Session) -> Result<()> {
    let evaluation = reconstruction::open(&args.against)?;
    let train = args.train.iter().map(|spec| reconstruction::open(spec));
    let train = train.collect::<Result<Vec<_>>>()?;
    let config = ContaminationConfig {
        distance: args.distance,
        columns: args.columns.clone(),
        ..ContaminationConfig::default()
    };
    let samples = evaluation.len() + train.iter().map(|set| set.len()).sum::<usize>();
    let mut reporter = session.progress(samples, "samples");
    let mut done = 0;
    let found = find(evaluation.as_ref(), &train, &config, &mut |read| {
        done += read;
        reporter.step(done, read);
    });
    reporter.finish();
    let found = found?;
    if let Some(out) = &args.out {
        found.write(out)?;
    }
    show(&found, session)?;
    let sets = std::iter::once(&evaluation).chain(&train);
    let contents = std::iter::once(&found.evaluation).chain(&found.train);
    let omitted: Vec<_> = sets
        .zip(contents)
        .flat_map(|(set, of)| left_out(set.as_ref(), Extent::default(), &of.bad_samples))
        .collect();
    session.left_out(&omitted)?;
    if let Some(out) = &args.out {
        session.note(format_args!("results written to {}", out.display()));
    }
    let mut object = json!(found);
    object["left_out"] = json!(omitted);
    session.object(&object)
}

fn show(found: &Contamination, session: &Session) -> Result<()> {
    let contents = |what: &str, set: &Contents| {
        let Contents { name, samples, images, texts, .. } = set;
        session
            .line(format_args!("{what} {name}: {samples} samples, {images} images, {texts} texts"))
    };
    contents("evaluation", &found.evaluation)?;
    found.train.iter().try_for_each(|set| contents("training  ", set))?;
    let line = |what: &str, Overlap { items, share }: Overlap, of: usize| {
        session.line(format_args!("{what:<26} {items:>7} of {of} items ({:.2} %)", share * 100.0))
    };
    line("exact images", found.exact_images, found.items)?;
    let near = format!("near images (<= {} bits)", found.config.distance);
    line(&near, found.near_images, found.items)?;
    line("exact texts", found.exact_texts, found.items)?;
    let grams = format!("{}-grams or short texts", found.config.gram);
    line(&grams, found.ngrams, found.items)?;
    line("any of these", found.any, found.items)?;
    for column in &found.columns {
        let name = &column.column;
        line(&format!("  {name}: exact"), column.exact_texts, column.items)?;
        line(&format!("  {name}: n-grams"), column.ngrams, column.items)?;
    }
    for twin in found.images.iter().take(PRINTED) {
        let apart = if twin.exact { "equal".to_owned() } else { format!("{} bits", twin.distance) };
        session.line(format_args!("image, {apart}: {} = {}", twin.id, twin.twin_id))?;
    }
    for twin in found.texts.iter().take(PRINTED) {
        let share = match twin.exact {
            true => "equal".to_owned(),
            false => format!("{:.0} % of its n-grams", twin.ngram_share * 100.0),
        };
        let text: String = twin.text.chars().take(PRINTED_CHARS).collect();
        session.line(format_args!("text, {share}: {} = {}: {text:?}", twin.id, twin.twin_id))?;
    }
    Ok(())
}
