//! `calumma extend`: a text model with ids for the codes of an image tokenizer.

use std::path::PathBuf;

use calumma::Result;
use calumma::checkpoint::{Extension, MarkerNames, RowInit};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::session::{Session, name};

/// Holes that are listed; more are counted.
const LISTED: usize = 4;

/// Arguments of `extend`.
#[derive(Args)]
pub struct ExtendArgs {
    /// Directory of a text model, such as one of Hugging Face as downloaded
    text_model: PathBuf,
    /// Directory of an image tokenizer, or of a checkpoint that has one
    vq: PathBuf,
    /// Directory to create
    dest: PathBuf,
    /// Where the new rows of embedding and output layer begin
    #[arg(long, value_enum, default_value_t = Init::Mean)]
    init: Init,
    /// Token before the codes of an image [default: <|vision_start|> if there is one, else a new one]
    #[arg(long, value_name = "NAME")]
    begin_image: Option<String>,
    /// Token after the codes of an image [default: <|vision_end|> if there is one, else a new one]
    #[arg(long, value_name = "NAME")]
    end_image: Option<String>,
    /// Token for a code in texts of other programs [default: <|image_pad|> if there is one, else a new one]
    #[arg(long, value_name = "NAME")]
    image_token: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Init {
    /// At the mean of the old rows
    Mean,
    /// Beside it, in the direction of the code's vector under a random projection, which --seed draws
    Projected,
}

/// Extends the text model.
///
/// # Errors
/// Those of the files; if `dest` exists.
pub fn run(args: &ExtendArgs, session: &Session) -> Result<()> {
    let markers = MarkerNames {
        begin_image: args.begin_image.clone(),
        end_image: args.end_image.clone(),
        placeholder: args.image_token.clone(),
    };
    let init = match args.init {
        Init::Mean => RowInit::Mean,
        Init::Projected => RowInit::Projected,
    };
    let extension = Extension { markers, init, seed: session.seed().unwrap_or(0) };
    let plan = extension.run(&args.text_model, &args.vq, &args.dest)?;
    let (old, new) = (plan.old_rows, plan.num_rows());
    session
        .line(format_args!("{}: {new} rows, {old} of them as they were", args.dest.display()))?;
    for marker in &plan.markers {
        let origin = if marker.is_reused { "reused" } else { "new" };
        session
            .line(format_args!("{:<11} {} {} ({origin})", marker.role, marker.id, marker.name))?;
    }
    let (first, last, count) = (plan.codes.start, plan.codes.end - 1, plan.codes.len());
    session.line(format_args!("codes       {first} to {last} ({count})"))?;
    if !plan.holes.is_empty() {
        let listed: Vec<String> = plan.holes.iter().take(LISTED).map(u32::to_string).collect();
        let more = if plan.holes.len() > LISTED { ", ..." } else { "" };
        let (count, listed) = (plan.holes.len(), listed.join(", "));
        session.line(format_args!("holes       {count} ids stand for nothing: {listed}{more}"))?;
    }
    let markers = plan.markers.iter().map(|marker| {
        let value = json!({ "id": marker.id, "name": marker.name, "reused": marker.is_reused });
        (marker.role.to_owned(), value)
    });
    session.object(&json!({
        "path": name(&args.dest),
        "old_rows": old,
        "rows": new,
        "markers": markers.collect::<serde_json::Map<_, _>>(),
        "codes": [first, last],
        "holes": plan.holes,
    }))
}
