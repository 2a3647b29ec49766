//! `calumma caption`: captions of images.

use std::path::PathBuf;

use calumma::Result;
use clap::Args;
use serde_json::json;

use super::images;
use super::sampling::{Answers, SamplingArgs};
use super::session::{Session, name};

/// Images per batch.
const BATCH: usize = 16;

/// Arguments of `caption`.
#[derive(Args)]
pub struct CaptionArgs {
    /// Checkpoint directory
    checkpoint: PathBuf,
    /// PNG, JPEG or WebP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArgs<Answers>,
}

/// Prints a caption per image.
///
/// # Errors
/// Those of images, checkpoint and settings.
pub fn run(args: &CaptionArgs, session: &Session) -> Result<()> {
    let images = images::open_all(&args.images)?;
    let pipeline = args.sampling.open(&args.checkpoint, session)?;
    let mut config = args.sampling.config(&pipeline, session);
    for (paths, images) in args.images.chunks(BATCH).zip(images.chunks(BATCH)) {
        let captions = pipeline.caption_batch(images, &config)?;
        config.seed = config.seed.wrapping_add(images.len() as u64);
        for (path, caption) in paths.iter().zip(captions) {
            match args.images.len() {
                1 => session.line(&caption)?,
                _ => session.line(format_args!("{}: {caption}", path.display()))?,
            }
            session.object(&json!({ "path": name(path), "caption": caption }))?;
        }
    }
    Ok(())
}
