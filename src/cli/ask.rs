//! `calumma ask`: an answer to a question about an image.

use std::path::PathBuf;

use calumma::Result;
use clap::Args;
use serde_json::json;

use super::images;
use super::sampling::SamplingArgs;
use super::session::{Session, name};

/// Arguments of `ask`.
#[derive(Args)]
pub struct AskArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP file
    image: PathBuf,
    /// Question about the image
    question: String,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Prints the answer.
///
/// # Errors
/// Those of image, checkpoint and settings.
pub fn run(args: &AskArgs, session: &Session) -> Result<()> {
    let image = images::open(&args.image)?;
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let config = args.sampling.for_answers(&pipeline, session);
    let answers = pipeline.ask_batch(&[image], &[&args.question], &config)?;
    for answer in answers {
        session.line(&answer)?;
        session.object(&json!({
            "path": name(&args.image),
            "question": args.question,
            "answer": answer,
        }))?;
    }
    Ok(())
}
